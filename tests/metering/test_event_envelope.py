"""CloudEvents 1.0 envelopes around events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metering.event import parse_line
from tests.metering.samples import ABSENT, ENVELOPE, changed, refusal, smallest


def test_an_envelope_carries_the_event() -> None:
    assert parse_line(json.dumps(ENVELOPE).encode()) == parse_line(smallest(timestamp="2026-02-02T02:40:00Z"))


DATA = ENVELOPE["data"]


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"datacontenttype": "application/json", "dataschema": "urn:x", "source": None, "type": 5}, ()),
        ({"time": 1_770_000_000_000}, ()),
        ({"data": {**DATA, "attributes": {"specversion": "0.3"}}}, ()),
        ({"traceparent": "00-1", "data": {**DATA, "mood": "good"}}, ("traceparent", "mood")),
        ({"data": {**DATA, "tenant_id": "other"}}, ("tenant_id",)),
        ({"data": {**DATA, "idempotency_key": "other", "timestamp": 0}}, ("idempotency_key", "timestamp")),
        ({"tenant_id": "other", "model": "other"}, ("tenant_id", "model")),
        ({"specversion": "0.3"}, "specversion: invalid_value"),
        ({"specversion": "1"}, "specversion: invalid_value"),
        ({"specversion": 1}, "specversion: invalid_value"),
        ({"specversion": 1.0}, "specversion: invalid_value"),
        ({"data": ABSENT}, "data: missing_field"),
        ({"data": None}, "data: missing_field"),
        ({"data": ABSENT, "data_base64": "e30="}, "data: missing_field"),
        ({"data": []}, "data: wrong_type"),
        ({"data": "{}"}, "data: wrong_type"),
        ({"id": ABSENT, "data": {**DATA, "idempotency_key": "k"}}, "idempotency_key: missing_field"),
        ({"id": 7}, "idempotency_key: wrong_type"),
        ({"subject": ABSENT, "data": {**DATA, "tenant_id": "t"}}, "tenant_id: missing_field"),
        ({"subject": ""}, "tenant_id: out_of_range"),
        ({"time": None, "data": {**DATA, "timestamp": 0}}, "timestamp: missing_field"),
        ({"time": "noon"}, "timestamp: invalid_timestamp"),
        ({"data": {**DATA, "input_tokens": -1}}, "input_tokens: out_of_range"),
    ],
)
def test_an_envelope_is_read_or_refused(changes: dict[str, Any], outcome: tuple[str, ...] | str) -> None:
    line = changed(ENVELOPE, changes)
    if isinstance(outcome, str):
        problem = refusal(line)
        assert f"{problem.detail.split(':')[0]}: {problem.reason.value}" == outcome
    else:
        event, unknown = parse_line(line)
        assert (event.idempotency_key, event.tenant_id, event.model) == ("k", "t", "m")
        assert event.timestamp_ms == 1_770_000_000_000
        assert unknown == outcome


def test_a_null_specversion_is_no_envelope() -> None:
    assert parse_line(smallest(specversion=None)) == (parse_line(smallest())[0], ("specversion",))
