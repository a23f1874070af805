"""A card that is written and read again is the card that it was."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.card_text import card_text, number_text
from pricing.card_values import WHOLE_OF, Clause, ContextTier, Rates, Rule, TimeOfDay
from pricing.settings import load_settings


def read(text: str) -> tuple[Rule, ...]:
    return load_settings("pricing: {cards: [x]}", [("x", text)]).pricing.rules


# Up to 1 USD a token, of which 18 decimal places are kept.
RATES = st.integers(0, 10**18).map(lambda digits: Decimal(digits).scaleb(-18))
MAYBE = st.none() | RATES
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
UNITS = st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True), RATES, max_size=2).filter(
    lambda units: not {name.removesuffix("_tokens") for name in units} & WHOLE_OF.keys()
)
CLAUSES = st.recursive(
    st.builds(Clause, st.sampled_from(("equals", "starts_with", "ends_with", "contains")), NAMES),
    lambda parts: st.builds(
        Clause,
        st.sampled_from(("and", "or")),
        st.just(""),
        st.lists(parts, min_size=1, max_size=2).map(tuple),
    ),
    max_leaves=4,
)
HOURS = st.builds(
    TimeOfDay,
    st.integers(0, 719),
    st.integers(720, 1440),
    st.sets(st.integers(0, 6), min_size=1).map(lambda days: tuple(sorted(days))),
    st.sampled_from(("UTC", "Europe/Vienna")),
)


@st.composite
def entries(draw: st.DrawFn) -> Rule:
    kind = draw(st.sampled_from(("model", "model_prefix", "match")))
    named_by: dict[str, Any] = {kind: draw(CLAUSES if kind == "match" else NAMES)}
    named = draw(st.sets(st.sampled_from(sorted(WHOLE_OF)), max_size=2))
    given_plain = draw(st.sets(st.sampled_from(("cache_read_rate", "reasoning_rate"))))

    def rates() -> dict[str, Any]:
        return {
            "input_rate": draw(RATES),
            "output_rate": draw(RATES),
            **{name: draw(RATES) for name in given_plain},
            "modality_rates": {name: draw(RATES) for name in named},
        }

    fixed: dict[str, Any] = {"unit_rates": draw(UNITS), "request_fee": draw(RATES).quantize(Decimal("1e-12"))}
    price = Rates(**rates(), **fixed) if draw(st.booleans()) else None
    starts = sorted(draw(st.sets(st.integers(1, 2**40), max_size=2)))
    tiers = [
        ContextTier(
            **rates(), **fixed, tokens_min=start, price=None if price is None else Rates(**rates(), **fixed)
        )
        for start in starts
    ]
    begin = draw(st.none() | st.integers(0, 10**12))
    return Rule(
        **rates(),
        **fixed,
        **named_by,
        provider=draw(st.just("") | NAMES),
        region=draw(st.just("") | NAMES),
        model_version=draw(st.just("") | NAMES),
        service_tier=draw(st.sampled_from(("", "*", "batch"))),
        effective_from_ms=begin,
        effective_until_ms=None if begin is None else draw(st.none() | st.just(begin + 1)),
        gap_intended=draw(st.booleans()),
        time_of_day=draw(st.none() | HOURS),
        context_tiers=tuple(tiers),
        minimum_charge=draw(RATES).quantize(Decimal("1e-12")),
        price=price,
        multiplier=draw(st.sampled_from((Decimal(1), Decimal("1.25")))),
        credits=draw(st.sampled_from(({}, {"input": Decimal(1), "output": Decimal("4.5")}))),
    )


@given(entries())
def test_what_is_read_is_what_was_written(rule: Rule) -> None:
    assert read(card_text([rule])) == (rule,)


PLAIN = Rule(model="m", input_rate=Decimal("0.0000025"), output_rate=Decimal("0.00001"))


def test_a_person_can_read_it() -> None:
    rule = replace(
        PLAIN,
        provider="openai",
        effective_from_ms=0,
        unit_rates={"web_searches": Decimal("0.01")},
        context_tiers=(
            ContextTier(input_rate=Decimal("0.000005"), output_rate=Decimal("0.00002"), tokens_min=200_001),
        ),
    )
    assert card_text([rule], ["Prices of today.", "", "tab\there"]) == (
        "# Prices of today.\n"
        "#\n"
        "# tab here\n"
        "rules:\n"
        '  - provider: "openai"\n'
        '    model: "m"\n'
        "    effective_from: 1970-01-01T00:00:00Z\n"
        "    per: 1_000_000\n"
        "    input_rate: 2.5\n"
        "    output_rate: 10\n"
        "    units: {web_searches: {rate: 10, per: 1_000}}\n"
        "    context_tiers:\n"
        "      - {above: 200000, input_rate: 5, output_rate: 20}\n"
    )


@pytest.mark.parametrize(
    "name", ["null", "~", "no", "1e3", "a: b # c", "'", '"', "\\", "\u2028", "\U0001f600"]
)
def test_a_name_stays_text_whatever_it_looks_like(name: str) -> None:
    assert read(card_text([replace(PLAIN, model=name)]))[0].model == name


@pytest.mark.parametrize(
    ("number", "expected"),
    [("2.50", "2.5"), ("1E+2", "100"), ("0E-9", "0"), ("1e-18", "0.000000000000000001")],
)
def test_a_number_has_every_digit_and_no_exponent(number: str, expected: str) -> None:
    assert number_text(Decimal(number)) == expected
