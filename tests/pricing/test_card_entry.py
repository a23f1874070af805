"""What an entry of a rate card may say, and what is said to whoever writes it otherwise."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from pricing.card_values import Clause, ContextTier, Contract, Rates, Rule, TimeOfDay
from pricing.settings import InvalidSettings, card_names, load_settings

PLAIN = "model: m, input_rate: 3e-6, output_rate: 15e-6"
FREE = "input_rate: 0, output_rate: 0"
READ = Rule(model="m", input_rate=Decimal("0.000003"), output_rate=Decimal("0.000015"))
ZONE = "such as 2026-01-01T00:00:00Z"
MILLION = "add per: 1_000_000 if it is for a million tokens, or confirm_rates_above: 5 if it is right"
OWN = "must be given where the entry has price rates of its own, and nowhere else"
CLAUSES = "equals, starts_with, ends_with, contains, regex, and, or"


def rules(*entries: str, contracts: str = "") -> str:
    listed = "".join(f"\n  - {{{entry}}}" for entry in entries)
    return f"pricing:\n  contracts: [{contracts}]\n  rules:{listed}\n".replace("\n  - ", "\n    - ")


def problems(text: str, *cards: tuple[str, str]) -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(text, cards)
    return str(caught.value).splitlines()


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
    ("pattern", "is_taken"),
    [
        # As catalogues of prices write them.
        (r"^(?!.*-[tT][tT][sS](?:$|-))", True),
        (r"^(typesafe/)?jev-1\.13(-\d{8})?$", True),
        (r"^gpt-5\.6-sol-\d{4}-\d{2}-\d{2}$", True),
        (r"^composer-2\.5\[fast=false\]$", True),
        (r"[*+?|(){}]", True),
        (r"\*\+\?\|\)\*", True),
        (r"a*?b+?", True),
        (r"a*b+", True),
        (r"a*b*c*", False),
        (r"a{1,9}b{,9}c{9,}", False),
        (r"a?b?c?d?e?f?", True),
        (r"a?b?c?d?e?f?g?", False),
        (r"(a|b)(a|b)(a|b)(a|b)(a|b)(a|b)(a|b)", False),
        # What takes two to the power of the name's length.
        (r"^(a+)+$", False),
        (r"^(a|a)*$", False),
        (r"^(?:a?){40}a{40}$", False),
        (r"^(?:[a)]*){9}$", False),
        (r"^(\w*)\1*$", True),
    ],
)
def test_a_pattern_that_could_hold_the_job_up_is_refused(pattern: str, is_taken: bool) -> None:
    text = rules(f"match: {{regex: '{pattern}'}}, {FREE}")
    if is_taken:
        assert load_settings(text).pricing.rules[0].match == Clause("regex", pattern)
    else:
        few = "must repeat no group, and have at most 2 of *, + and {,}, and 6 of these, ? and | together"
        assert problems(text) == [f"pricing.rules[0].match.regex: {few}, got {pattern!r}"]


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
    ("entry", "expected"),
    [
        (
            "model: m, input_rate: -1, output_rate: 0",
            "input_rate: must be positive (zero is allowed), got -1",
        ),
        ("model: m, input_rate: .inf, output_rate: 0", "input_rate: must be a number, got .inf"),
        ("model: m, input_rate: 1e999, output_rate: 0", "input_rate: must be at most 1000, got 1e999"),
        (
            "model: m, input_rate: 1e-999, output_rate: 0",
            "input_rate: must have at most 18 digits after the point, got 1e-999",
        ),
        (
            "model: m, per: 1_000_000, input_rate: 1e-13, output_rate: 0",
            "input_rate: must have at most 12 digits after the point, got 1e-13",
        ),
        (
            "model: m, input_rate: 5, output_rate: 0",
            f"input_rate: is over 0.01 USD for one token, got 5: {MILLION}",
        ),
        (
            "model: m, input_rate: 5, output_rate: 0, confirm_rates_above: 4.99",
            f"input_rate: is over 0.01 USD for one token, got 5: {MILLION}",
        ),
        (f"{PLAIN}, per: 1_000_0", "per: must be 1, 1_000 or 1_000_000, got 1_000_0"),
        (f"{PLAIN}, model_prefix: m", ": must have only one of model and model_prefix"),
        (
            f"{PLAIN}, effective_from: 2026-01-01",
            f"effective_from: must say in which zone the day begins, {ZONE}, got 2026-01-01",
        ),
        (
            f"{PLAIN}, effective_from: '2026-01-01T00:00:00'",
            f"effective_from: must be a date and time with an offset, {ZONE}, got 2026-01-01T00:00:00",
        ),
        (
            f"{PLAIN}, effective_from: soon",
            f"effective_from: must be a date and time with an offset, {ZONE}, got 'soon'",
        ),
        (
            f"{PLAIN}, effective_from: 2026-01-01T00:00:00Z, effective_until: 2026-01-01T01:00:00+01:00",
            "effective_until: must be after effective_from",
        ),
        (f"{PLAIN}, gap: meant", "gap: must be intended, got 'meant'"),
        (
            f"{PLAIN}, time_of_day: {{from: 1:30}}",
            "time_of_day.from: must be a time from 00:00 to 24:00, got 1:30",
        ),
        (
            f"{PLAIN}, time_of_day: {{until: '24:01'}}",
            "time_of_day.until: must be a time from 00:00 to 24:00, got 24:01",
        ),
        (
            f"{PLAIN}, time_of_day: {{from: '12:60'}}",
            "time_of_day.from: must be a time from 00:00 to 24:00, got 12:60",
        ),
        (
            f"{PLAIN}, time_of_day: {{from: '07:00', until: '07:00'}}",
            "time_of_day: must not end when it begins",
        ),
        (
            f"{PLAIN}, time_of_day: {{weekdays: [monday]}}",
            "time_of_day.weekdays[0]: must be mon, tue, wed, thu, fri, sat or sun, got 'monday'",
        ),
        (
            f"{PLAIN}, time_of_day: {{timezone: Mars/Olympus}}",
            "time_of_day.timezone: must be a time zone such as Europe/Vienna, got 'Mars/Olympus'",
        ),
        (
            f"{PLAIN}, units: {{Pages: {{rate: 1}}}}",
            "units.Pages: must be a name of small letters, digits and '_', got 'Pages'",
        ),
        (f"{PLAIN}, units: {{pages: 1}}", "units.pages: must be a mapping, got a single value"),
        (f"{PLAIN}, units: {{pages: {{}}}}", "units.pages.rate: is missing"),
        (
            f"{PLAIN}, units: {{input_audio_tokens: {{rate: 1}}}}",
            "units.input_audio_tokens: is a class of tokens: give it input_audio_rate instead",
        ),
        (f"{PLAIN}, request_fee: -1", "request_fee: must be positive (zero is allowed), got -1"),
        (
            f"{PLAIN}, minimum_charge: 1e-13",
            "minimum_charge: must have at most 12 digits after the point, got 1e-13",
        ),
        (
            f"{PLAIN}, credit_multiplier: 1, credits: {{input: 1, output: 1}}",
            ": has both credit_multiplier and credits: give one of them",
        ),
        (f"{PLAIN}, credits: {{input: 1}}", "credits.output: is missing"),
        (
            f"{PLAIN}, context_tiers: [{{{FREE}}}]",
            "context_tiers[0]: must have one of above and from",
        ),
        (
            f"{PLAIN}, cache_read_rate: 0, context_tiers: [{{above: 9, {FREE}}}]",
            "context_tiers[0]: lacks cache_read_rate, which the entry has",
        ),
        (
            f"{PLAIN}, input_audio_rate: 0, context_tiers: [{{above: 9, {FREE}}}]",
            "context_tiers[0]: lacks input_audio_rate, which the entry has",
        ),
        (
            f"{PLAIN}, context_tiers: [{{above: 9, {FREE}, request_fee: 1}}]",
            "context_tiers[0].request_fee: must stand in the entry itself: it does not depend on the context",
        ),
        (
            f"{PLAIN}, context_tiers: [{{above: 9, {FREE}}}, {{from: 10, {FREE}}}]",
            "context_tiers[1]: must begin above the context tier before it",
        ),
        (
            f"{PLAIN}, price: {{{FREE}}}, context_tiers: [{{above: 9, {FREE}}}]",
            f"context_tiers[0].price: {OWN}",
        ),
        (
            f"{PLAIN}, units: {{pages: {{rate: 1}}}}, price: {{{FREE}}}",
            "price: lacks units.pages, which the entry has",
        ),
        (
            "match: {}, input_rate: 0, output_rate: 0",
            f"match: must have one clause ({CLAUSES}), got 0",
        ),
        (
            "match: {equals: a, regex: a}, input_rate: 0, output_rate: 0",
            f"match: must have one clause ({CLAUSES}), got 2",
        ),
        ("match: {or: []}, input_rate: 0, output_rate: 0", "match.or: must have 1 or more entries, got 0"),
        (
            "match: {is: a}, input_rate: 0, output_rate: 0",
            f"match: must have one clause ({CLAUSES}), got 0",
        ),
        (f"match: {{regex: '['}}, {FREE}", "match.regex: must be a regular expression, got '['"),
        (
            f"match: {{regex: {'a' * 257}}}, input_rate: 0, output_rate: 0",
            "match.regex: must have 1 to 256 characters, got 257",
        ),
    ],
)
def test_each_mistake_is_one_sentence(entry: str, expected: str) -> None:
    found = problems(rules(entry))
    separator = "" if expected.startswith(": ") else "."
    assert f"pricing.rules[0]{separator}{expected}" == found[0]
    assert len([one for one in found if "is not a known key" not in one]) == 1


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


CONFIG = "pricing: {cards: [cards, more.yaml]}"


def test_card_files_add_their_rules_and_contracts() -> None:
    assert card_names(CONFIG) == ("cards", "more.yaml")
    cards = [
        ("cards/a.yaml", f"rules: [{{{PLAIN}}}]\ncontracts: [{{tenant: acme, discount: 0.1}}]"),
        ("more.yaml", f"currency: USD\nrules: [{{{PLAIN}, region: eu}}]"),
    ]
    pricing = load_settings(CONFIG, cards).pricing
    assert pricing.rules == (READ, replace(READ, region="eu"))
    assert [contract.tenant for contract in pricing.contracts] == ["acme"]


def test_problems_of_all_files_come_in_one_go() -> None:
    cards = [
        ("a.yaml", f"currency: EUR\nrules: [{{{PLAIN}}}, {{model: n, input_rate: x, output_rate: 0}}]"),
        ("b.yaml", f"rules: [{{{PLAIN}}}]\ncards: [c.yaml]"),
        ("c.yaml", "[]"),
        ("d.yaml", "rules: ["),
    ]
    config = f"pricing: {{cards: [a.yaml], rules: [{{{PLAIN}, region: ''}}]}}"
    again = "applies to the same events as pricing.rules[0], and neither is more specific"
    found = problems(config, *cards)
    assert found[:-3] == [
        "a.yaml currency: must be USD, got 'EUR'",
        "a.yaml rules[1].input_rate: must be a number, got 'x'",
        "b.yaml cards: is not a known key; known here: currency, contracts, rules",
        "c.yaml: must be a mapping, got a list",
    ]
    assert found[-3].startswith("d.yaml")
    assert found[-2:] == [f"a.yaml rules[0]: {again}", f"b.yaml rules[0]: {again}"]


def test_card_files_that_nobody_read_are_a_problem() -> None:
    assert problems(CONFIG) == ["pricing.cards: names no rate-card file that was read"]


def test_anchors_do_not_blow_up() -> None:
    """A card may come from anybody: what its aliases grow to is bounded before it is read."""
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n"
        for before, name in zip("abcdef", "bcdefg", strict=True)
    )
    found = problems(CONFIG, ("a.yaml", bomb))
    assert len(found) == 1
    assert "the file holds more than 200000 values, its aliases written out" in found[0]


@pytest.mark.parametrize("text", ["pricing: [", "[]", "pricing: {cards: {a: b}}", "pricing: 5", ""])
def test_a_configuration_that_cannot_be_read_names_no_cards(text: str) -> None:
    assert card_names(text) == ()
