"""Statements worked out by hand, and that no digit of one is ever unaccounted for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import ROUND_UP, Context, Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.money import nearest_cent
from pricing.plans import LineKind, UsageTotal, amount_of
from pricing.settings import Settings, load_settings
from pricing.statement import Adjustment, Statement, is_configured, make_statement, months_needed
from tests.pricing.plan_rows import USAGE_KINDS, month, short, usage

RULES = "rules: [{model: m, input_rate: 0, output_rate: 0}]"
PLANS = """\
plans:
  definitions:
    flat: {base_fee: 20, usage: included}
    hybrid: {base_fee: 20, charges: [{quantity: price, included: 10, graduated: [{unit_price: 1}]}]}
    monthly: {base_fee: 5, commitment: {amount: 100}}
    quarterly: {commitment: {amount: 300, months: 3}}
  tenants:
    flat: [{plan: flat, from: 2026-01}]
    hybrid: [{plan: hybrid, from: 2026-01}]
    monthly: [{plan: monthly, from: 2026-01}]
    quarterly: [{plan: quarterly, from: 2026-02}]
    moved: [{plan: flat, from: 2026-01, until: 2026-03}, {plan: hybrid, from: 2026-03}]
    prepaid-flat: [{plan: flat, from: 2026-01}]
    prepaid-hybrid: [{plan: hybrid, from: 2026-01}]
    prepaid-monthly: [{plan: monthly, from: 2026-01}]
  prepaid:
    credits: [{amount: 50, granted_at: 2026-01, expires_at: 2026-03}, {amount: 30, granted_at: 2026-02}]
    prepaid-flat: [{amount: 50, granted_at: 2026-01}]
    prepaid-hybrid: [{amount: 50, granted_at: 2026-01}]
    prepaid-monthly: [{amount: 60, granted_at: 2026-01}]
