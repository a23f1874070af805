"""Which rates apply to a model, and the card's version."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from decimal import ROUND_DOWN, Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.card_values import TOKEN_CLASSES, Rule
from pricing.rate_card import RateCard, compile_card
from tests.pricing.card_events import rule_of

PLAIN = Rule(model="gpt-4o", input_rate=Decimal("0.000005"), output_rate=Decimal("0.000015"))
EVERY_RATE = Rule(
    provider="anthropic",
    model="claude",
    input_rate=Decimal("0.000003"),
    cache_read_rate=Decimal("0.0000003"),
    cache_write_rate=Decimal("0.00000375"),
    cache_write_1h_rate=Decimal("0.000006"),
    output_rate=Decimal("0.000015"),
    reasoning_rate=Decimal("0.00002"),
    multiplier=Decimal("1.25"),
    credit_multiplier=Decimal("2.5"),
)


@pytest.fixture(params=["as it comes", "hostile"], autouse=True)
def thread_context(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test runs twice: an application may have set the thread's context to anything."""
    if request.param == "as it comes":
        yield
        return
    with localcontext(Context(prec=1, rounding=ROUND_DOWN, capitals=0)):
        yield


def rule(model: str, provider: str = "") -> Rule:
    return replace(PLAIN, model=model, provider=provider)


def rates_of(card: RateCard, index: int) -> dict[str, Fraction]:
    """USD per token by class, exactly."""
    return {
        name: Fraction(card.costs.rows[index].tokens[position] or 0, 10**card.rate_scale)
        for position, name in enumerate(TOKEN_CLASSES)
    }


@pytest.mark.parametrize(
    ("rules", "provider", "model", "chosen"),
    [
        ([rule("m")], "", "m", 0),
        ([rule("m")], "openai", "m", 0),
        ([rule("m"), rule("n")], "", "n", 1),
        # The provider's own rule wins, wherever it stands.
        ([rule("m"), rule("m", "azure")], "azure", "m", 1),
        ([rule("m", "azure"), rule("m")], "azure", "m", 0),
        ([rule("m", "openai"), rule("m", "azure"), rule("m")], "azure", "m", 1),
        # Another provider, or none, takes the rule that names only the model.
        ([rule("m"), rule("m", "azure")], "openai", "m", 0),
        ([rule("m", "azure"), rule("m")], "openai", "m", 1),
        ([rule("m", "azure"), rule("m")], "", "m", 1),
        # Nothing is guessed: not another provider's rate, nor a name that looks alike.
        ([rule("m", "azure")], "openai", "m", -1),
        ([rule("m", "azure")], "", "m", -1),
        ([rule("m")], "", "M", -1),
        ([rule("m")], "", "m-2024", -1),
        ([rule("m-2024")], "", "m", -1),
        ([rule("m", "azure")], "Azure", "m", -1),
        ([rule("azure")], "azure", "m", -1),
        ([], "openai", "m", -1),
    ],
)
def test_a_rule_names_the_model_and_at_best_its_provider(
    rules: list[Rule], provider: str, model: str, chosen: int
) -> None:
    assert rule_of(compile_card(rules), provider=provider, model=model) == chosen


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # input, cache_read, cache_write, cache_write_1h, output, reasoning
        ({}, ("3", "3", "3", "3", "15", "15")),
        ({"cache_read_rate": "0.3"}, ("3", "0.3", "3", "3", "15", "15")),
        # What an hour's write costs is not guessed from the five minutes' rate: plain input it is.
        ({"cache_write_rate": "3.75"}, ("3", "3", "3.75", "3", "15", "15")),
        ({"cache_write_1h_rate": "6"}, ("3", "3", "3", "6", "15", "15")),
        ({"reasoning_rate": "20"}, ("3", "3", "3", "3", "15", "20")),
        # Free is a rate, too.
        ({"cache_read_rate": "0", "reasoning_rate": "0"}, ("3", "0", "3", "3", "15", "0")),
        ({"input_rate": "0"}, ("0", "0", "0", "0", "15", "15")),
    ],
)
def test_a_class_without_a_rate_costs_what_its_whole_costs(
    changes: dict[str, str], expected: tuple[str, ...]
) -> None:
    whole = Rule(model="m", input_rate=Decimal(3), output_rate=Decimal(15))
    named = replace(whole, **{key: Decimal(value) for key, value in changes.items()})  # type: ignore[arg-type] # only decimals
    card = compile_card([named])
    assert rates_of(card, 0) == dict(zip(TOKEN_CLASSES, map(Fraction, expected), strict=True))


rates = st.integers(0, 10**21).map(lambda units: Decimal(f"{units}e-18")) | st.integers(0, 10**6).map(
    lambda units: Decimal(f"{units}e-9")
)
multipliers = st.integers(0, 10**9).map(lambda units: Decimal(f"{units}e-6"))


