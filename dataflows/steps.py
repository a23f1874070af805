"""The steps of the job as functions over batches: split by key, judge, split by tenant, alert.

Nothing here keeps state or does IO; `dataflows.rate` prices batches, `dataflows.operators` holds the steps
that remember.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import polars as pl
import polars_hash as plh

from dataflows.batch import (
    INTEGER_FIELDS,
    STRING_FIELDS,
    Bools,
    Decoded,
    Int64s,
    Partition,
    UInt64s,
    no_quarantine,
    without,
)
from dataflows.decode import refuse
from dataflows.dedupe import CONFLICT, DUPLICATE, ORIGINAL, Sightings, pack_position
from metering.event import QuarantineReason
from pricing.cap import CapAlert
from pricing.settings import LimitSettings
from pricing.spend import Crossing, alert_of, sum_rows

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

SETTLED_EVENTS = 16
"""An input is past an instant for good when this many of its events are: a few wrong clocks move nothing."""
_CONTENT_STRINGS = tuple(name for name in STRING_FIELDS if name not in ("idempotency_key", "tenant_id"))
_CONTENT_INTEGERS = tuple(name for name in INTEGER_FIELDS if name not in ("latency_ms", "retry_count"))
CONTENT_FIELDS = (*_CONTENT_STRINGS, *_CONTENT_INTEGERS, "provider_cost")
"""The fields that a copy of an event must repeat."""
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, the usual odd constant of Fibonacci hashing


@dataclass(frozen=True, slots=True)
class Tick:
    """News of one input: the greatest event time of one batch (-1: none), and whether it is live.

    `newest_ms` are its greatest event times, falling, SETTLED_EVENTS of them at most; `next_offset` is
    where the input goes on, which tells one batch from another.
    """

    partition: Partition
    peak_ms: int
    live: bool
    newest_ms: tuple[int, ...] = ()
    next_offset: int = 0


@dataclass(frozen=True, slots=True)
class ShardSlice:
    """What dedupe needs of the events of one batch whose keys belong to shard number `shard`; may be none.

    `home` is the key under which the batch waits for the verdicts.
    """

    shard: int
    tick: Tick
    sightings: Sightings
    home: str


@dataclass(frozen=True, slots=True)
class ShardVerdicts:
    """What shard number `shard` of keys makes of its slice of a batch, whose input had passed `passed_ms`."""

    shard: int
    tick: Tick
    verdicts: npt.NDArray[np.int8]
    passed_ms: int
    home: str


@dataclass(frozen=True, slots=True)
class KeyedBatch:
    """A batch, as `rate_events` leaves its events, that waits for the verdicts on them.

    `order` has the rows of `events` as they went to the shards of keys: shard after shard, in order of
    arrival within each. So the events themselves need not go there and back. `shards` are all of these.
    """

    tick: Tick
    events: pl.DataFrame
    order: Int64s
    home: str
    shards: range


@dataclass(frozen=True, slots=True)
class Spent:
    """Rows of a batch that count for spend, in order of arrival, and wait for what their sums cross.

    `shards` are those of tenants that have sums of them.
    """

    tick: Tick
    rows: pl.DataFrame
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SpendSlice:
    """What one batch has to say to shard number `shard` of tenants: `sums`, as `SpendBook.add` takes them.

    They are None where the batch brought that shard nothing. `home` is the key under which its rows wait.
    """

    shard: int
    tick: Tick
    sums: pl.DataFrame | None
    home: str


@dataclass(frozen=True, slots=True)
class ShardCrossings:
    """What the sums of a batch cross in shard number `shard` of tenants: mostly nothing."""

    shard: int
    tick: Tick
    crossings: tuple[Crossing, ...]
    home: str


@dataclass(frozen=True, slots=True)
class Judged:
    """What dedupe made of a batch: priced originals with `late`, copies, quarantine rows of conflicts."""

    tick: Tick
    priced: pl.DataFrame
    duplicates: pl.DataFrame
    quarantined: pl.DataFrame


def peak_of(decoded: Decoded) -> Tick:
    """The news that a decoded batch brings about its input."""
    times_ms = decoded.events["timestamp_ms"].to_numpy()
    if len(times_ms) > SETTLED_EVENTS:
        times_ms = np.partition(times_ms, -SETTLED_EVENTS)[-SETTLED_EVENTS:]
    newest = sorted(times_ms.tolist(), reverse=True)
    peak_ms = newest[0] if newest else -1
    return Tick(decoded.partition, peak_ms, decoded.live, tuple(newest), decoded.next_offset)


def key_hashes(events: pl.DataFrame, seed: int) -> tuple[UInt64s, UInt64s]:
    """Low and high half of a 128-bit hash (XXH3) of (tenant, idempotency key), for each event.

    The tenant's length stands first, so that no two pairs are hashed as one text. The seed is
    secret to the installation: nobody can make keys that collide without it.
    """
    text = pl.concat_str(
        pl.col("tenant_id").str.len_bytes().cast(pl.String), pl.lit(":"), "tenant_id", "idempotency_key"
    )
    # polars-hash adds its expressions to columns by name, so the text becomes one first.
    hashed = events.select(key=text).select(plh.col("key").nchash.xxh3_128(seed=seed))["key"]
    halves = hashed.to_frame().select(
        low=(pl.col("key") % 2**64).cast(pl.UInt64), high=(pl.col("key") // 2**64).cast(pl.UInt64)
    )
    return halves["low"].to_numpy(), halves["high"].to_numpy()


def content_hashes(events: pl.DataFrame) -> UInt64s:
    """A 64-bit hash of the `CONTENT_FIELDS`, for each event."""
    mixed = np.zeros(len(events), np.uint64)
    texts = events.select(*(plh.col(name).nchash.xxh3_64(seed=0) for name in _CONTENT_STRINGS))
    with np.errstate(over="ignore"):
        for column in texts:
            mixed = _mix(mixed, column.to_numpy())
        for name in _CONTENT_INTEGERS:
            mixed = _mix(mixed, events[name].to_numpy().astype(np.uint64))
        cost = events["provider_cost"]
        if cost.null_count() < len(cost):
            told = cost.cast(pl.String).fill_null("").to_frame("cost")
            mixed = _mix(mixed, told.select(plh.col("cost").nchash.xxh3_64(seed=1))["cost"].to_numpy())
        else:
            mixed = _mix(mixed, np.full(len(events), _absent_cost(), np.uint64))
    return mixed


@cache
def _absent_cost() -> np.uint64:
    """The hash of no cost. Not a constant: importing this module must start none of Polars' threads."""
    empty = pl.DataFrame({"cost": [""]}).select(plh.col("cost").nchash.xxh3_64(seed=1))
    return empty["cost"].to_numpy()[0]  # type: ignore[no-any-return]  # a column of UInt64


