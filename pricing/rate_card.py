"""The rate card: entries and contracts compiled to whole numbers, for `pricing.rating`.

Rates are integers at one scale for the whole card, so that products and sums are exact; the kernel
rounds once, at the end. An entry has a row of costs for its base and one for each of its context tiers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Context, Decimal, Inexact

import numpy as np
import numpy.typing as npt

from pricing.card_match import ModelIndex, dimensions_of, index_of
from pricing.card_values import (
    ALL_CLASSES,
    TOKEN_CLASSES,
    WHOLE_OF,
    ContextTier,
    Contract,
    Rates,
    Rule,
)
from pricing.money import USD_SCALE

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

NONE = -1
"""In a column of rows, contracts or own prices: there is none."""

_INT64_MAX = 2**63 - 1
# Of our own: the thread's context, which an application may have set to anything, would change a rate.
_EXACT = Context(prec=100, traps=[Inexact])


@dataclass(frozen=True, slots=True)
class RateRow:
    """Rates as integers, for the road that takes one event at a time.

    `tokens` is in the order of `ALL_CLASSES`; None where tokens of a class have no rate. `fee` is per event.
    """

    tokens: tuple[int | None, ...]
    units: Mapping[str, int]
    fee: int


@dataclass(frozen=True, slots=True, eq=False)
class RateTable:
    """Rows of rates. `int64` and `bound` have a column for each of `TOKEN_CLASSES`, and the fee last.

    A rate that does not fit 64 bits stands in `int64` as 0, and as infinity in `bound`, which bounds
    products from above.
    """

    rows: tuple[RateRow, ...]
    int64: Int64s
    bound: Float64s
    has_fees: bool


@dataclass(frozen=True, slots=True, eq=False)
class RateCard:
    """A compiled card.

    `first_row[rule]` is the row of `costs` with a rule's base rates; those of its `tier_starts[rule]` context
    tiers follow. For each row: `own` is the row of `prices` with price rates of its own (or NONE),
    `minimums` and `minimum_bounds` are the least cost; `multipliers` and `credits` belong to the price.
    Costs, prices and minimums are integers at `10**-rate_scale` USD, multipliers at
    `10**-multiplier_scale`, of which `discount_scale` places are for discounts, credits at
    `10**-credit_scale`.

    For each contract: `contract_multipliers`, or NONE where a discount leaves `contract_keeps` (at
    `10**-discount_scale`) of the list price; `contract_own` is a row of `prices`.
    """

    version: str
    rules: tuple[Rule, ...]
    contracts: tuple[Contract, ...]
    dimensions: tuple[str, ...]
    index: ModelIndex
    contract_index: ModelIndex
    rate_scale: int
    multiplier_scale: int
    discount_scale: int
    credit_scale: int
    first_row: Int64s
    tier_starts: tuple[tuple[int, ...], ...]
    costs: RateTable
    prices: RateTable
    own: Int64s
    minimums: tuple[int, ...]
    minimums_int64: Int64s
    minimum_bounds: Float64s
    multipliers: Int64s
    credits: Int64s
    credits_by_class: bool
    contract_multipliers: Int64s
    contract_keeps: Int64s
    contract_own: Int64s
    chosen: dict[tuple[str, ...], tuple[int, ...]] = field(default_factory=dict, repr=False)


def compile_card(rules: Sequence[Rule], contracts: Sequence[Contract] = ()) -> RateCard:
    """Compile a card. Its version is a hash of its content, the same whatever order the entries stand in.

    Args:
        rules: as `pricing.settings` reads them: no number is negative, a rate has at most 18 decimal
            places, a multiplier at most 6, and both are at most 1000.
        contracts: likewise; a discount has at most 6 decimal places.
    """
    costs: list[Rule | ContextTier] = []
    for rule in rules:
        costs += [rule, *rule.context_tiers]
    owners = [rule for rule in rules for _ in (rule, *rule.context_tiers)]
    own = [one.price for one in costs]
    agreed = [contract.price for contract in contracts]
    prices = [price for price in (*own, *agreed) if price is not None]
    numbers = [*_numbers([*costs, *prices]), *(rule.minimum_charge for rule in rules)]
    rate_scale = max(USD_SCALE, _places(numbers))
    discount_scale = _places(contract.discount for contract in contracts)
    multiplier_scale = discount_scale + _places(
        [*(rule.multiplier for rule in rules), *(contract.multiplier for contract in contracts)]
    )
    credit_scale = _places(number for rule in rules for number in _credits(rule))
    minimums = tuple(_scaled(rule.minimum_charge, rate_scale) for rule in owners)
    rates = _table(costs, rate_scale)
    return RateCard(
        version=_version(rules, contracts, rates, rate_scale),
        rules=tuple(rules),
        contracts=tuple(contracts),
        dimensions=dimensions_of([*rules, *contracts]),
        index=index_of(rules),
        contract_index=index_of(contracts),
        rate_scale=rate_scale,
        multiplier_scale=multiplier_scale,
        discount_scale=discount_scale,
        credit_scale=credit_scale,
        first_row=np.cumsum([0, *(1 + len(rule.context_tiers) for rule in rules)])[:-1].astype(np.int64),
        tier_starts=tuple(tuple(tier.tokens_min for tier in rule.context_tiers) for rule in rules),
        costs=rates,
        prices=_table(prices, rate_scale),
        own=_numbered(own, 0),
        minimums=minimums,
        minimums_int64=np.array([one if one <= _INT64_MAX else 0 for one in minimums], np.int64),
        minimum_bounds=np.array([_bound(one) for one in minimums], np.float64),
        multipliers=_column([rule.multiplier for rule in owners], multiplier_scale),
        credits=_column([c for rule in owners for c in _credits(rule)], credit_scale).reshape(
            len(owners), len(ALL_CLASSES)
        ),
        credits_by_class=any(rule.credits for rule in rules),
        contract_multipliers=np.array(
            [_contract_multiplier(c, multiplier_scale) for c in contracts], np.int64
        ),
        contract_keeps=_column([_kept(contract) for contract in contracts], discount_scale),
        contract_own=_numbered(agreed, sum(price is not None for price in own)),
    )


def rates_by_class(rates: Rates) -> tuple[Decimal | None, ...]:
    """Rates in the order of `ALL_CLASSES`; a plain class without its own costs what its whole costs."""

    def named(rate: Decimal | None, whole: Decimal) -> Decimal:
        return whole if rate is None else rate

    return (
        rates.input_rate,
        named(rates.cache_read_rate, rates.input_rate),
        named(rates.cache_write_rate, rates.input_rate),
        named(rates.cache_write_1h_rate, rates.input_rate),
        rates.output_rate,
        named(rates.reasoning_rate, rates.output_rate),
        *(rates.modality_rates.get(name) for name in WHOLE_OF),
    )


def _credits(rule: Rule) -> list[Decimal]:
    """Credits per token in the order of `ALL_CLASSES`; a class that is not named counts as its whole."""
    if not rule.credits:
        return [rule.credit_multiplier] * len(ALL_CLASSES)
    wholes = {"cache_read": "input", "cache_write": "input", "cache_write_1h": "input", "reasoning": "output"}
    found = dict(rule.credits)
    for name, whole in (*wholes.items(), *WHOLE_OF.items()):
        found.setdefault(name, found[whole])
    return [found[name] for name in ALL_CLASSES]


def _numbers(rates: Iterable[Rates]) -> list[Decimal | None]:
    return [
        number
        for one in rates
        for number in (*rates_by_class(one), *one.unit_rates.values(), one.request_fee)
    ]


def _places(values: Iterable[Decimal | None]) -> int:
    places = [-int(value.normalize(_EXACT).as_tuple().exponent) for value in values if value]
    return max([0, *places])


def _scaled(value: Decimal, scale: int) -> int:
    return int(value.normalize(_EXACT).scaleb(scale, _EXACT))


def _column(values: Sequence[Decimal], scale: int) -> Int64s:
    return np.array([_scaled(value, scale) for value in values], np.int64)


def _numbered(prices: Sequence[Rates | None], first: int) -> Int64s:
    """The row of each price in a table that holds those that are there, one after the other."""
    there = np.array([price is not None for price in prices], np.bool_)
    return np.where(there, first - 1 + np.cumsum(there), NONE).astype(np.int64)


def _kept(contract: Contract) -> Decimal:
    """The fraction of the list price that a discount leaves."""
    return _EXACT.subtract(Decimal(1), contract.discount or Decimal(0))


def _contract_multiplier(contract: Contract, scale: int) -> int:
    if contract.discount is not None:
        return NONE
    return _scaled(Decimal(1) if contract.multiplier is None else contract.multiplier, scale)


def _table(rates: Sequence[Rates], scale: int) -> RateTable:
    rows = tuple(
        RateRow(
            tuple(None if rate is None else _scaled(rate, scale) for rate in rates_by_class(one)),
            {name: _scaled(rate, scale) for name, rate in one.unit_rates.items()},
            _scaled(one.request_fee, scale),
        )
        for one in rates
    )
    plain = [[*(rate or 0 for rate in row.tokens[: len(TOKEN_CLASSES)]), row.fee] for row in rows]
    shape = (len(rows), len(TOKEN_CLASSES) + 1)
    fits = [[rate if rate <= _INT64_MAX else 0 for rate in row] for row in plain]
    return RateTable(
        rows,
        np.array(fits, np.int64).reshape(shape),
        np.array([[_bound(rate) for rate in row] for row in plain], np.float64).reshape(shape),
        any(row.fee for row in rows),
    )


def _bound(rate: int) -> float:
    return float(rate) if rate <= _INT64_MAX else float("inf")


def _version(rules: Sequence[Rule], contracts: Sequence[Contract], costs: RateTable, scale: int) -> str:
    # Of an entry with nothing but plain rates the line is what it has always been: its version stands.
    row, lines = 0, []
    for rule in rules:
        plain = costs.rows[row].tokens[: len(TOKEN_CLASSES)]
        row += 1 + len(rule.context_tiers)
        line = (rule.provider, rule.model, *(str(rate) for rate in plain), str(scale))
        numbers = (f"{rule.multiplier.normalize(_EXACT):f}", f"{rule.credit_multiplier.normalize(_EXACT):f}")
        lines.append("\x1f".join((*line, *numbers, *_besides(rule))))
    lines += ["\x1f".join(("contract", _canonical(contract))) for contract in contracts]
    return hashlib.sha256("\x1e".join(sorted(lines)).encode()).hexdigest()[:16]


_IN_THE_LINE = {
    *("provider", "model", "input_rate", "output_rate", "cache_read_rate", "cache_write_rate"),
    *("cache_write_1h_rate", "reasoning_rate", "multiplier", "credit_multiplier"),
    "gap_intended",  # says something to a reader of the card, and nothing about an amount
}


def _besides(rule: Rule) -> list[str]:
    plain = Rule(input_rate=rule.input_rate, output_rate=rule.output_rate)
    return [
        f"{one.name}={_canonical(getattr(rule, one.name))}"
        for one in fields(rule)
        if one.name not in _IN_THE_LINE and getattr(rule, one.name) != getattr(plain, one.name)
    ]


def _canonical(value: object) -> str:
    """Text that is the same for equal values, however they were written, and for no others."""
    if isinstance(value, Decimal):
        return f"{value.normalize(_EXACT):f}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key!r}:{_canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, tuple):
        return "(" + ",".join(_canonical(item) for item in value) + ")"
    if hasattr(value, "__dataclass_fields__"):
        return _canonical({name: getattr(value, name) for name in value.__dataclass_fields__})
    return repr(value)
