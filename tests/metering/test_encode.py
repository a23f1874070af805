"""What becomes of what an application records: one line, judged as the job will judge it."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
import uuid
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.contract import fits
from metering.encode import LINE_BYTES_MAX, Unsendable, encode
from metering.event import FIELDS, InvalidEvent, UsageEvent, parse_line
from tests.metering.samples import ABSENT, ENVELOPE, FULLEST, SMALLEST


class Opaque:
    """Of no type that JSON has."""

    def __repr__(self) -> str:
        return "sk-secret"


class Word(str, enum.Enum):
    HIT = "hit"


class Incomparable(int):
    def __ge__(self, other: object) -> bool:
        raise SystemExit

    __lt__ = __le__ = __gt__ = __ge__


class Lazy(Mapping[str, Any]):
    """A mapping that is no dictionary."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def smallest(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**SMALLEST, **changes}.items() if value is not ABSENT}


UTC = dt.timezone.utc
NESTED: list[Any] = []
NESTED.append(NESTED)

FORMS = [
    # what was recorded, the field looked at, what stands in the line, what the contract says ("": valid)
    (smallest(), "input_tokens", 10, ""),
    (FULLEST, "provider_cost", "0.0123", ""),
    (Lazy(smallest()), "model", "m", ""),
    (ENVELOPE, "subject", "t", ""),
    (smallest(provider_cost=Decimal("1E-7")), "provider_cost", "0.0000001", ""),
    (smallest(provider_cost=Decimal("1E+2")), "provider_cost", "100", ""),
    (smallest(provider_cost=None), "provider_cost", None, ""),
    (smallest(timestamp=dt.datetime(2026, 2, 2, tzinfo=UTC)), "timestamp", "2026-02-02T00:00:00+00:00", ""),
    (smallest(input_tokens=Incomparable(10)), "input_tokens", 10, ""),
    (smallest(cache_status=Word.HIT), "cache_status", "hit", ""),
    (smallest(note="unknown fields go along"), "note", "unknown fields go along", ""),
    (smallest(note=Opaque()), "note", {"unreadable": "<Opaque>"}, ""),
    (smallest(tenant_id=b"acme"), "tenant_id", {"unreadable": "<bytes>"}, "wrong_type"),
    (smallest(service_tier=Opaque()), "service_tier", {"unreadable": "<Opaque>"}, "wrong_type"),
    (smallest(note=math.nan), "note", {"unreadable": "<float>"}, ""),
    (smallest(tenant_id=math.nan), "tenant_id", {"unreadable": "<float>"}, "wrong_type"),
    (smallest(model=Decimal("NaN")), "model", {"unreadable": "<Decimal>"}, "wrong_type"),
    (smallest(note=10**5000), "note", {"unreadable": "<int>"}, ""),
    (smallest(note={3: uuid.UUID(int=7)}), "note", {"<int>": str(uuid.UUID(int=7))}, ""),
    (smallest(attributes={"user": Opaque()}), "attributes", {"user": "<Opaque>"}, ""),
    (smallest(attributes={"user": 7}), "attributes", {"user": 7}, "wrong_type"),
    (smallest(model="ä€😀"), "model", "ä€😀", ""),
    (smallest(model="half \ud800"), "model", "half \ud800", "invalid_utf8"),
    (smallest(tenant_id="half \ud800"), "tenant_id", "half \ud800", "invalid_utf8"),
    (smallest(provider_cost=0.1), "provider_cost", 0.1, "wrong_type"),
    (smallest(provider_cost=Decimal("NaN")), "provider_cost", {"unreadable": "<Decimal>"}, "wrong_type"),
    (smallest(input_tokens=math.inf), "input_tokens", {"unreadable": "<float>"}, "wrong_type"),
    (smallest(input_tokens="10"), "input_tokens", "10", "wrong_type"),
    (smallest(input_tokens=True), "input_tokens", True, "wrong_type"),
    (smallest(input_tokens=-1), "input_tokens", -1, "out_of_range"),
    (smallest(output_tokens=ABSENT), "model", "m", "missing_field"),
    (smallest(tenant_id=ABSENT), "model", "m", "missing_field"),
    (smallest(tenant_id=7), "tenant_id", 7, "wrong_type"),
    (smallest(cache_read_tokens=6, cache_write_tokens=5), "model", "m", "inconsistent_usage"),
    (smallest(cache_write_1h_tokens=1), "model", "m", "inconsistent_usage"),
    (smallest(reasoning_tokens=6), "model", "m", "inconsistent_usage"),
    (smallest(timestamp=dt.datetime(2026, 2, 2)), "model", "m", "invalid_timestamp"),  # noqa: DTZ001  # it is
    ({}, "model", None, "missing_field"),
    (smallest(note="x" * LINE_BYTES_MAX), "note", None, ""),
]


