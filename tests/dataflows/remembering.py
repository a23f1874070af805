"""The steps that remember, from decode to spend and epoch by epoch, without Bytewax."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import numpy as np

from dataflows.batch import Partition, RawBatch
from dataflows.decode import TimeBounds, decode
from dataflows.lines import split_lines
from dataflows.operators import DedupeLogic, SpendLogic, new_book
from dataflows.rate import rate_events, refuse_unpriced
from dataflows.steps import HOUR_MS, ShardCrossings, alerts_of, judge, split_by_key, split_by_tenant
from pricing.cap import CapAlert
from pricing.money import from_pico
from pricing.rate_card import compile_card
from pricing.settings import load_settings, thresholds
from sinks.rows import WindowVersions
from tests.auditor_cases import NOON_MS

DAY_MS = 24 * HOUR_MS
RETENTION_HOURS = 72
SHARDS = 2
SETTINGS = load_settings(
    """
pricing:
  rules: [{model: m, input_rate: 1, output_rate: 1, confirm_rates_above: 1}]
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
    spend: dict[tuple[str, int], Decimal] = field(default_factory=dict)
    """Newest spend by tenant and start of the day."""
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
            SpendLogic.build(self.directory / "spend", state, book, keep_ms, expected)
            for state in self.snapshots[SHARDS:]
        ]
        self.seen = Seen()

    def feed(self, *lines: bytes, input_number: int = 0, live: bool = True) -> None:
        """One poll of one input; without lines a heartbeat."""
        partition, count = self.inputs[input_number], len(lines)
        first = self.offsets[input_number]
        self.offsets[input_number] += count
        offsets = np.arange(first, first + count, dtype=np.int64)
        data = split_lines(b"".join(line + b"\n" for line in lines))
        arrivals = np.full(count, NOON_MS, np.int64)
        raw = RawBatch(
            partition,
            data,
            offsets,
            np.zeros(count, np.int32),
            arrivals,
            first + count,
            live,
            age_limited=False,
        )
        decoded = refuse_unpriced(decode(raw, NO_BOUNDS), CARD)
        rated = rate_events(decoded, CARD, SETTINGS.limits, RETENTION_HOURS)
        keyed, slices = split_by_key(rated, SHARDS, seed=7)
        verdicts = [one for part in slices for one in self.dedupes[part.shard].on_batch([part])[0]]
        judged = judge(keyed, verdicts)
        self.seen.duplicates += judged.duplicates["idempotency_key"].to_list()
        self.seen.conflicts += len(judged.quarantined)
        self.seen.priced |= dict(judged.priced.select("idempotency_key", "late").iter_rows())
        spent, parts = split_by_tenant(judged, SHARDS, SETTINGS.limits)
        outputs = [one for part in parts for one in self.spends[part.shard].on_batch([part])[0]]
        crossings = [one for one in outputs if isinstance(one, ShardCrossings)]
        assert [one.shard for one in crossings] == list(spent.shards)
        self.seen.alerts += alerts_of(spent, crossings)
        for output in outputs:
            if isinstance(output, WindowVersions):
                self._see(output)

    def _see(self, windows: WindowVersions) -> None:
        for one in windows.versions:
            if one.window_kind == "day":
                self.seen.spend[one.tenant_id, one.window_start_ms] = from_pico(one.spend_pico)

    def epoch(self) -> Seen:
        """End the epoch: every step is snapshotted."""
        self.snapshots = [dedupe.snapshot() for dedupe in self.dedupes]
        self.snapshots += [spend.snapshot() for spend in self.spends]
        seen, self.seen = self.seen, Seen()
        return seen

    def windows(self) -> int:
        return sum(len(spend._book.windows) for spend in self.spends)  # noqa: SLF001 - its size is a promise

    def keys(self) -> int:
        return sum(len(dedupe._index) for dedupe in self.dedupes)  # noqa: SLF001 - as above


DAY = NOON_MS // DAY_MS * DAY_MS