def _mix(state: UInt64s, value: UInt64s) -> UInt64s:
    multiplied: UInt64s = (state ^ value) * _MIX
    mixed: UInt64s = multiplied ^ (multiplied >> np.uint64(29))
    return mixed


def split_by_key(
    decoded: Decoded, shards: int, seed: int, home: str = ""
) -> tuple[KeyedBatch, list[ShardSlice]]:
    """The batch, and a slice for each shard, the empty ones too: each learns of every input's progress."""
    tick = peak_of(decoded)
    events = decoded.events
    low, high = key_hashes(events, seed)
    shard = (high % np.uint64(shards)).astype(np.uint8)
    order = np.argsort(shard, kind="stable")
    sightings = Sightings(
        low[order],
        high[order],
        events["timestamp_ms"].to_numpy()[order],
        content_hashes(events)[order],
        pack_position(events["offset"].to_numpy(), events["line"].to_numpy())[order],
        decoded.partition.ordinal,
    )
    ends = np.cumsum(np.bincount(shard, minlength=shards)).tolist()
    slices = [
        ShardSlice(number, tick, _slice(sightings, start, end), home)
        for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True))
    ]
    return KeyedBatch(tick, events, order, home, range(shards)), slices


def _slice(sightings: Sightings, start: int, end: int) -> Sightings:
    return Sightings(
        sightings.key_low[start:end],
        sightings.key_high[start:end],
        sightings.time_ms[start:end],
        sightings.content[start:end],
        sightings.position[start:end],
        sightings.partition,
    )


