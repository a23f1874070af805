"""Seconds of processor that each step takes from the bytes of events to their rows."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks.numbered_keys import SHARDS, START_MS, new_indexes
from dataflows.batch import Partition, RawBatch
from dataflows.decode import TimeBounds, decode
from dataflows.lines import split_lines
from dataflows.rate import rate_events, refuse_unpriced
from dataflows.steps import (
    ShardVerdicts,
    judge,
    split_by_key,
    split_by_tenant,
)
from dataflows.tables import priced_rows
from pricing.rate_card import compile_card
from pricing.settings import load_settings

EVENTS = 10_000
_SEED = 0x5EED_0B_ADD
_SETTINGS = "pricing:\n  rules: [{model: m, input_rate: 1e-6, output_rate: 2e-6}]\n"
_RETENTION_HOURS = 72


def seconds_by_step(batches: int) -> dict[str, float]:
    """Batches of EVENTS events, each by each step of the job but the source, spend and the database."""
    settings = load_settings(_SETTINGS)
    card = compile_card(settings.pricing.rules, settings.pricing.contracts)
    indexes = new_indexes()
    spent: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        started = time.process_time()
        yield
        spent[step] += time.process_time() - started

    for number in range(batches):
        raw = _batch(number)
        with timed("decode"):
            decoded = decode(raw, TimeBounds(10**15, 10**15))
        with timed("rate"):
            rated = rate_events(refuse_unpriced(decoded, card), card, settings.limits, _RETENTION_HOURS)
        with timed("hash and split"):
            keyed, slices = split_by_key(rated, SHARDS, _SEED)
        with timed("index"):
            verdicts = [
                ShardVerdicts(one.shard, one.tick, indexes[one.shard].classify(one.sightings), 0, "")
                for one in slices
            ]
        with timed("judge"):
            judged = judge(keyed, verdicts)
        with timed("rows"):
            split_by_tenant(judged, SHARDS, settings.limits)
            priced_rows(judged.priced)
    assert sum(len(index) for index in indexes) == batches * EVENTS, "an event was taken for another's copy"
    return dict(spent)


def _batch(number: int) -> RawBatch:
    first = number * EVENTS
    offset = np.arange(first, first + EVENTS)
    lines = split_lines(b"".join(_line(one) for one in offset.tolist()))
    none = np.zeros(EVENTS, np.int32)
    arrival = np.full(EVENTS, START_MS)
    partition = Partition(0, "made", 0)
    return RawBatch(partition, lines, offset, none, arrival, first + EVENTS, live=True, age_limited=False)


def _line(number: int) -> bytes:
    event = {
        "idempotency_key": f"resp_{number:032x}",
        "tenant_id": f"tenant-{number % 1000}",
        "feature_id": f"feature-{number % 20}",
        "provider": "openai",
        "model": "m",
        "timestamp": START_MS + number,
        "input_tokens": 100 + number % 4000,
        "output_tokens": number % 900,
        "cache_read_tokens": number % 100,
        "latency_ms": number % 5000,
        "region": "eu-central-1",
    }
    return json.dumps(event).encode() + b"\n"


if __name__ == "__main__":
    seconds_by_step(1)
