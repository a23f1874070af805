"""Values out of payloads: what is said, and what is not."""

from __future__ import annotations

from collections import UserList
from decimal import Decimal
from enum import Enum
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.event import parse_line
from metering.payload import ITEMS_MAX, get, identifier, items, name_in, replace_counts, usd
from tests.metering.samples import smallest


class Tier(str, Enum):
    FLEX = "flex"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("flex", "flex"),
        (Tier.FLEX, "flex"),
        ("é" * 128, "é" * 128),
        ("x" * 129, ""),
        ("", ""),
        ("\ud800", ""),
        (b"flex", ""),
        (5, ""),
        (None, ""),
    ],
)
def test_a_label_is_one_that_an_event_may_carry(value: object, expected: str) -> None:
    found = name_in({"tier": value}, "tier")
    assert found == expected
    assert type(found) is str


def test_an_id_may_be_longer_than_a_label_and_no_longer_than_is_sensible() -> None:
    assert identifier({"id": "x" * 4096}, "id") == "x" * 4096
    assert identifier({"id": "x" * 4097}, "id") == ""


def test_the_first_name_that_says_something_counts() -> None:
    assert get({"a": None, "b": 0}, "a", "b") == 0
    assert get(SimpleNamespace(b=1), "a", "b") == 1
    assert get(None, "a") is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], [1, 2]),
        ((1, 2), [1, 2]),
        (UserList([1, 2]), [1, 2]),
        ("text", []),
        (b"bytes", []),
        ({"a": 1}, []),
        (iter([1]), []),
        (None, []),
        (range(ITEMS_MAX + 5), list(range(ITEMS_MAX))),
    ],
)
def test_what_is_like_a_list(value: object, expected: list[object]) -> None:
    assert items(value) == expected


@pytest.mark.parametrize(
    ("known", "later", "expected"),
    [
        ({}, {"a": 0}, {"a": 0}),
        ({"a": 0}, {"a": 5}, {"a": 5}),
        ({"a": 5}, {"a": 0}, {"a": 5}),
        ({"a": 5}, {"a": 7}, {"a": 7}),
        (
            {"a": 100},
            {"a": 20, "b": 80},
            {"a": 20, "b": 80},
        ),  # an estimate, then the count and its cached part
        ({"a": 5}, {}, {"a": 5}),
    ],
)
def test_a_later_count_replaces_and_a_later_zero_does_not(
    known: dict[str, int], later: dict[str, int], expected: dict[str, int]
) -> None:
    replace_counts(known, later)
    assert known == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("0.1000000000000000055"), Decimal("0.1000000000000000055")),
        (0.1, Decimal("0.1")),
        (1e-9, Decimal("1E-9")),
        (1.2345678901234567e-15, Decimal("0.000000000000001234567890123457")),
        ("0.25", Decimal("0.25")),
        (3, Decimal(3)),
        (0, Decimal(0)),
        (-0.1, None),
        ("-1", None),
        ("1,5", None),
        ("$1", None),
        ("", None),
        (1e20, None),
        (10**20, None),
        pytest.param(10**5000, None, id="more digits than Python prints"),
        (Decimal("1e400"), None),
        (Decimal("NaN"), None),
        (float("nan"), None),
        (float("inf"), None),
        (5e-324, None),
        (True, None),
        (None, None),
        ({"total": 1}, None),
    ],
)
def test_a_cost_is_exact_or_none(value: object, expected: Decimal | None) -> None:
    assert usd(value) == expected


@given(st.floats() | st.integers() | st.decimals() | st.text(max_size=8))
def test_a_cost_is_one_that_the_contract_takes(value: object) -> None:
    cost = usd(value)
    if cost is not None:
        parse_line(smallest(provider_cost=format(cost, "f")))
