"""The auditor's money: cost, price and credits, each worked out by hand beside its row."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.auditor import load_config
from tests.auditor_cases import CLAUDE, CONFIG, NOON_MS, audit_of, only_row, raw

TOP = 2**40


@pytest.mark.parametrize(
    ("changes", "cost", "price", "credits", "billable"),
    [
        # 1000 x 0.000005 + 200 x 0.000015 = 0.005 + 0.003
        ({}, "0.008", "0.008", "1200", True),
        # A provider that no rule names takes the rule without one.
        ({"provider": "openai"}, "0.008", "0.008", "1200", True),
        # 1000 x 0.00001 + 200 x 0.00002 = 0.014; x 1.5
        ({"provider": "azure"}, "0.014", "0.021", "1200", True),
        # Cached and reasoning tokens cost what their whole costs where the rule names no rate:
        # as the first row.
        (
            {
                "cache_read_tokens": 500,
                "cache_write_tokens": 300,
                "cache_write_1h_tokens": 200,
                "reasoning_tokens": 100,
            },
            "0.008",
            "0.008",
            "1200",
            True,
        ),
        # uncached 10000 - 6000 - 3000 = 1000 x 0.000003   = 0.003
        # read     6000                      x 0.0000003  = 0.0018
        # write    3000 - 1000 = 2000        x 0.00000375 = 0.0075
        # write 1h 1000                      x 0.000006   = 0.006
        # visible  800 - 300 = 500           x 0.000015   = 0.0075
        # reasoning 300                      x 0.00002    = 0.006
        # cost 0.0318; x 1.25 = 0.03975; credits 10800 x 2.5
        (CLAUDE, "0.0318", "0.03975", "27000", True),
        # A failed call is not billed, and still cost us.
        ({**CLAUDE, "status": "error"}, "0.0318", "0", "0", False),
        ({**CLAUDE, "status": "validation_failed"}, "0.0318", "0", "0", False),
        # Our own cache answered: nobody pays.
        ({**CLAUDE, "cache_status": "hit"}, "0", "0", "0", False),
        ({**CLAUDE, "cache_status": "hit", "status": "error"}, "0", "0", "0", False),
        # 1 x 0.5e-12 = 0.5e-12, half-even to 0. Price 0.25e-12, to 0.
        ({"model": "tiny", "input_tokens": 1, "output_tokens": 0}, "0", "0", "1", True),
        # 1 x 1.5e-12, half-even to 2e-12. Price 0.75e-12, to 1e-12.
        ({"model": "tiny", "input_tokens": 0, "output_tokens": 1}, "2e-12", "1e-12", "1", True),
        # 3 x 0.5e-12 + 1.5e-12 = 3e-12. Price 1.5e-12, half-even to 2e-12.
        ({"model": "tiny", "input_tokens": 3, "output_tokens": 1}, "3e-12", "2e-12", "4", True),
        # 5 x 0.5e-12 = 2.5e-12, half-even to 2e-12. Price 1.25e-12, to 1e-12.
        ({"model": "tiny", "input_tokens": 5, "output_tokens": 0}, "2e-12", "1e-12", "5", True),
        # 7 x 0.5e-12 = 3.5e-12, half-even to 4e-12. Price 1.75e-12, to 2e-12.
        ({"model": "tiny", "input_tokens": 7, "output_tokens": 0}, "4e-12", "2e-12", "7", True),
        # The largest event there is: 2 x 2^40 tokens at 1 USD.
        (
            {"model": "bulk", "input_tokens": TOP, "output_tokens": TOP},
            "2199023255552",
            "2199023255552",
            "2199023255552",
            True,
        ),
    ],
)
def test_rating(changes: dict[str, Any], cost: str, price: str, credits: str, billable: bool) -> None:  # noqa: A002  # the word of the contract
    row = only_row(audit_of(raw(**changes)))

    assert (row.cost, row.price, row.credits) == (Decimal(cost), Decimal(price), Decimal(credits))
    assert row.billable is billable


def test_price_is_rounded_once_from_the_exact_cost() -> None:
    # 1 x 0.5e-12 x 3 = 1.5e-12, half-even to 2e-12. From the rounded cost (0) it would be 0.
    config = """
    pricing:
      rules:
        - {model: gpt-4o, input_rate: 5e-13, output_rate: 0, multiplier: 3}
    """
    row = only_row(audit_of(raw(input_tokens=1, output_tokens=0), config=config))

    assert (row.cost, row.price) == (Decimal(0), Decimal("0.000000000002"))


def test_a_cache_hit_is_billed_as_a_miss_when_configured_so() -> None:
    config = CONFIG + "  feature: {exclude_cache_from_billing: false}\n"

    row = only_row(audit_of(raw(cache_status="hit"), config=config))

    assert (row.cost, row.price, row.credits) == (Decimal(0), Decimal("0.008"), Decimal(1200))
    assert row.billable


def test_rates_are_read_as_they_are_written() -> None:
    rules = load_config("pricing: {rules: [{model: m, input_rate: 0.1, output_rate: 1.10}]}")

    assert rules == {"pricing": {"rules": [{"model": "m", "input_rate": "0.1", "output_rate": "1.10"}]}}


CARD = """
pricing:
  rules:
    - model: gpt-5
      per: 1_000_000
      input_rate: 2
      output_rate: 8
      context_tiers:
        - {above: 1_000, input_rate: 4, output_rate: 12}
        - {from: 5_000, input_rate: 6, output_rate: 20}
      units: {web_searches: {rate: 10, per: 1_000}}
    - {model: gpt-5, service_tier: priority, input_rate: 0.000004, output_rate: 0.000016, multiplier: 1.5}
    - {model_prefix: gpt-, input_rate: 0.000001, output_rate: 0.000001, request_fee: 0.01}
    - {model_prefix: gpt-5-, region: eu, input_rate: 0.000003, output_rate: 0, minimum_charge: 0.5}
    - {model: o3, effective_until: "2025-06-01T12:00:00Z", input_rate: 0.00001, output_rate: 0}
    - {model: o3, effective_from: "2025-06-01T12:00:00Z", input_rate: 0.000002, output_rate: 0}
    - {model: any, service_tier: "*", input_rate: 0.000001, output_rate: 0}
