"""What the auditor's tests are written in: one plain event, a configuration, and a way to change both."""

from __future__ import annotations

import json
from typing import Any

from tests.auditor import Audit, PricedRow, audit, load_config
from tests.auditor_event import Line

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
NOON_MS = 1_748_779_200_000  # 2025-06-01T12:00:00Z
MIDNIGHT_MS = NOON_MS - 12 * HOUR_MS
JUNE_MS = MIDNIGHT_MS
LATER_MS = NOON_MS + 365 * DAY_MS

CONFIG = """
pricing:
  rules:
    - {model: gpt-4o, input_rate: 0.000005, output_rate: 0.000015}
    - {model: gpt-4o, provider: azure, input_rate: 0.00001, output_rate: 0.00002, multiplier: 1.5}
    - model: claude
      input_rate: 0.000003
      output_rate: 0.000015
      cache_read_rate: 0.0000003
      cache_write_rate: 0.00000375
      cache_write_1h_rate: 0.000006
      reasoning_rate: 0.00002
      multiplier: 1.25
      credit_multiplier: 2.5
    - {model: tiny, input_rate: 0.0000000000005, output_rate: 0.0000000000015, multiplier: 0.5}
    - {model: bulk, input_rate: 1, output_rate: 1, confirm_rates_above: 1}
limits:
  tenant: {daily_cap: 50.00, burst_threshold: 0.8}
"""

CLAUDE: dict[str, Any] = {
    "model": "claude",
    "input_tokens": 10_000,
    "output_tokens": 800,
    "cache_read_tokens": 6_000,
    "cache_write_tokens": 3_000,
    "cache_write_1h_tokens": 1_000,
    "reasoning_tokens": 300,
}
"""Changes that touch every token class of the `claude` rule."""


def fields(**changes: Any) -> dict[str, Any]:
    """A plain event; a change to `...` takes the field away."""
    plain = {
        "idempotency_key": "k-1",
        "tenant_id": "tenant-001",
        "feature_id": "chat",
        "model": "gpt-4o",
        "timestamp": NOON_MS,
        "input_tokens": 1000,
        "output_tokens": 200,
    }
    return {name: value for name, value in {**plain, **changes}.items() if value is not ...}


def raw(**changes: Any) -> bytes:
    return json.dumps(fields(**changes)).encode()


def audit_of(*raws: bytes, config: str = CONFIG, now_ms: int = LATER_MS) -> Audit:
    lines = [Line("events.jsonl", 0, 0, number, each) for number, each in enumerate(raws, start=1)]
    return audit(lines, load_config(config), now_ms=now_ms)


def only_row(found: Audit) -> PricedRow:
    (row,) = found.priced.values()
    return row
