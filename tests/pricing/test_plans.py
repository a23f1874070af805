"""What plans charge, worked out by hand: both sides of each edge, and what no plan may ever do."""

from __future__ import annotations

from dataclasses import replace
from decimal import ROUND_UP, Context, Decimal, localcontext

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pricing.plans import (
    PURE_USAGE,
    QUANTITIES,
    Charge,
    Commitment,
    Graduated,
    LineKind,
    Package,
    Plan,
    Tier,
    UsageTotal,
    Volume,
    amount_of,
    merged,
    plan_lines,
    true_up,
)
from tests.pricing.plan_rows import short, tiers, usage

ACME = (
    usage(requests=30, input_tokens=900, output_tokens=100, credits_used="12.5", price="6.000000000001"),
    usage(feature_id="search", model="small", requests=70, input_tokens=2000, price="3.5"),
)
CHAT, SEARCH = "usage 6.000000000001", "usage 3.5"
LADDER = "1000 0.01, 5000 0.005, - 0.001"


def metered(units: int, scale: Graduated | Volume | Package, included: str = "0") -> list[str]:
    plan = Plan(charges=(Charge(quantity="requests", scale=scale, included=Decimal(included)),))
    return short(plan_lines(plan, "p", [usage(requests=units, price="99")]))[1:]


@pytest.mark.parametrize(
    ("plan", "lines"),
    [
        pytest.param(PURE_USAGE, [CHAT, SEARCH], id="pure usage"),
        pytest.param(
            Plan(base_fee=Decimal(99), usage="included"),
            ["base_fee 99", "usage 0", "usage 0", "included 9.500000000001 USD 0"],
            id="flat subscription",
        ),
        pytest.param(Plan(base_fee=Decimal("0.5")), ["base_fee 0.5", CHAT, SEARCH], id="fee and usage"),
        pytest.param(
            Plan(
                base_fee=Decimal(20),
                charges=(Charge(quantity="price", included=Decimal(5), scale=Graduated(tiers("- 1"))),),
            ),
            [
                "base_fee 20",
                "usage 0",
                "usage 0",
                "included 5 USD 0",
                "overage 4.500000000001 USD 4.500000000001",
            ],
            id="hybrid, overage at rated price",
        ),
        pytest.param(
            Plan(
                base_fee=Decimal(20),
                charges=(Charge(quantity="price", included=Decimal(10), scale=Graduated(tiers("- 1"))),),
            ),
            ["base_fee 20", "usage 0", "usage 0", "included 9.500000000001 USD 0"],
            id="hybrid, nothing over",
        ),
        pytest.param(
            Plan(charges=(Charge(quantity="total_tokens", scale=Graduated(tiers(LADDER))),)),
            ["usage 0", "usage 0", "overage 1000 total_tokens 10", "overage 2000 total_tokens 10"],
            id="graduated",
        ),
        pytest.param(
            Plan(charges=(Charge(quantity="total_tokens", scale=Volume(tiers(LADDER))),)),
            ["usage 0", "usage 0", "overage 3000 total_tokens 15"],
            id="volume",
        ),
        pytest.param(
            Plan(charges=(Charge(quantity="requests", scale=Package(Decimal(40), Decimal("2.5"))),)),
            ["usage 0", "usage 0", "overage 3 packages 7.5"],
            id="package",
        ),
        pytest.param(
            Plan(
                charges=(
                    Charge(quantity="input_tokens", model="big", scale=Graduated(tiers("- 0.01"))),
                    Charge(quantity="output_tokens", model="big", scale=Graduated(tiers("- 0.03"))),
                )
            ),
            ["usage 0", SEARCH, "overage 900 input_tokens 9", "overage 100 output_tokens 3"],
            id="two charges on one model, the other model rated",
        ),
        pytest.param(
            Plan(
                base_fee=Decimal(7),
                usage="included",
                charges=(Charge(quantity="requests", feature="search", scale=Graduated(tiers("- 0.1"))),),
            ),
            ["base_fee 7", "usage 0", "usage 0", "included 6.000000000001 USD 0", "overage 70 requests 7"],
            id="one feature metered, the rest included",
        ),
        pytest.param(
            Plan(charges=(Charge(quantity="credits", scale=Graduated(tiers("10 1, - 2"))),)),
            ["usage 0", "usage 0", "overage 10 credits 10", "overage 2.5 credits 5"],
            id="compute credits",
        ),
        pytest.param(
            Plan(
                charges=(
                    Charge(quantity="requests", feature="chat", model="small", scale=Volume(tiers("- 1"))),
                )
            ),
            [CHAT, SEARCH],
            id="a charge that meets nothing",
        ),
    ],
)
def test_a_plan_charges(plan: Plan, lines: list[str]) -> None:
    assert short(plan_lines(plan, "p", ACME)) == lines