"""


@pytest.mark.parametrize(
    ("changes", "cost", "price"),
    [
        # 1000 x 2e-6 + 200 x 8e-6; 1001 x 4e-6 + 200 x 12e-6; 5000 x 6e-6 + 200 x 20e-6
        ({}, "0.0036", "0.0036"),
        ({"input_tokens": 1001}, "0.006404", "0.006404"),
        ({"input_tokens": 5000}, "0.034", "0.034"),
        # ... + 3 x 0.01
        ({"attributes": {"unit.web_searches": "3", "unit.pages": "0"}}, "0.0336", "0.0336"),
        ({"service_tier": "default"}, "0.0036", "0.0036"),
        ({"service_tier": "standard"}, "0.0036", "0.0036"),
        # 1000 x 4e-6 + 200 x 16e-6 = 0.0072; x 1.5
        ({"service_tier": "priority"}, "0.0072", "0.0108"),
        # 1200 x 1e-6 + 0.01: by the prefix
        ({"model": "gpt-6"}, "0.0112", "0.0112"),
        ({"model": "gpt-5-mini"}, "0.0112", "0.0112"),
        # 1000 x 3e-6, and half a dollar at least: by the longer prefix, in its region
        ({"model": "gpt-5-mini", "region": "eu"}, "0.5", "0.5"),
        # The second entry begins at noon, which is the event's time: 1000 x 2e-6; a millisecond before 1e-5
        ({"model": "o3"}, "0.002", "0.002"),
        ({"model": "o3", "timestamp": NOON_MS - 1}, "0.01", "0.01"),
        ({"model": "any", "service_tier": "whatever"}, "0.001", "0.001"),
    ],
)
def test_the_entry_that_is_for_the_event(changes: dict[str, Any], cost: str, price: str) -> None:
    row = only_row(audit_of(raw(**{"model": "gpt-5", **changes}), config=CARD))

    assert (row.cost, row.price) == (Decimal(cost), Decimal(price))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"service_tier": "flex"}, "unpriced"),
        ({"service_tier": "Priority"}, "unpriced"),
        ({"model": "o3", "service_tier": "priority"}, "unpriced"),
        ({"attributes": {"unit.pages": "1"}}, "unpriced"),
        ({"attributes": {"unit.input_audio_tokens": "1"}}, "unpriced"),
        ({"service_tier": "priority", "attributes": {"unit.web_searches": "1"}}, "unpriced"),
        ({"attributes": {"unit.web_searches": "1.0"}}, "invalid_value"),
        ({"attributes": {"unit.web_searches": "-1"}}, "invalid_value"),
        ({"attributes": {"unit.web_searches": ""}}, "invalid_value"),
        ({"attributes": {"unit.web_searches": "9" * 14}}, "out_of_range"),
        ({"attributes": {"unit.input_audio_tokens": "1001"}}, "inconsistent_usage"),
        ({"attributes": {"unit.cache_read_audio_tokens": "1"}}, "inconsistent_usage"),
        ({"attributes": {"unit.output_image_tokens": "201"}}, "inconsistent_usage"),
        # What an event says of itself is judged first.
        ({"model": "nobody", "attributes": {"unit.pages": "x"}}, "invalid_value"),
    ],
)
def test_an_event_that_no_entry_is_for(changes: dict[str, Any], reason: str) -> None:
    found = audit_of(raw(**{"model": "gpt-5", **changes}), config=CARD)

    assert [one for _, one in found.quarantined] == [reason]


def test_a_rule_that_says_more_than_the_auditor_understands_is_refused() -> None:
    config = "pricing: {rules: [{model: m, input_rate: 1, output_rate: 1, discount: 1}]}"

    with pytest.raises(ValueError, match="discount"):
        audit_of(config=config)
    with pytest.raises(ValueError, match="contracts"):
        audit_of(config="pricing: {contracts: [{tenant: acme, discount: 1}]}")
