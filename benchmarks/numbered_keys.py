"""Events for the dedupe index, made of numbers: any of them can be made again without having been kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataflows.dedupe import CONFLICT, DUPLICATE, ORIGINAL, DedupeIndex, Sightings

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

SHARDS = 8
ROWS = 1_250
"""Of a batch of 10,000 events, what comes to one shard."""
COPIES = 62
"""Of them, copies of earlier ones: 5 %."""
FRESH = ROWS - COPIES
MS_A_KEY = 10
WINDOW_MS = 24 * 3_600_000
START_MS = 1_760_000_000_000


def scattered(numbers: UInt64s) -> UInt64s:
    """A bijection on 64 bits that leaves no order (the finaliser of SplitMix64)."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    last: UInt64s = mixed ^ (mixed >> np.uint64(31))
    return last


def events_of(shard: int, numbers: Int64s, line: npt.NDArray[np.bool_]) -> Sightings:
    """The events with some numbers, where `line` is true at another position: as copies."""
    low = scattered(numbers.astype(np.uint64) + np.uint64(shard << 40))
    high = scattered(low)
    position = (numbers.astype(np.uint64) << np.uint64(20)) | line.astype(np.uint64)
    return Sightings(low, high, START_MS + numbers * MS_A_KEY, scattered(high), position, 0)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one shard gets, and what must become of it."""

    events: Sightings
    verdict: npt.NDArray[np.int8]


def batch_of(shard: int, first: int, chance: np.random.Generator, oldest: int = 0) -> Batch:
    """FRESH keys from number `first` on, then copies from `oldest` on, some of other content."""
    fresh = np.arange(first, first + FRESH)
    copied = chance.integers(oldest, first + FRESH, COPIES)
    copies = np.arange(ROWS) >= FRESH
    events = events_of(shard, np.concatenate([fresh, copied]), copies)
    verdict = np.where(copies, DUPLICATE, ORIGINAL).astype(np.int8)
    events.content[-6:] += np.uint64(1)
    verdict[-6:] = CONFLICT
    return Batch(events, verdict)


def new_indexes() -> list[DedupeIndex]:
    """One for each shard."""
    return [DedupeIndex(WINDOW_MS) for _ in range(SHARDS)]