"""
OPEN = 0


def settings(plans: str = PLANS, rounding: str = "nearest_cent", limits: str = "") -> Settings:
    return load_settings(f"pricing: {{rounding: {rounding}, {RULES}}}\n{limits}{plans}")


def rated(text: str) -> dict[date, Sequence[UsageTotal]]:
    """`"2026-01 10, 2026-02 5"`: USD of rated usage by month."""
    parts = [part.split() for part in text.split(", ") if part]
    return {month(at): [usage(price=price)] for at, price in parts}


def stated(tenant_id: str, at: str, spent: str, given: Settings | None = None) -> Statement:
    return make_statement(given or settings(), tenant_id, month(at), rated(spent), OPEN)


@pytest.mark.parametrize(
    ("tenant_id", "at", "spent", "lines", "total", "credits_left"),
    [
        pytest.param("anybody", "2026-01", "", [], "0.00", None, id="nothing at all"),
        pytest.param("anybody", "2026-01", "2026-01 7.5", ["usage 7.5"], "7.50", None, id="pure usage"),
        pytest.param(
            "anybody", "2026-01", "2026-01 7.125, 2026-02 3",
            ["usage 7.125", "rounding -0.005"], "7.12", None, id="rounded down, half to even",
        ),
        pytest.param(
            "anybody", "2026-01", "2026-01 7.135", ["usage 7.135", "rounding 0.005"], "7.14", None,
            id="rounded up, half to even",
        ),
        pytest.param(
            "anybody", "2026-01", "2026-01 0.000000000001",
            ["usage 0.000000000001", "rounding -0.000000000001"], "0.00", None, id="the smallest amount",
        ),
        pytest.param("flat", "2026-01", "", ["base_fee 20"], "20.00", None, id="a fee without usage"),
        pytest.param(
            "flat", "2026-02", "2026-02 99.999",
            ["base_fee 20", "usage 0", "included 99.999 USD 0"], "20.00", None, id="flat",
        ),
        pytest.param("flat", "2025-12", "2025-12 1", ["usage 1"], "1.00", None, id="before the plan"),
        pytest.param(
            "hybrid", "2026-01", "2026-01 12.5",
            ["base_fee 20", "usage 0", "included 10 USD 0", "overage 2.5 USD 2.5"], "22.50", None,
            id="hybrid",
        ),
        pytest.param(
            "monthly", "2026-01", "2026-01 40",
            ["base_fee 5", "usage 40", "true_up 55"], "100.00", None, id="a commitment of a month",
        ),
        pytest.param(
            "monthly", "2026-01", "2026-01 95", ["base_fee 5", "usage 95"], "100.00", None, id="just met"
        ),
        pytest.param("monthly", "2026-01", "", ["base_fee 5", "true_up 95"], "100.00", None, id="unused"),
        pytest.param(
            "quarterly", "2026-03", "2026-02 50, 2026-03 60", ["usage 60"], "60.00", None, id="before the end"
        ),
        pytest.param(
            "quarterly", "2026-04", "2026-01 999, 2026-02 50, 2026-03 60, 2026-04 70",
            ["usage 70", "true_up 120"], "190.00", None, id="the last month of three",
        ),
        pytest.param("quarterly", "2026-05", "2026-04 70", [], "0.00", None, id="a second period"),
        pytest.param(
            "quarterly", "2026-07", "2026-04 999, 2026-06 299.99", ["true_up 0.01"], "0.01", None,
            id="the end of the second period",
        ),
        pytest.param(
            "moved", "2026-02", "2026-02 12",
            ["base_fee 20", "usage 0", "included 12 USD 0"], "20.00", None, id="the month before a move",
        ),
        pytest.param(
            "moved", "2026-03", "2026-03 12",
            ["base_fee 20", "usage 0", "included 10 USD 0", "overage 2 USD 2"], "22.00", None,
            id="the month after it",
        ),
        pytest.param(
            "credits", "2026-01", "2026-01 20", ["usage 20", "credits_burned -20"], "0.00", "30", id="paid"
        ),
        pytest.param(
            "credits", "2026-02", "2026-01 20, 2026-02 10",
            ["usage 10", "credits_burned -10", "credits_expired 20 USD 0"], "0.00", "30", id="and expired",
        ),
        pytest.param(
            "credits", "2026-02", "2026-01 20, 2026-02 70.005",
            ["usage 70.005", "credits_burned -30", "credits_burned -30", "rounding -0.005"], "10.00", "0",
            id="two grants and not enough",
        ),
        pytest.param("credits", "2025-12", "2025-12 9", ["usage 9"], "9.00", "0", id="not yet granted"),
        pytest.param(
            "prepaid-flat", "2026-01", "2026-01 9",
            ["base_fee 20", "usage 0", "included 9 USD 0"], "20.00", "50", id="credits pay no fee",
        ),
        pytest.param(
            "prepaid-hybrid", "2026-02", "2026-01 30, 2026-02 45",
            ["base_fee 20", "usage 0", "included 10 USD 0", "overage 35 USD 35", "credits_burned -30"],
            "25.00", "0", id="credits pay overage",
        ),
        pytest.param(
            "prepaid-monthly", "2026-01", "2026-01 40",
            ["base_fee 5", "usage 40", "true_up 55", "credits_burned -40"], "60.00", "20",
            id="what credits pay counts towards a commitment",
        ),
        pytest.param(
            "prepaid-monthly", "2026-02", "2026-01 40, 2026-02 30",
            ["base_fee 5", "usage 30", "true_up 65", "credits_burned -20"], "80.00", "0",
            id="a commitment of a month after other months",
        ),
    ],
)  # fmt: skip
def test_a_statement(
    tenant_id: str, at: str, spent: str, lines: list[str], total: str, credits_left: str | None
) -> None:
    found = stated(tenant_id, at, spent)
    assert short(found.lines) == lines
    assert str(found.total) == total
    assert found.credits_left == (None if credits_left is None else Decimal(credits_left))


def test_without_rounding_every_digit_is_due() -> None:
    found = stated("anybody", "2026-01", "2026-01 7.125000000001", settings(rounding="none"))
    assert (str(found.total), short(found.lines)) == ("7.125000000001", ["usage 7.125000000001"])


@pytest.mark.parametrize(
    ("tenant_id", "at", "first"),
    [
        ("anybody", "2026-05", "2026-05"),
        ("monthly", "2026-05", "2026-05"),
        ("quarterly", "2026-02", "2026-02"),
        ("quarterly", "2026-04", "2026-02"),
        ("quarterly", "2026-05", "2026-05"),
        ("quarterly", "2027-01", "2026-11"),
        ("credits", "2025-12", "2025-12"),
        ("credits", "2026-01", "2026-01"),
        ("credits", "2027-03", "2026-01"),
    ],
)
def test_a_statement_looks_back_as_far_as_it_has_to(tenant_id: str, at: str, first: str) -> None:
    needed = months_needed(settings(), tenant_id, month(at))
    assert (needed[0], needed[-1]) == (month(first), month(at))
    assert list(needed) == sorted(set(needed))


VIENNA = "limits: {overrides: {tenants: {acme: {timezone: Europe/Vienna}}}}\n"
END_OF_OCTOBER_MS = 1_793_487_600_000  # 2026-10-31T23:00Z, midnight in Vienna


@pytest.mark.parametrize(
    ("tenant_id", "now_ms", "is_open"),
    [
        ("acme", END_OF_OCTOBER_MS - 1, True),
        ("acme", END_OF_OCTOBER_MS, False),
        ("zenith", END_OF_OCTOBER_MS + 3_600_000 - 1, True),
        ("zenith", END_OF_OCTOBER_MS + 3_600_000, False),
    ],
)
def test_a_month_is_open_until_it_is_over_where_the_tenant_is(
    tenant_id: str, now_ms: int, is_open: bool
) -> None:
    found = make_statement(settings(limits=VIENNA), tenant_id, month("2026-10"), {}, now_ms)
    assert found.is_open is is_open


@pytest.mark.parametrize(
    ("tenant_id", "known"), [("flat", True), ("credits", True), ("acme", True), ("anybody", False)]
)
def test_a_tenant_is_known_by_plan_grant_or_limit(tenant_id: str, known: bool) -> None:
    assert is_configured(settings(limits=VIENNA), tenant_id) is known


# What holds for all statements

PRICES = st.decimals(0, 10**6, places=12)
TENANTS = ("anybody", "flat", "hybrid", "monthly", "quarterly", "moved", "credits", "prepaid-hybrid")
MONTHS = [month(f"2026-{number:02d}") for number in range(1, 9)]


@st.composite
def histories(draw: st.DrawFn) -> dict[date, Sequence[UsageTotal]]:
    totals = st.builds(
        lambda model, price: usage(model=model, price=str(price)), st.sampled_from(["big", "small"]), PRICES
    )
    return draw(st.dictionaries(st.sampled_from(MONTHS), st.lists(totals, max_size=3)))


CASES = {
    "tenant_id": st.sampled_from(TENANTS),
    "at": st.sampled_from(MONTHS),
    "history": histories(),
    "rounding": st.sampled_from(["nearest_cent", "none"]),
}


@given(**CASES)
def test_lines_sum_to_the_total_and_credits_pay_no_more_than_usage(
    tenant_id: str, at: date, history: dict[date, Sequence[UsageTotal]], rounding: str
) -> None:
    found = make_statement(settings(rounding=rounding), tenant_id, at, history, OPEN)
    exact = sum((line.amount for line in found.lines), Decimal(0))
    assert exact == found.total
    assert found.total == (nearest_cent(exact - found.remainder) if rounding == "nearest_cent" else exact)
    assert abs(found.remainder) <= (Decimal("0.005") if rounding == "nearest_cent" else 0)
    paid = -amount_of(found.lines, LineKind.CREDITS_BURNED)
    assert 0 <= paid <= amount_of(found.lines, *USAGE_KINDS)
    assert found.total >= 0


@given(**CASES, data=st.data())
def test_splitting_and_shuffling_usage_changes_nothing(
    tenant_id: str,
    at: date,
    history: dict[date, Sequence[UsageTotal]],
    rounding: str,
    data: st.DataObject,
) -> None:
    given_settings = settings(rounding=rounding)
    whole = make_statement(given_settings, tenant_id, at, history, OPEN)
    split: dict[date, Sequence[UsageTotal]] = {}
    for one, found in history.items():
        parts = []
        for total in found:
            price = data.draw(st.decimals(0, total.price, places=12))
            parts.append(usage(model=total.model, requests=0, price=str(price)))
            parts.append(usage(model=total.model, price=str(total.price - price)))
        split[one] = data.draw(st.permutations(parts))
    with localcontext(Context(prec=2, rounding=ROUND_UP)):
        assert make_statement(given_settings, tenant_id, at, split, OPEN) == whole


@given(history=histories())
def test_over_its_period_a_commitment_is_paid_in_full(history: dict[date, Sequence[UsageTotal]]) -> None:
    months = MONTHS[1:4]
    given_settings = settings(rounding="none")
    paid = sum(make_statement(given_settings, "quarterly", one, history, OPEN).total for one in months)
    used = sum(total.price for one in months for total in history.get(one, ()))
    assert paid == max(used, Decimal(300))


@pytest.mark.parametrize(
    ("tenant_id", "booked", "lines", "total"),
    [
        pytest.param("anybody", {}, ["usage 7.5", "adjustment 3 events -1.005", "rounding 0.005"], "6.50",
                     id="usage at its rated price"),
        pytest.param("flat", {}, ["base_fee 20", "usage 0", "included 7.5 USD 0", "adjustment 3 events 0"],
                     "20.00", id="usage within a fee"),
        pytest.param("moved", {"month": month("2025-12")},
                     ["base_fee 20", "usage 0", "included 7.5 USD 0", "adjustment 3 events -1.005",
                      "rounding 0.005"], "19.00", id="the plan of the events' own month counts"),
        pytest.param("hybrid", {}, ["base_fee 20", "usage 0", "included 7.5 USD 0", "adjustment 3 events 0"],
                     "20.00", id="usage that a charge meters"),
        pytest.param("monthly", {"price": Decimal(200)},
                     ["base_fee 5", "usage 7.5", "adjustment 3 events 200", "true_up 87.5"], "300.00",
                     id="no part of a commitment"),
        pytest.param("credits", {"price": Decimal(9)},
                     ["usage 7.5", "adjustment 3 events 9", "credits_burned -7.5"], "9.00",
                     id="not paid by credits"),
    ],
)  # fmt: skip
def test_what_a_re_rating_booked_has_a_line(
    tenant_id: str, booked: dict[str, Any], lines: list[str], total: str
) -> None:
    plain = {"month": month("2026-01"), "rating": 4, "feature_id": "f", "model": "m", "events": 3}
    one = Adjustment(**{**plain, "price": Decimal("-1.005"), **booked})
    found = make_statement(settings(), tenant_id, month("2026-02"), rated("2026-02 7.5"), OPEN, [one])
    assert [line for line in short(found.lines) if "credits_expired" not in line] == lines
    assert str(found.total) == total
