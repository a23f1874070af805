"""The dedupe index from a million keys to fifty: memory, speed, snapshots, resume, and keys chosen to hurt.

Rates are events by second of processor, in the stretch before a size is reached, so the growth of the
index is in them. Two sizes are compared in turns, so that what else the machine does hits both.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.crafted_keys import seconds_by_kind
from benchmarks.event_way import EVENTS, seconds_by_step
from benchmarks.numbered_keys import FRESH, MS_A_KEY, ROWS, SHARDS, START_MS, batch_of, new_indexes
from benchmarks.report import Plot, Section, Size, Target, spread
from dataflows.dedupe import DedupeIndex, entries_from_bytes, times_of
from dataflows.segments import Manifest, SegmentLog

SPAN_MS = 4 * 3_600_000
EPOCHS_MEASURED = 10
NEVER_MS = 0
_LOAD = (
    "8 shards; 1,250 events a call, 5 % of them copies, a tenth of those of other content; 100,000 events "
    "an epoch (in the smoke run 20,000); every verdict checked; every snapshot synced."
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done."""

    sizes: tuple[int, ...]
    rounds: int
    """Of an epoch: batches of 10,000 events, a part of each for every shard."""
    repetitions: int
    crafted: int
    batches_whole_way: int


PLANS = {
    Size.SMOKE: Plan((20_000, 100_000), 2, 1, 10_000, 2),
    Size.FULL: Plan((1_000_000, 10_000_000, 50_000_000), 10, 5, 200_000, 20),
}


@dataclass(slots=True)
class Epoch:
    """What one epoch took."""

    keys: int
    """Held at its end."""
    events: int
    seconds: float
    """Of processor, to judge."""
    longest_ms: float
    """The longest call, by the clock."""
    snapshot_ms: float
    snapshot_bytes: int
    added: int
    forget_ms: float
    bytes_a_key: float

    @property
    def rate(self) -> float:
        """Events by second of processor."""
        return self.events / self.seconds


@dataclass(slots=True)
class Shards:
    """The index and, where there is a directory, the segment files of every shard."""

    rounds: int
    directory: Path | None
    indexes: list[DedupeIndex] = field(default_factory=new_indexes)
    logs: list[SegmentLog] = field(default_factory=list)
    next_number: int = 0
    chance: np.random.Generator = field(default_factory=lambda: np.random.Generator(np.random.PCG64(1)))

    def __post_init__(self) -> None:
        if self.directory is not None:
            self.logs = [SegmentLog.open(self.directory / str(n), (), SPAN_MS) for n in range(SHARDS)]

    @property
    def keys(self) -> int:
        """Keys held."""
        return sum(map(len, self.indexes))

    def epoch(self, oldest: int = 0) -> Epoch:
        """Judge an epoch's batches, save what they added, and forget the keys below a number.

        Raises:
            AssertionError: a verdict is wrong.
        """
        seconds, longest_ms = 0.0, 0.0
        for _ in range(self.rounds):
            for shard, index in enumerate(self.indexes):
                batch = batch_of(shard, self.next_number, self.chance, oldest)
                clock, spent = time.perf_counter(), time.thread_time()
                verdict = index.classify(batch.events)
                seconds += time.thread_time() - spent
                longest_ms = max(longest_ms, (time.perf_counter() - clock) * 1000)
                assert np.array_equal(verdict, batch.verdict), "a verdict is wrong"
            self.next_number += FRESH
        before_ms = START_MS + oldest * MS_A_KEY if oldest else NEVER_MS
        snapshot_ms, size_bytes, added, forget_ms = self._snapshot(before_ms)
        held = sum(index.memory_bytes for index in self.indexes) / self.keys
        events = self.rounds * SHARDS * ROWS
        return Epoch(self.keys, events, seconds, longest_ms, snapshot_ms, size_bytes, added, forget_ms, held)

    def _snapshot(self, before_ms: int) -> tuple[float, int, int, float]:
        """Milliseconds, bytes and keys that a snapshot took, and milliseconds to forget."""
        started, written, added = time.perf_counter(), self._written(), 0
        for shard, index in enumerate(self.indexes):
            new = index.take_added()
            added += len(new)
            if self.logs:
                times = times_of(new)
                self.logs[shard].append(new.tobytes(), int(times.min()), int(times.max()))
        saved = time.perf_counter()
        for index in self.indexes:
            index.forget(before_ms)
        ended = time.perf_counter()
        return (saved - started) * 1000, self._written() - written, added, (ended - saved) * 1000

    def _written(self) -> int:
        return sum(log.size_bytes for log in self.logs)


