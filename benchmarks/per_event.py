"""One event at a time, in plain Python: what the flows that handle one item an event have in common.

Nothing but the standard library, because a peer runs in an environment of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

DAY_MS = 86_400_000

RATES = {
    "gpt-4o": ("0.000005", "0.000015", "0.0000025", "0.000005", "0.000005", "1.2"),
    "claude-3-5-sonnet": ("0.000003", "0.000015", "0.0000003", "0.00000375", "0.000003", "1.15"),
    "fallback-llama-3": ("0.0000005", "0.000002", "0.0000005", "0.0000005", "0.0000005", "0.8"),
}
CARD = {model: tuple(Decimal(text) for text in texts) for model, texts in RATES.items()}
"""USD a token (input, output, cache read, write, write for an hour), and the multiplier."""
NOTHING = Decimal(0)


@dataclass(slots=True)
class Event:
    """What the flow needs of an event, and what it finds out."""

    tenant_id: str
    idempotency_key: str
    timestamp_ms: int
    feature_id: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    hit: bool
    success: bool
    cost: Decimal = NOTHING
    price: Decimal = NOTHING
    spend: Decimal = NOTHING


def parse(line: bytes) -> Event:
    """An event of a line of JSON."""
    found = json.loads(line)
    return Event(
        tenant_id=found["tenant_id"],
        idempotency_key=found["idempotency_key"],
        timestamp_ms=_millis(found["timestamp"]),
        feature_id=found.get("feature_id", "unknown"),
        provider=found.get("provider", ""),
        model=found["model"],
        input_tokens=found["input_tokens"],
        output_tokens=found["output_tokens"],
        cache_read_tokens=found.get("cache_read_tokens", 0),
        cache_write_tokens=found.get("cache_write_tokens", 0),
        cache_write_1h_tokens=found.get("cache_write_1h_tokens", 0),
        hit=found.get("cache_status") == "hit",
        success=found.get("status", "success") == "success",
    )


def _millis(timestamp: str | int) -> int:
    if isinstance(timestamp, int):
        return timestamp
    return round(datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp() * 1000)


def rate(event: Event) -> Event:
    """Cost and price."""
    if event.hit:
        return event
    per_input, per_output, per_read, per_write, per_write_1h, multiplier = CARD[event.model]
    plain = event.input_tokens - event.cache_read_tokens - event.cache_write_tokens
    event.cost = (
        plain * per_input
        + event.output_tokens * per_output
        + event.cache_read_tokens * per_read
        + (event.cache_write_tokens - event.cache_write_1h_tokens) * per_write
        + event.cache_write_1h_tokens * per_write_1h
    )
    if event.success:
        event.price = event.cost * multiplier
    return event
