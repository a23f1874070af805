"""Rows of usage for tests, and what they cost in plain `decimal`, as one would do it on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal

import numpy as np

from pricing.card_values import Rule
from pricing.money import from_pico
from pricing.rate_card import RateCard
from pricing.rating import Amounts, Usage, rate, usage_of

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