_SPEND_COLUMNS = ("tenant_id", "feature_id", "idempotency_key", "timestamp_ms", "day_start_ms", "price")


def split_by_tenant(
    judged: Judged, shards: int, limits: LimitSettings, home: str = ""
) -> tuple[Spent, list[SpendSlice]]:
    """The rows that are not late, and a slice for each shard of tenants, the empty ones too."""
    rows = judged.priced[list(_SPEND_COLUMNS)]
    late = judged.priced["late"]
    if late.any():
        rows = rows.filter(~late)
    sums = partition_by_tenant(sum_rows(rows, limits), shards) if len(rows) else {}
    slices = [SpendSlice(shard, judged.tick, sums.get(shard), home) for shard in range(shards)]
    return Spent(judged.tick, rows, tuple(sums)), slices


def alerts_of(spent: Spent, found: Sequence[ShardCrossings]) -> list[CapAlert]:
    """The alerts that a batch raised, by what its shards of tenants, each in its turn, say of it.

    Raises:
        AssertionError, KeyError: they speak of other rows.
    """
    crossings = [crossing for one in found for crossing in one.crossings]
    if not crossings:
        return []
    # A tenant that crosses one threshold often crosses several: its rows are looked for once.
    tenants = {crossing.key[0] for crossing in crossings}
    rows = spent.rows.filter(pl.col("tenant_id").is_in(tenants)).partition_by("tenant_id", as_dict=True)
    return [alert_of(crossing, rows[crossing.key[:1]]) for crossing in crossings]


def partition_by_tenant(rows: pl.DataFrame, shards: int) -> dict[int, pl.DataFrame]:
    """Rows by the number of the shard that their tenant belongs to, in the order in which they stand."""
    hashed = rows.select(plh.col("tenant_id").nchash.xxh3_64(seed=0))["tenant_id"].to_numpy()
    shard = (hashed % np.uint64(shards)).astype(np.uint8)
    ordered = rows[np.argsort(shard, kind="stable")]
    ends = np.cumsum(np.bincount(shard, minlength=shards)).tolist()
    starts = [0, *ends[:-1]]
    return {
        number: ordered[start:end]
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
        if end > start
    }


def judge(batch: KeyedBatch, found: Sequence[ShardVerdicts]) -> Judged:
    """What the verdicts of all shards, in the order of their numbers, make of a batch."""
    events = batch.events
    verdict = np.empty(len(events), np.int8)
    verdict[batch.order] = np.concatenate([one.verdicts for one in found])
    copies = np.flatnonzero(verdict == DUPLICATE)
    return Judged(
        batch.tick,
        _priced(events, verdict == ORIGINAL, max(one.passed_ms for one in found)),
        events[list(_DUPLICATE_COLUMNS)][copies],
        _conflicts(events, verdict == CONFLICT),
    )


def _priced(events: pl.DataFrame, original: Bools, passed_ms: int) -> pl.DataFrame:
    """Originals with `late`: by the greatest time that their input had brought up to each of them."""
    peaks_ms = np.maximum.accumulate(events["timestamp_ms"].to_numpy())
    late = np.maximum(peaks_ms, passed_ms) > events["late_after_ms"].to_numpy()
    priced = without(events, _WORKING_COLUMNS).hstack([pl.Series("late", late)])
    return priced if original.all() else priced.filter(pl.Series(original))


_WORKING_COLUMNS = ("late_after_ms", "raw")
_POSITION = ("source", "source_partition", "offset", "line")
_DUPLICATE_COLUMNS = ("tenant_id", "idempotency_key", "timestamp_ms", *_POSITION)


def _conflicts(events: pl.DataFrame, conflict: Bools) -> pl.DataFrame:
    if not conflict.any():
        return no_quarantine()
    return refuse(
        events.filter(conflict),
        QuarantineReason.IDEMPOTENCY_CONFLICT,
        pl.concat_str(
            pl.lit("the key "),
            "idempotency_key",
            pl.lit(" was used within the window for an event with other content"),
        ),
    )
