"""Every field of the event: its types, its bounds, and how the fields have to fit together."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.event import FIELDS, TIMESTAMP_MS_END, TOKENS_MAX, QuarantineReason, parse_line, timestamp_ms
from tests.metering.samples import ABSENT, refusal, smallest

TEXTS = {"idempotency_key": 256} | dict.fromkeys(
    ["tenant_id", "feature_id", "provider", "model", "model_version", "region", "service_tier"], 128
)
REQUIRED = ["idempotency_key", "tenant_id", "model", "timestamp", "input_tokens", "output_tokens"]
NEVER_EMPTY = ["idempotency_key", "tenant_id", "feature_id", "model"]
INTEGERS = [
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "latency_ms",
    "retry_count",
]
CHOICES = ["cache_status", "status", "usage_source"]
NOT_TEXT: list[Any] = [0, 1, 1.5, True, False, [], ["x"], {}, {"x": "y"}]
NOT_INTEGER: list[Any] = ["1", "", 1.5, 5.0, True, False, [], [1], {}]


@pytest.mark.parametrize("field", REQUIRED)
@pytest.mark.parametrize("value", [ABSENT, None], ids=["absent", "null"])
def test_a_required_field_is_missed(field: str, value: object) -> None:
    problem = refusal(smallest(**{field: value}))
    assert (problem.reason, problem.detail) == (QuarantineReason.MISSING_FIELD, f"{field}: field required")


@pytest.mark.parametrize("field", [name for name in FIELDS if name not in REQUIRED])
def test_an_explicit_null_means_absent(field: str) -> None:
    assert parse_line(smallest(**{field: None})) == parse_line(smallest())


@pytest.mark.parametrize(
    ("field", "values"),
    [
        *((name, NOT_TEXT) for name in (*TEXTS, *CHOICES, "provider_cost")),
        *((name, NOT_INTEGER) for name in INTEGERS),
        ("timestamp", [1.5, 5.0, True, [], {}]),
        (
            "attributes",
            [0, 1.5, True, "{}", [], [["x", "y"]], {"x": 1}, {"x": None}, {"x": {}}, {"x": ["y"]}],
        ),
    ],
)
def test_a_value_of_another_type_is_refused(field: str, values: list[Any]) -> None:
    for value in values:
        problem = refusal(smallest(**{field: value}))
        assert (problem.reason.value, problem.detail.split(":")[0]) == ("wrong_type", field), value


@pytest.mark.parametrize(("field", "longest"), TEXTS.items())
def test_a_text_has_a_length_in_characters(field: str, longest: int) -> None:
    for text in ("x" * longest, "é" * longest, "\U0001f600" * longest, "\x00" * longest, " "):
        assert getattr(parse_line(smallest(**{field: text}))[0], field) == text
    assert refusal(smallest(**{field: "x" * (longest + 1)})).reason == QuarantineReason.OUT_OF_RANGE
    if field in NEVER_EMPTY:
        assert refusal(smallest(**{field: ""})).reason == QuarantineReason.OUT_OF_RANGE
    else:
        assert getattr(parse_line(smallest(**{field: ""}))[0], field) == ""


@pytest.mark.parametrize("field", INTEGERS)
@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        ("0", 0),
        ("-0", 0),
        ("1099511627776", TOKENS_MAX),
        ("-1", "out_of_range"),
        ("1099511627777", "out_of_range"),
        ("9223372036854775808", "out_of_range"),
        ("-18446744073709551617", "out_of_range"),
        pytest.param("9" * 39, "out_of_range", id="39 digits"),
        pytest.param("9" * 5000, "out_of_range", id="5000 digits"),
        pytest.param("-" + "9" * 5000, "out_of_range", id="minus 5000 digits"),
        ("1e2", "wrong_type"),
        ("-0.0", "wrong_type"),
        ("1E400", "wrong_type"),
    ],
)
def test_an_integer_has_bounds(field: str, number: str, outcome: int | str) -> None:
    wholes = {"input_tokens": TOKENS_MAX, "output_tokens": TOKENS_MAX}
    if field == "cache_write_1h_tokens":
        wholes["cache_write_tokens"] = TOKENS_MAX
    line = smallest(**{**wholes, field: "@"}).replace(b'"@"', number.encode())
    if isinstance(outcome, int):
        assert getattr(parse_line(line)[0], field) == outcome
    else:
        assert refusal(line).reason.value == outcome


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("cache_status", ["miss", "hit"]),
        ("status", ["success", "error", "validation_failed"]),
        ("usage_source", ["provider", "tokenizer", "estimate"]),
    ],
)
def test_a_choice_is_one_of_a_closed_list(field: str, values: list[str]) -> None:
    for value in values:
        assert getattr(parse_line(smallest(**{field: value}))[0], field) == value
    for value in ("", "other", values[0].upper(), values[0] + " "):
        problem = refusal(smallest(**{field: value}))
        assert (problem.reason.value, problem.detail.split(":")[0]) == ("invalid_value", field)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("0", "0E-12"),
        ("007", "7.000000000000"),
        ("0.0123", "0.012300000000"),
        ("0.0000000000005", "0E-12"),
        ("0.0000000000015", "2E-12"),
        ("0.00000000000149999999999999999", "1E-12"),
        pytest.param("9" * 20 + "." + "9" * 30, "1" + "0" * 20 + "." + "0" * 12, id="the largest, rounded"),
        ("", "invalid_value"),
        ("-1", "invalid_value"),
        ("+1", "invalid_value"),
        ("1.", "invalid_value"),
        (".5", "invalid_value"),
        ("1e-5", "invalid_value"),
        (" 1", "invalid_value"),
        ("1\n", "invalid_value"),
        ("1_000", "invalid_value"),
        ("1,5", "invalid_value"),
        ("٣", "invalid_value"),
        ("NaN", "invalid_value"),
        pytest.param("9" * 21, "invalid_value", id="21 digits"),
        pytest.param("0." + "1" * 31, "invalid_value", id="31 places"),
    ],
)
def test_provider_cost_is_a_plain_decimal_with_twelve_places(text: str, outcome: str) -> None:
    line = smallest(provider_cost=text)
    if outcome == "invalid_value":
        assert refusal(line).reason.value == outcome
    else:
        assert str(parse_line(line)[0].provider_cost) == outcome


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, None),
        ({"k": ""}, None),
        ({"k" * 128: "v" * 1024}, None),
        ({f"k{i}": "v" for i in range(64)}, None),
        ({"": "v"}, "out_of_range"),
        ({"k" * 129: "v"}, "out_of_range"),
        ({"k": "v" * 1025}, "out_of_range"),
        ({f"k{i}": "v" for i in range(65)}, "out_of_range"),
        ({"k": "v", "": 1}, "wrong_type"),
    ],
    ids=range(9),
)
def test_attributes_are_a_bounded_flat_object_of_texts(
    attributes: dict[str, Any], reason: str | None
) -> None:
    line = smallest(attributes=attributes)
    if reason is None:
        assert parse_line(line)[0].attributes == attributes
    else:
        assert refusal(line).reason.value == reason


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        ({"cache_read_tokens": 10}, None),
        ({"cache_read_tokens": 4, "cache_write_tokens": 6, "cache_write_1h_tokens": 6}, None),
        ({"reasoning_tokens": 5}, None),
        ({"cache_read_tokens": 11}, "inconsistent_usage"),
        ({"cache_read_tokens": 5, "cache_write_tokens": 6}, "inconsistent_usage"),
        ({"cache_write_1h_tokens": 1}, "inconsistent_usage"),
        ({"cache_write_tokens": 3, "cache_write_1h_tokens": 4}, "inconsistent_usage"),
        ({"reasoning_tokens": 6}, "inconsistent_usage"),
        ({"input_tokens": 0, "output_tokens": 0}, None),
    ],
)
def test_parts_of_a_token_count_fit_into_their_whole(usage: dict[str, int], reason: str | None) -> None:
    if reason is None:
        parse_line(smallest(**usage))
    else:
        assert refusal(smallest(**usage)).reason.value == reason


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"status": "lost", "model": 5}, "wrong_type", "model"),
        ({"model": 5, "tenant_id": ABSENT}, "missing_field", "tenant_id"),
        ({"output_tokens": ABSENT, "input_tokens": -1}, "out_of_range", "input_tokens"),
        ({"timestamp": "noon", "retry_count": "1"}, "invalid_timestamp", "timestamp"),
        ({"attributes": [], "reasoning_tokens": 99}, "wrong_type", "attributes"),
    ],
)
def test_the_first_bad_field_in_the_order_of_the_contract_is_named(
    changes: dict[str, Any], reason: str, field: str
) -> None:
    problem = refusal(smallest(**changes))
    assert (problem.reason.value, problem.detail.split(":")[0]) == (reason, field)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-02-02T02:40:00Z", 1_770_000_000_000),
        ("2026-02-02t02:40:00z", 1_770_000_000_000),
        ("2026-02-02T02:40:00+00:00", 1_770_000_000_000),
        ("2026-02-02T02:40:00-00:00", 1_770_000_000_000),
        ("2026-02-02T08:10:00+05:30", 1_770_000_000_000),
        ("2026-02-01T18:40:00-08:00", 1_770_000_000_000),
        ("2026-02-03T02:39:00+23:59", 1_770_000_000_000),
        ("2026-02-01T02:41:00-23:59", 1_770_000_000_000),
        ("1969-12-31T23:00:00-01:00", 0),
        ("2100-01-01T00:59:59.999+01:00", TIMESTAMP_MS_END - 1),
        ("2026-02-02T02:40:00.1Z", 1_770_000_000_100),
        ("2026-02-02T02:40:00.12Z", 1_770_000_000_120),
        ("2026-02-02T02:40:00.1239Z", 1_770_000_000_123),
        ("2026-02-02T02:40:00.123999999+00:00", 1_770_000_000_123),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ("2000-02-29T00:00:00Z", 951_782_400_000),
        ("2099-12-31T23:59:59.999Z", TIMESTAMP_MS_END - 1),
        (0, 0),
        (TIMESTAMP_MS_END - 1, TIMESTAMP_MS_END - 1),
        ("2026-02-02T02:40:00", "invalid_timestamp"),
        ("2026-02-02", "invalid_timestamp"),
        ("2026-02-02 02:40:00Z", "invalid_timestamp"),
        ("2026-02-02T02:40Z", "invalid_timestamp"),
        ("2026-02-02T02:40:00.Z", "invalid_timestamp"),
        ("2026-02-02T02:40:00,5Z", "invalid_timestamp"),
        ("2026-02-02T02:40:00.1234567890Z", "invalid_timestamp"),
        ("2026-02-02T02:40:00+0000", "invalid_timestamp"),
        ("2026-02-02T02:40:00+00", "invalid_timestamp"),
        ("2026-02-02T02:40:00+24:00", "invalid_timestamp"),
        ("2026-02-02T02:40:00+00:60", "invalid_timestamp"),
        ("2026-02-02T02:40:00−01:00", "invalid_timestamp"),
        ("2026-02-02T02:40:00 +01:00", "invalid_timestamp"),
        ("2026-02-02T24:00:00Z", "invalid_timestamp"),
        ("2026-02-02T02:60:00Z", "invalid_timestamp"),
        ("2016-12-31T23:59:60Z", "invalid_timestamp"),
        ("2026-02-30T00:00:00Z", "invalid_timestamp"),
        ("2025-02-29T00:00:00Z", "invalid_timestamp"),
        ("2100-02-29T00:00:00Z", "invalid_timestamp"),
        ("2026-00-01T00:00:00Z", "invalid_timestamp"),
        ("2026-13-01T00:00:00Z", "invalid_timestamp"),
        ("2026-01-00T00:00:00Z", "invalid_timestamp"),
        ("2026-04-31T00:00:00Z", "invalid_timestamp"),
        ("0000-01-01T00:00:00Z", "invalid_timestamp"),
        ("0001-01-01T00:00:00+23:59", "invalid_timestamp"),
        ("9999-12-31T23:59:59-23:59", "invalid_timestamp"),
        ("1969-12-31T23:59:59.999Z", "invalid_timestamp"),
        ("2100-01-01T00:00:00Z", "invalid_timestamp"),
        ("٢٠٢٦-02-02T02:40:00Z", "invalid_timestamp"),
        ("2026-02-02T02:40:00Z\n", "invalid_timestamp"),
        (" 2026-02-02T02:40:00Z", "invalid_timestamp"),
        ("1770000000000", "invalid_timestamp"),
        ("", "invalid_timestamp"),
        (-1, "invalid_timestamp"),
        (TIMESTAMP_MS_END, "invalid_timestamp"),
        (2**63, "invalid_timestamp"),
        (10**39, "invalid_timestamp"),
    ],
)
def test_a_timestamp_is_rfc_3339_with_an_offset_or_epoch_milliseconds(
    text: str | int, outcome: int | str
) -> None:
    line = smallest(timestamp=text)
    if isinstance(outcome, int):
        assert parse_line(line)[0].timestamp_ms == outcome
    else:
        assert refusal(line).reason.value == outcome


@given(st.integers(0, TIMESTAMP_MS_END * 1000 - 1), st.integers(-1439, 1439))
def test_every_moment_is_read_as_python_writes_it(epoch_us: int, offset_minutes: int) -> None:
    zone = timezone(timedelta(minutes=offset_minutes))
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=epoch_us)
    assert timestamp_ms(moment.astimezone(zone).isoformat()) == epoch_us // 1000
