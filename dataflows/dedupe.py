"""The dedupe index: which events have been seen, exactly, within a window of event time.

Theory of operation. A key is a 128-bit hash of (tenant, idempotency key). Entries stand in
append-only columns in the order of their arrival; an open-addressing table of row numbers finds
them. An event is compared with the entries of its key in the order of their arrival, and is

- the original, if no entry's event time lies within the window of its own: it becomes an entry;
- the original again, if such an entry is its own first sighting, by position. This is what makes
  a state that is ahead of the stream harmless: a replay picks the same originals;
- a duplicate of that entry, if their contents are equal, and a conflict if they are not.

A whole batch is probed at once. Rows of one key walk the same slots in step, and where several
want one empty slot the earliest takes it, so the result is that of one event at a time.

No IO, no clock: time is the events' own. Bound: the index holds what the window and the allowed
lateness hold; `forget` drops the rest, by event time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

ORIGINAL, DUPLICATE, CONFLICT = 0, 1, 2
"""Verdicts on an event."""

ENTRY_DTYPE = np.dtype(
    [
        ("key_low", "<u8"),
        ("key_high", "<u8"),
        ("time_ms", "<i8"),
        ("content", "<u8"),
        ("position", "<u8"),
        ("partition", "<u2"),
    ]
)
"""One entry: key, event time, hash of the content, and where it was first seen. 42 bytes."""

_LINE_BITS = 20
_LOAD_MAX = 0.6
_SLOTS_MIN = 1024
_FORGET_FRACTION = 4  # rebuild once a quarter of the entries has expired: each entry moves O(1) times


@dataclass(frozen=True, slots=True)
class Sightings:
    """Columns of events in the order of arrival. `position` is unique within `partition`."""

    key_low: UInt64s
    key_high: UInt64s
    time_ms: Int64s
    content: UInt64s
    position: UInt64s
    partition: int

    def __len__(self) -> int:
        return len(self.time_ms)


def pack_position(offset: Int64s, line: npt.NDArray[np.int32]) -> UInt64s:
    """Offset (below 2**44) and line within its message (below 2**20) as one number."""
    packed: UInt64s = (offset.astype(np.uint64) << np.uint64(_LINE_BITS)) | line.astype(np.uint64)
    return packed


class DedupeIndex:
    """The entries of one shard. `window_ms` is inclusive: an event that far from the first is its copy."""

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._count = 0
        self._entries = np.empty(_SLOTS_MIN, ENTRY_DTYPE)
        self._slots = np.full(_SLOTS_MIN, -1, np.int32)
        self._oldest_ms = np.iinfo(np.int64).max
        self._saved = 0

    def __len__(self) -> int:
        return self._count

    @property
    def memory_bytes(self) -> int:
        """Bytes held by the entries and the table."""
        return self._entries.nbytes + self._slots.nbytes

    def classify(self, events: Sightings) -> npt.NDArray[np.int8]:
        """Verdict on each event of a batch, in order; originals are remembered."""
        size = len(events)
        verdict = np.full(size, ORIGINAL, np.int8)
        if size == 0:
            return verdict
        self._reserve(self._count + size)
        slots = self._slots
        mask = np.uint64(len(slots) - 1)
        slot = (events.key_low & mask).astype(np.int64)
        active = np.arange(size)
        while len(active):
            entry = slots[slot[active]]
            occupied = entry >= 0
            settled = self._compare(events, active[occupied], entry[occupied], verdict)
            empty = active[~occupied]
            winners = self._claim(events, empty, slot[empty])
            still = np.ones(len(active), np.bool_)
            still[np.flatnonzero(occupied)[settled]] = False
            still[np.flatnonzero(~occupied)[winners]] = False
            advance = occupied & still
            moving = active[advance]
            slot[moving] = (slot[moving] + 1) & np.int64(mask)
            active = active[still]
        return verdict

    def _compare(
        self, events: Sightings, rows: Int64s, entry: npt.NDArray[np.int32], verdict: npt.NDArray[np.int8]
    ) -> npt.NDArray[np.bool_]:
        """Judge the rows whose slot is taken; true where the entry there settles the row."""
        known = self._entries
        same: npt.NDArray[np.bool_] = known["key_low"][entry] == events.key_low[rows]
        candidates = np.flatnonzero(same)
        if len(candidates) == 0:
            return same
        row, at = rows[candidates], entry[candidates]
        close = np.abs(known["time_ms"][at] - events.time_ms[row]) <= self._window_ms
        match = close & (known["key_high"][at] == events.key_high[row])
        same[candidates] = match
        row, at = row[match], at[match]
        itself = (known["position"][at] == events.position[row]) & (
            known["partition"][at] == events.partition
        )
        equal = known["content"][at] == events.content[row]
        verdict[row] = np.where(itself, ORIGINAL, np.where(equal, DUPLICATE, CONFLICT))
        return same

    def _claim(self, events: Sightings, rows: Int64s, slot: Int64s) -> npt.NDArray[np.bool_]:
        """Let the earliest row that wants an empty slot have it, as a new entry; true for those rows."""
        if len(rows) == 0:
            return np.zeros(0, np.bool_)
        # Of several writes to one slot the last stays: written backwards, that is the earliest row.
        self._slots[slot[::-1]] = np.arange(len(rows) - 1, -1, -1, dtype=np.int32)
        won: npt.NDArray[np.bool_] = self._slots[slot] == np.arange(len(rows), dtype=np.int32)
        taken = rows[won]
        start, self._count = self._count, self._count + len(taken)
        self._slots[slot[won]] = np.arange(start, self._count, dtype=np.int32)
        added = self._entries[start : self._count]
        added["key_low"] = events.key_low[taken]
        added["key_high"] = events.key_high[taken]
        added["time_ms"] = events.time_ms[taken]
        added["content"] = events.content[taken]
        added["position"] = events.position[taken]
        added["partition"] = events.partition
        self._oldest_ms = min(self._oldest_ms, int(added["time_ms"].min()))
        return won

    def take_added(self) -> npt.NDArray[np.void]:
        """Entries added since the last call, as one array of `ENTRY_DTYPE`: what a snapshot must keep."""
        added: npt.NDArray[np.void] = self._entries[self._saved : self._count].copy()
        self._saved = self._count
        return added

    def restore(self, entries: npt.NDArray[np.void]) -> None:
        """Add entries that an earlier run has kept, in the order in which they were added then."""
        self._reserve(self._count + len(entries))
        start, self._count = self._count, self._count + len(entries)
        self._entries[start : self._count] = entries
        self._insert(start)
        self._saved = self._count
        if len(entries):
            self._oldest_ms = min(self._oldest_ms, int(entries["time_ms"].min()))

    def forget(self, before_ms: int) -> int:
        """Drop entries whose event time is before an instant, once they are worth a rebuild.

        Returns how many were dropped. Only call it between `take_added` and the next `classify`:
        entries not yet taken would be lost.
        """
        if self._oldest_ms >= before_ms or self._saved != self._count:
            return 0
        keep = self._entries["time_ms"][: self._count] >= before_ms
        dropped = self._count - int(keep.sum())
        if dropped * _FORGET_FRACTION < self._count:
            return 0
        kept = self._entries[: self._count][keep]
        self._count = self._saved = len(kept)
        self._entries = np.empty(max(_SLOTS_MIN, len(kept)), ENTRY_DTYPE)
        self._entries[: len(kept)] = kept
        self._oldest_ms = int(kept["time_ms"].min()) if len(kept) else np.iinfo(np.int64).max
        self._slots = np.full(_table_size(self._count), -1, np.int32)
        self._insert(0)
        return dropped

    def _reserve(self, count: int) -> None:
        if count > len(self._entries):
            grown = np.empty(max(count, len(self._entries) * 3 // 2), ENTRY_DTYPE)
            grown[: self._count] = self._entries[: self._count]
            self._entries = grown
        if count > len(self._slots) * _LOAD_MAX:
            self._slots = np.full(_table_size(count), -1, np.int32)
            self._insert(0)

    def _insert(self, start: int) -> None:
        """Find a slot for every entry from `start` on; earlier entries of a key stay before later ones."""
        slots = self._slots
        mask = len(slots) - 1
        rows = np.arange(start, self._count, dtype=np.int32)
        slot = (self._entries["key_low"][start : self._count] & np.uint64(mask)).astype(np.int64)
        while len(rows):
            free = slots[slot] < 0
            wanted, wanting = slot[free], rows[free]
            slots[wanted[::-1]] = wanting[::-1]
            placed = slots[slot] == rows
            rows, slot = rows[~placed], (slot[~placed] + 1) & mask


def _table_size(count: int) -> int:
    size = _SLOTS_MIN
    while count > size * _LOAD_MAX / 1.5:
        size *= 2
    return size