def run(size: Size) -> Section:
    """Fill, compare, forget, resume; then the chosen keys, and the whole way of an event."""
    plan = PLANS[size]
    with tempfile.TemporaryDirectory(prefix="meterline-state-") as directory:
        large = Shards(plan.rounds, Path(directory))
        reached = [_fill(large, keys) for keys in plan.sizes]
        filled_bytes = sum(log.size_bytes for log in large.logs)
        ratios = [_small_to_large(large, plan.sizes[0]) for _ in range(plan.repetitions)]
        manifests = [log.snapshot() for log in large.logs]
        resumed_seconds = _resume(Path(directory), manifests, large.keys)
    steady = _steady(large)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    crafted = [seconds_by_kind(plan.crafted) for _ in range(plan.repetitions)]
    way = [seconds_by_step(plan.batches_whole_way) for _ in range(plan.repetitions)]
    rows = [_row(keys, epochs) for keys, epochs in zip(plan.sizes, reached, strict=True)]
    rows.append(_row(steady[-1].keys, steady, "(old ones forgotten)"))
    slower = _slower(crafted)
    return Section(
        name="state",
        title="Dedupe index",
        columns=(
            "keys",
            "events/s of processor",
            "bytes a key",
            "longest call ms",
            "snapshot ms an epoch",
            "snapshot bytes a new key",
            "forget ms an epoch",
        ),
        rows=tuple(rows),
        targets=tuple(_targets(plan, reached, ratios, resumed_seconds, slower)),
        plots=(_plot(plan, reached),),
        notes=(
            _LOAD,
            f"Resume: {large.keys:,} keys in {resumed_seconds:.1f} s. On disk: {filled_bytes / 1e6:,.0f} MB.",
            f"Peak memory of the process: {peak_bytes / 1e6:,.0f} MB, with a resumed index beside the first.",
            "Speed on chosen keys as a ratio to random ones, hash and index: "
            + "; ".join(f"{kind} {spread(values, 2)}" for kind, values in slower.items()),
            _way_told(plan, way),
        ),
        figures={
            "epochs": [[asdict(one) for one in epochs] for epochs in (*reached, steady)],
            "ratios": ratios,
            "resume_seconds": resumed_seconds,
            "disk_bytes": filled_bytes,
            "peak_bytes": peak_bytes,
            "crafted_seconds": crafted,
            "way_seconds": way,
        },
    )


def _fill(shards: Shards, keys: int) -> list[Epoch]:
    """Run epochs until there are so many keys; the last of them."""
    epochs: list[Epoch] = []
    while shards.keys < keys:
        epochs.append(shards.epoch())
    return epochs


def _small_to_large(large: Shards, keys: int) -> float:
    """The speed of the large index as a ratio to that of one with `keys` keys, epoch by epoch in turn."""
    small = Shards(large.rounds, None)
    while small.keys < keys * 0.8:
        small.epoch()
    pairs = [(small.epoch().rate, large.epoch().rate) for _ in range(4)]
    return statistics.median(of_large / of_small for of_small, of_large in pairs)


