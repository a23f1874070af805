"""Rating: usage in columns to cost, price and credits in columns.

    cost    = sum over classes of (tokens x rate) + units x their rates + fee, and the minimum charge at least
    price   = cost, before it is rounded, x multiplier; or what own price rates make, x multiplier
    credits = sum over classes of (tokens x credits per token)

Each amount is rounded once, half to even, to 12 places. Products are 64-bit; a row whose product
might not fit (bounded from above in floating point, which decides only the road, never a digit) is
computed with Python's unbounded integers instead. So is an event with units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pricing.card_values import TOKEN_CLASSES
from pricing.money import PICO, USD_SCALE, round_half_even_div
from pricing.rate_card import NONE, RateCard, RateRow, RateTable
from pricing.usage_units import NO_UNITS, Units, split_classes

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

PRODUCT_BOUND = 4e18
"""Products up to this take the 64-bit road.

No more than twelve roundings lie between a product and its bound, none of them off by more than one part in
2**53: a product whose bound is below this is itself below 2**62, and a remainder of it can be doubled in 63
bits.
"""
_FEE = len(TOKEN_CLASSES)


@dataclass(frozen=True, slots=True)
class Usage:
    """Columns of one batch. `row` indexes the card's rows and is never negative here.

    `contract` indexes its contracts, NONE where there is none; the column is None where no event has one.
    `tokens[i]` are integers >= 0 of class `TOKEN_CLASSES[i]`. `cache_hit` rows were answered from
    our own response cache; `billable` rows have a price. `units` has what some events used besides, by their
    position; the card has a rate for each.
    """

    row: Int64s
    tokens: tuple[Int64s, ...]
    cache_hit: Bools
    billable: Bools
    contract: Int64s | None = None
    units: Mapping[int, Units] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Amounts:
    """Whole picodollars and picocredits by row, and the multiplier in whole 10**-12.

    `oversized` holds the rows that do not fit 64 bits or have units, as (cost, price, credits); in the
    columns these rows hold 0.
    """

    cost_pico: Int64s
    price_pico: Int64s
    credits_pico: Int64s
    multiplier_pico: Int64s
    oversized: Mapping[int, tuple[int, int, int]]


def usage_of(
    row: Int64s,
    counts: Mapping[str, Int64s],
    cache_hit: Bools,
    billable: Bools,
    contract: Int64s | None = None,
    units: Mapping[int, Units] | None = None,
) -> Usage:
    """Split gross counts into the priced classes: every token lands in exactly one.

    `counts` maps the event's token fields to columns whose subsets fit their wholes.
    """
    return Usage(row, plain_tokens(counts), cache_hit, billable, contract, units or {})


def plain_tokens(counts: Mapping[str, Int64s]) -> tuple[Int64s, ...]:
    """Columns in the order of `TOKEN_CLASSES`, made of an event's token fields."""
    read, write = counts["cache_read_tokens"], counts["cache_write_tokens"]
    write_1h, reasoning = counts["cache_write_1h_tokens"], counts["reasoning_tokens"]
    return (
        counts["input_tokens"] - read - write,
        read,
        write - write_1h,
        write_1h,
        counts["output_tokens"] - reasoning,
        reasoning,
    )


def rate(card: RateCard, usage: Usage) -> Amounts:
    """Cost, price and credits of every row, exact to the last of 12 places."""
    multiplier, own = price_side(card, usage.row, usage.contract)
    has_own = bool((own != NONE).any())
    bound = _bound(card.costs, usage.row, usage.tokens)
    has_minimum = any(card.minimums)
    if has_minimum:
        bound = np.maximum(bound, card.minimum_bounds[usage.row])
    priced_bound = bound
    if has_own:
        # Where there are no price rates of its own, row 0 is looked up in vain.
        own_bound = _bound(card.prices, np.maximum(own, 0), usage.tokens)
        priced_bound = np.where(own != NONE, own_bound, bound)
    credit_unit = 10 ** (USD_SCALE - card.credit_scale)
    credit_bound = _credit_bound(card, usage) * credit_unit
    fits = (priced_bound * np.maximum(multiplier, 1) < PRODUCT_BOUND) & (credit_bound < PRODUCT_BOUND)
    if has_own:
        fits &= bound < PRODUCT_BOUND
    if usage.units:
        fits[list(usage.units)] = False
    tokens = usage.tokens if fits.all() else tuple(np.where(fits, one, 0) for one in usage.tokens)
    numerator = _sum(card.costs, usage.row, tokens)
    if has_minimum:
        numerator = np.maximum(numerator, card.minimums_int64[usage.row])
    priced = numerator
    if has_own:
        priced = np.where(own != NONE, _sum(card.prices, np.maximum(own, 0), tokens), numerator)
    cost = _round(numerator, 10 ** (card.rate_scale - USD_SCALE))
    price = _round(
        np.where(fits, priced, 0) * multiplier, 10 ** (card.rate_scale + card.multiplier_scale - USD_SCALE)
    )
    oversized = {
        event: _rate_event(card, usage, event, int(multiplier[event]), int(own[event]))
        for event in np.flatnonzero(~fits).tolist()
    }
    return Amounts(
        cost_pico=np.where(usage.cache_hit | ~fits, 0, cost),
        price_pico=np.where(usage.billable, price, 0),
        credits_pico=np.where(usage.billable, _credits(card, usage.row, tokens) * credit_unit, 0),
        multiplier_pico=multiplier * 10 ** (USD_SCALE - card.multiplier_scale),
        oversized=oversized,
    )


