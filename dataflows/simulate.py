"""What if: the history of usage by another rate card, other multipliers or other models. Nothing is written.

Rows are read in pages and rated in columns, as a re-rating does it, and only their sums are kept: memory is a
page or two, whatever there is. One page is rated while the next is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any, TypeVar

import polars as pl
from clickhouse_connect.driver.client import Client

from dataflows.card_file import compiled
from dataflows.connections import PlanError
from dataflows.report import ReportTable
from dataflows.repricing import Page, Reading, Scope, as_it_is, events_in, pages, reprice
from dataflows.rerate import EXACT, OnProgress
from pricing.card_match import is_of_model
from pricing.card_values import Rule
from pricing.rate_card import RateCard
from pricing.settings import PricingSettings
from pricing.settings_keys import closest
from sinks.rows import USD

DIMENSIONS = {"tenant": "tenant_id", "feature": "feature_id", "model": "model"}
_MONEY = ("old_cost", "old_price", "cost", "price")
_SUMS = pl.Schema(
    {
        **dict.fromkeys(DIMENSIONS.values(), pl.String()),
        "events": pl.Int64(),
        **dict.fromkeys(_MONEY, USD),
    }
)
_SHOWN = Context(prec=60, rounding=ROUND_HALF_EVEN)
_HUNDREDTH = Decimal("0.01")
_MULTIPLIER_MAX = Decimal(1000)
_MULTIPLIER_PLACES = 6

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Simulated:
    """Sums by tenant, feature and model: `events`, and cost and price in force and as they would be, in USD.

    `routed` counts events by the model that was to be replaced, `unpriced` those that keep what is in force
    because the card has no rate for them, by sentence.
    """

    sums: pl.DataFrame
    routed: Counter[str]
    unpriced: Counter[str]


def read_pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` of a flag that may be given several times, by name.

    Raises:
        PlanError: with every one that cannot be meant.
    """
    found: dict[str, str] = {}
    wrong = []
    for text in texts:
        # A model's name may have an equals sign in it, a multiplier not.
        name, equals, value = text.rpartition("=")
        if not (name and equals and value):
            wrong.append(f"{flag} {text!r} is not of the form {'A=B' if flag == '--route' else 'MODEL=X'}")
        elif name in found:
            wrong.append(f"{flag} is given twice for {name}")
        else:
            found[name] = value
    _refuse(wrong)
    return found


def with_multipliers(pricing: PricingSettings, multipliers: Mapping[str, str]) -> PricingSettings:
    """The card with other multipliers in all rules of some models. Contracts prevail as before.

    Raises:
        PlanError: with every one that cannot be meant.
    """
    wrong = []
    numbers = {}
    for model, text in multipliers.items():
        if all(rule.model != model for rule in pricing.rules):
            why = "only by a pattern" if _rules_of(pricing, model) else f"not at all{_hint(pricing, model)}"
            wrong.append(f"--multiplier names {model!r}, which the card knows {why}")
        number = _multiplier(text)
        if number is None:
            wrong.append(
                f"--multiplier {model}={text} is not a number from 0 to 1000 with at most 6 decimal places"
            )
        else:
            numbers[model] = number
    _refuse(wrong)
    rules = (
        replace(rule, multiplier=numbers[rule.model]) if rule.model in numbers else rule
        for rule in pricing.rules
    )
    return replace(pricing, rules=tuple(rules))