@given(st.lists(st.tuples(rates, rates, st.none() | rates, multipliers, multipliers), max_size=5))
def test_every_digit_of_every_number_is_kept(
    numbers: list[tuple[Decimal, Decimal, Decimal | None, Decimal, Decimal]],
) -> None:
    card = compile_card(
        [
            Rule(
                model=f"m{index}",
                input_rate=row[0],
                output_rate=row[1],
                cache_read_rate=row[2],
                multiplier=row[3],
                credit_multiplier=row[4],
            )
            for index, row in enumerate(numbers)
        ]
    )
    for index, (input_rate, output_rate, read_rate, multiplier, credit_multiplier) in enumerate(numbers):
        found = rates_of(card, index)
        assert found["input"] == found["cache_write"] == found["cache_write_1h"] == Fraction(input_rate)
        assert found["output"] == found["reasoning"] == Fraction(output_rate)
        assert found["cache_read"] == Fraction(input_rate if read_rate is None else read_rate)
        assert Fraction(int(card.multipliers[index]), 10**card.multiplier_scale) == Fraction(multiplier)
        assert Fraction(int(card.credits[index, 0]), 10**card.credit_scale) == Fraction(credit_multiplier)


@pytest.mark.parametrize(
    ("input_rate", "in_64_bits", "bound"),
    [
        ("0", 0, 0.0),
        ("0.000000000000000001", 1, 1.0),
        ("9.223372036854775807", 2**63 - 1, 2.0**63),
        ("9.223372036854775808", 0, float("inf")),
        ("1000", 0, float("inf")),
    ],
)
def test_a_rate_beyond_64_bits_has_an_infinite_bound(input_rate: str, in_64_bits: int, bound: float) -> None:
    # The second rule sets the scale of the card: 18 places.
    finest = replace(PLAIN, model="fine", input_rate=Decimal("1e-18"))
    card = compile_card([replace(PLAIN, input_rate=Decimal(input_rate)), finest])
    assert card.rate_scale == 18
    assert card.costs.rows[0].tokens[0] == Fraction(input_rate) * 10**18
    assert (int(card.costs.int64[0, 0]), float(card.costs.bound[0, 0])) == (in_64_bits, bound)


def test_scales_are_no_finer_than_they_must_be() -> None:
    """Each place that they have in vain costs a digit of what fits 64 bits."""
    card = compile_card(
        [replace(PLAIN, input_rate=Decimal("0.0000050000000000000"), multiplier=Decimal("1.00"))]
    )
    assert (card.rate_scale, card.multiplier_scale, card.credit_scale) == (12, 0, 0)
    card = compile_card([PLAIN, replace(EVERY_RATE, input_rate=Decimal("1e-15"))])
    assert (card.rate_scale, card.multiplier_scale, card.credit_scale) == (15, 2, 1)


def test_an_empty_card_is_a_card() -> None:
    card = compile_card([])
    assert card.costs.int64.shape == card.costs.bound.shape == (0, len(TOKEN_CLASSES) + 1)
    assert card.multipliers.dtype == card.credits.dtype == np.int64
    assert card.version != compile_card([PLAIN]).version


def test_versions_stay_what_they_were() -> None:
    """A version stands on every priced row: the same rates keep theirs, whatever is done to this module."""
    assert compile_card([PLAIN, EVERY_RATE]).version == "2af7fe7f29a8d276"


def test_the_order_of_rules_is_no_part_of_the_version() -> None:
    rules = [PLAIN, EVERY_RATE, rule("m"), rule("m", "openai"), rule("n")]
    version = compile_card(rules).version
    for seed in range(10):
        shuffled = random.Random(seed).sample(rules, len(rules))
        assert compile_card(shuffled).version == version


@pytest.mark.parametrize(
    "changes",
    [
        {"input_rate": Decimal("3e-6")},
        {"input_rate": Decimal("0.0000030000000000000000000000000000000000000000")},
        {"multiplier": Decimal("1.250")},
        {"credit_multiplier": Decimal("25e-1")},
    ],
)
def test_the_way_a_number_is_written_is_no_part_of_the_version(changes: dict[str, Decimal]) -> None:
    assert compile_card([replace(EVERY_RATE, **changes)]).version == compile_card([EVERY_RATE]).version  # type: ignore[arg-type] # only decimals


def test_a_rate_that_is_named_and_the_same_that_is_not_are_one_card() -> None:
    named = replace(PLAIN, cache_read_rate=PLAIN.input_rate, reasoning_rate=PLAIN.output_rate)
    assert compile_card([named]).version == compile_card([PLAIN]).version


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "claude-2"},
        {"provider": ""},
        {"provider": "anthropicc", "model": "laude"},
        {"input_rate": Decimal("0.000003000000000001")},
        {"cache_read_rate": Decimal("0.0000004")},
        {"cache_write_rate": None},
        {"cache_write_1h_rate": Decimal("0.000007")},
        {"output_rate": Decimal("0.000016")},
        {"reasoning_rate": None},
        {"multiplier": Decimal("1.250001")},
        {"credit_multiplier": Decimal(2)},
        # All rates and the multiplier in one: no number may hide another.
        {"multiplier": Decimal("2.5"), "credit_multiplier": Decimal("1.25")},
    ],
)
def test_whatever_changes_an_amount_changes_the_version(changes: dict[str, object]) -> None:
    changed = replace(EVERY_RATE, **changes)  # type: ignore[arg-type] # values of several types
    assert compile_card([PLAIN, changed]).version != compile_card([PLAIN, EVERY_RATE]).version


def test_a_rule_more_or_less_changes_the_version() -> None:
    versions = {compile_card(rules).version for rules in ([], [PLAIN], [EVERY_RATE], [PLAIN, EVERY_RATE])}
    assert len(versions) == 4