def _resume(directory: Path, manifests: list[Manifest], keys: int) -> float:
    """Seconds to read the segment files into new indexes.

    Raises:
        AssertionError: keys are missing, or are not what they were.
    """
    started = time.perf_counter()
    indexes = new_indexes()
    for number, (index, manifest) in enumerate(zip(indexes, manifests, strict=True)):
        for block in SegmentLog.open(directory / str(number), manifest, SPAN_MS).blocks():
            index.restore(entries_from_bytes(block))
    seconds = time.perf_counter() - started
    assert sum(map(len, indexes)) == keys, "keys are missing"
    chance = np.random.Generator(np.random.PCG64(2))
    for shard, index in enumerate(indexes):
        batch = batch_of(shard, len(index), chance)
        assert np.array_equal(index.classify(batch.events), batch.verdict), "a key is not what it was"
    return seconds


def _steady(shards: Shards) -> list[Epoch]:
    """Epochs in which keys expire as fast as they come, after an eighth has expired at once."""
    shards.logs = []
    ahead = shards.next_number - shards.next_number // 8
    return [shards.epoch(shards.next_number - ahead) for _ in range(EPOCHS_MEASURED)]


def _row(keys: int, epochs: list[Epoch], told: str = "") -> tuple[str, ...]:
    last = epochs[-EPOCHS_MEASURED:]
    return (
        f"{keys:,}{' ' * bool(told)}{told}",
        spread([one.rate for one in last]),
        f"{last[-1].bytes_a_key:.1f}",
        f"{max(one.longest_ms for one in epochs):.1f}",
        spread([one.snapshot_ms for one in last], 1),
        f"{statistics.median(one.snapshot_bytes / max(1, one.added) for one in last):.2f}",
        spread([one.forget_ms for one in last], 1),
    )


def _slower(crafted: list[dict[str, tuple[float, float]]]) -> dict[str, list[float]]:
    """By kind of key: speed as a ratio to the first kind, of each repetition."""
    kinds = list(crafted[0])
    return {kind: [sum(one[kinds[0]]) / sum(one[kind]) for one in crafted] for kind in kinds[1:]}


def _targets(
    plan: Plan,
    reached: list[list[Epoch]],
    ratios: list[float],
    resumed_seconds: float,
    slower: dict[str, list[float]],
) -> list[Target]:
    at_sizes = [epoch.bytes_a_key for epochs in reached[1:] for epoch in epochs] + [
        reached[0][-1].bytes_a_key
    ]
    small, large = (
        statistics.median(one.snapshot_bytes / one.added for one in epochs[-EPOCHS_MEASURED:])
        for epochs in (reached[0], reached[-1])
    )
    return [
        Target.at_most(f"bytes a key, at most, from {plan.sizes[0]:,} keys on", max(at_sizes), 48),
        Target.at_least(
            f"speed at {plan.sizes[-1]:,} keys as a ratio to {plan.sizes[0]:,}",
            statistics.median(ratios),
            0.8,
        ),
        Target.at_most("snapshot bytes a new key, largest as a ratio to smallest", large / small, 1.05),
        Target.at_most(f"seconds to resume {plan.sizes[-1]:,} keys", resumed_seconds, 60),
        Target.at_least(
            "speed on chosen keys as a ratio to random ones, the slowest kind",
            min(statistics.median(values) for values in slower.values()),
            0.9,
        ),
    ]


def _way_told(plan: Plan, way: list[dict[str, float]]) -> str:
    events = plan.batches_whole_way * EVENTS
    steps = {step: [one[step] / events * 1e6 for one in way] for step in way[0]}
    shares = [100 * one["index"] / sum(one.values()) for one in way]
    told = ", ".join(f"{step} {spread(micros, 2)}" for step, micros in steps.items())
    return f"Microseconds of processor an event: {told}. The index takes {spread(shares)} % of it."


def _plot(plan: Plan, reached: list[list[Epoch]]) -> Plot:
    rates = tuple(statistics.median(one.rate for one in epochs[-EPOCHS_MEASURED:]) for epochs in reached)
    sizes = tuple(float(keys) for keys in plan.sizes)
    return Plot(
        "state", "keys held", "events by second of processor", (("dedupe index", sizes, rates),), "log"
    )
