"""Events as Python values, and lines of JSON made from them by changing a field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metering.event import InvalidEvent, parse_line

SMALLEST: dict[str, Any] = {
    "idempotency_key": "k",
    "tenant_id": "t",
    "model": "m",
    "timestamp": 1_770_000_000_000,
    "input_tokens": 10,
    "output_tokens": 5,
}
FULLEST: dict[str, Any] = {
    "idempotency_key": "req-1",
    "tenant_id": "acme",
    "feature_id": "chat",
    "provider": "openai",
    "model": "gpt-4o",
    "model_version": "2024-08-06",
    "region": "eu",
    "service_tier": "batch",
    "timestamp": "2026-02-02T02:40:00.123Z",
    "input_tokens": 1000,
    "output_tokens": 500,
    "cache_read_tokens": 600,
    "cache_write_tokens": 400,
    "cache_write_1h_tokens": 400,
    "reasoning_tokens": 500,
    "latency_ms": 1234,
    "retry_count": 2,
    "cache_status": "hit",
    "status": "error",
    "usage_source": "estimate",
    "provider_cost": "0.0123",
    "attributes": {"team": "search", "note": ""},
}
ENVELOPE: dict[str, Any] = {
    "specversion": "1.0",
    "id": "k",
    "source": "/app",
    "type": "ai.usage",
    "subject": "t",
    "time": "2026-02-02T02:40:00Z",
    "data": {"model": "m", "input_tokens": 10, "output_tokens": 5},
}
ABSENT = object()


def changed(base: dict[str, Any], changes: dict[str, Any]) -> bytes:
    """The base as a line of JSON, with these fields instead; `ABSENT` takes one away."""
    document = {name: value for name, value in {**base, **changes}.items() if value is not ABSENT}
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


def smallest(**changes: Any) -> bytes:
    return changed(SMALLEST, changes)


def refusal(line: bytes) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as caught:
        parse_line(line)
    return caught.value
