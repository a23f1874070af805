"""Rows of `usage`, read in pages, and what a rate card makes of them. Nothing is written here.

A page is some whole days, or a stretch of one day in the order of its keys, so that it can be named again:
`PAGE_ROWS` rows at most, whatever there is, which bounds memory. What is in force for an event is its row and
what was booked for it elsewhere (`adjustments`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, TypeAlias

import polars as pl
from clickhouse_connect.driver.client import Client

from dataflows.batch import TOKEN_FIELDS, USD, Decoded, Partition, no_quarantine
from dataflows.rate import rate_events, refuse_unpriced
from dataflows.steps import DAY_MS
from pricing.rate_card import RateCard
from pricing.settings import FeatureLimits, LimitSettings

PAGE_ROWS = 250_000
"""A page in memory takes some 200 MB; smaller ones are read more slowly."""

AMOUNTS = ("cost", "price", "credits")
_TEXTS = ("feature_id", "provider", "model", "model_version", "region", "service_tier", "cache_status")
RATED = ("tenant_id", *_TEXTS, *TOKEN_FIELDS, "attributes", "billable")
"""Columns of `usage` that a card may ask for."""
_DAY = timedelta(days=1)
# What was billed stays so, whatever the configuration says today: `reprice` tells it by the status.
_AS_BILLED = LimitSettings(feature=FeatureLimits(exclude_cache_from_billing=False))
_NOWHERE = Partition(0, "", 0)
_IDENTITY = ("tenant_id", "idempotency_key", "day_number")


@dataclass(frozen=True, slots=True)
class Scope:
    """Events of the days `[first_day, end_day)`, UTC; of one tenant or one model where it is not ""."""

    first_day: date
    end_day: date
    tenant_id: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The days `[first_day, end_day)`; where `after` and `upto` are given, of one day the keys in between.

    They are (tenant_id, idempotency_key), and `upto` is one of the stretch.
    """

    first_day: date
    end_day: date
    after: tuple[str, str] | None = None
    upto: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read: rows of a scope whose rating is less than `before_rating`, with bookings of such ratings.

    Always there are `RATED`, the amounts and `timestamp_ms`; `columns` of `usage` come on top.
    """

    client: Client
    scope: Scope
    columns: tuple[str, ...] = ()
    before_rating: int = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of a stretch; `row_cost`, `row_price`, `row_credits` as they stand, `old_…` as they are in force.

    Where something was booked in the scope: `booked_multiplier` and `booked_rate_card_version` of the last
    booking, and `booked_rating`.
    """

    stretch: Stretch
    rows: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Repriced:
    """`rows` with their new `cost`, `price`, `credits`, `multiplier` and `rate_card_version`, and the others.

    `unpriced` are rows that the card has no rate for, `unpriced_why` how many for which reason.
    """

    rows: pl.DataFrame
    unpriced: pl.DataFrame
    unpriced_why: Counter[str]


Fetch: TypeAlias = Callable[[Reading, Stretch, str], pl.DataFrame]


def in_scope(scope: Scope, stretch: Stretch) -> tuple[str, dict[str, Any]]:
    """The condition on rows of `usage`, and its parameters."""
    conditions = [
        "toDate(timestamp) >= {first_day:Date} AND toDate(timestamp) < {end_day:Date}",
        *(["tenant_id = {tenant:String}"] if scope.tenant_id else []),
        *(["model = {model:String}"] if scope.model else []),
    ]
    parameters: dict[str, Any] = {
        "first_day": stretch.first_day,
        "end_day": stretch.end_day,
        "tenant": scope.tenant_id,
        "model": scope.model,
    }
    for name, comparison, bound in (("after", ">", stretch.after), ("upto", "<=", stretch.upto)):
        if bound is not None:
            # Not as tuples, of which ClickHouse takes no more than the first part for its index.
            conditions.append(
                f"(tenant_id {comparison[0]} {{{name}_tenant:String}}"
                f" OR (tenant_id = {{{name}_tenant:String}}"
                f" AND idempotency_key {comparison} {{{name}_key:String}}))"
            )
            parameters |= {f"{name}_tenant": bound[0], f"{name}_key": bound[1]}
    return " AND ".join(conditions), parameters


def events_in(client: Client, scope: Scope) -> list[tuple[date, int]]:
    """Days of a scope that have rows, and how many; a row that was replaced may count twice."""
    condition, parameters = in_scope(scope, Stretch(scope.first_day, scope.end_day))
    rows = client.query(
        "SELECT toDate(timestamp) AS day, count() FROM priced_events"  # noqa: S608  # a constant
        f" WHERE {condition} GROUP BY day ORDER BY day",
        parameters=parameters,
    ).result_rows
    return [(day, int(count)) for day, count in rows]


def pages(reading: Reading) -> Iterator[Page]:
    """All rows of a reading, each once."""
    days = events_in(reading.client, reading.scope)
    whole = Stretch(reading.scope.first_day, reading.scope.end_day)
    fetch = _with_bookings if len(_bookings(reading, whole, " LIMIT 1")) else _rows
    position = 0
    while position < len(days):
        first, rows = days[position]
        end = position + 1
        while end < len(days) and rows + days[end][1] <= PAGE_ROWS:
            rows += days[end][1]
            end += 1
        if rows > PAGE_ROWS:
            yield from _stretches(_with_keys(reading), first, fetch)
        else:
            together = Stretch(first, days[end - 1][0] + _DAY)
            yield Page(together, fetch(reading, together, ""))
        position = end


