"""Rating against plain `decimal`: the same amounts to the 12th place, on every road."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.money import from_pico
from pricing.rate_card import compile_card
from pricing.rating import Amounts, rate, usage_of
from pricing.settings import Rule

EXACT = Context(prec=200, rounding=ROUND_HALF_EVEN)
TWELVE = Decimal("1e-12")
FIELDS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
)
Tokens = tuple[int, int, int, int, int, int]


def plainly(rule: Rule, tokens: Tokens, *, hit: bool, billable: bool) -> tuple[Decimal, Decimal, Decimal]:
    """Cost, price and credits of one event, as one would do it on paper."""
    whole_in, whole_out, read, write, write_1h, reasoning = tokens

    def rated(rate_of_class: Decimal | None, whole: Decimal, count: int) -> Decimal:
        return EXACT.multiply(whole if rate_of_class is None else rate_of_class, Decimal(count))

    cost = Decimal(0)
    for part in (
        rated(None, rule.input_rate, whole_in - read - write),
        rated(rule.cache_read_rate, rule.input_rate, read),
        rated(rule.cache_write_rate, rule.input_rate, write - write_1h),
        rated(rule.cache_write_1h_rate, rule.input_rate, write_1h),
        rated(None, rule.output_rate, whole_out - reasoning),
        rated(rule.reasoning_rate, rule.output_rate, reasoning),
    ):
        cost = EXACT.add(cost, part)
    price = EXACT.multiply(cost, rule.multiplier)
    credit = EXACT.multiply(Decimal(whole_in + whole_out), rule.credit_multiplier)
    return (
        EXACT.quantize(Decimal(0) if hit else cost, TWELVE),
        EXACT.quantize(price if billable else Decimal(0), TWELVE),
        EXACT.quantize(credit if billable else Decimal(0), TWELVE),
    )


def amounts_of(amounts: Amounts, row: int) -> tuple[Decimal, Decimal, Decimal]:
    pico = amounts.oversized.get(row)
    if pico is None:
        pico = (
            int(amounts.cost_pico[row]),
            int(amounts.price_pico[row]),
            int(amounts.credits_pico[row]),
        )
    return from_pico(pico[0]), from_pico(pico[1]), from_pico(pico[2])


def rate_all(
    rules: list[Rule], rows: list[tuple[int, Tokens, bool, bool]]
) -> tuple[Amounts, list[tuple[Decimal, Decimal, Decimal]]]:
    columns = {name: np.array([row[1][i] for row in rows], np.int64) for i, name in enumerate(FIELDS)}
    usage = usage_of(
        np.array([row[0] for row in rows], np.int64),
        columns,
        np.array([row[2] for row in rows], np.bool_),
        np.array([row[3] for row in rows], np.bool_),
    )
    amounts = rate(compile_card(rules), usage)
    return amounts, [amounts_of(amounts, row) for row in range(len(rows))]


rates = st.decimals(0, 1000, places=18) | st.decimals(0, Decimal("0.001"), places=10)
maybe_rates = st.none() | rates
rules_strategy = st.lists(
    st.builds(
        Rule,
        model=st.uuids().map(str),
        input_rate=rates,
        output_rate=rates,
        cache_read_rate=maybe_rates,
        cache_write_rate=maybe_rates,
        cache_write_1h_rate=maybe_rates,
        reasoning_rate=maybe_rates,
        multiplier=st.decimals(0, 1000, places=6) | st.decimals(0, 2, places=1),
        credit_multiplier=st.decimals(0, 1000, places=6),
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def tokens_strategy(draw: st.DrawFn) -> Tokens:
    bound = draw(st.sampled_from([100, 200_000, 2**40]))
    whole_in, whole_out = draw(st.integers(0, bound)), draw(st.integers(0, bound))
    read = draw(st.integers(0, whole_in))
    write = draw(st.integers(0, whole_in - read))
    return (
        whole_in,
        whole_out,
        read,
        write,
        draw(st.integers(0, write)),
        draw(st.integers(0, whole_out)),
    )


rows_strategy = st.lists(
    st.tuples(st.integers(0, 3), tokens_strategy(), st.booleans(), st.booleans()), min_size=1, max_size=30
)


@given(rules_strategy, rows_strategy)
def test_every_row_is_what_plain_decimals_say(
    rules: list[Rule], rows: list[tuple[int, Tokens, bool, bool]]
) -> None:
    rows = [(rule % len(rules), tokens, hit, billable) for rule, tokens, hit, billable in rows]
    _, found = rate_all(rules, rows)
    assert found == [
        plainly(rules[rule], tokens, hit=hit, billable=billable) for rule, tokens, hit, billable in rows
    ]


def test_rows_too_large_for_64_bits_take_the_exact_road_beside_small_ones() -> None:
    rule = Rule(
        model="m",
        input_rate=Decimal("0.123456789012345678"),
        output_rate=Decimal(999),
        multiplier=Decimal("999.999999"),
    )
    rows: list[tuple[int, Tokens, bool, bool]] = [
        (0, (2**40, 2**40, 0, 0, 0, 0), False, True),
        (0, (1, 0, 0, 0, 0, 0), False, True),
        (0, (0, 0, 0, 0, 0, 0), False, True),
    ]
    amounts, found = rate_all([rule], rows)
    assert 0 in amounts.oversized
    assert 2 not in amounts.oversized
    assert found == [plainly(rule, tokens, hit=hit, billable=bill) for _, tokens, hit, bill in rows]


GPT = Rule(model="gpt-4o", input_rate=Decimal("0.000005"), output_rate=Decimal("0.000015"))
LLAMA = Rule(
    model="fallback-llama-3",
    input_rate=Decimal("0.0000005"),
    output_rate=Decimal("0.000002"),
    multiplier=Decimal("0.8"),
)
CACHED = Rule(
    model="c",
    input_rate=Decimal("0.000004"),
    output_rate=Decimal("0.00002"),
    cache_read_rate=Decimal("0.0000004"),
)
TIE = Rule(model="t", input_rate=Decimal("0.0000000000005"), output_rate=Decimal(0), multiplier=Decimal(3))


@pytest.mark.parametrize(
    ("rule", "tokens", "hit", "billable", "cost", "price"),
    [
        # 1000 x 0.000005 + 200 x 0.000015 = 0.005 + 0.003
        (GPT, (1000, 200, 0, 0, 0, 0), False, True, "0.008", "0.008"),
        # no cached rate: the cached 800 cost what input costs; reasoning is part of the 200
        (GPT, (1000, 200, 800, 100, 50, 150), False, True, "0.008", "0.008"),
        # 1000 x 0.0000005 + 100 x 0.000002 = 0.0007; x 0.8
        (LLAMA, (1000, 100, 0, 0, 0, 0), False, True, "0.0007", "0.00056"),
        # 200 x 0.000004 + 800 x 0.0000004 = 0.0008 + 0.00032
        (CACHED, (1000, 0, 800, 0, 0, 0), False, True, "0.00112", "0.00112"),
        # a failed call costs what it cost, and is not charged
        (GPT, (1000, 200, 0, 0, 0, 0), False, False, "0.008", "0"),
        # our own cache: no cost; charged as a miss where that is configured
        (GPT, (1000, 200, 0, 0, 0, 0), True, True, "0", "0.008"),
        (GPT, (1000, 200, 0, 0, 0, 0), True, False, "0", "0"),
        # half a pico rounds to even, which is 0; the price is 1.5 pico from the unrounded cost, which is 2
        (TIE, (1, 0, 0, 0, 0, 0), False, True, "0", "0.000000000002"),
        (TIE, (3, 0, 0, 0, 0, 0), False, True, "0.000000000002", "0.000000000004"),
    ],
)  # fmt: skip
def test_amounts_worked_by_hand(
    rule: Rule, tokens: Tokens, *, hit: bool, billable: bool, cost: str, price: str
) -> None:
    _, found = rate_all([rule], [(0, tokens, hit, billable)])
    assert found[0][:2] == (Decimal(cost).quantize(TWELVE), Decimal(price).quantize(TWELVE))


def test_a_rule_that_names_the_provider_wins_and_nothing_is_guessed() -> None:
    general, own = (
        Rule(model="m", input_rate=Decimal(1), output_rate=Decimal(1)),
        Rule(model="m", provider="p", input_rate=Decimal(2), output_rate=Decimal(2)),
    )
    card = compile_card([general, own])
    assert [card.rule_for("p", "m"), card.rule_for("q", "m"), card.rule_for("", "m")] == [1, 0, 0]
    assert card.rule_for("p", "m-2024") == -1
    assert compile_card([own]).rule_for("", "m") == -1
    assert compile_card([general, own]).version == compile_card([own, general]).version
    assert compile_card([general]).version != compile_card([own]).version