def _multiplier(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite() or not 0 <= number <= _MULTIPLIER_MAX:
        return None
    return number if number == round(number, _MULTIPLIER_PLACES) else None


@dataclass(frozen=True, slots=True)
class Route:
    """The model that is to serve instead, and its provider: "" where the card takes any."""

    model: str
    provider: str


def routes_of(pricing: PricingSettings, routes: Mapping[str, str]) -> dict[str, Route]:
    """What is to serve instead, by the model that served.

    Raises:
        PlanError: with every one that cannot be meant.
    """
    wrong = []
    found = {}
    for served, instead in routes.items():
        providers = sorted({rule.provider for rule in _rules_of(pricing, instead)})
        if not providers:
            wrong.append(
                f"--route leads to {instead!r}, which the card does not know{_hint(pricing, instead)}"
            )
        elif providers[0] and len(providers) > 1:
            named = ", ".join(providers)
            wrong.append(f"--route leads to {instead!r}, which several providers of the card have: {named}")
        else:
            found[served] = Route(instead, providers[0])
    _refuse(wrong)
    return found


def _rules_of(pricing: PricingSettings, model: str) -> list[Rule]:
    return [rule for rule in pricing.rules if is_of_model(rule, model)]


def _hint(pricing: PricingSettings, model: str) -> str:
    return closest(model, sorted({rule.model for rule in pricing.rules if rule.model}))


def _refuse(wrong: Sequence[str]) -> None:
    if wrong:
        raise PlanError("; ".join(wrong))


def simulate(
    client: Client,
    scope: Scope,
    pricing: PricingSettings,
    routes: Mapping[str, Route],
    on_progress: OnProgress,
) -> Simulated:
    """Rate the events of a scope by a card, some of them as if another model had served them."""
    card = compiled(pricing)
    whole = sum(count for _, count in events_in(client, scope))
    sums = _SUMS.to_frame()
    routed: Counter[str] = Counter()
    unpriced: Counter[str] = Counter()
    done = 0
    for page in _ahead(pages(Reading(client, scope))):
        parts, why = _rated(page, card, routes, routed)
        sums = _added([sums, *parts])
        unpriced += why
        done += len(page.rows)
        on_progress(f"{done:,} of {whole:,} events")
    return Simulated(sums, routed, unpriced)


def _rated(
    page: Page, card: RateCard, routes: Mapping[str, Route], routed: Counter[str]
) -> tuple[list[pl.DataFrame], Counter[str]]:
    # The tables name the model that served, whatever was put in its place.
    rows = page.rows.with_columns(served=pl.col("model"))
    for served, route in routes.items():
        is_routed = pl.col("served") == served
        routed[served] += int(rows.select(is_routed.sum()).item())
        rows = rows.with_columns(
            pl.when(is_routed).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
            for name, value in (("model", route.model), ("provider", route.provider), ("model_version", ""))
        )
    repriced = reprice(rows, card)
    parts = [
        part.with_columns(model=pl.col("served")) for part in (repriced.rows, as_it_is(repriced.unpriced))
    ]
    return [_summed(part) for part in parts if len(part)], repriced.unpriced_why


def _summed(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by(*DIMENSIONS.values()).agg(
        pl.len().cast(pl.Int64).alias("events"), pl.col(*_MONEY).sum()
    )


def _added(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    return (
        pl.concat(parts)
        .group_by(*DIMENSIONS.values())
        .agg(pl.col("events", *_MONEY).sum())
        .select(list(_SUMS))
    )


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each got in a thread while the one before is in use."""
    nothing = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, nothing)
        while (item := coming.result()) is not nothing:
            coming = thread.submit(next, items, nothing)
            yield item  # type: ignore[misc]  # not nothing


def simulated_table(found: Simulated, by: str, title: str) -> ReportTable:
    """Cost, price and margin by a dimension, as they are and as they would be, the greatest loss first.

    Those of which the margin stays come last, so that a table that is cut short shows differences.
    """
    figures = found.sums.group_by(DIMENSIONS[by]).agg(pl.col("events", *_MONEY).sum())
    rows = sorted((_row(*row) for row in figures.iter_rows()), key=lambda row: (not row[-1], row[-1], row[0]))
    totals = _row("all", *found.sums.select(pl.col("events", *_MONEY).sum()).row(0)) if rows else ()
    columns = (
        *(by, "events", "cost", "price", "margin", "margin %"),
        *("new cost", "new price", "new margin", "new margin %", "difference"),
    )
    return ReportTable(title, columns, tuple(rows), totals)


def _row(
    name: str, events: int, old_cost: Decimal, old_price: Decimal, cost: Decimal, price: Decimal
) -> tuple[Any, ...]:
    old, new = EXACT.subtract(old_price, old_cost), EXACT.subtract(price, cost)
    before, after = (_per_cent(*pair) for pair in ((old, old_price), (new, price)))
    return (name, events, old_cost, old_price, old, before, cost, price, new, after, EXACT.subtract(new, old))


def _per_cent(margin: Decimal, price: Decimal) -> Decimal | None:
    """As `margin_pct` of the views: none where there is no price."""
    return _SHOWN.quantize(_SHOWN.divide(_SHOWN.multiply(margin, 100), price), _HUNDREDTH) if price else None