@pytest.mark.parametrize(
    ("scale", "units", "lines"),
    [
        (Graduated(tiers("10 2, 20 1, - 0.5")), 0, []),
        (Graduated(tiers("10 2, 20 1, - 0.5")), 9, ["overage 9 requests 18"]),
        (Graduated(tiers("10 2, 20 1, - 0.5")), 10, ["overage 10 requests 20"]),
        (Graduated(tiers("10 2, 20 1, - 0.5")), 11, ["overage 10 requests 20", "overage 1 requests 1"]),
        (Graduated(tiers("10 2, 20 1, - 0.5")), 20, ["overage 10 requests 20", "overage 10 requests 10"]),
        (
            Graduated(tiers("10 2, 20 1, - 0.5")),
            21,
            ["overage 10 requests 20", "overage 10 requests 10", "overage 1 requests 0.5"],
        ),
        (Graduated(tiers("10 2 +5, - 1 +7")), 10, ["overage 10 requests 25"]),
        (Graduated(tiers("10 2 +5, - 1 +7")), 11, ["overage 10 requests 25", "overage 1 requests 8"]),
        (Graduated(tiers("10 0, - 1")), 11, ["overage 10 requests 0", "overage 1 requests 1"]),
        (Volume(tiers("10 2, 20 1, - 0.5")), 0, []),
        (Volume(tiers("10 2, 20 1, - 0.5")), 10, ["overage 10 requests 20"]),
        (Volume(tiers("10 2, 20 1, - 0.5")), 11, ["overage 11 requests 11"]),
        (Volume(tiers("10 2, 20 1, - 0.5")), 20, ["overage 20 requests 20"]),
        (Volume(tiers("10 2, 20 1, - 0.5")), 21, ["overage 21 requests 10.5"]),
        (Volume(tiers("10 2 +5, - 1 +7")), 10, ["overage 10 requests 25"]),
        (Volume(tiers("10 2 +5, - 1 +7")), 11, ["overage 11 requests 18"]),
        (Package(Decimal(10), Decimal(3)), 0, []),
        (Package(Decimal(10), Decimal(3)), 1, ["overage 1 packages 3"]),
        (Package(Decimal(10), Decimal(3)), 10, ["overage 1 packages 3"]),
        (Package(Decimal(10), Decimal(3)), 11, ["overage 2 packages 6"]),
    ],
)
def test_both_sides_of_every_edge(scale: Graduated | Volume | Package, units: int, lines: list[str]) -> None:
    assert metered(units, scale) == lines
    shifted = metered(units + 100, scale, included="100")
    assert shifted == ["included 100 requests 0", *lines], "tiers count from what is included on"


@pytest.mark.parametrize(
    ("units", "lines"),
    [
        (0, []),
        (99, ["included 99 requests 0"]),
        (100, ["included 100 requests 0"]),
        (101, ["included 100 requests 0", "overage 1 requests 2"]),
    ],
)
def test_what_is_included_costs_nothing(units: int, lines: list[str]) -> None:
    assert metered(units, Graduated(tiers("- 2")), included="100") == lines


