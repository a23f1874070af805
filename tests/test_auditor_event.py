"""The auditor's reading of the event contract, line by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.auditor_cases import NOON_MS, fields, raw
from tests.auditor_event import RejectedError, lines_of_file, lines_of_message, read_event


def reason_of(line: bytes) -> str:
    try:
        read_event(line)
    except RejectedError as rejected:
        return str(rejected.args[0])
    return "accepted"


def nested(depth: int) -> bytes:
    """A plain event that nests `depth` deep, itself included, with a shallow neighbour beside it."""
    return raw(y=[[], []])[:-1] + b', "x": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


TOP = 2**40

LINES = [
    # ---- the bytes and the JSON
    (raw(), "accepted"),
    (b"\xef\xbb\xbf" + raw() + b" \t\r", "accepted"),
    (b"\xef\xbb\xbf\xef\xbb\xbf" + raw(), "invalid_json"),
    (raw()[:-1], "invalid_json"),
    (raw() + b"{}", "invalid_json"),
    (b"garbage", "invalid_json"),
    (raw(tenant_id="t\xfc").replace(b"\\u00fc", b"\xfc"), "invalid_utf8"),
    (raw(tenant_id="t\ud800"), "invalid_utf8"),
    (raw(x=["\udc00 alone"]), "invalid_utf8"),
    (raw(x={"\ud83d\ud83d\ude00": 1}), "invalid_utf8"),
    (raw(x="\ud83d").replace(b"\\ud83d", b"\\ud83d\\n\\ude00"), "invalid_utf8"),
    (raw(tenant_id="\U0001f600"), "accepted"),
    (raw(x="\\ud800"), "accepted"),  # an escaped backslash, then letters
    (raw(x=float("nan")), "invalid_json"),
    (raw(latency_ms=float("inf")), "invalid_json"),
    (b"[" + raw() + b"]", "not_an_object"),
    (b"null", "not_an_object"),
    (b'"text"', "not_an_object"),
    (raw()[:-1] + b', "tenant_id": "tenant-001"}', "duplicate_field"),
    (raw()[:-1] + b', "x": [{"y": 1, "y": 1}]}', "duplicate_field"),
    (nested(64), "accepted"),
    (nested(65), "invalid_json"),
    (raw(x="[" * 100), "accepted"),
    (raw(x="y" * (16 * 1024 * 1024)), "line_too_long"),
    # ---- presence and types
    (raw(tenant_id=...), "missing_field"),
    (raw(tenant_id=None), "missing_field"),
    (raw(model=None), "missing_field"),
    (raw(timestamp=...), "missing_field"),
    (raw(output_tokens=...), "missing_field"),
    (raw(feature_id=None, provider=None, status=None, attributes=None, latency_ms=None), "accepted"),
    (raw(tenant_id=7), "wrong_type"),
    (raw(provider=[]), "wrong_type"),
    (raw(input_tokens="5"), "wrong_type"),
    (raw(input_tokens=True), "wrong_type"),
    (raw(input_tokens=5.0), "wrong_type"),
    (raw().replace(b"1000", b"1e2"), "wrong_type"),
    (raw(status=1), "wrong_type"),
    (raw(provider_cost=0.5), "wrong_type"),
    (raw(attributes=["a"]), "wrong_type"),
    (raw(attributes={"a": 1}), "wrong_type"),
    (raw(attributes={"a": None}), "wrong_type"),
    (raw(attributes={"a": {"b": "c"}}), "wrong_type"),
    # ---- ranges
    (raw(idempotency_key=""), "out_of_range"),
    (raw(idempotency_key="k" * 256), "accepted"),
    (raw(idempotency_key="k" * 257), "out_of_range"),
    (raw(tenant_id="\U0001f600" * 128), "accepted"),  # characters are counted, not bytes or UTF-16 units
    (raw(tenant_id="t" * 129), "out_of_range"),
    (raw(feature_id=""), "out_of_range"),
    (raw(provider=""), "accepted"),
    (raw(region="r" * 129), "out_of_range"),
    (raw(input_tokens=TOP, output_tokens=TOP, latency_ms=TOP, retry_count=TOP), "accepted"),
    (raw(input_tokens=TOP + 1), "out_of_range"),
    (raw(output_tokens=-1), "out_of_range"),
    (raw(retry_count=TOP + 1), "out_of_range"),
    (raw().replace(b"1000", b"9" * 5000), "out_of_range"),
    (raw(attributes={str(n): "" for n in range(64)}), "accepted"),
    (raw(attributes={str(n): "" for n in range(65)}), "out_of_range"),
    (raw(attributes={"": "a"}), "out_of_range"),
    (raw(attributes={"a" * 128: "v" * 1024}), "accepted"),
    (raw(attributes={"a": "v" * 1025}), "out_of_range"),
    # ---- values
    (raw(status="ok"), "invalid_value"),
    (raw(cache_status="HIT"), "invalid_value"),
    (raw(usage_source=""), "invalid_value"),
    (raw(provider_cost="0.5"), "accepted"),
    (raw(provider_cost="9" * 20 + "." + "9" * 30), "accepted"),
    (raw(provider_cost="9" * 21), "invalid_value"),
    (raw(provider_cost="0." + "1" * 31), "invalid_value"),
    (raw(provider_cost=".5"), "invalid_value"),
    (raw(provider_cost="-1"), "invalid_value"),
    (raw(provider_cost="1e3"), "invalid_value"),
    (raw(provider_cost="1\n"), "invalid_value"),
    (raw(provider_cost="\u0661"), "invalid_value"),  # an Arabic-Indic digit
    # ---- subsets
    (raw(cache_read_tokens=600, cache_write_tokens=400), "accepted"),
    (raw(cache_read_tokens=600, cache_write_tokens=401), "inconsistent_usage"),
    (raw(cache_write_tokens=10, cache_write_1h_tokens=11), "inconsistent_usage"),
    (raw(reasoning_tokens=201), "inconsistent_usage"),
    # ---- which of two problems is named
    (raw(tenant_id=..., idempotency_key=""), "out_of_range"),
    (raw(tenant_id=..., status="ok"), "missing_field"),
    (raw(input_tokens=-1, timestamp="yesterday"), "invalid_timestamp"),
    (raw(input_tokens="5", reasoning_tokens=201), "wrong_type"),
    (raw(reasoning_tokens=201, attributes=1), "wrong_type"),
    (b'{"a": 1, "a": 2} and more', "invalid_json"),
    (b'[{"a": 1, "a": 2}]', "duplicate_field"),
    (b"\xff" + raw()[:-9], "invalid_utf8"),
]


@pytest.mark.parametrize(("line", "reason"), LINES, ids=range(len(LINES)))
def test_a_line_is_accepted_or_refused_for_the_first_reason(line: bytes, reason: str) -> None:
    assert reason_of(line) == reason


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        (NOON_MS, NOON_MS),
        (0, 0),
        (4_102_444_799_999, 4_102_444_799_999),
        (4_102_444_800_000, "invalid_timestamp"),
        (-1, "invalid_timestamp"),
        (1.5, "wrong_type"),
        (True, "wrong_type"),
        ([], "wrong_type"),
        (str(NOON_MS), "invalid_timestamp"),
        ("2025-06-01T12:00:00Z", NOON_MS),
        ("2025-06-01t12:00:00z", NOON_MS),
        ("2025-06-01T14:00:00+02:00", NOON_MS),
        ("2025-06-01T06:30:00-05:30", NOON_MS),
        ("2025-06-01T12:00:00-00:00", NOON_MS),
        ("2025-06-01T12:00:00.1Z", NOON_MS + 100),
        ("2025-06-01T12:00:00.001999999Z", NOON_MS + 1),
        ("1969-12-31T23:00:00-01:00", 0),
        ("2100-01-01T00:00:00Z", "invalid_timestamp"),
        ("2100-01-01T00:00:00+00:01", 4_102_444_740_000),
        ("0001-01-01T00:00:00+23:59", "invalid_timestamp"),
        ("0000-01-01T00:00:00Z", "invalid_timestamp"),
        ("2025-06-01 12:00:00Z", "invalid_timestamp"),
        ("2025-06-01T12:00:00", "invalid_timestamp"),
        ("2025-06-01T12:00Z", "invalid_timestamp"),
        ("2025-06-01T12:00:00.Z", "invalid_timestamp"),
        ("2025-06-01T12:00:00.1234567890Z", "invalid_timestamp"),
        ("2025-06-01T12:00:00+0200", "invalid_timestamp"),
        ("2025-06-01T12:00:00+24:00", "invalid_timestamp"),
        ("2025-06-01T12:00:00+02:60", "invalid_timestamp"),
        ("2025-06-01T24:00:00Z", "invalid_timestamp"),
        ("2025-06-01T12:00:60Z", "invalid_timestamp"),
        ("2025-02-29T12:00:00Z", "invalid_timestamp"),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ("2025-06-01T12:00:00Z\n", "invalid_timestamp"),
        ("٢025-06-01T12:00:00Z", "invalid_timestamp"),
    ],
)
def test_timestamps(timestamp: Any, expected: int | str) -> None:
    line = raw(timestamp=timestamp)
    assert (reason_of(line) if isinstance(expected, str) else read_event(line).timestamp) == expected


def test_absent_fields_have_the_contract_s_defaults() -> None:
    event = read_event(raw(feature_id=None, attributes=None))

    assert event == (
        *("k-1", "tenant-001", "unknown", "", "gpt-4o", "", "", "", NOON_MS, 1000, 200),
        *(0, 0, 0, 0, 0, 0, "miss", "success", "provider", None, {}),
    )


def test_provider_cost_is_rounded_half_even_to_twelve_places() -> None:
    costs = ["0.0000000000005", "0.0000000000015", "0.00000000000050000000000001", "7"]

    read = [read_event(raw(provider_cost=cost)).provider_cost for cost in costs]

    assert [str(cost) for cost in read] == ["0E-12", "2E-12", "1E-12", "7.000000000000"]


def envelope(**changes: Any) -> bytes:
    data = fields(idempotency_key="inside", tenant_id="inside", timestamp="inside")
    around = {"specversion": "1.0", "id": "k-9", "source": "/api", "type": "usage", "subject": "tenant-009"}
    document = {**around, "time": "2025-06-01T12:00:00Z", "data": data, **changes}
    return json.dumps({name: value for name, value in document.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (envelope(), "accepted"),
        (envelope(specversion="0.3"), "invalid_value"),
        (envelope(specversion=1.0), "invalid_value"),
        (envelope(specversion=None), "missing_field"),  # so it is no envelope, but an event without a key
        (envelope(specversion="0.3", data=...), "invalid_value"),
        (envelope(data=...), "missing_field"),
        (envelope(data=None), "missing_field"),
        (envelope(data="text"), "wrong_type"),
        (envelope(id=...), "missing_field"),  # the one inside data does not count
        (envelope(subject=None), "missing_field"),
        (envelope(time=...), "missing_field"),
        (envelope(time="noon"), "invalid_timestamp"),
        (envelope(data=[], id=...), "wrong_type"),
        (envelope(data={}), "missing_field"),
    ],
)
def test_cloudevents_envelopes(line: bytes, reason: str) -> None:
    assert reason_of(line) == reason


def test_an_envelope_carries_key_tenant_and_time_itself() -> None:
    event = read_event(envelope())

    assert (event.idempotency_key, event.tenant_id, event.timestamp) == ("k-9", "tenant-009", NOON_MS)
    assert (event.model, event.input_tokens) == ("gpt-4o", 1000)


def test_lines_of_messages_and_files_keep_their_positions(tmp_path: Path) -> None:
    value = raw(idempotency_key="a") + b"\n\n" + raw(idempotency_key="b") + b"\n"
    path = tmp_path / "events.jsonl"
    path.write_bytes(value)

    message = [line for line in lines_of_message("usage", 3, 70, value, NOON_MS) if line.raw]
    file = [line for line in lines_of_file(path) if line.raw]

    assert [line.position for line in message] == [("usage", 3, 70, 0), ("usage", 3, 70, 2)]
    assert [line.position[1:] for line in file] == [(0, 0, 1), (0, value.index(b"\n\n") + 2, 3)]
    assert [line.raw for line in file] == [line.raw for line in message]