@pytest.mark.parametrize(("event", "name", "expected", "reason"), FORMS)
def test_the_line_of_an_event(event: Mapping[str, Any], name: str, expected: object, reason: str) -> None:
    line = encode(event)
    assert (json.loads(line.data).get(name), line.invalid_reason) == (expected, reason)
    assert b"\n" not in line.data
    assert b"sk-secret" not in line.data


@pytest.mark.parametrize(
    ("event", "tenant"),
    [
        (smallest(), "t"),
        (ENVELOPE, "t"),
        (smallest(tenant_id="t", input_tokens=-1), "t"),
        (smallest(tenant_id=7), ""),
        (smallest(tenant_id="x" * 129), ""),
        (smallest(tenant_id="half \ud800"), ""),
    ],
)
def test_the_tenant_by_which_an_event_is_sent(event: Mapping[str, Any], tenant: str) -> None:
    assert encode(event).tenant_id == tenant


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (None, "not_serialisable"),
        ("{}", "not_serialisable"),
        ([smallest()], "not_serialisable"),
        (smallest(note=NESTED), "not_serialisable"),
        (smallest(model="x" * (LINE_BYTES_MAX + 1)), "too_large"),
        ({**ENVELOPE, "data": {**ENVELOPE["data"], "note": "x" * LINE_BYTES_MAX}}, "too_large"),
    ],
)
def test_what_cannot_be_sent(event: object, reason: str) -> None:
    with pytest.raises(Unsendable) as caught:
        encode(event)
    assert caught.value.reason == reason


@pytest.mark.parametrize("fields", [SMALLEST, FULLEST, {**SMALLEST, "provider_cost": "0.0000001"}])
def test_a_usage_event_reads_back_as_itself(fields: dict[str, Any]) -> None:
    event = UsageEvent.model_validate(fields)
    assert parse_line(encode(event).data) == (event, ())


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 12),
    st.sampled_from([2**40, 2**40 + 1, 4_102_444_800_000, 10**30, 1.5, math.nan, Decimal("0.1"), b"x"]),
    st.sampled_from(
        ["", "miss", "hit", "success", "0.1", "1.", "\u0661", "0.1\n", "x" * 129, "x" * 257, "\ud800"]
    ),
    st.dictionaries(st.sampled_from(["", "k", "x" * 129]), st.sampled_from(["", "v", "x" * 1025, 7])),
)


@given(
    base=st.sampled_from([SMALLEST, FULLEST]),
    changes=st.dictionaries(st.sampled_from([*FIELDS, "note", "specversion"]), ODD, max_size=3),
)
def test_what_the_fast_judge_takes_the_contract_takes(base: dict[str, Any], changes: dict[str, Any]) -> None:
    event = {**base, **changes}
    line = encode(event)
    judged = judge(line.data)
    assert (line.tenant_id, line.invalid_reason) == judged or (judged[1] and line.invalid_reason == judged[1])
    if fits(event) and "\ud800" not in str(event):
        assert judged[1] == ""
        assert json.loads(line.data) == event


def judge(line: bytes) -> tuple[str, str]:
    try:
        return parse_line(line)[0].tenant_id, ""
    except InvalidEvent as exc:
        return "", exc.reason.value


def test_the_fast_judge_takes_the_common_case() -> None:
    assert fits({**FULLEST, "timestamp": 1})
