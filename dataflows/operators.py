"""The steps that remember, as thin Bytewax adapters: dedupe by shard of keys, spend by shard of tenants.

Delivery. Dedupe and spend keep their state in memory and, at every snapshot, append what the epoch added
to their segment files and hand Bytewax a manifest of them: a few hundred bytes, whatever the state's size.
A crash before the snapshot is durable resumes from the manifest before it, whose files are still there;
after it, from the new one. The dedupe index may be ahead of the stream (see `dataflows.dedupe`), the
spend windows may not: they are read exactly as far as the manifest counts.
"""

from __future__ import annotations

import heapq
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

from bytewax.operators import StatefulBatchLogic

from dataflows.counters import PROCESS
from dataflows.dedupe import DedupeIndex, entries_from_bytes, times_of
from dataflows.segments import Manifest, SegmentLog, manifest_from_json, manifest_to_json
from dataflows.steps import (
    HOUR_MS,
    SETTLED_EVENTS,
    ShardCrossings,
    ShardSlice,
    ShardVerdicts,
    SpendSlice,
    Tick,
)
from pricing.settings import LimitSettings
from pricing.spend import SpendBook, SpendWindow, WindowKey
from sinks.rows import WindowVersion, WindowVersions

SEGMENT_SPAN_MS = 4 * HOUR_MS
COMPACT_AFTER = 4
COMPACT_RECORDS_MIN = 1_000
"""The spend log is rewritten when it holds COMPACT_AFTER times as many records as windows and these."""

_NEVER = -1


@dataclass(slots=True)
class Watermarks:
    """The greatest event time of each input so far, and which inputs are live.

    Inputs in `expected` that have not been heard of hold everything back. `closed_ms` is the instant
    that all live inputs had passed at the end of an earlier epoch: what it closes stays closed, also
    for an input that was idle then, or is new, and brings older events.
    """

    expected: frozenset[int]
    peaks_ms: dict[int, int] = field(default_factory=dict)
    closed_ms: int = _NEVER
    live: dict[int, bool] = field(default_factory=dict)
    newest_ms: dict[int, list[int]] = field(default_factory=dict)
    """The greatest event times of each input, falling, SETTLED_EVENTS of them at most."""

    def before(self, tick: Tick) -> int:
        """The instant before which the tick's input is done, before this batch; -1 if there is none."""
        return max(self.peaks_ms.get(tick.partition.ordinal, _NEVER), self.closed_ms)

    def advance(self, tick: Tick) -> None:
        """Take in what a batch says about its input."""
        ordinal = tick.partition.ordinal
        self.peaks_ms[ordinal] = max(self.peaks_ms.get(ordinal, _NEVER), tick.peak_ms)
        self.live[ordinal] = tick.live
        if tick.newest_ms:
            known = self.newest_ms.get(ordinal, [])
            self.newest_ms[ordinal] = heapq.nlargest(SETTLED_EVENTS, [*known, *tick.newest_ms])

    def close(self) -> int:
        """Call once at the end of an epoch: `closed_ms`, which only grows."""
        self.closed_ms = max(self.closed_ms, self.slowest_ms())
        return self.closed_ms

    def slowest_ms(self) -> int:
        """The watermark that every live input has passed; of all inputs where none is live."""
        return min((self.peaks_ms[ordinal] for ordinal in self._deciding()), default=_NEVER)

    def settled_ms(self) -> int:
        """As `slowest_ms`, but of the SETTLED_EVENTS-th greatest time of each input.

        What is forgotten by it is not forgotten for the sake of a few events with a wrong clock.
        """
        times = (self.newest_ms.get(ordinal, []) for ordinal in self._deciding())
        return min((few[-1] if len(few) == SETTLED_EVENTS else _NEVER for few in times), default=_NEVER)

    def _deciding(self) -> list[int]:
        """Inputs that hold event time back: none yet, if one that is expected has not been heard of."""
        if self.expected - self.live.keys():
            return []
        return [ordinal for ordinal, is_live in self.live.items() if is_live] or list(self.live)


