"""The event contract, line by line: what is read as what, and what is refused for which reason."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metering.event import (
    FIELDS,
    LINE_BYTES_MAX,
    NESTING_MAX,
    InvalidEvent,
    UsageEvent,
    parse_line,
    parse_text,
)
from tests.metering.samples import FULLEST, SMALLEST, refusal, smallest


def test_the_smallest_event_has_a_default_for_every_other_field() -> None:
    assert parse_line(smallest()) == (
        UsageEvent.model_construct(
            idempotency_key="k",
            tenant_id="t",
            feature_id="unknown",
            provider="",
            model="m",
            model_version="",
            region="",
            service_tier="",
            timestamp_ms=1_770_000_000_000,
            input_tokens=10,
            output_tokens=5,
            cache_read_tokens=0,
            cache_write_tokens=0,
            cache_write_1h_tokens=0,
            reasoning_tokens=0,
            latency_ms=0,
            retry_count=0,
            cache_status="miss",
            status="success",
            usage_source="provider",
            provider_cost=None,
            attributes={},
        ),
        (),
    )


def test_the_fullest_event_is_read_whole() -> None:
    assert tuple(FULLEST) == FIELDS
    event, unknown = parse_line(json.dumps(FULLEST).encode())
    read = event.model_dump()
    assert read.pop("timestamp_ms") == 1_770_000_000_123
    assert read.pop("provider_cost") == Decimal("0.0123")
    assert read == {name: FULLEST[name] for name in FIELDS if name not in ("timestamp", "provider_cost")}
    assert unknown == ()


OVERSIZE = b'{"idempotency_key":"' + b"k" * LINE_BYTES_MAX + b'"}'


# The whole line, in the order in which it is judged.
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(OVERSIZE, "line_too_long", id="a byte or more above the limit"),
        pytest.param(b"\xff" * (LINE_BYTES_MAX + 1), "line_too_long", id="length is judged before UTF-8"),
        (b"\xff", "invalid_utf8"),
        (b'{"a":"\xc3"}', "invalid_utf8"),
        (b'{"a":"\xc0\xaf"}', "invalid_utf8"),
        (b'{"a":"\xed\xa0\x80"}', "invalid_utf8"),
        (b'{"a":"\xf4\x90\x80\x80"}', "invalid_utf8"),
        (rb'{"a":"\ud800"}', "invalid_utf8"),
        (rb'{"a":"\udc00"}', "invalid_utf8"),
        (rb'{"a":"\ud800\ud800"}', "invalid_utf8"),
        (rb'{"a":"\ud800 \udc00"}', "invalid_utf8"),
        (rb'{"a":"\ud800\\udc00"}', "invalid_utf8"),
        (b"", "invalid_json"),
        (b"  ", "invalid_json"),
        (b"{", "invalid_json"),
        (b"{}x", "invalid_json"),
        (b"{}{}", "invalid_json"),
        (b"{} {}", "invalid_json"),
        (b"{'a':1}", "invalid_json"),
        (b"{a:1}", "invalid_json"),
        (b'{"a":1,}', "invalid_json"),
        (b'{"a":01}', "invalid_json"),
        (b'{"a":+1}', "invalid_json"),
        (b'{"a":1.}', "invalid_json"),
        (b'{"a":.5}', "invalid_json"),
        (b'{"a":-}', "invalid_json"),
        (b'{"a":NaN}', "invalid_json"),
        (b'{"a":-Infinity}', "invalid_json"),
        (b'{"a":True}', "invalid_json"),
        (b'{"a":"\x01"}', "invalid_json"),
        (b'{"a":"\x00"}', "invalid_json"),
        (b'{"a":\x00}', "invalid_json"),
        (b'{"a":\x0c1}', "invalid_json"),
        (rb'{"a":"\x41"}', "invalid_json"),
        (b"\xc2\xa0{}", "invalid_json"),
        (b"\xef\xbb\xbf", "invalid_json"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"[" * 100_000 + b"]" * 100_000, "invalid_json"),
        (b'{"a":' * (NESTING_MAX + 1) + b"1" + b"}" * (NESTING_MAX + 1), "invalid_json"),
        (b'{"a":1,"a":2', "invalid_json"),
        pytest.param(b'{"a":{"b":1,"b":2}, x', "invalid_json", id="a duplicate in text that is not JSON"),
        pytest.param(
            b'{"b":1,"b":2,"a":' + b"[" * 900 + b"]" * 900 + b"}", "invalid_json", id="a duplicate, too deep"
        ),
        (b'{"a":1,"a":1}', "duplicate_field"),
        (rb'{"a":1,"\u0061":1}', "duplicate_field"),
        (b'{"a":null,"a":null}', "duplicate_field"),
        (b'{"attributes":{"x":"1","x":"2"}}', "duplicate_field"),
        (b'{"unheard_of":[{"x":1,"x":2}]}', "duplicate_field"),
        (b'[{"x":1,"x":2}]', "duplicate_field"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"5", "not_an_object"),
        (b"9" * 5000, "not_an_object"),
        (b"{}", "missing_field"),
    ],
)
def test_a_line_is_refused_as_a_whole(line: bytes, reason: str) -> None:
    assert refusal(line).reason.value == reason


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"\xef\xbb\xbf" + smallest(), id="byte order mark"),
        pytest.param(b" \t\r" + smallest() + b"\r", id="blanks around"),
        pytest.param(smallest().replace(b":", b" :\t"), id="blanks around colons"),
        pytest.param(smallest()[:-1] + b', "x":1E400}', id="float out of range, unknown field"),
        pytest.param(smallest()[:-1] + b',"x":' + b"9" * 5000 + b"}", id="huge integer, unknown field"),
        pytest.param(
            smallest()[:-1] + b',"y":[],"x":' + b"[" * (NESTING_MAX - 1) + b"]" * (NESTING_MAX - 1) + b"}",
            id="nesting as deep as allowed",
        ),
        pytest.param(
            smallest()[:-1] + rb',"x":"[{\"' + b"[{" * 1000 + b'"}',
            id="brackets inside a text do not nest",
        ),
        pytest.param(smallest()[:-1] + rb',"x":"\ud83d\ude00 \\ud800"}', id="a surrogate pair, escaped text"),
        pytest.param(smallest().replace(b"tenant_id", rb"tenant\u005fid"), id="an escaped key"),
        pytest.param(smallest() + b" " * (LINE_BYTES_MAX - len(smallest())), id="as long as allowed"),
    ],
)
def test_odd_but_valid_json_is_read_as_json(line: bytes) -> None:
    assert parse_line(line)[0] == parse_line(smallest())[0]


def test_unknown_fields_are_named_in_their_order() -> None:
    event, unknown = parse_line(smallest(zeta=1, alpha=None, timestamp_ms=5))
    assert event == parse_line(smallest())[0]
    assert unknown == ("zeta", "alpha", "timestamp_ms")


def at_depth(frames: int, act: Callable[[], InvalidEvent]) -> InvalidEvent:
    return act() if frames == 0 else at_depth(frames - 1, act)


@pytest.mark.parametrize("levels", [NESTING_MAX + 1, 500, 5000])
def test_the_reason_does_not_depend_on_how_deep_the_caller_is(levels: int) -> None:
    line = b'{"b":1,"b":2,"a":' + b"[" * levels + b"]" * levels + b"}"
    frames = sys.getrecursionlimit() - 300
    assert str(at_depth(frames, lambda: refusal(line))) == str(refusal(line))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*FIELDS, "specversion", "data", "id", "x"]), json_values))
@example({"attributes": {"k": "\ud800"}})
def test_any_object_is_an_event_or_is_refused_with_one_short_sentence(document: dict[str, Any]) -> None:
    line = json.dumps({**SMALLEST, **document}).encode()
    try:
        event, unknown = parse_line(line)
    except InvalidEvent as exc:
        detail = exc.detail
    else:
        assert set(unknown) <= {"specversion", "data", "id", "x"}
        assert event.idempotency_key == {**SMALLEST, **document}["idempotency_key"]
        return
    assert 0 < len(detail) <= 300
    assert "\n" not in detail


@given(st.binary() | st.text().map(str.encode))
@example(b"\xef\xbb\xbf")
def test_any_bytes_are_an_event_or_are_refused(line: bytes) -> None:
    with pytest.raises(InvalidEvent):
        parse_line(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"' + b"k" * 100_000 + b'":1,"' + b"k" * 100_000 + b'":1}',
        b'{"' + b"k" * 100_000,
        smallest(timestamp="9" * 100_000),
        smallest(status="x" * 100_000),
        smallest(attributes={"k" * 100_000: "v"}),
    ],
    ids=range(5),
)
def test_the_sentence_stays_short_however_long_the_line(line: bytes) -> None:
    assert len(refusal(line).detail) <= 300


def test_text_is_read_as_bytes_are() -> None:
    assert parse_text(smallest().decode()) == parse_line(smallest())


def test_an_event_cannot_be_changed() -> None:
    event, _ = parse_line(smallest())
    with pytest.raises(ValueError, match="frozen"):
        event.input_tokens = 0  # type: ignore[misc]
