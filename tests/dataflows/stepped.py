"""Events of one file that have gone through the stateless steps: decoded, rated, judged."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from dataflows.batch import Decoded, Partition, RawBatch
from dataflows.decode import TimeBounds, decode
from dataflows.dedupe import DedupeIndex
from dataflows.lines import split_lines
from dataflows.rate import rate_events, refuse_unpriced
from dataflows.steps import HOUR_MS, Judged, ShardVerdicts, judge, split_by_key
from pricing.rate_card import compile_card
from pricing.settings import Settings, load_settings
from tests.auditor_cases import NOON_MS, fields

FILE = Partition(4, "/data/events.jsonl", 0)
DAY_MS = 24 * HOUR_MS


def decoded(*events: dict[str, Any]) -> Decoded:
    """One poll of a file whose first line has number 1."""
    count = len(events)
    return decode(
        RawBatch(
            FILE,
            split_lines(b"".join(json.dumps(one).encode() + b"\n" for one in events)),
            np.arange(1, count + 1),
            np.zeros(count, np.int32),
            np.full(count, NOON_MS, np.int64),
            next_offset=count + 1,
            live=True,
            age_limited=False,
        ),
        TimeBounds(10**15, 10**15),
    )


MODELS = ("gpt-4o", "gpt-4o-mini", "other")
RATES = "{{model: {}, service_tier: '*', input_rate: 1, output_rate: 2, confirm_rates_above: 2}}"
RULES = f"[{', '.join(RATES.format(model) for model in MODELS)}]"


def settings_of(more: str = "", rules: str = RULES) -> Settings:
    return load_settings(f"pricing: {{rules: {rules}}}\n{more}")


def rated(batch: Decoded, settings: Settings, retention_hours: int = 72) -> Decoded:
    card = compile_card(settings.pricing.rules, settings.pricing.contracts)
    return rate_events(refuse_unpriced(batch, card), card, settings.limits, retention_hours)


def judged(
    *events: dict[str, Any],
    settings: Settings | None = None,
    watermark_ms: int = -1,
    retention_hours: int = 72,
) -> Judged:
    """The events rated, and judged by one shard of dedupe."""
    batch = rated(decoded(*events), settings or settings_of(), retention_hours)
    keyed, (sliced,) = split_by_key(batch, shards=1, seed=7)
    verdicts = DedupeIndex(DAY_MS).classify(sliced.sightings)
    return judge(keyed, [ShardVerdicts(0, sliced.tick, verdicts, watermark_ms, "")])


PLAIN = fields(
    provider="openai",
    model_version="2024-11-20",
    region="eu",
    service_tier="flex",
    cache_read_tokens=600,
    cache_write_tokens=300,
    cache_write_1h_tokens=100,
    reasoning_tokens=50,
    latency_ms=120,
    retry_count=1,
    provider_cost="0.25",
    attributes={"app": "web"},
)