def test_the_smallest_fraction_over_an_edge_is_charged() -> None:
    charge = Charge(quantity="price", included=Decimal(5), scale=Graduated(tiers("1 1, - 0.5")))
    lines = plan_lines(Plan(charges=(charge,)), "p", [usage(price="6.000000000002")])
    assert short(lines)[1:] == [
        "included 5 USD 0",
        "overage 1 USD 1",
        "overage 0.000000000002 USD 0.000000000001",
    ]


def test_a_line_is_rounded_once_half_to_even() -> None:
    scale = Graduated(tiers("- 0.0000000000005"))
    assert [metered(units, scale)[0] for units in (1, 2, 3)] == [
        "overage 1 requests 0",
        "overage 2 requests 0.000000000001",
        "overage 3 requests 0.000000000002",
    ]


@pytest.mark.parametrize(
    ("charge", "told"),
    [
        (Charge(quantity="requests", scale=Graduated(tiers("- 1"))), ["requests"]),
        (
            Charge(quantity="requests", feature="chat", scale=Graduated(tiers("10 1, 20 1, - 2 +3"))),
            [
                "requests of chat, up to 10",
                "requests of chat, above 10 up to 20",
                "requests of chat, above 20, and 3 for the tier",
            ],
        ),
        (
            Charge(quantity="requests", included=Decimal(5), scale=Graduated(tiers("40 1, - 2"))),
            [
                "included: requests, of 5",
                "requests over the included, up to 40",
                "requests over the included, above 40",
            ],
        ),
        (
            Charge(quantity="total_tokens", model="big", scale=Volume(tiers("10 1, - 2"))),
            ["total_tokens with big, all at the tier above 10"],
        ),
        (
            Charge(quantity="total_tokens", model="big", scale=Volume(tiers("2000 1, - 2"))),
            ["total_tokens with big, all at the tier up to 2000"],
        ),
        (
            Charge(quantity="requests", scale=Package(Decimal(1000), Decimal(1))),
            ["requests, in packages of 1000"],
        ),
    ],
)
def test_lines_say_what_they_are(charge: Charge, told: list[str]) -> None:
    lines = plan_lines(Plan(base_fee=Decimal(1), charges=(charge,)), "team", ACME)
    assert lines[0].text == "base fee of team"
    assert [line.text for line in lines if line.kind in (LineKind.INCLUDED, LineKind.OVERAGE)] == told


@pytest.mark.parametrize(
    ("months", "charged", "amount"),
    [
        (1, "0", "100"),
        (1, "99.999999999999", "0.000000000001"),
        (1, "100", None),
        (1, "100.000000000001", None),
        (12, "40", "60"),
    ],
)
def test_a_commitment_is_trued_up(months: int, charged: str, amount: str | None) -> None:
    line = true_up(Commitment(Decimal(100), months), Decimal(charged))
    assert (line and line.amount) == (amount and Decimal(amount))


# What holds for all plans

UNITS = st.integers(0, 10**9)
PRICES = st.decimals(0, 1000, places=9)
AMOUNTS = st.decimals(0, 10**9, places=12)


@st.composite
def ladders(draw: st.DrawFn) -> tuple[Tier, ...]:
    ends = sorted(draw(st.sets(st.integers(1, 10**9), max_size=4)))
    return tuple(
        Tier(unit_price=draw(PRICES), up_to=None if end is None else Decimal(end)) for end in [*ends, None]
    )


