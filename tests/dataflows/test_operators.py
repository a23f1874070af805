"""The two steps that remember, fed through the stateless ones: watermarks, late events, restarts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from dataflows.batch import Partition, RawBatch
from dataflows.decode import TimeBounds, decode
from dataflows.operators import COMPACT_AFTER, DedupeLogic, ShardState, SpendLogic, Watermarks, new_book
from dataflows.segments import CorruptStateError, Segment
from dataflows.steps import HOUR_MS, Tick, rate_events, split_by_shard, split_by_tenant
from pricing.cap import CapAlert
from pricing.rate_card import compile_card
from pricing.settings import load_settings, thresholds
from tests.auditor_cases import NOON_MS

DAY_MS = 24 * HOUR_MS
RETENTION_HOURS = 72
SHARDS = 2
SETTINGS = load_settings(
    """
pricing:
  rules: [{model: m, input_rate: 1, output_rate: 1}]
limits:
  tenant: {daily_cap: 10, burst_threshold: 0.5}
"""
)
CARD = compile_card(SETTINGS.pricing.rules)
NO_BOUNDS = TimeBounds(10**15, 10**15)


def event(key: str, time_ms: int, usd: int = 1, tenant: str = "t") -> bytes:
    fields = {"idempotency_key": key, "tenant_id": tenant, "model": "m", "timestamp": time_ms}
    return json.dumps({**fields, "input_tokens": usd, "output_tokens": 0}).encode()


@dataclass
class Seen:
    """What came out since the last look."""

    priced: dict[str, bool] = field(default_factory=dict)
    """Key to whether it was late."""
    duplicates: list[str] = field(default_factory=list)
    conflicts: int = 0
    spend: dict[int, Decimal] = field(default_factory=dict)
    """Start of a tenant's day to its newest spend."""
    alerts: list[CapAlert] = field(default_factory=list)


class Job:
    """The flow from decode to spend, without Bytewax: every shard of both steps, epoch by epoch."""

    def __init__(self, directory: Path, inputs: int = 1) -> None:
        self.directory = directory
        self.inputs = [Partition(ordinal, f"input-{ordinal}", 0) for ordinal in range(inputs)]
        self.offsets = [0] * inputs
        self.snapshots: list[str | None] = [None] * (2 * SHARDS)
        self.start(range(inputs))

    def start(self, chosen: Iterable[int]) -> None:
        """A new process that resumes at the last snapshot and reads some of the inputs."""
        expected = frozenset(chosen)
        keep_ms = RETENTION_HOURS * HOUR_MS
        self.dedupes = [
            DedupeLogic.build(self.directory / "dedupe", state, DAY_MS, DAY_MS + keep_ms, expected)
            for state in self.snapshots[:SHARDS]
        ]
        book = new_book(SETTINGS.limits, thresholds(SETTINGS))
        self.spends = [
            SpendLogic.build(self.directory / "spend", state, book, keep_ms, expected, SHARDS)
            for state in self.snapshots[SHARDS:]
        ]
        self.seen = Seen()

    def feed(self, *lines: bytes, input_number: int = 0, live: bool = True) -> None:
        """One poll of one input; without lines a heartbeat."""
        partition, count = self.inputs[input_number], len(lines)
        first = self.offsets[input_number]
        self.offsets[input_number] += count
        offsets = np.arange(first, first + count, dtype=np.int64)
        data = b"".join(line + b"\n" for line in lines)
        arrivals = np.full(count, NOON_MS, np.int64)
        raw = RawBatch(
            partition, data, offsets, np.zeros(count, np.int32), arrivals, first + count, live, age_limited=False
        )
        for shard, sliced in split_by_shard(decode(raw, NO_BOUNDS), SHARDS, seed=7):
            for judged in self.dedupes[shard].on_batch([sliced])[0]:
                self.seen.duplicates += judged.duplicates["idempotency_key"].to_list()
                self.seen.conflicts += len(judged.conflicts)
                rated = rate_events(judged, CARD, SETTINGS.limits, RETENTION_HOURS)
                self.seen.priced |= dict(rated.priced.select("idempotency_key", "late").iter_rows())
                for part in split_by_tenant(rated, SHARDS):
                    self._spend(part.shard, self.spends[part.shard].on_batch([part])[0])

    def _spend(self, shard: int, outputs: Iterable[object]) -> None:
        for output in outputs:
            if isinstance(output, CapAlert):
                self.seen.alerts.append(output)
                continue
            for one in output.versions:  # type: ignore[attr-defined]  # the only other kind
                if one.window_kind == "day":
                    self.seen.spend[one.window_start_ms] = one.spend

    def epoch(self) -> Seen:
        """End the epoch: every step is snapshotted."""
        self.snapshots = [logic.snapshot() for logic in (*self.dedupes, *self.spends)]
        seen, self.seen = self.seen, Seen()
        return seen

    def windows(self) -> int:
        return sum(len(spend._book.windows) for spend in self.spends)  # noqa: SLF001 - its size is a promise

    def keys(self) -> int:
        return sum(len(dedupe._index) for dedupe in self.dedupes)  # noqa: SLF001 - as above


DAY = NOON_MS // DAY_MS * DAY_MS


def test_an_event_is_late_by_its_own_inputs_watermark_and_is_then_not_in_spend(tmp_path: Path) -> None:
    job = Job(tmp_path)
    end_ms = DAY + DAY_MS + RETENTION_HOURS * HOUR_MS
    job.feed(event("first", NOON_MS))
    job.feed(event("on the edge", end_ms), event("just in time", NOON_MS))
    assert job.epoch().spend == {DAY: 2, end_ms // DAY_MS * DAY_MS: 1}
    job.feed(event("still in time", NOON_MS))
    assert job.epoch().spend == {DAY: 3}
    job.feed(event("over the edge", end_ms + 1), event("too late", NOON_MS))
    seen = job.epoch()
    assert seen.priced == {"over the edge": False, "too late": True}
    assert DAY not in seen.spend


def test_an_input_that_comes_back_with_old_events_does_not_begin_a_forgotten_window_anew(
    tmp_path: Path,
) -> None:
    job = Job(tmp_path, inputs=2)
    job.feed(event("a", NOON_MS, usd=7), input_number=0)
    job.feed(input_number=0, live=False)
    job.feed(event("b", NOON_MS + 10 * DAY_MS), input_number=1)
    job.epoch()
    # Input 0 was idle, so input 1 alone has let the first day's window go.
    job.feed(event("c", NOON_MS, usd=2), input_number=0)
    seen = job.epoch()
    assert seen.priced == {"c": True}
    assert seen.spend == {}


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_new_input_of_old_events_does_not_begin_a_forgotten_window_anew(
    tmp_path: Path, restarts: int
) -> None:
    job = Job(tmp_path, inputs=2)
    job.start([0])
    job.feed(event("a", NOON_MS, usd=7), event("b", NOON_MS + 10 * DAY_MS))
    job.epoch()
    job.feed(live=False)
    job.epoch()
    for _ in range(restarts):
        job.start([1])
        job.feed(input_number=1, live=False)
        job.epoch()
    job.feed(event("c", NOON_MS, usd=2), event("d", NOON_MS + 10 * DAY_MS, usd=5), input_number=1)
    seen = job.epoch()
    assert seen.priced == {"c": True, "d": False}
    assert seen.spend == {DAY + 10 * DAY_MS: 6}
