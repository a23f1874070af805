"""Decoding by the batch: whatever the batch, what the contract's reader gives line by line."""

from __future__ import annotations

import json
from typing import NoReturn

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows import decode as decode_module
from dataflows.batch import EVENT_SCHEMA, QUARANTINE_SCHEMA, Partition, RawBatch
from dataflows.decode import TimeBounds, decode, refuse
from dataflows.scan_columns import SCANNED_ATTRIBUTES_MAX, UNKNOWN_FIELDS_MAX
from metering.event import LINE_BYTES_MAX, QuarantineReason, UsageEvent, parse_line
from tests.dataflows.judged import (
    ARRIVAL_MS,
    NO_BOUNDS,
    assert_decodes_as_judged,
    envelope_line,
    event_line,
    plain_lines,
    raw_batch,
)
from tests.dataflows.lines import batches

MINUTE_MS = 60_000


# At least 10,000 lines: 250 batches of 60 lines or more. A longer profile runs more of them.
@settings(max_examples=max(250, settings().max_examples))
@given(batches(), st.booleans())
def test_a_batch_is_decoded_as_its_lines_are(lines: list[bytes], age_limited: bool) -> None:
    assert_decodes_as_judged(raw_batch(lines, age_limited=age_limited))


@given(batches(min_size=1, max_size=50), st.integers(0, 10**10), st.integers(0, 10**10))
def test_a_batch_is_bounded_in_time_as_its_lines_are(
    lines: list[bytes], future_ms_max: int, age_ms_max: int
) -> None:
    assert_decodes_as_judged(raw_batch(lines), TimeBounds(future_ms_max, age_ms_max))


class SlowRoadTakenError(AssertionError):
    pass


