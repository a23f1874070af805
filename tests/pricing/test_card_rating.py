"""What a card makes of one event: tokens that are not text, units, fees, context tiers, prices and contracts.

Each amount is worked out by hand beside its row.
"""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from metering.event import InvalidEvent
from pricing.rate_card import RateCard, compile_card
from pricing.settings import load_settings
from pricing.usage_units import read_units, units_in
from tests.pricing.card_events import priced

M = "model: m, per: 1_000_000, input_rate: 2, output_rate: 8"


def card_of(*entries: str, contracts: str = "") -> RateCard:
    listed = ", ".join(f"{{{entry}}}" for entry in entries)
    pricing = load_settings(f"pricing: {{rules: [{listed}], contracts: [{contracts}]}}").pricing
    return compile_card(pricing.rules, pricing.contracts)


def money(card: RateCard, **event: Any) -> tuple[str, ...]:
    """Cost, price, credits and multiplier, without zeros at the end."""
    (found,) = priced(card, event)
    assert not isinstance(found, InvalidEvent), found
    return tuple(f"{amount.normalize():f}" for amount in found)


def refused(card: RateCard, **event: Any) -> str:
    (found,) = priced(card, event)
    assert isinstance(found, InvalidEvent), found
    return str(found)


def units(**counts: object) -> dict[str, str]:
    return {f"unit.{name}": str(count) for name, count in counts.items()}


AUDIO = f"{M}, input_audio_rate: 10, cache_read_rate: 1, cache_read_audio_rate: 3, output_audio_rate: 20"
USED = {"input_tokens": 1000, "output_tokens": 100, "cache_read_tokens": 400}


@pytest.mark.parametrize(
    ("attributes", "cost"),
    [
        # 600 x 2 + 400 x 1 + 100 x 8 = 2400 millionths
        ({}, "0.0024"),
        ({"app": "web", "units": "7", "Unit.pages": "7"}, "0.0024"),
        (units(input_audio_tokens=0), "0.0024"),
        # 200 of the 600 are audio: 400 x 2 + 200 x 10 + 400 + 800
        (units(input_audio_tokens=200), "0.004"),
        # 300 audio, of which 100 were cached: (600 - 200) x 2 + 200 x 10 + 300 x 1 + 100 x 3 + 800
        (units(input_audio_tokens=300, cache_read_audio_tokens=100), "0.0042"),
        # All of it: 600 x 10 + 400 x 3 + 100 x 20
        (units(input_audio_tokens=1000, cache_read_audio_tokens=400, output_audio_tokens=100), "0.0092"),
    ],
)
def test_tokens_that_are_not_text_leave_their_whole(attributes: dict[str, str], cost: str) -> None:
    assert money(card_of(AUDIO), **USED, attributes=attributes) == (cost, cost, "1100", "1")


def test_what_was_written_to_the_cache_may_be_audio_too() -> None:
    card = card_of(f"{AUDIO}, cache_write_rate: 4, cache_write_audio_rate: 5")
    # 600 x 2 + 100 x 10 + 50 x 4 + 150 x 5, and 100 written for an hour, at the input's rate: 100 x 2
    told = units(input_audio_tokens=250, cache_write_audio_tokens=150)
    used = {"input_tokens": 1000, "cache_write_tokens": 300, "cache_write_1h_tokens": 100}
    assert money(card, **used, attributes=told)[0] == "0.00335"


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        # More than their whole.
        (
            units(input_audio_tokens=601),
            "inconsistent_usage: attributes: parts of the input tokens exceed them",
        ),
        (
            units(output_audio_tokens=101),
            "inconsistent_usage: attributes: parts of the output tokens exceed them",
        ),
        (
            units(input_audio_tokens=400, cache_read_audio_tokens=401),
            "inconsistent_usage: attributes: parts of the cache_read tokens exceed them",
        ),
        (
            units(input_audio_tokens=10, cache_read_audio_tokens=11),
            "inconsistent_usage: attributes: parts of the input_audio_tokens exceed them",
        ),
        (units(pages="1.5"), "invalid_value: attributes: unit.pages is not a whole number of 0 or more"),
        (units(pages="-1"), "invalid_value: attributes: unit.pages is not a whole number of 0 or more"),
        (units(pages=""), "invalid_value: attributes: unit.pages is not a whole number of 0 or more"),
        (units(pages="\u0661"), "invalid_value: attributes: unit.pages is not a whole number of 0 or more"),
        (units(pages="1" * 1000), "out_of_range: attributes: unit.pages is more than 1099511627776"),
        (units(pages=2**40 + 1), "out_of_range: attributes: unit.pages is more than 1099511627776"),
        # No rate is no guess: neither of a unit, nor of a class of tokens.
        (units(pages=1), "unpriced: the rate card has no rate for unit pages of model m"),
        ({"unit.": "1"}, "unpriced: the rate card has no rate for unit  of model m"),
        (
            units(input_image_tokens=1),
            "unpriced: the rate card has no rate for unit input_image_tokens of model m",
        ),
        (
            units(reasoning_tokens=1),
            "unpriced: the rate card has no rate for unit reasoning_tokens of model m",
        ),
    ],
)
def test_units_that_cannot_be_priced_are_refused(attributes: dict[str, str], sentence: str) -> None:
    assert refused(card_of(AUDIO), **USED, attributes=attributes) == sentence