@st.composite
def totals(draw: st.DrawFn) -> UsageTotal:
    return UsageTotal(
        feature_id=draw(st.sampled_from(["chat", "search"])),
        model=draw(st.sampled_from(["big", "small"])),
        requests=draw(UNITS),
        input_tokens=draw(UNITS),
        output_tokens=draw(UNITS),
        credits=draw(AMOUNTS),
        price=draw(AMOUNTS),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    scales = st.one_of(
        st.builds(Graduated, ladders()),
        st.builds(Volume, ladders()),
        st.builds(Package, st.decimals("0.000001", 10**6, places=6), PRICES),
    )
    charges = st.builds(
        Charge,
        quantity=st.sampled_from(sorted(QUANTITIES)),
        scale=scales,
        included=st.decimals(0, 10**9, places=3),
        feature=st.sampled_from([None, "chat"]),
        model=st.sampled_from([None, "small"]),
    )
    return Plan(
        base_fee=draw(PRICES),
        usage=draw(st.sampled_from(["rated", "included"])),
        charges=tuple(draw(st.lists(charges, max_size=3))),
    )


def cost(scale: Graduated | Volume | Package, units: int) -> Decimal:
    plan = Plan(charges=(Charge(quantity="requests", scale=scale),))
    return amount_of(plan_lines(plan, "p", [usage(requests=units)]))


@given(ladder=ladders(), units=UNITS)
def test_graduated_is_dearer_than_volume_where_tiers_get_cheaper(
    ladder: tuple[Tier, ...], units: int
) -> None:
    prices = [tier.unit_price for tier in ladder]
    for ordered, sign in ((sorted(prices, reverse=True), 1), (sorted(prices), -1)):
        steps = tuple(
            Tier(unit_price=price, up_to=tier.up_to) for price, tier in zip(ordered, ladder, strict=True)
        )
        assert (cost(Graduated(steps), units) - cost(Volume(steps), units)) * sign >= 0


@given(ladder=ladders(), fewer=UNITS, more=UNITS)
def test_graduated_never_costs_less_for_more(ladder: tuple[Tier, ...], fewer: int, more: int) -> None:
    assume(fewer <= more)
    assert cost(Graduated(ladder), fewer) <= cost(Graduated(ladder), more)


@given(ladder=ladders(), units=UNITS)
def test_graduated_is_the_sum_of_what_each_unit_costs(ladder: tuple[Tier, ...], units: int) -> None:
    floor, expected = 0, Decimal(0)
    for tier in ladder:
        ceiling = units if tier.up_to is None else min(units, int(tier.up_to))
        expected += max(0, ceiling - floor) * tier.unit_price
        floor = ceiling
    assert cost(Graduated(ladder), units) == expected


@given(plan=plans(), whole=st.lists(totals(), max_size=4), data=st.data())
def test_splitting_usage_changes_no_line(plan: Plan, whole: list[UsageTotal], data: st.DataObject) -> None:
    parts = []
    for total in whole:
        some = replace(
            total,
            requests=data.draw(st.integers(0, total.requests)),
            input_tokens=data.draw(st.integers(0, total.input_tokens)),
            output_tokens=data.draw(st.integers(0, total.output_tokens)),
            credits=data.draw(st.decimals(0, total.credits, places=12)),
            price=data.draw(st.decimals(0, total.price, places=12)),
        )
        rest = replace(
            total,
            requests=total.requests - some.requests,
            input_tokens=total.input_tokens - some.input_tokens,
            output_tokens=total.output_tokens - some.output_tokens,
            credits=total.credits - some.credits,
            price=total.price - some.price,
        )
        parts += [some, rest]
    shuffled = data.draw(st.permutations(parts))
    assert plan_lines(plan, "p", shuffled) == plan_lines(plan, "p", whole)


@given(plan=plans(), whole=st.lists(totals(), max_size=4))
def test_nothing_is_negative_and_every_unit_is_in_one_line(plan: Plan, whole: list[UsageTotal]) -> None:
    lines = plan_lines(plan, "p", whole)
    assert all(line.amount >= 0 for line in lines)
    for charge in plan.charges:
        alone = plan_lines(Plan(charges=(charge,)), "p", whole)
        if isinstance(charge.scale, Package):
            continue
        met = [
            QUANTITIES[charge.quantity](total)
            for total in merged(whole)
            if charge.feature in (None, total.feature_id) and charge.model in (None, total.model)
        ]
        assert sum(line.quantity or 0 for line in alone if line.usage is None) == sum(met)


@given(plan=plans(), whole=st.lists(totals(), max_size=4))
def test_no_digit_depends_on_the_threads_context(plan: Plan, whole: list[UsageTotal]) -> None:
    expected = plan_lines(plan, "p", whole)
    with localcontext(Context(prec=2, rounding=ROUND_UP)):
        assert plan_lines(plan, "p", whole) == expected
