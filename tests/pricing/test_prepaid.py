"""Prepaid credits: which grant pays, when it ends, and that nothing is paid twice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import ROUND_UP, Context, Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.plans import trimmed
from pricing.prepaid import Grant, burn, burn_order
from pricing.windows import next_month
from tests.pricing.plan_rows import month


def grants(text: str) -> list[Grant]:
    """`"50 2026-01 2026-03, 20 2026-02 - 1"`: amount, first month, month of expiry, priority."""
    found = []
    for part in text.split(", "):
        amount, granted_at, expires_at, *priority = part.split()
        found.append(
            Grant(
                amount=Decimal(amount),
                granted_at=month(granted_at),
                expires_at=None if expires_at == "-" else month(expires_at),
                priority=int(priority[0]) if priority else 0,
            )
        )
    return found


def due(text: str) -> dict[date, Decimal]:
    """`"2026-01 10, 2026-02 5"`."""
    return {month(part.split()[0]): Decimal(part.split()[1]) for part in text.split(", ") if part}


@pytest.mark.parametrize(
    ("granted", "owed", "at", "outcome"),
    [
        # each grant that pays for the month: burned, expired, left
        ("50 2026-01 -", "", "2026-01", ["0 0 50"]),
        ("50 2026-01 -", "2026-01 20", "2026-01", ["20 0 30"]),
        ("50 2026-01 -", "2026-01 50", "2026-01", ["50 0 0"]),
        ("50 2026-01 -", "2026-01 50.000000000001", "2026-01", ["50 0 0"]),
        ("50 2026-01 -", "2026-01 20, 2026-02 20", "2026-02", ["20 0 10"]),
        ("50 2026-01 -", "2026-01 20, 2026-02 20, 2026-03 20", "2026-03", ["10 0 0"]),
        ("50 2026-01 -", "2026-01 60, 2026-02 20", "2026-02", ["0 0 0"]),
        # not before it is granted, not once it has expired
        ("50 2026-02 -", "2026-01 20", "2026-01", []),
        ("50 2026-02 -", "2026-01 20, 2026-02 5", "2026-02", ["5 0 45"]),
        ("50 2026-01 2026-03", "2026-01 20, 2026-02 20", "2026-01", ["20 0 30"]),
        ("50 2026-01 2026-03", "2026-01 20, 2026-02 20", "2026-02", ["20 10 0"]),
        ("50 2026-01 2026-03", "2026-01 20, 2026-02 20, 2026-03 20", "2026-03", []),
        ("50 2026-01 2026-02", "2026-01 60", "2026-01", ["50 0 0"]),
        ("50 2026-12 2027-01", "2026-12 1", "2026-12", ["1 49 0"]),
        # soonest expiry first, whatever the priority and the age
        ("10 2026-01 -, 10 2026-01 2026-06", "2026-01 15", "2026-01", ["10 0 0", "5 0 5"]),
        ("10 2026-01 2026-07 0, 10 2026-01 2026-06 9", "2026-01 15", "2026-01", ["10 0 0", "5 0 5"]),
        # then the lower priority number
        ("10 2026-01 2026-06 2, 20 2026-01 2026-06 1", "2026-01 25", "2026-01", ["20 0 0", "5 0 5"]),
        # then the older one
        ("10 2026-02 2026-06, 20 2026-01 2026-06", "2026-02 25", "2026-02", ["20 0 0", "5 0 5"]),
        # then the first in the file
        ("10 2026-01 -, 20 2026-01 -", "2026-01 15", "2026-01", ["10 0 0", "5 0 15"]),
        # a later grant that expires sooner goes before what is left of the earlier one
        ("50 2026-01 -, 10 2026-02 2026-03", "2026-01 5, 2026-02 12", "2026-02", ["10 0 0", "2 0 43"]),
        ("50 2026-01 -, 10 2026-02 2026-03", "2026-01 5, 2026-03 12", "2026-03", ["12 0 33"]),
    ],
)
def test_credits_burn(granted: str, owed: str, at: str, outcome: list[str]) -> None:
    assert [
        " ".join(map(trimmed, (one.burned, one.expired, one.left)))
        for one in burn(grants(granted), due(owed), month(at))
    ] == outcome


MONTHS = [date(2026 + index // 12, index % 12 + 1, 1) for index in range(18)]
AMOUNTS = st.decimals(0, 1000, places=12)


@st.composite
def granted(draw: st.DrawFn) -> Grant:
    first = draw(st.integers(0, 15))
    last = draw(st.none() | st.integers(first + 1, 17))
    return Grant(
        amount=draw(AMOUNTS),
        granted_at=MONTHS[first],
        expires_at=None if last is None else MONTHS[last],
        priority=draw(st.integers(0, 2)),
    )


OWED = st.dictionaries(st.sampled_from(MONTHS), AMOUNTS)


@given(given_out=st.lists(granted(), max_size=5), owed=OWED)
def test_each_dollar_is_burned_once_expires_once_or_is_left(
    given_out: list[Grant], owed: dict[date, Decimal]
) -> None:
    burned = dict.fromkeys(range(len(given_out)), Decimal(0))
    ended = dict(burned)
    left = dict(burned)
    for at in MONTHS:
        found = burn(given_out, owed, at)
        assert sum(one.burned for one in found) <= owed.get(at, 0)
        assert all(min(one.burned, one.expired, one.left) >= 0 for one in found)
        # All that is due is burned, unless every grant that pays for the month is at its end.
        if any(one.left + one.expired for one in found):
            assert sum(one.burned for one in found) == owed.get(at, 0)
        for position, grant in positions(given_out, [one.grant for one in found]):
            one = found[position]
            burned[grant] += one.burned
            ended[grant] += one.expired
            left[grant] = one.left
    for index, one_grant in enumerate(given_out):
        assert burned[index] + ended[index] + left[index] == one_grant.amount


def positions(given_out: Sequence[Grant], found: Sequence[Grant]) -> list[tuple[int, int]]:
    """Where a grant stands among `found`, and where it stands in the file; grants may be equal."""
    by_identity = {id(grant): index for index, grant in enumerate(given_out)}
    return [(position, by_identity[id(grant)]) for position, grant in enumerate(found)]


@given(given_out=st.lists(granted(), max_size=6))
def test_what_expires_sooner_is_burned_sooner(given_out: list[Grant]) -> None:
    ends = [one.expires_at or date.max for one in burn_order(given_out)]
    assert ends == sorted(ends)


@given(given_out=st.lists(granted(), max_size=4), owed=OWED, at=st.sampled_from(MONTHS))
def test_later_months_change_nothing_before_them_and_neither_does_the_context(
    given_out: list[Grant], owed: dict[date, Decimal], at: date
) -> None:
    known = {one: amount for one, amount in owed.items() if one < next_month(at)}
    expected = burn(given_out, owed, at)
    assert burn(given_out, known, at) == expected
    with localcontext(Context(prec=2, rounding=ROUND_UP)):
        assert burn(given_out, owed, at) == expected