def price_side(card: RateCard, row: Int64s, contracts: Int64s | None) -> tuple[Int64s, Int64s]:
    """Each event's multiplier, and the row of its own price rates, as the entry or a contract has them."""
    multiplier, own = card.multipliers[row], card.own[row]
    if contracts is not None:
        at = np.flatnonzero(contracts != NONE)
        contract = contracts[at]
        agreed = card.contract_multipliers[contract]
        # The list's multiplier has room for the discount's places, so the division leaves nothing.
        discounted = multiplier[at] // 10**card.discount_scale * card.contract_keeps[contract]
        multiplier[at] = np.where(agreed != NONE, agreed, discounted)
        own[at] = np.where(agreed != NONE, card.contract_own[contract], own[at])
    return multiplier, own


def _bound(table: RateTable, row: Int64s, tokens: tuple[Int64s, ...]) -> Float64s:
    """At least the sum of tokens x rate, and the fee, of each event."""
    bound = np.zeros(len(row), np.float64)
    for position, count in enumerate(tokens):
        some = count > 0
        # 0 tokens x an infinite bound is not a number; the row takes no part in the class.
        bound += np.where(some, count, 0) * np.where(some, table.bound[row, position], 0.0)
    return bound + table.bound[row, _FEE] if table.has_fees else bound


def _sum(table: RateTable, row: Int64s, tokens: tuple[Int64s, ...]) -> Int64s:
    total = np.zeros(len(row), np.int64)
    for position, count in enumerate(tokens):
        total += count * table.int64[row, position]
    return total + table.int64[row, _FEE] if table.has_fees else total


def _credit_bound(card: RateCard, usage: Usage) -> Float64s:
    if card.credits_by_class:
        most: Int64s = card.credits[usage.row].max(axis=1)
    else:
        most = card.credits[usage.row, 0]
    total = np.zeros(len(usage.row), np.int64)
    for count in usage.tokens:
        total += count
    bound: Float64s = total.astype(np.float64) * most
    return bound


def _credits(card: RateCard, row: Int64s, tokens: tuple[Int64s, ...]) -> Int64s:
    total = np.zeros(len(row), np.int64)
    if card.credits_by_class:
        for position, count in enumerate(tokens):
            total += count * card.credits[row, position]
        return total
    for count in tokens:
        total += count
    credited: Int64s = total * card.credits[row, 0]
    return credited


def _round(numerator: Int64s, divisor: int) -> Int64s:
    """Divide integers >= 0, half to even. `divisor` is a power of ten below 2**62."""
    if divisor == 1:
        return numerator
    quotient, remainder = np.divmod(numerator, divisor)
    twice = 2 * remainder
    rounded: Int64s = quotient + ((twice > divisor) | ((twice == divisor) & (quotient & 1 == 1)))
    return rounded


def _rate_event(card: RateCard, usage: Usage, event: int, multiplier: int, own: int) -> tuple[int, int, int]:
    row = int(usage.row[event])
    units = usage.units.get(event, NO_UNITS)
    tokens = split_classes([int(column[event]) for column in usage.tokens], units)
    cost = max(_total(card.costs.rows[row], tokens, units), card.minimums[row])
    priced = cost if own == NONE else _total(card.prices.rows[own], tokens, units)
    credit = sum(count * int(one) for count, one in zip(tokens, card.credits[row], strict=True))
    billable = bool(usage.billable[event])
    scale = card.rate_scale - USD_SCALE
    return (
        0 if usage.cache_hit[event] else round_half_even_div(cost, 10**scale),
        round_half_even_div(priced * multiplier, 10 ** (scale + card.multiplier_scale)) if billable else 0,
        round_half_even_div(credit * PICO, 10**card.credit_scale) if billable else 0,
    )


def _total(rates: RateRow, tokens: Sequence[int], units: Units) -> int:
    # What has no rate does not occur here: such an event is unpriced.
    of_tokens = sum(count * (rate or 0) for count, rate in zip(tokens, rates.tokens, strict=True))
    return of_tokens + sum(count * rates.units[name] for name, count in units.counts.items()) + rates.fee
