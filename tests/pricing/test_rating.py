"""Rating: amounts worked by hand, and the bounds that keep every one within its column."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from pricing.card_values import Rule
from pricing.rate_card import compile_card
from pricing.rating import rate
from pricing.settings import InvalidSettings, load_settings
from tests.pricing.card_events import rule_of
from tests.pricing.rating_rows import TOKENS_MAX, Row, Tokens, picos, rated, usage

SAMPLE = Path(__file__).resolve().parents[2] / "meterline.yaml"

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
    found, oversized = rated(card, [Row(counts, rule_of(card, model=model))])
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
    assert np.isinf(card.costs.bound[0]).any()
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


LARGEST = (
    "{model: m, input_rate: 1000, output_rate: 1000, confirm_rates_above: 1000,"
    " multiplier: 1000, credit_multiplier: 1000}"
)


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
