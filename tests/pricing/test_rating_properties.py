"""Rating against plain `decimal`: the same amounts to the 12th place, on every road."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pricing.card_values import TOKEN_CLASSES, Rule
from pricing.rate_card import compile_card
from pricing.rating import PRODUCT_BOUND
from tests.pricing.rating_rows import TOKENS_MAX, Row, Tokens, plainly, rated, usage

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