@dataclass(frozen=True, slots=True)
class ShardState:
    """What a snapshot keeps of one shard: its number, because Bytewax does not tell a resumed one."""

    shard: int
    manifest: Manifest
    peaks_ms: dict[int, int]
    closed_ms: int
    newest_ms: dict[int, list[int]] = field(default_factory=dict)

    def to_json(self) -> str:
        """Immutable text: Bytewax pickles it later, when the shard has moved on."""
        return json.dumps(
            {
                "shard": self.shard,
                "manifest": manifest_to_json(self.manifest),
                "peaks_ms": sorted(self.peaks_ms.items()),
                "closed_ms": self.closed_ms,
                "newest_ms": sorted(self.newest_ms.items()),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> ShardState:
        """Inverse of `to_json`."""
        content = json.loads(text)
        return cls(
            content["shard"],
            manifest_from_json(content["manifest"]),
            dict(map(tuple, content["peaks_ms"])),
            content["closed_ms"],
            dict(map(tuple, content["newest_ms"])),
        )

    def watermarks(self, expected: frozenset[int]) -> Watermarks:
        """Where the inputs stood."""
        newest = {ordinal: list(times) for ordinal, times in self.newest_ms.items()}
        return Watermarks(expected, dict(self.peaks_ms), self.closed_ms, newest_ms=newest)


class ShardLog:
    """The segment log of a shard; where there is no state yet, the first slice that comes opens it."""

    def __init__(self, directory: Path, state: ShardState | None) -> None:
        self._directory = directory
        self.shard = -1
        self._log: SegmentLog | None = None
        if state is not None:
            self._open(state.shard, state.manifest)

    def know(self, shard: int) -> None:
        """Learn the shard's number."""
        if self._log is None:
            self._open(shard, ())

    def _open(self, shard: int, manifest: Manifest) -> None:
        self.shard = shard
        self._log = SegmentLog.open(self._directory / f"shard-{shard:02d}", manifest, SEGMENT_SPAN_MS)

    def state(self, marks: Watermarks) -> ShardState:
        """What the snapshot of an epoch keeps, once everything else of the epoch has been done."""
        newest = {ordinal: list(times) for ordinal, times in marks.newest_ms.items()}
        return ShardState(self.shard, self.segments.snapshot(), dict(marks.peaks_ms), marks.closed_ms, newest)

    @property
    def segments(self) -> SegmentLog:
        """The open log."""
        if self._log is None:
            raise AssertionError("a snapshot before the first slice")
        return self._log


class DedupeLogic(StatefulBatchLogic[ShardSlice, ShardVerdicts, str]):
    """One shard of keys."""

    def __init__(self, index: DedupeIndex, log: ShardLog, marks: Watermarks, keep_ms: int) -> None:
        self._index = index
        self._log = log
        self._marks = marks
        self._keep_ms = keep_ms

    @classmethod
    def build(
        cls, directory: Path, resumed: str | None, window_ms: int, keep_ms: int, expected: frozenset[int]
    ) -> DedupeLogic:
        """Load a shard. `keep_ms` is the window plus the allowed lateness.

        Raises:
            CorruptStateError: a segment file is missing or damaged.
        """
        index = DedupeIndex(window_ms)
        if resumed is None:
            return cls(index, ShardLog(directory, None), Watermarks(expected), keep_ms)
        state = ShardState.from_json(resumed)
        log = ShardLog(directory, state)
        for block in log.segments.blocks():
            index.restore(entries_from_bytes(block))
        return cls(index, log, state.watermarks(expected), keep_ms)

    def on_batch(self, values: list[ShardSlice]) -> tuple[Iterable[ShardVerdicts], bool]:
        """Verdicts on the slices, in the order in which they came."""
        found = []
        for sliced in values:
            self._log.know(sliced.shard)
            passed_ms = self._marks.before(sliced.tick)
            self._marks.advance(sliced.tick)
            verdicts = self._index.classify(sliced.sightings)
            found.append(ShardVerdicts(sliced.shard, sliced.tick, verdicts, passed_ms, sliced.home))
        return found, StatefulBatchLogic.RETAIN

    def snapshot(self) -> str:
        """Append what the epoch added, let go of what has expired, and name what is left."""
        sys.audit("meterline.step", "dedupe: before snapshot")
        added = self._index.take_added()
        if len(added):
            times = times_of(added)
            self._log.segments.append(added.tobytes(), int(times.min()), int(times.max()))
            PROCESS.add(snapshot_bytes=added.nbytes)
        self._marks.close()
        before_ms = self._marks.settled_ms() - self._keep_ms
        self._index.forget(before_ms)
        self._log.segments.drop_before(before_ms)
        sys.audit("meterline.step", "dedupe: after snapshot")
        return self._log.state(self._marks).to_json()


SpendOutput: TypeAlias = "WindowVersions | ShardCrossings"


class SpendLogic(StatefulBatchLogic[SpendSlice, SpendOutput, str]):
    """One shard of tenants."""

    def __init__(self, book: SpendBook, log: ShardLog, records: int, marks: Watermarks, keep_ms: int) -> None:
        self._book = book
        self._log = log
        self._records = records
        self._marks = marks
        self._keep_ms = keep_ms

    @classmethod
    def build(
        cls,
        directory: Path,
        resumed: str | None,
        new_book: Callable[[], SpendBook],
        keep_ms: int,
        expected: frozenset[int],
    ) -> SpendLogic:
        """Load a shard. `keep_ms` is the retention of a window after its end.

        Raises:
            CorruptStateError: a segment file is missing or damaged.
        """
        book = new_book()
        if resumed is None:
            return cls(book, ShardLog(directory, None), 0, Watermarks(expected), keep_ms)
        state = ShardState.from_json(resumed)
        log = ShardLog(directory, state)
        records = 0
        for block in log.segments.blocks():
            for key, window in _windows_from_bytes(block):
                book.windows[key] = window
                records += 1
        return cls(book, log, records, state.watermarks(expected), keep_ms)

    def on_batch(self, values: list[SpendSlice]) -> tuple[Iterable[SpendOutput], bool]:
        """Add the sums of every batch: windows that changed go on, and so does what they crossed."""
        outputs: list[SpendOutput] = []
        for value in values:
            self._log.know(value.shard)
            self._marks.advance(value.tick)
            if value.sums is not None:
                touched, crossings = self._book.add(value.sums)
                outputs.append(versions_of([(key, self._book.windows[key]) for key in touched]))
                outputs.append(ShardCrossings(value.shard, value.tick, tuple(crossings), value.home))
        return outputs, StatefulBatchLogic.RETAIN

    def snapshot(self) -> str:
        """Append the windows that the epoch changed, let go of what has expired, and name what is left."""
        sys.audit("meterline.step", "spend: before snapshot")
        self._book.forget(self._marks.close() - self._keep_ms)
        changed = self._book.take_changed()
        if self._records + len(changed) > COMPACT_AFTER * (len(self._book.windows) + COMPACT_RECORDS_MIN):
            self._log.segments.replace_all()
            changed, self._records = list(self._book.windows), 0
        if changed:
            block = windows_to_bytes([(key, self._book.windows[key]) for key in changed])
            self._log.segments.append(block, 0, 0)
            PROCESS.add(snapshot_bytes=len(block))
            self._records += len(changed)
        sys.audit("meterline.step", "spend: after snapshot")
        return self._log.state(self._marks).to_json()


def new_book(limits: LimitSettings, thresholds: tuple[Decimal, ...]) -> Callable[[], SpendBook]:
    """A maker of empty books under these limits."""
    return lambda: SpendBook(limits, thresholds)


def versions_of(windows: Iterable[tuple[WindowKey, SpendWindow]]) -> WindowVersions:
    """Windows as rows of `spend_sums` take them."""
    return WindowVersions(
        tuple(
            WindowVersion(*key, window.end_ms, window.spend_pico, window.events, window.cap)
            for key, window in windows
        )
    )


def windows_to_bytes(windows: list[tuple[WindowKey, SpendWindow]]) -> bytes:
    """Windows as a block of a segment."""
    return json.dumps(
        [
            (*key, window.end_ms, window.spend_pico, window.events, [str(one) for one in window.raised])
            for key, window in windows
        ]
    ).encode()


def _windows_from_bytes(block: bytes) -> Iterable[tuple[WindowKey, SpendWindow]]:
    for tenant, feature, kind, start, end, spend, events, raised in json.loads(block):
        yield (
            (tenant, feature, kind, start),
            SpendWindow(end, spend, events, None, [Decimal(one) for one in raised]),
        )