def test_what_an_event_says_of_itself_is_judged_before_the_card_is_asked() -> None:
    card = card_of(M)
    assert refused(card, model="n", attributes=units(pages="x")).startswith("invalid_value")
    assert refused(card, model="n", attributes=units(pages="1")).startswith(
        "unpriced: the rate card has no rate for model n"
    )


@pytest.mark.parametrize(
    ("attributes", "positions"),
    [
        pytest.param([], [], id="no events"),
        pytest.param(["{}", "{}"], [], id="none has any"),
        pytest.param(["{}", '{"unit.pages": "3"}', "{}"], [1], id="one among events without"),
        pytest.param(['{"a": "b"}', "{}"], [], id="attributes that are no units"),
    ],
)
def test_events_with_units_are_found(attributes: list[str], positions: list[int]) -> None:
    assert list(units_in(pl.Series(attributes, dtype=pl.String))) == positions


def test_a_key_that_hides_behind_an_escape_is_found() -> None:
    told = pl.Series(['{"\\u0075nit.pages": "3"}', "{}"])
    assert units_in(told) == {0: {"unit.pages": "3"}}


@pytest.mark.parametrize(("text", "count"), [("0" * 39 + "50", 50), ("0" * 41 + "5", 5), ("0" * 99, 0)])
def test_zeros_before_a_count_change_nothing(text: str, count: int) -> None:
    assert read_units({"unit.pages": text}).counts == ({"pages": count} if count else {})


SEARCH = f"{M}, units: {{searches: {{rate: 10, per: 1_000}}, pages: {{rate: 0.0015}}}}"


