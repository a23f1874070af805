"""Lines that look like plain events in columns: each is accepted or refused as the contract says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.dataflows.judged import assert_decodes_as_judged, envelope_line, event_line, plain_lines, raw_batch


# Each of these once passed, or could pass, for something else in columns: a text for a number,
# a second key for the first, one miscount for another that hides it.
@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ('"region":5', "wrong_type"),
        ('"region":1.5', "wrong_type"),
        ('"region":true', "wrong_type"),
        ('"region":["eu"]', "wrong_type"),
        ('"region":["a","b"]', "wrong_type"),
        ('"region":[]', "wrong_type"),
        ('"region":{}', "wrong_type"),
        ('"region":{"a":"b"}', "wrong_type"),
        ('"unheard_of":1,"region":5', "wrong_type"),
        ('"unheard_of" :1,"region":5', "wrong_type"),
        ('"unheard_of"\t:1,"region":5', "wrong_type"),
        (r'"provider":"\"\"","region":5', "wrong_type"),
        ('"region":"\t"', "invalid_json"),
        ('"region":"\x1f"', "invalid_json"),
        ('"latency_ms":"5"', "wrong_type"),
        ('"latency_ms":5.0', "wrong_type"),
        ('"latency_ms":1e2', "wrong_type"),
        ('"latency_ms":true', "wrong_type"),
        ('"latency_ms":[5]', "wrong_type"),
        ('"latency_ms":-1', "out_of_range"),
        ('"latency_ms":-0', None),
        ('"latency_ms":1099511627777', "out_of_range"),
        ('"latency_ms":9223372036854775808', "out_of_range"),
        ('"latency_ms":null', None),
        ('"region":null,"latency_ms":null', None),
        ('"region":null,"region":null', "duplicate_field"),
        ('"region":null,"region":"eu"', "duplicate_field"),
        ('"region":"eu","region":null', "duplicate_field"),
        ('"model":null', "duplicate_field"),
        ('"region":null,"provider":5', "wrong_type"),
        ('"region":{"provider":null}', "wrong_type"),
        ('"latency_ms":{"provider":null}', "wrong_type"),
        ('"unheard_of":null', None),
        ('"unheard_of":null,"unheard_of":null', "duplicate_field"),
        ('"unheard_of":{"region":null}', None),
        ('"unheard_of":{"region":null,"region":null}', "duplicate_field"),
        ('":null":":null","region": null', None),
        ('"provider_cost":0.5', "wrong_type"),
        ('"provider_cost":"٣"', "invalid_value"),
        ('"provider_cost":"\U0001d7dd"', "invalid_value"),
        ('"provider_cost":"1.0000000000005"', None),
        ('"provider_cost":"1.0000000000015"', None),
        (f'"provider_cost":"{"9" * 20}"', None),
        (f'"provider_cost":"{"9" * 21}"', "invalid_value"),
        ('"cache_status":"HIT"', "invalid_value"),
        ('"cache_status":"success"', "invalid_value"),
        ('"status":"provider"', "invalid_value"),
        ('"usage_source":"success"', "invalid_value"),
        ('"feature_id":""', "out_of_range"),
        ('"region":"' + "é" * 128 + '"', None),
        ('"region":"' + "é" * 129 + '"', "out_of_range"),
        ('"region":"[1]"', None),
        ('"region":"{"', None),
        ('"region":":x"', None),
        ('"region":": x"', None),
        ('"region":" x"', None),
        (r'"region":"a\": b"', None),
        ('"attributes":"{}"', "wrong_type"),
        ('"attributes":"{}","region":5', "wrong_type"),
        ('"attributes":{},"region":5', "wrong_type"),
        ('"attributes":{},"region":"{}"', None),
        ('"attributes":["x"]', "wrong_type"),
        ('"attributes":{"a":"1","a":"2"}', "duplicate_field"),
        ('"attributes":{"a":"1","b":"2","a":"1"}', "duplicate_field"),
        ('"attributes":{"user":"1","user":"2"}', "duplicate_field"),
        ('"attributes":{"":"x"}', "out_of_range"),
        ('"attributes":{"a":": "}', None),
        ('"attributes":{": ":": "},"region":5,"provider":6', "wrong_type"),
        ('"attributes":{"a":": x"},"latency_ms":["b","c"]', "wrong_type"),
        ('"attributes":["x"],"region":5', "wrong_type"),
        ('"attributes":{"a":["b"]}', "wrong_type"),
        ('"attributes":{"a":null}', "wrong_type"),
        ('"attributes":{"a":1}', "wrong_type"),
        ('"attributes":{"a":{"b":"c"}}', "wrong_type"),
        ('"attributes":{"' + "k" * 129 + '":"v"}', "out_of_range"),
        ('"attributes":{"a":"' + "v" * 1025 + '"}', "out_of_range"),
        ('"attributes":{"user":"' + "v" * 1025 + '"}', "out_of_range"),
        ('"attributes":{' + ",".join(f'"k{n}":"v"' for n in range(65)) + "}", "out_of_range"),
        ('"model":"gpt-4o"', "duplicate_field"),
        (r'"\u006dodel":"gpt-4o"', "duplicate_field"),
        ('"model" :"gpt-4o"', "duplicate_field"),
        ('"Model":"gpt-4o"', None),
        ('"unheard_of":1,"unheard_of":1', "duplicate_field"),
        ('"unheard_of":{"a":1,"a":1}', "duplicate_field"),
        ('"unheard_of":' + "[" * 63 + "]" * 63, None),
        ('"unheard_of":' + "[" * 64 + "]" * 64, "invalid_json"),
        ('"specversion":"1.0"', "missing_field"),
        ('"specversion":"1.0","data":{}', "missing_field"),
        ('"specversion":"0.3"', "invalid_value"),
        ('"specversion":null', None),
        ('"cache_read_tokens":99999', "inconsistent_usage"),
        ('"cache_read_tokens":600,"cache_write_tokens":600', "inconsistent_usage"),
        ('"cache_write_1h_tokens":1', "inconsistent_usage"),
        ('"reasoning_tokens":99999', "inconsistent_usage"),
    ],
)
@pytest.mark.parametrize("place", ["sampled line", "another line"])
def test_a_line_that_columns_could_mistake(members: str, reason: str | None, place: str) -> None:
    lines = plain_lines(attributes={"user": "u"}) if "user" in members else plain_lines()
    lines = [
        line.replace(b',"attributes":{"user":"u"}', b"") if n % 2 else line for n, line in enumerate(lines)
    ]
    row = 0 if place == "sampled line" else 50
    lines[row] = event_line(row)[:-1] + b"," + members.encode() + b"}"
    decoded = assert_decodes_as_judged(raw_batch(lines))
    assert decoded.quarantined["reason"].to_list() == ([] if reason is None else [reason])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"idempotency_key": "k" * 256}, None),
        ({"idempotency_key": "k" * 257}, "out_of_range"),
        ({"idempotency_key": ""}, "out_of_range"),
        ({"model": "😀" * 128}, None),
        ({"model": "😀" * 129}, "out_of_range"),
        ({"model": None}, "missing_field"),
        ({"output_tokens": None}, "missing_field"),
        ({"timestamp": 4_102_444_799_999}, None),
        ({"timestamp": 4_102_444_800_000}, "invalid_timestamp"),
        ({"timestamp": -1}, "invalid_timestamp"),
        ({"timestamp": 2**63}, "invalid_timestamp"),
        ({"timestamp": "2026-02-02T02:40:00Z"}, None),
        ({"timestamp": "2026-02-30T02:40:00Z"}, "invalid_timestamp"),
        ({"timestamp": "1772000000000"}, "invalid_timestamp"),
        ({"timestamp": 1.5}, "wrong_type"),
        ({"input_tokens": 2**40}, None),
        ({"input_tokens": 2**40 + 1}, "out_of_range"),
        ({"input_tokens": 2**62, "cache_read_tokens": 2**62, "cache_write_tokens": 2**62}, "out_of_range"),
    ],
)
@pytest.mark.parametrize("row", [0, 50], ids=["sampled line", "another line"])
def test_a_field_at_its_bound(fields: dict[str, Any], reason: str | None, row: int) -> None:
    lines = plain_lines()
    lines[row] = json.dumps(json.loads(event_line(row, **fields)), ensure_ascii=False).encode()
    decoded = assert_decodes_as_judged(raw_batch(lines))
    assert decoded.quarantined["reason"].to_list() == ([] if reason is None else [reason])


@pytest.mark.parametrize("key", ["(", ".*", "a.c", "[", "{", "^$", "\U0001f600"])
def test_keys_of_attributes_are_not_patterns(key: str) -> None:
    lines = [event_line(number, attributes={key: "x"}) for number in range(96)]
    lines[50] = event_line(50)[:-1] + b',"attributes":{"abc":"x","abc":"y"}}'
    decoded = assert_decodes_as_judged(raw_batch(lines))
    assert decoded.quarantined["reason"].to_list() == ["duplicate_field"]


@pytest.mark.parametrize(
    ("data", "outside", "reason"),
    [
        ({"tenant_id": "other"}, {}, None),
        ({"unheard_of": 1}, {"unheard_of": 1}, None),
        ({"source": "x", "id": "y", "_has_data": 1}, {"model": "outside", "region": "x"}, None),
        ({"specversion": "1.0"}, {}, None),
        ({}, {"specversion": "0.3"}, "invalid_value"),
        ({}, {"specversion": 1.0}, "invalid_value"),
        ({}, {"source": 5, "type": None, "dataschema": ["x"]}, None),
        ({}, {"id": 5}, "wrong_type"),
        ({}, {"time": "2026-02-30T00:00:00Z"}, "invalid_timestamp"),
        ({"region": 5}, {"source": "{}"}, "wrong_type"),
        ({"status": "lost"}, {}, "invalid_value"),
    ],
)
@pytest.mark.parametrize("row", [0, 50], ids=["sampled line", "another line"])
def test_an_odd_envelope_among_envelopes(
    data: dict[str, Any], outside: dict[str, Any], reason: str | None, row: int
) -> None:
    lines = [envelope_line(number) for number in range(96)]
    odd = json.loads(envelope_line(row, **outside))
    odd["data"].update(data)
    lines[row] = json.dumps(odd, separators=(",", ":")).encode()
    decoded = assert_decodes_as_judged(raw_batch(lines))
    assert decoded.quarantined["reason"].to_list() == ([] if reason is None else [reason])