def _stretches(reading: Reading, day: date, fetch: Fetch) -> Iterator[Page]:
    after: tuple[str, str] | None = None
    while True:
        asked = Stretch(day, day + _DAY, after)
        rows = fetch(reading, asked, f"{_IN_ORDER} LIMIT {PAGE_ROWS}")
        if not len(rows):
            return
        after = rows.select("tenant_id", "idempotency_key").row(-1)
        yield Page(replace(asked, upto=after), rows)


# By default names are written out and all is compressed, which takes a third more processor time to read.
_AS_IT_STANDS = {
    "output_format_arrow_low_cardinality_as_dictionary": 1,
    "output_format_arrow_compression_method": "none",
}
# By the whole key, though there is one day: so ClickHouse reads in the order in which rows stand.
_IN_ORDER = " ORDER BY tenant_id, toDate(timestamp), idempotency_key"


def _with_keys(reading: Reading) -> Reading:
    return replace(reading, columns=("idempotency_key", *reading.columns))


def _rows(reading: Reading, stretch: Stretch, tail: str) -> pl.DataFrame:
    columns = dict.fromkeys((*RATED, *reading.columns))
    amounts = ", ".join(f"u.{name} AS row_{name}" for name in AMOUNTS)
    condition, parameters = in_scope(reading.scope, stretch)
    found = reading.client.query_arrow(
        f"SELECT {', '.join(columns)}, toUnixTimestamp64Milli(u.timestamp) AS timestamp_ms, {amounts}"  # noqa: S608  # ours
        f" FROM usage AS u WHERE {condition} AND rating < {{before:UInt32}}{tail}",
        parameters={**parameters, "before": reading.before_rating},
        settings=_AS_IT_STANDS,
        use_strings=True,
    )
    return pl.DataFrame(pl.from_arrow(found)).with_columns(
        pl.col(pl.Categorical).cast(pl.String),
        pl.col(*TOKEN_FIELDS).cast(pl.Int64),
        pl.col("billable").cast(pl.Boolean),
        *(pl.col(f"row_{name}").cast(USD) for name in AMOUNTS),
        *(pl.col(f"row_{name}").cast(USD).alias(f"old_{name}") for name in AMOUNTS),
    )


def _with_bookings(reading: Reading, stretch: Stretch, tail: str) -> pl.DataFrame:
    rows = _rows(_with_keys(reading), stretch, tail).with_columns(day_number=pl.col("timestamp_ms") // DAY_MS)
    joined = rows.join(_bookings(reading, stretch, ""), on=_IDENTITY, how="left", maintain_order="left").drop(
        "day_number"
    )
    return joined.with_columns(
        (pl.col(f"row_{name}") + pl.col(f"booked_{name}").fill_null(0)).cast(USD).alias(f"old_{name}")
        for name in AMOUNTS
    ).drop(f"booked_{name}" for name in AMOUNTS)


def _bookings(reading: Reading, stretch: Stretch, tail: str) -> pl.DataFrame:
    """What was booked elsewhere for each event of a stretch."""
    condition, parameters = in_scope(reading.scope, stretch)
    found = reading.client.query_arrow(
        f"{_BOOKED} WHERE {condition} AND rating < {{before:UInt32}}"
        f" GROUP BY tenant_id, idempotency_key, day_number{tail}",
        parameters={**parameters, "before": reading.before_rating},
        use_strings=True,
    )
    return pl.DataFrame(pl.from_arrow(found)).with_columns(
        pl.col("day_number").cast(pl.Int64), *(pl.col(f"booked_{name}").cast(USD) for name in AMOUNTS)
    )


_BOOKED = f"""
SELECT tenant_id, idempotency_key, intDiv(toUnixTimestamp64Milli(a.timestamp), {DAY_MS}) AS day_number,
    sum(a.delta_cost) AS booked_cost, sum(a.delta_price) AS booked_price,
    sum(a.delta_credits) AS booked_credits,
    argMax(a.multiplier, a.rating) AS booked_multiplier,
    argMax(a.rate_card_version, a.rating) AS booked_rate_card_version, max(a.rating) AS booked_rating
FROM adjustments AS a FINAL
"""  # noqa: S608  # a constant


def reprice(rows: pl.DataFrame, card: RateCard) -> Repriced:
    """What a card makes of rows of a page."""
    events = rows.select(
        *(name for name in RATED if name != "billable"),
        "timestamp_ms",
        status=pl.when("billable").then(pl.lit("success")).otherwise(pl.lit("error")),
        offset=pl.int_range(pl.len(), dtype=pl.Int64),
        line=pl.lit(0, pl.Int32),
        raw=pl.lit(b"", pl.Binary),
    )
    batch = Decoded(_NOWHERE, events, no_quarantine(), len(rows), 0, live=False)
    rated = rate_events(refuse_unpriced(batch, card), card, _AS_BILLED, 0)
    refused = rated.quarantined
    new = rated.events.select(*AMOUNTS, "multiplier", "rate_card_version")
    priced = rows if not len(refused) else rows[rated.events["offset"]]
    return Repriced(
        priced.hstack(new),
        rows[refused["offset"]],
        Counter(refused["detail"].to_list()),
    )


def as_it_is(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows that keep what is in force, as if a card had said so."""
    return rows.with_columns(pl.col(f"old_{name}").alias(name) for name in AMOUNTS)
