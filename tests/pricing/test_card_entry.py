"""What an entry of a rate card may say."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from pricing.card_values import Clause, ContextTier, Contract, Rates, TimeOfDay
from pricing.settings import load_settings
from tests.pricing.card_entries import FREE, PLAIN, READ, problems, rules


@pytest.mark.parametrize(
    ("written", "changes"),
    [
        ("", {}),
        ("service_tier: priority", {"service_tier": "priority"}),
        # Three names for the tier that nobody asked for.
        ("service_tier: standard", {"service_tier": ""}),
        ("service_tier: default", {"service_tier": ""}),
        ("service_tier: ''", {"service_tier": ""}),
        ("service_tier: '*'", {"service_tier": "*"}),
        ("provider: p, model_version: v, region: r", {"provider": "p", "model_version": "v", "region": "r"}),
        ("effective_from: 1970-01-01T00:00:01Z", {"effective_from_ms": 1000}),
        ("effective_until: 1970-01-01T01:00:00.5+01:00", {"effective_until_ms": 500}),
        ("gap: intended", {"gap_intended": True}),
        (
            "time_of_day: {from: '16:30', until: '00:30', weekdays: [fri, mon], timezone: Asia/Tokyo}",
            {"time_of_day": TimeOfDay(990, 30, (0, 4), "Asia/Tokyo")},
        ),
        ("time_of_day: {weekdays: sat}", {"time_of_day": TimeOfDay(0, 1440, (5,))}),
        ("input_audio_rate: 1e-5", {"modality_rates": {"input_audio": Decimal("1e-5")}}),
        ("cache_read_image_rate: 0", {"modality_rates": {"cache_read_image": Decimal(0)}}),
        ("units: {web_searches: {rate: 10, per: 1_000}}", {"unit_rates": {"web_searches": Decimal("0.01")}}),
        ("units: {pages: {rate: 0.0015}}", {"unit_rates": {"pages": Decimal("0.0015")}}),
        (
            "request_fee: 0.1, minimum_charge: 0.25",
            {"request_fee": Decimal("0.1"), "minimum_charge": Decimal("0.25")},
        ),
        (
            "price: {input_rate: 1e-6, output_rate: 2e-6, request_fee: 1}",
            {"price": Rates(input_rate=Decimal("1e-6"), output_rate=Decimal("2e-6"), request_fee=Decimal(1))},
        ),
        (
            "credits: {input: 1, output: 4, cache_read: 0.1}",
            {"credits": {"input": Decimal(1), "output": Decimal(4), "cache_read": Decimal("0.1")}},
        ),
        (
            f"context_tiers: [{{above: 200_000, {FREE}}}, {{from: 500000, {FREE}, reasoning_rate: 7e-6}}]",
            {
                "context_tiers": (
                    ContextTier(tokens_min=200_001, input_rate=Decimal(0), output_rate=Decimal(0)),
                    ContextTier(
                        tokens_min=500_000,
                        input_rate=Decimal(0),
                        output_rate=Decimal(0),
                        reasoning_rate=Decimal("7e-6"),
                    ),
                )
            },
        ),
        # Units and the fee do not depend on the context.
        (
            f"request_fee: 1, units: {{pages: {{rate: 2}}}}, context_tiers: [{{from: 9, {FREE}}}]",
            {
                "request_fee": Decimal(1),
                "unit_rates": {"pages": Decimal(2)},
                "context_tiers": (
                    ContextTier(
                        tokens_min=9,
                        input_rate=Decimal(0),
                        output_rate=Decimal(0),
                        request_fee=Decimal(1),
                        unit_rates={"pages": Decimal(2)},
                    ),
                ),
            },
        ),
    ],
)
def test_every_key_arrives_where_it_belongs(written: str, changes: dict[str, Any]) -> None:
    entry = f"{PLAIN}, {written}" if written else PLAIN
    assert load_settings(rules(entry)).pricing.rules == (replace(READ, **changes),)


@pytest.mark.parametrize(
    ("written", "match"),
    [
        ("{equals: a}", Clause("equals", "a")),
        (
            "{or: [{starts_with: a}, {and: [{ends_with: b}, {contains: c}]}]}",
            Clause(
                "or",
                parts=(
                    Clause("starts_with", "a"),
                    Clause("and", parts=(Clause("ends_with", "b"), Clause("contains", "c"))),
                ),
            ),
        ),
        ("{regex: '^(?!.*-tts)'}", Clause("regex", "^(?!.*-tts)")),
    ],
)
def test_clauses_nest(written: str, match: Clause) -> None:
    (rule,) = load_settings(rules(f"match: {written}, input_rate: 0, output_rate: 0")).pricing.rules
    assert (rule.model, rule.match) == ("", match)


@pytest.mark.parametrize(
    ("per", "written", "rate"),
    [
        ("1", "0.000005", "0.000005"),
        ("1_000", "0.005", "0.000005"),
        ("1_000_000", "5", "0.000005"),
        ("1000000", "1.25", "0.00000125"),
        ("1_000_000", "0.000000000001", "1e-18"),
        ("1_000_000", "10000", "0.01"),
    ],
)
def test_a_rate_may_be_for_many_tokens(per: str, written: str, rate: str) -> None:
    text = rules(f"model: m, per: {per}, input_rate: {written}, output_rate: 0")
    assert load_settings(text).pricing.rules[0].input_rate == Decimal(rate)


def test_a_high_rate_is_confirmed_as_it_is_written() -> None:
    dear = "model: m, per: 1_000_000, input_rate: 20_000, output_rate: 0, confirm_rates_above: "
    (rule,) = load_settings(rules(dear + "20_000")).pricing.rules
    assert rule.input_rate == Decimal("0.02")
    for less in ("19_999.99", "0.02"):
        (problem,) = problems(rules(dear + less))
        assert problem.endswith("or confirm_rates_above: 20_000 if it is right")


@pytest.mark.parametrize(
    ("written", "changes"),
    [
        ("discount: 0.15", {"discount": Decimal("0.15")}),
        (
            "multiplier: 1.05, model: m, service_tier: flex",
            {"multiplier": Decimal("1.05"), "model": "m", "service_tier": "flex"},
        ),
        (
            "per: 1_000_000, price: {input_rate: 3, output_rate: 9}, model_prefix: m",
            {"price": Rates(input_rate=Decimal("3e-6"), output_rate=Decimal("9e-6")), "model_prefix": "m"},
        ),
    ],
)
def test_a_contract_is_for_any_model_and_tier_unless_it_says_which(
    written: str, changes: dict[str, Any]
) -> None:
    found = load_settings(rules(PLAIN, contracts=f"{{tenant: acme, {written}}}")).pricing.contracts
    assert found == (replace(Contract(tenant="acme"), **changes),)


@pytest.mark.parametrize(
    ("contract", "expected"),
    [
        ("discount: 0.1", "contracts[0].tenant: is missing"),
        ("tenant: acme", "contracts[0]: must have one of multiplier, discount and price, got 0"),
        (
            "tenant: a, discount: 0, multiplier: 1",
            "contracts[0]: must have one of multiplier, discount and price, got 2",
        ),
        ("tenant: a, discount: 15", "contracts[0].discount: must be at most 1, got 15"),
        ("tenant: a, price: {input_rate: 1e-6}", "contracts[0].price.output_rate: is missing"),
    ],
)
def test_a_contract_says_who_and_what(contract: str, expected: str) -> None:
    assert problems(rules(PLAIN, contracts=f"{{{contract}}}")) == [f"pricing.{expected}"]