@pytest.mark.parametrize(
    ("entry", "event", "expected"),
    [
        # 1000 x 2e-6 + 3 x 0.01
        (SEARCH, {"attributes": units(searches=3)}, ("0.032", "0.032", "1000", "1")),
        # ... + 2 x 0.0015
        (SEARCH, {"attributes": units(searches=3, pages="02")}, ("0.035", "0.035", "1000", "1")),
        (f"{SEARCH}, multiplier: 1.5", {"attributes": units(searches=3)}, ("0.032", "0.048", "1000", "1.5")),
        (SEARCH, {"attributes": units(searches=3), "cache_hit": True}, ("0", "0.032", "1000", "1")),
        (SEARCH, {"attributes": units(searches=3), "billable": False}, ("0.032", "0", "0", "1")),
        # Fees: 0.002 + 0.0005; a failed call paid it, too.
        (f"{M}, request_fee: 0.0005, multiplier: 2", {}, ("0.0025", "0.005", "1000", "2")),
        (f"{M}, request_fee: 0.0005", {"billable": False}, ("0.0025", "0", "0", "1")),
        # The least that an event costs; the price is made of that.
        (f"{M}, minimum_charge: 0.005, multiplier: 2", {}, ("0.005", "0.01", "1000", "2")),
        (f"{M}, minimum_charge: 0.002, multiplier: 2", {}, ("0.002", "0.004", "1000", "2")),
        (f"{M}, minimum_charge: 0.002, request_fee: 0.0001", {}, ("0.0021", "0.0021", "1000", "1")),
        (f"{M}, minimum_charge: 0.005", {"cache_hit": True, "billable": False}, ("0", "0", "0", "1")),
        (f"{M}, minimum_charge: 0.005", {"input_tokens": 0}, ("0.005", "0.005", "0", "1")),
        # Price rates of its own: 1000 x 3e-6 + 0.001, whatever the cost is.
        (
            f"{M}, minimum_charge: 1, price: {{input_rate: 3, output_rate: 9, request_fee: 0.001}}",
            {},
            ("1", "0.004", "1000", "1"),
        ),
        (
            f"{M}, multiplier: 2, price: {{input_rate: 3, output_rate: 9}}",
            {},
            ("0.002", "0.006", "1000", "2"),
        ),
        # Credits: (1000 - 400) x 1 + 400 x 0.1 + (100 - 60) x 4 + 60 x 6
        (
            f"{M}, credits: {{input: 1, cache_read: 0.1, output: 4, reasoning: 6}}",
            {"cache_read_tokens": 400, "output_tokens": 100, "reasoning_tokens": 60},
            ("0.0028", "0.0028", "1160", "1"),
        ),
        # Classes that are not named count as their whole: 1000 x 0.5 + 100 x 3
        (
            f"{M}, credits: {{input: 0.5, output: 3}}",
            {"cache_write_tokens": 400, "output_tokens": 100, "reasoning_tokens": 60},
            ("0.0028", "0.0028", "800", "1"),
        ),
    ],
)
def test_units_fees_prices_and_credits(entry: str, event: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert money(card_of(entry), **{"input_tokens": 1000, **event}) == expected


DEAR = "model: m, output_rate: 0, confirm_rates_above: 1000"
FREE = "model: m, input_rate: 0, output_rate: 0, multiplier: 999.999999"


@pytest.mark.parametrize(
    ("entry", "input_tokens", "cost", "price"),
    [
        # Too large for 64 bits: a fee and a minimum with their multiplier, a cost beside a small price.
        (f"{FREE}, request_fee: 1000", 0, "1000", "999999.999"),
        (f"{FREE}, minimum_charge: 1000", 0, "1000", "999999.999"),
        (
            f"{DEAR}, input_rate: 1000, price: {{input_rate: 1e-12, output_rate: 0}}",
            2**40,
            "1099511627776000",
            "1.099511627776",
        ),
        (
            f"{DEAR}, input_rate: 1e-12, price: {{input_rate: 1000, output_rate: 0, request_fee: 9}}",
            2**40,
            "1.099511627776",
            "1099511627776009",
        ),
    ],
)
def test_no_amount_overflows(entry: str, input_tokens: int, cost: str, price: str) -> None:
    assert money(card_of(entry), input_tokens=input_tokens)[:2] == (cost, price)


TIERED = (
    f"{M}, context_tiers: [{{above: 1000, input_rate: 4, output_rate: 12}},"
    " {from: 5000, input_rate: 6, output_rate: 20}]"
)


@pytest.mark.parametrize(
    ("input_tokens", "cost"),
    [
        # The whole request: 1000 x 2 + 10 x 8; 1001 x 4 + 10 x 12; 5000 x 6 + 10 x 20
        (1000, "0.00208"),
        (1001, "0.004124"),
        (4999, "0.020116"),
        (5000, "0.0302"),
    ],
)
def test_a_long_context_reprices_the_whole_request(input_tokens: int, cost: str) -> None:
    assert money(card_of(TIERED), input_tokens=input_tokens, output_tokens=10)[0] == cost


def test_a_context_tier_has_price_rates_of_its_own_where_the_entry_has() -> None:
    entry = (
        f"{M}, price: {{input_rate: 3, output_rate: 9, request_fee: 0.1}}, context_tiers:"
        " [{above: 1000, input_rate: 4, output_rate: 12, price: {input_rate: 5, output_rate: 9}}]"
    )
    # 1000 x 3 + 0.1; 2000 x 5 + 0.1
    assert money(card_of(entry), input_tokens=1000)[:2] == ("0.002", "0.103")
    assert money(card_of(entry), input_tokens=2000)[:2] == ("0.008", "0.11")


LIST = f"{M}, multiplier: 1.2, region: ''"
OWN = "model: o, per: 1_000_000, input_rate: 2, output_rate: 8, price: {input_rate: 5, output_rate: 9}"


@pytest.mark.parametrize(
    ("contract", "event", "expected"),
    [
        # 1000 x 2 = 0.002; x 1.2 = 0.0024, the list price
        ("tenant: other, discount: 0.5", {}, ("0.002", "0.0024", "1.2")),
        ("tenant: acme, model: n, discount: 0.5", {}, ("0.002", "0.0024", "1.2")),
        ("tenant: acme, region: eu, discount: 0.5", {}, ("0.002", "0.0024", "1.2")),
        ("tenant: acme, service_tier: flex, discount: 0.5", {}, ("0.002", "0.0024", "1.2")),
        (
            "tenant: acme, effective_from: '2026-01-01T00:00:00Z', discount: 0.5",
            {},
            ("0.002", "0.0024", "1.2"),
        ),
        # 0.0024 x 0.85
        ("tenant: acme, discount: 0.15", {}, ("0.002", "0.00204", "1.02")),
        ("tenant: acme, discount: 1", {}, ("0.002", "0", "0")),
        ("tenant: acme, discount: 0", {}, ("0.002", "0.0024", "1.2")),
        # 0.002 x 1.05, whatever the list says
        ("tenant: acme, multiplier: 1.05", {}, ("0.002", "0.0021", "1.05")),
        # 1000 x 1.5e-6 + 0.01
        (
            "tenant: acme, per: 1_000_000, price: {input_rate: 1.5, output_rate: 6, request_fee: 0.01}",
            {},
            ("0.002", "0.0115", "1"),
        ),
        # Off price rates of its own: 1000 x 5 = 0.005; x 0.9. A multiplier is of the cost.
        ("tenant: acme, discount: 0.1", {"model": "o"}, ("0.002", "0.0045", "0.9")),
        ("tenant: acme, multiplier: 1.1", {"model": "o"}, ("0.002", "0.0022", "1.1")),
        # The most specific one, not both.
        (
            "tenant: acme, discount: 0.5}, {tenant: acme, model_prefix: m, discount: 0.1",
            {},
            ("0.002", "0.00216", "1.08"),
        ),
        (
            "tenant: acme, discount: 0.1}, {tenant: acme, match: {equals: m}, discount: 0.5",
            {},
            ("0.002", "0.0012", "0.6"),
        ),
        ("tenant: acme, discount: 0.5", {"billable": False}, ("0.002", "0", "0.6")),
        ("tenant: acme, discount: 0.5", {"cache_hit": True}, ("0", "0.0012", "0.6")),
        # Beyond 64 bits.
        (
            "tenant: acme, discount: 0.15",
            {"input_tokens": 2**40},
            ("2199023.255552", "2243003.72066304", "1.02"),
        ),
    ],
)
def test_a_contract_changes_the_price_and_nothing_else(
    contract: str, event: dict[str, Any], expected: tuple[str, ...]
) -> None:
    card = card_of(LIST, OWN, contracts=f"{{{contract}}}")
    cost, price, _, multiplier = money(card, **{"input_tokens": 1000, **event})
    assert (cost, price, multiplier) == expected


def test_a_unit_that_a_contract_prices_not_is_unpriced_for_its_tenant() -> None:
    card = card_of(SEARCH, contracts="{tenant: acme, price: {input_rate: 1e-6, output_rate: 1e-6}}")
    used = {"input_tokens": 1000, "attributes": units(searches=1)}
    assert refused(card, **used) == "unpriced: the rate card has no price for unit searches of model m"
    assert money(card, **used, tenant_id="other")[:2] == ("0.012", "0.012")


def test_two_contracts_that_meet_at_an_event_leave_it_waiting() -> None:
    both = (
        "{tenant: acme, match: {regex: '^m'}, discount: 0}, {tenant: acme, match: {regex: 'm$'}, discount: 1}"
    )
    assert "two entries that are equally specific for model m" in refused(card_of(M, contracts=both))
    assert money(card_of(M, contracts=both), tenant_id="other", input_tokens=1)[1] == "0.000002"


@pytest.mark.parametrize(
    "changed",
    [
        f"{M}, service_tier: flex",
        f"{M}, region: eu",
        f"{M}, request_fee: 1",
        f"{M}, minimum_charge: 1",
        f"{M}, input_audio_rate: 1",
        f"{M}, units: {{pages: {{rate: 1}}}}",
        f"{M}, credits: {{input: 1, output: 1}}",
        f"{M}, price: {{input_rate: 2, output_rate: 8}}",
        f"{M}, effective_from: '2026-01-01T00:00:00Z'",
        f"{M}, time_of_day: {{weekdays: [mon]}}",
        TIERED,
        M.replace("model:", "model_prefix:"),
        M.replace("model: m", "match: {equals: m}"),
    ],
)
def test_whatever_an_entry_says_is_part_of_the_version(changed: str) -> None:
    plain = card_of(M).version
    assert card_of(changed).version != plain
    contracts = "{tenant: acme, discount: 0.1}"
    assert card_of(M, contracts=contracts).version not in (
        plain,
        card_of(changed, contracts=contracts).version,
    )


def test_how_an_entry_is_written_is_no_part_of_the_version() -> None:
    written = "model: m, input_rate: 0.000002, output_rate: 8e-6, service_tier: default"
    assert card_of(written).version == card_of(M).version
    assert card_of(f"{M}, units: {{b: {{rate: 1}}, a: {{rate: 2}}}}").version == (
        card_of(f"{M}, units: {{a: {{rate: 2_000, per: 1_000}}, b: {{rate: 1.0}}}}").version
    )
