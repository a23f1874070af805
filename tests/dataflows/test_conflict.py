"""Which difference makes a copy of an event a conflict, and where that waits."""

from __future__ import annotations

import json

import pytest

from dataflows.steps import content_hashes
from metering.event import UsageEvent
from tests.auditor_cases import NOON_MS, fields
from tests.dataflows.stepped import PLAIN, decoded, judged


@pytest.mark.parametrize(
    ("field", "value", "verdict"),
    [
        ("timestamp", NOON_MS + 60_000, "duplicate"),
        ("latency_ms", 121, "duplicate"),
        ("retry_count", 2, "duplicate"),
        ("attributes", {"app": "cli"}, "duplicate"),
        ("provider_cost", "0.250", "duplicate"),  # the same amount
        ("feature_id", "search", "conflict"),
        ("provider", "azure", "conflict"),
        ("model", "gpt-4o-mini", "conflict"),
        ("model_version", "2024-11-21", "conflict"),
        ("region", "us", "conflict"),
        ("service_tier", "batch", "conflict"),
        ("input_tokens", 1001, "conflict"),
        ("output_tokens", 201, "conflict"),
        ("cache_read_tokens", 601, "conflict"),
        ("cache_write_tokens", 301, "conflict"),
        ("cache_write_1h_tokens", 101, "conflict"),
        ("reasoning_tokens", 51, "conflict"),
        ("cache_status", "hit", "conflict"),
        ("status", "error", "conflict"),
        ("usage_source", "tokenizer", "conflict"),
        ("provider_cost", "0.26", "conflict"),
        ("provider_cost", None, "conflict"),
        # another key, another tenant: another event
        ("idempotency_key", "k-2", "original"),
        ("tenant_id", "tenant-002", "original"),
    ],
)
def test_which_difference_makes_a_copy_a_conflict(field: str, value: object, verdict: str) -> None:
    found = judged(PLAIN, {**PLAIN, field: value})
    counts = {
        "original": len(found.priced) - 1,
        "duplicate": len(found.duplicates),
        "conflict": len(found.quarantined),
    }
    assert counts == {name: int(name == verdict) for name in counts}


def test_the_table_of_differences_names_every_field_of_the_contract() -> None:
    rows = test_which_difference_makes_a_copy_a_conflict.pytestmark[0].args[1]  # type: ignore[attr-defined]
    named = {field.replace("timestamp_ms", "timestamp") for field in UsageEvent.model_fields}
    assert {field for field, _, _ in rows} == named


def test_contents_that_merely_swap_two_values_differ() -> None:
    swaps = [
        (fields(region="a", service_tier="b"), fields(region="b", service_tier="a")),
        (
            fields(cache_read_tokens=2, cache_write_tokens=1),
            fields(cache_read_tokens=1, cache_write_tokens=2),
        ),
        (fields(provider="", model_version="x"), fields(provider="x", model_version="")),
    ]
    for left, right in swaps:
        first, second = content_hashes(decoded(left, right).events).tolist()
        assert first != second


def test_a_content_is_hashed_alike_whoever_its_neighbours_are() -> None:
    without = content_hashes(decoded(fields()).events)[0]
    assert content_hashes(decoded(fields(), PLAIN).events)[0] == without


def test_a_conflict_waits_in_quarantine_with_its_bytes_and_a_sentence() -> None:
    (row,) = judged(fields(), fields(model="other")).quarantined.iter_rows(named=True)
    assert row == {
        "reason": "idempotency_conflict",
        "detail": "the key k-1 was used within the window for an event with other content",
        "tenant_id": "tenant-001",
        "model": "other",
        "offset": 2,
        "line": 0,
        "raw": json.dumps(fields(model="other")).encode(),
    }
