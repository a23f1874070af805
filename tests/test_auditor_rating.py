"""The auditor's money: cost, price and credits, each worked out by hand beside its row."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.auditor import load_config
from tests.auditor_cases import CLAUDE, CONFIG, audit_of, only_row, raw

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


def test_a_rule_that_says_more_than_the_auditor_understands_is_refused() -> None:
    config = "pricing: {rules: [{model: m, input_rate: 1, output_rate: 1, discount: 1}]}"

    with pytest.raises(ValueError, match="discount"):
        audit_of(config=config)
