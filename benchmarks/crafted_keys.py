"""Keys that somebody might choose to slow the index down, through the job's own hash."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import numpy as np
import polars as pl

from benchmarks.numbered_keys import SHARDS, new_indexes
from dataflows.dedupe import Sightings
from dataflows.steps import key_hashes

Result = TypeVar("Result")

SEED = 0x5EED_0B_ADD
GUESSED_SEED = 0
BATCH = 10_000
_COLLIDING_BITS = 7  # of those that say where the walk through the table begins


def kinds(count: int) -> dict[str, list[str]]:
    """`count` keys of each kind; the first is what the others are held against."""
    chance = np.random.Generator(np.random.PCG64(7))
    words = chance.integers(0, 2**64, (count, 2), np.uint64).tolist()
    return {
        "random": [f"{high:016x}{low:016x}" for high, low in words],
        "sequential": [str(number) for number in range(count)],
        "UUIDs": [str(uuid.UUID(int=(high << 64) | low, version=4)) for low, high in words],
        "shared prefix": [f"{'p' * 200}{number:08d}" for number in range(count)],
        "colliding without the seed": _colliding(count),
    }


def _colliding(count: int) -> list[str]:
    """Keys that begin their walk in one corner of the table, under a guessed seed: the true one is secret."""
    found: list[str] = []
    start, step = 0, 1_000_000
    while len(found) < count:
        keys = pl.Series("idempotency_key", np.arange(start, start + step)).cast(pl.String)
        low, _ = key_hashes(_frame(keys), GUESSED_SEED)
        found += keys.filter(pl.Series(low >> np.uint64(64 - _COLLIDING_BITS) == 0)).to_list()
        start += step
    return found[:count]


def _frame(keys: pl.Series) -> pl.DataFrame:
    return pl.DataFrame({"tenant_id": pl.repeat("tenant", len(keys), eager=True), "idempotency_key": keys})


def seconds_by_kind(count: int) -> dict[str, tuple[float, float]]:
    """Seconds of processor to hash and to judge `count` new keys of each kind, the kinds in turn.

    Raises:
        AssertionError: a new key was taken for a copy.
    """
    running = {kind: _judged(keys) for kind, keys in kinds(count).items()}
    spent = dict.fromkeys(running, (0.0, 0.0))
    for _ in range(0, count, BATCH):
        for kind, batches in running.items():
            hashing, judging = next(batches)
            before = spent[kind]
            spent[kind] = before[0] + hashing, before[1] + judging
    return spent


def _judged(keys: list[str]) -> Iterator[tuple[float, float]]:
    indexes = new_indexes()
    for start in range(0, len(keys), BATCH):
        frame = _frame(pl.Series("idempotency_key", keys[start : start + BATCH]))
        hashing, (low, high) = _timed(partial(key_hashes, frame, SEED))
        position = np.arange(start, start + len(low), dtype=np.uint64)
        judging = 0.0
        for shard in range(SHARDS):
            mine = np.flatnonzero(high % np.uint64(SHARDS) == shard)
            none = np.zeros(len(mine), np.uint64)
            events = Sightings(low[mine], high[mine], none.astype(np.int64), none, position[mine], 0)
            seconds, verdict = _timed(partial(indexes[shard].classify, events))
            assert not verdict.any(), "a new key was taken for a copy"
            judging += seconds
        yield hashing, judging


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result
