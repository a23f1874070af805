"""Rating against plain `decimal`: the same amounts to the 12th place, on every road."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.money import from_pico
from pricing.rate_card import TOKEN_CLASSES, RateCard, compile_card
from pricing.rating import PRODUCT_BOUND, Amounts, Usage, rate, usage_of
from pricing.settings import InvalidSettings, Rule, load_settings

SAMPLE = Path(__file__).resolve().parents[2] / "meterline.yaml"
EXACT = Context(prec=200, rounding=ROUND_HALF_EVEN)
TWELVE = Decimal("1e-12")
TOKENS_MAX = 2**40  # of an event's prompt, and of its completion
FIELDS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
)
Tokens = tuple[int, int, int, int, int, int]
Money = tuple[Decimal, Decimal, Decimal]


@dataclass(frozen=True, slots=True)
class Row:
    """One event: the number of its rule, its counts in the order of `FIELDS`, and two flags."""

    tokens: Tokens
    rule: int = 0
    hit: bool = False
    billable: bool = True


def plainly(rules: Sequence[Rule], row: Row) -> Money:
    """Cost, price and credits of one event, as one would do it on paper."""
    rule = rules[row.rule]
    whole_in, whole_out, read, write, write_1h, reasoning = row.tokens

    def part(rate_of_class: Decimal | None, whole: Decimal, count: int) -> Decimal:
        return EXACT.multiply(whole if rate_of_class is None else rate_of_class, Decimal(count))

    cost = Decimal(0)
    for amount in (
        part(None, rule.input_rate, whole_in - read - write),
        part(rule.cache_read_rate, rule.input_rate, read),
        part(rule.cache_write_rate, rule.input_rate, write - write_1h),
        part(rule.cache_write_1h_rate, rule.input_rate, write_1h),
        part(None, rule.output_rate, whole_out - reasoning),
        part(rule.reasoning_rate, rule.output_rate, reasoning),
    ):
        cost = EXACT.add(cost, amount)
    price = EXACT.multiply(cost, rule.multiplier)
    credit = EXACT.multiply(Decimal(whole_in + whole_out), rule.credit_multiplier)
    return (
        EXACT.quantize(Decimal(0) if row.hit else cost, TWELVE),
        EXACT.quantize(price if row.billable else Decimal(0), TWELVE),
        EXACT.quantize(credit if row.billable else Decimal(0), TWELVE),
    )


def usage(rows: Sequence[Row]) -> Usage:
    return usage_of(
        np.array([row.rule for row in rows], np.int64),
        {name: np.array([row.tokens[i] for row in rows], np.int64) for i, name in enumerate(FIELDS)},
        np.array([row.hit for row in rows], np.bool_),
        np.array([row.billable for row in rows], np.bool_),
    )


def picos(amounts: Amounts, rows: int) -> list[tuple[int, int, int]]:
    columns = (amounts.cost_pico, amounts.price_pico, amounts.credits_pico)
    found = list(zip(*(column.tolist() for column in columns), strict=True))
    assert len(found) == rows
    for row in amounts.oversized:
        assert found[row] == (0, 0, 0)
    return [amounts.oversized.get(row, found[row]) for row in range(rows)]


def rated(card: RateCard, rows: Sequence[Row]) -> tuple[list[Money], set[int]]:
    """The amounts of each row, and which rows were too large for 64 bits."""
    amounts = rate(card, usage(rows))
    found = [
        (from_pico(cost), from_pico(price), from_pico(c)) for cost, price, c in picos(amounts, len(rows))
    ]
    return found, set(amounts.oversized)


# ---- worked by hand

CACHED = Rule(
    model="c",
    input_rate=Decimal("0.000004"),
    output_rate=Decimal("0.00002"),
    cache_read_rate=Decimal("0.0000004"),
    cache_write_rate=Decimal("0.000005"),
    cache_write_1h_rate=Decimal("0.000008"),
    reasoning_rate=Decimal("0.00003"),
    multiplier=Decimal("1.5"),
    credit_multiplier=Decimal("2.5"),
)


@pytest.mark.parametrize(
    ("model", "counts", "cost", "price", "credit"),
    [
        # 1000 x 0.000005 + 200 x 0.000015 = 0.005 + 0.003
        ("gpt-4o", (1000, 200, 0, 0, 0, 0), "0.008", "0.008", "1200"),
        # No cached rate: the cached 900 cost what input costs; reasoning is part of the 200.
        ("gpt-4o", (1000, 200, 800, 100, 50, 150), "0.008", "0.008", "1200"),
        ("gpt-4o", (1, 0, 0, 0, 0, 0), "0.000005", "0.000005", "1"),
        ("gpt-4o", (0, 0, 0, 0, 0, 0), "0", "0", "0"),
        # 1000 x 0.000003 + 200 x 0.000015 = 0.003 + 0.003
        ("claude-3-5-sonnet", (1000, 200, 0, 0, 0, 0), "0.006", "0.006", "1200"),
        # 123456 x 0.000003 + 7890 x 0.000015 = 0.370368 + 0.11835
        ("claude-3-5-sonnet", (123456, 7890, 0, 0, 0, 0), "0.488718", "0.488718", "131346"),
        # 1000 x 0.0000005 + 100 x 0.000002 = 0.0007; x 0.8
        ("fallback-llama-3", (1000, 100, 0, 0, 0, 0), "0.0007", "0.00056", "1100"),
        # 1 x 0.0000005; x 0.8
        ("fallback-llama-3", (1, 0, 0, 0, 0, 0), "0.0000005", "0.0000004", "1"),
        # 2^40 x (0.0000005 + 0.000002) = 1099511627776 x 0.0000025; x 0.8
        (
            "fallback-llama-3",
            (TOKENS_MAX, TOKENS_MAX, 0, 0, 0, 0),
            "2748779.06944",
            "2199023.255552",
            "2199023255552",
        ),
    ],
)
def test_the_models_of_the_sample_configuration(
    model: str, counts: Tokens, cost: str, price: str, credit: str
) -> None:
    card = compile_card(load_settings(SAMPLE.read_text(encoding="utf-8")).pricing.rules)
    found, oversized = rated(card, [Row(counts, card.rule_for("", model))])
    assert found == [(Decimal(cost), Decimal(price), Decimal(credit))]
    # Only the largest event that there can be leaves the fast road.
    assert bool(oversized) == (counts[0] == TOKENS_MAX)


@pytest.mark.parametrize(
    ("counts", "hit", "billable", "cost", "price", "credit"),
    [
        # input    10000 - 6000 - 3000 = 1000 x 0.000004  = 0.004
        # read     6000                       x 0.0000004 = 0.0024
        # write    3000 - 1000 = 2000         x 0.000005  = 0.01
        # write 1h 1000                       x 0.000008  = 0.008
        # output   800 - 300 = 500            x 0.00002   = 0.01
        # reasoning 300                       x 0.00003   = 0.009
        # cost 0.0434; x 1.5 = 0.0651; credits 10800 x 2.5
        ((10000, 800, 6000, 3000, 1000, 300), False, True, "0.0434", "0.0651", "27000"),
        # A failed call cost what it cost, and is not charged.
        ((10000, 800, 6000, 3000, 1000, 300), False, False, "0.0434", "0", "0"),
        # Our own cache answered: no cost; charged as if it had not, where that is configured.
        ((10000, 800, 6000, 3000, 1000, 300), True, True, "0", "0.0651", "27000"),
        ((10000, 800, 6000, 3000, 1000, 300), True, False, "0", "0", "0"),
        # One token of each class alone.
        ((1, 0, 0, 0, 0, 0), False, True, "0.000004", "0.000006", "2.5"),
        ((1, 0, 1, 0, 0, 0), False, True, "0.0000004", "0.0000006", "2.5"),
        ((1, 0, 0, 1, 0, 0), False, True, "0.000005", "0.0000075", "2.5"),
        ((1, 0, 0, 1, 1, 0), False, True, "0.000008", "0.000012", "2.5"),
        ((0, 1, 0, 0, 0, 0), False, True, "0.00002", "0.00003", "2.5"),
        ((0, 1, 0, 0, 0, 1), False, True, "0.00003", "0.000045", "2.5"),
    ],
)
def test_each_class_has_its_rate(
    counts: Tokens, hit: bool, billable: bool, cost: str, price: str, credit: str
) -> None:
    found, _ = rated(compile_card([CACHED]), [Row(counts, hit=hit, billable=billable)])
    assert found == [(Decimal(cost), Decimal(price), Decimal(credit))]


@pytest.mark.parametrize(
    ("tokens", "multiplier", "cost_pico", "price_pico"),
    [
        # A token costs half a picodollar. Halves go to the even neighbour...
        (1, "1", 0, 0),
        (3, "1", 2, 2),
        (5, "1", 2, 2),
        (7, "1", 4, 4),
        # ... and the price is made of the cost before that: 0.5 x 3 = 1.5, 1.5 x 3 = 4.5.
        (1, "3", 0, 2),
        (3, "3", 2, 4),
        # 0.5 x 0.5 = 0.25, 1.5 x 0.5 = 0.75, 5 x 0.5 = 2.5, 7 x 0.5 = 3.5
        (1, "0.5", 0, 0),
        (3, "0.5", 2, 1),
        (10, "0.5", 5, 2),
        (14, "0.5", 7, 4),
        # 1 x 0.5 is a half; a millionth more, or less, is not.
        (2, "0.5", 1, 0),
        (2, "0.500001", 1, 1),
        (6, "0.5", 3, 2),
        (6, "0.499999", 3, 1),
        (10**6, "0", 500_000, 0),
    ],
)
def test_each_amount_is_rounded_once_and_half_to_even(
    tokens: int, multiplier: str, cost_pico: int, price_pico: int
) -> None:
    """On both roads, and whatever the scale that another rule gives the card."""
    half = Rule(
        model="m", input_rate=Decimal("5e-13"), output_rate=Decimal(900), multiplier=Decimal(multiplier)
    )
    fine = Rule(model="n", input_rate=Decimal("1e-18"), output_rate=Decimal(0))
    small = Row((tokens, 0, 0, 0, 0, 0))
    # The same fraction of a picodollar, behind a cost of 900 x 10^9 dollars.
    large = Row((tokens, 10**9, 0, 0, 0, 0))
    for card in (compile_card([half]), compile_card([half, fine])):
        amounts = rate(card, usage([small, large]))
        assert set(amounts.oversized) == {1}
        found = picos(amounts, 2)
        assert found[0][:2] == (cost_pico, price_pico)
        paid = Decimal(multiplier) * 900 * 10**9
        assert found[1][0] == cost_pico + 900 * 10**21
        assert found[1][1] == int(paid * 10**12) + price_pico


def test_huge_rates_cost_nothing_where_no_token_is() -> None:
    huge = Rule(model="m", input_rate=Decimal("0.1"), output_rate=Decimal("999.000000000000000001"))
    card = compile_card([huge])
    assert np.isinf(card.rates_float[0]).any()
    found, oversized = rated(card, [Row((1, 0, 0, 0, 0, 0)), Row((1, 1, 0, 0, 0, 0))])
    assert found == [
        (Decimal("0.1"), Decimal("0.1"), Decimal(1)),
        (Decimal("999.1"), Decimal("999.1"), Decimal(2)),
    ]
    assert oversized == {1}


def test_credits_alone_may_be_too_large_for_64_bits() -> None:
    rule = Rule(
        model="m",
        input_rate=Decimal("1e-12"),
        output_rate=Decimal(0),
        credit_multiplier=Decimal("999.999999"),
    )
    found, oversized = rated(compile_card([rule]), [Row((10**9, 0, 0, 0, 0, 0)), Row((1, 0, 0, 0, 0, 0))])
    assert oversized == {0}
    assert found[0] == (Decimal("0.001"), Decimal("0.001"), Decimal(999999999000))
    assert found[1] == (Decimal("1e-12"), Decimal("1e-12"), Decimal("999.999999"))


def test_no_rows_have_no_amounts() -> None:
    for card in (compile_card([CACHED]), compile_card([])):
        amounts = rate(card, usage([]))
        assert picos(amounts, 0) == []
        assert amounts.cost_pico.dtype == amounts.price_pico.dtype == amounts.credits_pico.dtype == np.int64


# ---- the bounds of the settings

LARGEST = "{model: m, input_rate: 1000, output_rate: 1000, multiplier: 1000, credit_multiplier: 1000}"


def test_the_largest_amounts_fit_their_column_with_room_for_sums() -> None:
    """`Decimal(38, 12)` has 26 digits before the point; an amount that did not fit would stop the job."""
    rules = load_settings(f"pricing: {{rules: [{LARGEST}]}}").pricing.rules
    found, oversized = rated(compile_card(rules), [Row((TOKENS_MAX, TOKENS_MAX, 0, 0, 0, 0))])
    assert oversized == {0}
    tokens = Decimal(2 * TOKENS_MAX)
    assert found == [(tokens * 1000, tokens * 1_000_000, tokens * 1000)]
    # As many such events in one window are more than a job sees in a day.
    assert max(found[0]) * 40_000_000 < Decimal(10) ** 26


@pytest.mark.parametrize("key", ["input_rate", "output_rate", "multiplier", "credit_multiplier"])
def test_larger_numbers_are_refused(key: str) -> None:
    text = LARGEST.replace(f"{key}: 1000", f"{key}: 1000.000001", 1)
    with pytest.raises(InvalidSettings, match=rf"{key}: must be at most 1000, got 1000\.000001"):
        load_settings(f"pricing: {{rules: [{text}]}}")


# ---- properties

decimals_18 = st.integers(0, 10**21).map(lambda units: Decimal(f"{units}e-18"))
decimals_10 = st.integers(0, 10**7).map(lambda units: Decimal(f"{units}e-10"))
half_picos = st.integers(0, 9).map(lambda units: Decimal(f"{units * 5}e-13"))
# Either a card with rates as they are, or one with every digit that is allowed: the whole card has one scale.
some_rates = st.sampled_from([decimals_10 | half_picos, decimals_10 | half_picos | decimals_18])
some_multipliers = st.integers(0, 30).map(lambda units: Decimal(f"{units}e-1")) | st.integers(0, 10**9).map(
    lambda units: Decimal(f"{units}e-6")
)


@st.composite
def cards(draw: st.DrawFn) -> list[Rule]:
    rates = draw(some_rates)
    return [
        Rule(
            model=f"m{number}",
            input_rate=draw(rates),
            output_rate=draw(rates),
            cache_read_rate=draw(st.none() | rates),
            cache_write_rate=draw(st.none() | rates),
            cache_write_1h_rate=draw(st.none() | rates),
            reasoning_rate=draw(st.none() | rates),
            multiplier=draw(some_multipliers),
            credit_multiplier=draw(some_multipliers),
        )
        for number in range(draw(st.integers(1, 3)))
    ]


@st.composite
def some_tokens(draw: st.DrawFn) -> Tokens:
    most = draw(st.sampled_from([3, 200_000, TOKENS_MAX]))
    whole_in, whole_out = draw(st.integers(0, most)), draw(st.integers(0, most))
    read = draw(st.integers(0, whole_in))
    write = draw(st.integers(0, whole_in - read))
    write_1h, reasoning = draw(st.integers(0, write)), draw(st.integers(0, whole_out))
    return (whole_in, whole_out, read, write, write_1h, reasoning)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Rule], list[Row]]:
    rules = draw(cards())
    row = st.builds(
        Row,
        tokens=some_tokens(),
        rule=st.integers(0, len(rules) - 1),
        hit=st.booleans(),
        billable=st.booleans(),
    )
    return rules, draw(st.lists(row, min_size=1, max_size=15))


@given(batches())
def test_every_row_is_what_plain_decimals_say(batch: tuple[list[Rule], list[Row]]) -> None:
    rules, rows = batch
    # In every batch one row is far beyond 64 bits, and one is nothing.
    rules = [*rules, Rule(model="huge", input_rate=Decimal(1000), output_rate=Decimal(0))]
    rows = [Row((0, 0, 0, 0, 0, 0)), *rows, Row((TOKENS_MAX, 0, 0, 0, 0, 0), len(rules) - 1)]
    found, oversized = rated(compile_card(rules), rows)
    assert found == [plainly(rules, row) for row in rows]
    assert len(rows) - 1 in oversized
    assert 0 not in oversized


@given(batches(), st.data())
def test_how_events_are_batched_changes_no_amount(
    batch: tuple[list[Rule], list[Row]], data: st.DataObject
) -> None:
    rules, rows = batch
    card = compile_card(rules)
    whole, oversized = rated(card, rows)
    cut = data.draw(st.integers(0, len(rows)))
    (left, left_oversized), (right, right_oversized) = rated(card, rows[:cut]), rated(card, rows[cut:])
    assert [*left, *right] == whole
    assert left_oversized | {row + cut for row in right_oversized} == oversized


@given(st.lists(some_tokens().map(Row), max_size=20))
def test_every_token_is_in_exactly_one_class(rows: list[Row]) -> None:
    columns = usage(rows)
    assert len(columns.tokens) == len(TOKEN_CLASSES)
    classes = np.array(columns.tokens, np.int64).reshape(len(TOKEN_CLASSES), -1)
    assert (classes >= 0).all()
    prompt, completion = classes[:4].sum(axis=0), classes[4:].sum(axis=0)
    assert prompt.tolist() == [row.tokens[0] for row in rows]
    assert completion.tolist() == [row.tokens[1] for row in rows]
    # The subsets keep their size: what was read, what was written (1h included), what was reasoned.
    assert classes[1].tolist() == [row.tokens[2] for row in rows]
    assert (classes[2] + classes[3]).tolist() == [row.tokens[3] for row in rows]
    assert classes[3].tolist() == [row.tokens[4] for row in rows]
    assert classes[5].tolist() == [row.tokens[5] for row in rows]


EDGES = (int(PRODUCT_BOUND), 2**62, 2**63, 2**64, 2**65)


@st.composite
def products(draw: st.DrawFn) -> tuple[Decimal, list[tuple[int, int, int]]]:
    """A multiplier, and (tokens, rate, rest): tokens x rate + rest, times the multiplier, is near an edge."""
    multiplier, scaled = draw(
        st.sampled_from([("1", 1), ("0", 1), ("0.1", 1), ("1.5", 15), ("999.9", 9_999)])
    )
    cases = []
    for _ in range(draw(st.integers(1, 5))):
        product = draw(st.sampled_from(EDGES)) + draw(st.integers(-3, 3) | st.integers(-(10**5), 10**5))
        cost = product // scaled
        tokens = draw(st.integers(10**5, TOKENS_MAX))
        cases.append((tokens, cost // tokens, cost % tokens))
    return Decimal(multiplier), cases


@given(products())
def test_the_bound_in_floating_point_is_safe(case: tuple[Decimal, list[tuple[int, int, int]]]) -> None:
    """It decides the road alone: nothing that might overflow is on the fast one, and no digit is off."""
    multiplier, cases = case
    rules = [
        # Rates of whole picodollars, so that the cost in picodollars is the sum that is bounded.
        Rule(
            model=f"m{number}",
            input_rate=Decimal(f"{rate_pico}e-12"),
            output_rate=Decimal("1e-12"),
            multiplier=multiplier,
            credit_multiplier=Decimal(0),
        )
        for number, (_, rate_pico, _) in enumerate(cases)
    ]
    rows = [Row((tokens, rest, 0, 0, 0, 0), number) for number, (tokens, _, rest) in enumerate(cases)]
    card = compile_card(rules)
    found, oversized = rated(card, rows)
    assert found == [plainly(rules, row) for row in rows]
    for number, (tokens, rate_pico, rest) in enumerate(cases):
        product = (tokens * rate_pico + rest) * max(1, int(card.multipliers[number]))
        # What is between may go either way; ten roundings of 2**-53 each are far from filling it.
        if product >= 2**62:
            assert number in oversized
        if product <= PRODUCT_BOUND * (1 - 1e-14):
            assert number not in oversized
