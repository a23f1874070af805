"""Rating: usage in columns to cost, price and credits in columns.

    cost    = sum over classes of (tokens x rate)
    price   = cost, before it is rounded, x multiplier
    credits = (input + output tokens) x credit multiplier

Each amount is rounded once, half to even, to 12 places. Products are 64-bit; a row whose product
might not fit (bounded from above in floating point, which decides only the road, never a digit) is
computed with Python's unbounded integers instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pricing.money import PICO, USD_SCALE, round_half_even_div
from pricing.rate_card import TOKEN_CLASSES, RateCard

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PRODUCT_BOUND = 4e18
"""Products up to this take the 64-bit road.

No more than ten roundings lie between a product and its bound, none of them off by more than one part in
2**53: a product whose bound is below this is itself below 2**62, and a remainder of it can be doubled in 63
bits.
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """Columns of one batch. `rule` indexes the card's rules and is never negative here.

    `tokens[i]` are integers >= 0 of class `TOKEN_CLASSES[i]`. `cache_hit` rows were answered from
    our own response cache; `billable` rows have a price.
    """

    rule: Int64s
    tokens: tuple[Int64s, ...]
    cache_hit: Bools
    billable: Bools


@dataclass(frozen=True, slots=True)
class Amounts:
    """Whole picodollars and picocredits by row.

    `oversized` holds the rows that do not fit 64 bits, as (cost, price, credits); in the
    columns these rows hold 0.
    """

    cost_pico: Int64s
    price_pico: Int64s
    credits_pico: Int64s
    oversized: Mapping[int, tuple[int, int, int]]


def usage_of(rule: Int64s, counts: Mapping[str, Int64s], cache_hit: Bools, billable: Bools) -> Usage:
    """Split gross counts into the priced classes: every token lands in exactly one.

    `counts` maps the event's token fields to columns whose subsets fit their wholes.
    """
    read, write = counts["cache_read_tokens"], counts["cache_write_tokens"]
    write_1h, reasoning = counts["cache_write_1h_tokens"], counts["reasoning_tokens"]
    tokens = (
        counts["input_tokens"] - read - write,
        read,
        write - write_1h,
        write_1h,
        counts["output_tokens"] - reasoning,
        reasoning,
    )
    return Usage(rule, tokens, cache_hit, billable)


def rate(card: RateCard, usage: Usage) -> Amounts:
    """Cost, price and credits of every row, exact to the last of 12 places."""
    size = len(usage.rule)
    bound = np.zeros(size, np.float64)
    numerator = np.zeros(size, np.int64)
    all_tokens = np.zeros(size, np.int64)
    for position, tokens in enumerate(usage.tokens):
        some = tokens > 0
        # 0 tokens x an infinite bound is not a number; the row takes no part in the class.
        bound += np.where(some, tokens, 0) * np.where(some, card.rates_float[usage.rule, position], 0.0)
        all_tokens += tokens
    multiplier = card.multipliers[usage.rule]
    credit = card.credit_multipliers[usage.rule]
    credit_unit = 10 ** (USD_SCALE - card.credit_scale)
    product = bound * np.maximum(multiplier, 1)
    credit_product = all_tokens.astype(np.float64) * credit * credit_unit
    fits = (product < PRODUCT_BOUND) & (credit_product < PRODUCT_BOUND)
    for position, tokens in enumerate(usage.tokens):
        numerator += np.where(fits, tokens, 0) * card.rates_int64[usage.rule, position]
    cost = _round(numerator, 10 ** (card.rate_scale - USD_SCALE))
    price = _round(numerator * multiplier, 10 ** (card.rate_scale + card.multiplier_scale - USD_SCALE))
    credits_pico = np.where(fits, all_tokens, 0) * credit * credit_unit
    oversized = {row: _rate_row(card, usage, row) for row in np.flatnonzero(~fits).tolist()}
    return Amounts(
        cost_pico=np.where(usage.cache_hit, 0, cost),
        price_pico=np.where(usage.billable, price, 0),
        credits_pico=np.where(usage.billable, credits_pico, 0),
        oversized=oversized,
    )


def _round(numerator: Int64s, divisor: int) -> Int64s:
    """Divide integers >= 0, half to even. `divisor` is a power of ten below 2**62."""
    if divisor == 1:
        return numerator
    quotient, remainder = np.divmod(numerator, divisor)
    twice = 2 * remainder
    rounded: Int64s = quotient + ((twice > divisor) | ((twice == divisor) & (quotient & 1 == 1)))
    return rounded


def _rate_row(card: RateCard, usage: Usage, row: int) -> tuple[int, int, int]:
    rule = int(usage.rule[row])
    tokens = [int(usage.tokens[position][row]) for position in range(len(TOKEN_CLASSES))]
    numerator = sum(count * rate for count, rate in zip(tokens, card.rates[rule], strict=True))
    cost = round_half_even_div(numerator, 10 ** (card.rate_scale - USD_SCALE))
    price = round_half_even_div(
        numerator * int(card.multipliers[rule]),
        10 ** (card.rate_scale + card.multiplier_scale - USD_SCALE),
    )
    credit = round_half_even_div(
        sum(tokens) * int(card.credit_multipliers[rule]) * PICO, 10**card.credit_scale
    )
    billable = bool(usage.billable[row])
    return (
        0 if usage.cache_hit[row] else cost,
        price if billable else 0,
        credit if billable else 0,
    )
