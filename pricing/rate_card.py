"""The rate card: which rates apply to a model, compiled to whole numbers.

A rate is USD per token. Rates are kept as integers at one scale for the whole card, so that
products and sums are exact; `pricing.rating` rounds once, at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact

import numpy as np
import numpy.typing as npt

from pricing.money import USD_SCALE
from pricing.settings import Rule

TOKEN_CLASSES = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")
"""Priced classes. Each token of an event is in exactly one: `input` is what was neither read from
nor written to the provider's cache, `cache_write` what was written for five minutes, `output` what
was not reasoning."""

_INT64_MAX = 2**63 - 1
# Of our own: the thread's context, which an application may have set to anything, would change a rate.
_EXACT = Context(prec=100, traps=[Inexact])


@dataclass(frozen=True, slots=True)
class RateCard:
    """Compiled rates, one row a rule.

    `rates[rule][class]` is an integer at `10**-rate_scale` USD per token; `multipliers` and
    `credit_multipliers` are integers at `10**-multiplier_scale` and `10**-credit_scale`.
    `rates_int64` holds the same rates for the columnar road; a rate that does not fit 64 bits stands
    there as 0, and as infinity in `rates_float`, which bounds products from above.
    """

    version: str
    rules: tuple[Rule, ...]
    rate_scale: int
    multiplier_scale: int
    credit_scale: int
    rates: tuple[tuple[int, ...], ...]
    multipliers: npt.NDArray[np.int64]
    credit_multipliers: npt.NDArray[np.int64]
    rates_int64: npt.NDArray[np.int64]
    rates_float: npt.NDArray[np.float64]

    def rule_for(self, provider: str, model: str) -> int:
        """Index of the rule for a model, -1 where the card has none: it is never guessed.

        A rule that names the provider wins over one that names only the model.
        """
        general = -1
        for index, rule in enumerate(self.rules):
            if rule.model == model:
                if rule.provider == provider:
                    return index
                if not rule.provider:
                    general = index
        return general


def _class_rates(rule: Rule) -> tuple[Decimal, ...]:
    """Rates in the order of `TOKEN_CLASSES`; a class without one of its own costs what its whole costs."""

    def named(rate: Decimal | None, whole: Decimal) -> Decimal:
        return whole if rate is None else rate

    return (
        rule.input_rate,
        named(rule.cache_read_rate, rule.input_rate),
        named(rule.cache_write_rate, rule.input_rate),
        named(rule.cache_write_1h_rate, rule.input_rate),
        rule.output_rate,
        named(rule.reasoning_rate, rule.output_rate),
    )


def _places(values: Sequence[Decimal]) -> int:
    return max((-int(value.normalize(_EXACT).as_tuple().exponent) for value in values if value), default=0)


def _scaled(value: Decimal, scale: int) -> int:
    return int(value.normalize(_EXACT).scaleb(scale, _EXACT))


def compile_card(rules: Sequence[Rule]) -> RateCard:
    """Compile a card. Its version is a hash of its content, the same whatever order the rules stand in.

    Args:
        rules: as `pricing.settings` reads them: no number is negative, a rate has at most 18 decimal
            places, a multiplier at most 6, and both are at most 1000.
    """
    by_rule = [_class_rates(rule) for rule in rules]
    rate_scale = max(USD_SCALE, _places([rate for rates in by_rule for rate in rates]))
    multiplier_scale = max(0, _places([rule.multiplier for rule in rules]))
    credit_scale = max(0, _places([rule.credit_multiplier for rule in rules]))
    rates = tuple(tuple(_scaled(rate, rate_scale) for rate in rates) for rates in by_rule)
    fits = [[rate if rate <= _INT64_MAX else 0 for rate in row] for row in rates]
    bound = [[float(rate) if rate <= _INT64_MAX else float("inf") for rate in row] for row in rates]
    lines = sorted(
        "\x1f".join((rule.provider, rule.model, *(str(rate) for rate in row), str(rate_scale)))
        + f"\x1f{rule.multiplier.normalize(_EXACT):f}\x1f{rule.credit_multiplier.normalize(_EXACT):f}"
        for rule, row in zip(rules, rates, strict=True)
    )
    shape = (len(rules), len(TOKEN_CLASSES))
    return RateCard(
        version=hashlib.sha256("\x1e".join(lines).encode()).hexdigest()[:16],
        rules=tuple(rules),
        rate_scale=rate_scale,
        multiplier_scale=multiplier_scale,
        credit_scale=credit_scale,
        rates=rates,
        multipliers=np.array([_scaled(rule.multiplier, multiplier_scale) for rule in rules], np.int64),
        credit_multipliers=np.array([_scaled(r.credit_multiplier, credit_scale) for r in rules], np.int64),
        rates_int64=np.array(fits, np.int64).reshape(shape),
        rates_float=np.array(bound, np.float64).reshape(shape),
    )
