"""The dedupe index: which events have been seen, exactly, within a window of event time.

Theory of operation. A key is a 128-bit hash of (tenant, idempotency key). Entries stand one after the
other in the order of their arrival; a hash table finds those of a key. An event is compared with the
entries of its key in the order of their arrival, and is

- the original, if no entry's event time lies within the window of its own: it becomes an entry;
- the original again, if such an entry is its own first sighting, by position. This is what makes
  a state that is ahead of the stream harmless: a replay picks the same originals;
- a duplicate of that entry, if their contents are equal, and a conflict if they are not.

The table is open addressing: a slot holds eight bits of the key and the number of its entry, so that a
walk over taken slots reads neighbouring bytes and rarely an entry. Where a walk begins rises with the
key's upper half, and a table can have any size: it grows by a fifth, and is made anew from the
entries.

No IO, no clock: time is the events' own. Bounds: the index holds what the window and the allowed
lateness hold (`forget` drops the rest, by event time), in less than 48 bytes an entry, and 60 kB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataflows.compiled import compiled, inlined

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
UInt32s = npt.NDArray[np.uint32]
UInt8s = npt.NDArray[np.uint8]
Verdicts = npt.NDArray[np.int8]

ORIGINAL, DUPLICATE, CONFLICT = 0, 1, 2
"""Verdicts on an event."""

ENTRY_WORDS = 5
"""An entry, 40 bytes: key (both halves), hash of the content, position, event time x 2**16 + partition."""

_KEY_LOW, _KEY_HIGH, _CONTENT, _POSITION, _TIME_PARTITION = range(ENTRY_WORDS)
_PARTITION_BITS = 16
_LINE_BITS = 20
_ENTRIES_MIN = 1024
_ENTRIES_GROWTH = 128
_LOAD_MAX = 0.84
_TABLE_GROWTH = 1.2
_FORGET_FRACTION = 4  # made anew once a quarter of the entries has expired: each entry moves O(1) times
_SPANS = 24  # entries are counted by spans of this fraction of the window: by the hour, for a day


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


def entries_of(events: Sightings) -> UInt64s:
    """Events as entries: (events, ENTRY_WORDS)."""
    entries = np.empty((len(events), ENTRY_WORDS), np.uint64)
    entries[:, _KEY_LOW], entries[:, _KEY_HIGH] = events.key_low, events.key_high
    entries[:, _CONTENT], entries[:, _POSITION] = events.content, events.position
    time_ms = events.time_ms.astype(np.uint64)
    entries[:, _TIME_PARTITION] = (time_ms << np.uint64(_PARTITION_BITS)) | np.uint64(events.partition)
    return entries


def times_of(entries: UInt64s) -> Int64s:
    """Event times of entries, in epoch milliseconds."""
    times: Int64s = entries[:, _TIME_PARTITION].astype(np.int64) >> _PARTITION_BITS
    return times


def entries_from_bytes(block: bytes) -> UInt64s:
    """Entries as `tobytes` of an array of them wrote them."""
    return np.frombuffer(block, np.uint64).reshape(-1, ENTRY_WORDS)


class DedupeIndex:
    """The entries of one shard. `window_ms` is inclusive: an event that far from the first is its copy."""

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._span_ms = max(1, window_ms // _SPANS)
        self._count = 0
        self._saved = 0
        self._entries = np.empty((_ENTRIES_MIN, ENTRY_WORDS), np.uint64)
        self._tags, self._rows = _table_for(_ENTRIES_MIN)
        self._by_span: dict[int, int] = {}
        """How many of the entries that were taken stand in each span of event time."""

    def __len__(self) -> int:
        return self._count

    @property
    def memory_bytes(self) -> int:
        """Bytes held by the entries and the table."""
        return self._entries.nbytes + self._tags.nbytes + self._rows.nbytes

    def classify(self, events: Sightings) -> Verdicts:
        """Verdict on each event of a batch, in order; originals are remembered."""
        verdict = np.empty(len(events), np.int8)
        self._reserve(self._count + len(events))
        self._count = _classify(
            entries_of(events), self._window_ms, self._entries, self._count, self._tags, self._rows, verdict
        )
        return verdict

    def take_added(self) -> UInt64s:
        """Entries added since the last call, (entries, ENTRY_WORDS): what a snapshot must keep."""
        added: UInt64s = self._entries[self._saved : self._count].copy()
        self._saved = self._count
        self._count_spans(added)
        return added

    def restore(self, entries: UInt64s) -> None:
        """Add entries that an earlier run has kept, in the order in which they were added then."""
        start, end = self._count, self._count + len(entries)
        self._reserve(end)
        self._entries[start:end] = entries
        _insert(self._entries, start, end, self._tags, self._rows)
        self._count = self._saved = end
        self._count_spans(entries)

    def forget(self, before_ms: int) -> int:
        """Drop entries of whole spans before an instant, once they are worth making the table anew.

        Returns how many were dropped. Only call it between `take_added` and the next `classify`:
        entries not yet taken would be lost.
        """
        old = [span for span in self._by_span if (span + 1) * self._span_ms <= before_ms]
        dropped = sum(self._by_span[span] for span in old)
        if dropped * _FORGET_FRACTION < self._count or not dropped or self._saved != self._count:
            return 0
        for span in old:
            del self._by_span[span]
        self._count = self._saved = _keep(self._entries, self._count, (max(old) + 1) * self._span_ms)
        self._fit_entries(self._count)
        self._fit_table(self._count)
        return dropped

    def _count_spans(self, entries: UInt64s) -> None:
        spans, counts = np.unique(times_of(entries) // self._span_ms, return_counts=True)
        for span, count in zip(spans.tolist(), counts.tolist(), strict=True):
            self._by_span[span] = self._by_span.get(span, 0) + count

    def _reserve(self, count: int) -> None:
        if count > len(self._entries):
            self._fit_entries(count)
        if count > len(self._tags) * _LOAD_MAX:
            self._fit_table(count)

    def _fit_entries(self, count: int) -> None:
        # In place: the system's allocator moves a large array by its page table, without a copy. No view of
        # it outlives a call, so the check for one, which a profiler trips, is left out.
        room = max(_ENTRIES_MIN, count + count // _ENTRIES_GROWTH)
        self._entries.resize((room, ENTRY_WORDS), refcheck=False)

    def _fit_table(self, count: int) -> None:
        self._tags, self._rows = np.empty(0, np.uint8), np.empty(0, np.uint32)  # the old one first
        self._tags, self._rows = _table_for(count)
        _insert(self._entries, 0, self._count, self._tags, self._rows)


def _table_for(count: int) -> tuple[UInt8s, UInt32s]:
    slots = int(max(count, _ENTRIES_MIN) * _TABLE_GROWTH / _LOAD_MAX) + 1
    return np.zeros(slots, np.uint8), np.empty(slots, np.uint32)


@inlined
def _first_slot(key_low: np.uint64, slots: int) -> int:
    """Where the walk of a key begins: the upper half of `key_low`, scaled to the table."""
    return np.int64(((key_low >> np.uint64(32)) * np.uint64(slots)) >> np.uint64(32))  # type: ignore[no-any-return]  # compiled


@inlined
def _tag(key_low: np.uint64) -> np.uint8:
    """Eight bits of the key, from its lower half; 0 stands for an empty slot, so 255 for it too."""
    low = np.uint8(key_low & np.uint64(0xFF))
    return low if low != 0 else np.uint8(255)  # type: ignore[no-any-return]  # compiled


@inlined
def _time_ms(entry: UInt64s) -> int:
    return np.int64(entry[_TIME_PARTITION]) >> _PARTITION_BITS  # type: ignore[no-any-return]  # compiled


@inlined
def _put(entries: UInt64s, row: int, entry: UInt64s) -> None:
    for word in range(ENTRY_WORDS):
        entries[row, word] = entry[word]


@compiled
def _classify(
    events: UInt64s,
    window_ms: int,
    entries: UInt64s,
    count: int,
    tags: UInt8s,
    rows: UInt32s,
    verdict: Verdicts,
) -> int:
    """Judge events one after the other; there is room for all. Returns the new number of entries."""
    for number in range(len(events)):
        event = events[number]
        tag = _tag(event[_KEY_LOW])
        slot = _first_slot(event[_KEY_LOW], len(tags))
        while tags[slot] != 0:
            if tags[slot] == tag:
                known = entries[rows[slot]]
                same = known[_KEY_LOW] == event[_KEY_LOW] and known[_KEY_HIGH] == event[_KEY_HIGH]
                if same and abs(_time_ms(known) - _time_ms(event)) <= window_ms:
                    verdict[number] = _compare(known, event)
                    break
            slot = slot + 1 if slot + 1 < len(tags) else 0
        else:
            tags[slot], rows[slot] = tag, count
            _put(entries, count, event)
            count += 1
            verdict[number] = ORIGINAL
    return count


@inlined
def _compare(known: UInt64s, event: UInt64s) -> int:
    """The verdict on an event whose key and time fit an entry."""
    partitions = known[_TIME_PARTITION] ^ event[_TIME_PARTITION]
    if known[_POSITION] == event[_POSITION] and partitions & np.uint64(0xFFFF) == 0:
        return ORIGINAL
    return DUPLICATE if known[_CONTENT] == event[_CONTENT] else CONFLICT


@compiled
def _insert(entries: UInt64s, start: int, end: int, tags: UInt8s, rows: UInt32s) -> None:
    """Find a slot for each of these entries; of one key, earlier ones stay before later ones."""
    for row in range(start, end):
        slot = _first_slot(entries[row, _KEY_LOW], len(tags))
        while tags[slot] != 0:
            slot = slot + 1 if slot + 1 < len(tags) else 0
        tags[slot], rows[slot] = _tag(entries[row, _KEY_LOW]), row


@compiled
def _keep(entries: UInt64s, count: int, since_ms: int) -> int:
    """Move entries from an instant on to the front, in their order; returns how many there are."""
    kept = 0
    for row in range(count):
        if _time_ms(entries[row]) >= since_ms:
            _put(entries, kept, entries[row])
            kept += 1
    return kept