@pytest.fixture
def no_slow_road(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_line(line: bytes) -> NoReturn:
        raise SlowRoadTakenError(line)

    monkeypatch.setattr(decode_module, "parse_line", refuse_line)


FAST = {
    "compact": plain_lines(),
    "with a blank after each colon and comma": [
        json.dumps(json.loads(line)).encode() for line in plain_lines(cache_status="hit", region="eu")
    ],
    "timestamps of several forms": [
        event_line(number, timestamp=f"2026-02-02T02:40:0{number % 10}{end}")
        for number, end in enumerate(["Z", ".5Z", ".123456789Z", "+05:30", ".1-08:00", ".1234Z"] * 16)
    ],
    "fields that come and go": [
        event_line(number, **({"region": "eu"} if number % 3 else {"latency_ms": 5, "provider_cost": "0.1"}))
        for number in range(96)
    ],
    "every field": plain_lines(
        idempotency_key="k" * 256,
        feature_id="chat",
        provider="openai",
        model_version="2024-08-06",
        region="eu",
        service_tier="flex",
        cache_read_tokens=5,
        cache_write_tokens=4,
        cache_write_1h_tokens=3,
        reasoning_tokens=0,
        latency_ms=20,
        retry_count=1,
        cache_status="hit",
        status="validation_failed",
        usage_source="tokenizer",
        provider_cost="0.000123",
        attributes={"team": "search"},
    ),
    "attributes without members": plain_lines(attributes={}),
    "attributes with keys of their own": [
        event_line(number, attributes={"user": "u", f"k{number}": "Größe"}) for number in range(96)
    ],
    "unknown fields": plain_lines(trace="abc", row=5, score=0.5, stream=True, _has_data="x", offset=1),
    "explicit nulls": [
        line[:-1] + b',"region":null,"attributes":null}' for line in plain_lines(provider="x")
    ],
    "envelopes": [envelope_line(number) for number in range(96)],
    "envelopes with extensions": [
        envelope_line(number, traceparent="00-1", sampled=True) for number in range(96)
    ],
    "a line alone": plain_lines(1),
    "texts and numbers as timestamps": [
        event_line(number, timestamp=ARRIVAL_MS if number % 2 else "2026-02-02T02:40:00Z")
        for number in range(96)
    ],
    "as many attributes as are scanned": plain_lines(
        attributes={f"k{number}": "v" * number for number in range(SCANNED_ATTRIBUTES_MAX)}
    ),
    "events among envelopes": [
        envelope_line(number) if number % 2 else event_line(number) for number in range(96)
    ],
    "as many unknown fields as are counted": plain_lines(
        **{f"x{number}": number for number in range(UNKNOWN_FIELDS_MAX)}
    ),
    "letters of every kind": plain_lines(feature_id="größe 😀 ۝", tenant_id="\x7f\u2028"),
}


@pytest.mark.usefixtures("no_slow_road")
@pytest.mark.parametrize("lines", FAST.values(), ids=FAST)
def test_plain_lines_go_the_fast_road(lines: list[bytes]) -> None:
    lines = [json.dumps(json.loads(line), ensure_ascii=False).encode() for line in lines]
    decoded = decode(raw_batch(lines), NO_BOUNDS)
    assert len(decoded.events) == len(lines)


@pytest.mark.parametrize("lines", FAST.values(), ids=FAST)
def test_the_fast_road_leads_to_the_same_events(lines: list[bytes]) -> None:
    assert_decodes_as_judged(raw_batch(lines))


@pytest.fixture
def taken_slowly(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The lines that the slow road has read."""
    slow: list[bytes] = []

    def parse_and_note(line: bytes) -> tuple[UsageEvent, tuple[str, ...]]:
        slow.append(line)
        return parse_line(line)

    monkeypatch.setattr(decode_module, "parse_line", parse_and_note)
    return slow


@pytest.mark.parametrize("bad", [b'{"a"}', b'{"a":NaN}', b'{"a":"\xff"}', b"{" + b'"a":[' * 2000 + b"}"])
def test_broken_lines_leave_the_fast_road_alone(taken_slowly: list[bytes], bad: bytes) -> None:
    lines = plain_lines(1000)
    lines[25::50] = [bad] * 20
    assert len(decode(raw_batch(lines), NO_BOUNDS).events) == 980
    assert taken_slowly == [bad] * 20


@pytest.mark.parametrize(
    ("line", "read", "reason"),
    [
        (b"", 0, None),
        (b" ", 0, None),
        (b"\t \r", 0, None),
        (b"\r", 0, None),
        (b" " * 10_000, 0, None),
        (b"\xef\xbb\xbf", 1, "invalid_json"),
        (b"\x00", 1, "invalid_json"),
        (b"\x0c", 1, "invalid_json"),
        (b"\xc2\xa0", 1, "invalid_json"),
        (b"{}", 1, "missing_field"),
        (b"\xef\xbb\xbf" + event_line(1), 1, None),
        (event_line(1) + b"\r", 1, None),
        (event_line(1) + b" ", 1, None),
        (event_line(1) + event_line(2), 1, "invalid_json"),
        (event_line(1) + b" " + event_line(2), 1, "invalid_json"),
        (event_line(1) + b"," + event_line(2), 1, "invalid_json"),
        (event_line(1) + b"}", 1, "invalid_json"),
        (b"[" + event_line(1) + b"]", 1, "not_an_object"),
        (event_line(1)[:40], 1, "invalid_json"),
        (event_line(1)[:-1] + b',"x":"' + b"x" * 1_000_000 + b'"}', 1, None),
        (event_line(1)[:-1] + b" " * LINE_BYTES_MAX + b"}", 1, "line_too_long"),
        (b"[" * 100_000, 1, "invalid_json"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 1, "invalid_json"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
)
@pytest.mark.parametrize("others", [0, 58], ids=["alone", "among plain lines"])
def test_a_line_that_is_not_plain(line: bytes, read: int, reason: str | None, others: int) -> None:
    lines = plain_lines(others)
    lines.insert(others // 2, line)
    decoded = assert_decodes_as_judged(raw_batch(lines))
    assert decoded.read == others + read
    assert decoded.quarantined["reason"].to_list() == ([] if reason is None else [reason])


def test_an_object_on_two_lines_is_refused_twice() -> None:
    whole = event_line(1)
    decoded = assert_decodes_as_judged(raw_batch([*plain_lines(), whole[:30], whole[30:]]))
    assert decoded.quarantined["reason"].to_list() == ["invalid_json", "invalid_json"]


def test_envelopes_and_plain_events_share_a_batch() -> None:
    events, envelopes = plain_lines(60), [envelope_line(number) for number in range(60)]
    mixed = [line for pair in zip(events, envelopes, strict=True) for line in pair]
    for lines in (events + envelopes, envelopes + events, mixed):
        assert len(assert_decodes_as_judged(raw_batch(lines)).events) == 120


@pytest.mark.parametrize("spread", ["in one line", "over many"])
def test_more_unknown_fields_than_are_scanned_are_still_counted(spread: str) -> None:
    names = [f"x{number}" for number in range(UNKNOWN_FIELDS_MAX + 1)]
    if spread == "in one line":
        lines = plain_lines(60, **dict.fromkeys(names, 1))
    else:
        lines = [event_line(number, **{name: 1}) for number in range(60) for name in names]
    decoded = assert_decodes_as_judged(raw_batch(lines))
    assert decoded.unknown_fields == dict.fromkeys(names, 60)


def test_more_attributes_than_are_scanned_are_read_all_the_same() -> None:
    keys = {f"k{number}": "v" for number in range(SCANNED_ATTRIBUTES_MAX + 1)}
    assert len(assert_decodes_as_judged(raw_batch(plain_lines(attributes=keys))).events) == 96


@pytest.mark.parametrize(
    ("ahead_ms", "age_limited", "reason"),
    [
        (0, True, None),
        (5 * MINUTE_MS, True, None),
        (5 * MINUTE_MS + 1, True, "timestamp_in_future"),
        (5 * MINUTE_MS + 1, False, "timestamp_in_future"),
        (-60 * MINUTE_MS, True, None),
        (-60 * MINUTE_MS - 1, True, "timestamp_too_old"),
        (-60 * MINUTE_MS - 1, False, None),
        (-ARRIVAL_MS, True, "timestamp_too_old"),
        (-ARRIVAL_MS, False, None),
    ],
)
@pytest.mark.parametrize("size", [1, 60])
def test_an_implausible_time_is_refused(
    ahead_ms: int, age_limited: bool, reason: str | None, size: int
) -> None:
    row = size // 2
    times = ARRIVAL_MS + np.arange(size)
    times[row] = max(int(times[row]) + ahead_ms, 0)
    lines = [event_line(number, timestamp=time) for number, time in enumerate(times.tolist())]
    batch = raw_batch(lines, age_limited=age_limited)
    decoded = assert_decodes_as_judged(batch, TimeBounds(5 * MINUTE_MS, 60 * MINUTE_MS))
    refused = decoded.quarantined.select("reason", "offset", "line", "tenant_id", "model").rows()
    place = (batch.offset[row], batch.line[row])
    assert refused == ([] if reason is None else [(reason, *place, "acme", "gpt-4o")])


def test_a_refused_event_keeps_its_bytes_its_place_and_who_sent_it() -> None:
    batch = raw_batch([b" ", event_line(1) + b"\r", b"{\r"])
    decoded = decode(batch, NO_BOUNDS)
    refused = refuse(decoded.events, QuarantineReason.UNPRICED, pl.format("no rate for {}", "model"))
    assert refused.schema == QUARANTINE_SCHEMA
    assert refused.rows() == [
        ("unpriced", "no rate for gpt-4o", "acme", "gpt-4o", batch.offset[1], 1, event_line(1) + b"\r")
    ]
    assert decoded.quarantined.select("raw", "tenant_id", "model").rows() == [(b"{\r", "", "")]


def test_a_heartbeat_stays_a_heartbeat() -> None:
    beat = RawBatch.heartbeat(Partition(0, "topic", 0), 7, live=False)
    decoded = decode(beat, NO_BOUNDS)
    assert (decoded.read, decoded.next_offset, decoded.live) == (0, 7, False)
    assert (decoded.events.schema, decoded.quarantined.schema) == (EVENT_SCHEMA, QUARANTINE_SCHEMA)
    assert len(decoded.events) == len(decoded.quarantined) == 0


def test_blank_lines_only() -> None:
    decoded = assert_decodes_as_judged(raw_batch([b"", b" ", b"\r"]))
    assert decoded.read == 0


def test_rows_stay_in_the_order_of_arrival() -> None:
    lines = [event_line(n) if n % 7 else event_line(n, region="\\") for n in range(200)]
    offsets = decode(raw_batch(lines), NO_BOUNDS).events.select(pl.col("offset") * 3 + pl.col("line"))
    assert np.all(np.diff(offsets.to_series().to_numpy()) == 1)
