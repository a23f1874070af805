"""Re-rating: priced events get the amounts of another rate card, exactly once, whatever is cut off when.

A re-rating has a number, its rating, and an event shows the row of its greatest rating. Its steps:

1. it is noted with its card, its scope and the months that are closed (`dataflows.rerate_log`);
2. page by page, what changes goes to `rating_history`, what is booked elsewhere to `adjustments`, and then
   the rows of `priced_events` are copied with their new amounts and this rating;
3. it is noted as applied, with the sums of its history.

**Delivery:** exactly once in effect. Cut off anywhere, it is done again from its note: an event that shows
its rating is passed over, one in the middle gives the same rows once more, which replace themselves.
The job may go on meanwhile: what it writes has the rating 0.

An event of a closed month keeps its row, and the difference to what is in force (row and earlier bookings)
is booked on the first day that is open. An event of a month that was opened again gets its row, and what was
booked for it is taken back the same way. So its sum is right wherever the parts of it stand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Context, Decimal, Inexact
from typing import Any

import polars as pl
from clickhouse_connect.driver.client import Client

from dataflows.card_file import compiled, pricing_of
from dataflows.report import ReportTable
from dataflows.repricing import (
    AMOUNTS,
    Page,
    Reading,
    Repriced,
    Scope,
    as_it_is,
    events_in,
    in_scope,
    pages,
    reprice,
)
from dataflows.rerate_log import WRITE_SETTINGS, Rerate, RerateRefusedError, note_applied
from pricing.rate_card import RateCard
from sinks.rows import USD

OnProgress = Callable[[str], None]

HISTORY_COLUMNS = (
    *(
        "idempotency_key",
        "rating",
        "multiplier AS row_multiplier",
        "rate_card_version AS row_rate_card_version",
        "late",
    ),
    *("source", "source_partition", "source_offset", "source_line"),
)
_LABELS = ("tenant_id", "idempotency_key", "feature_id", "provider", "model")
EXACT = Context(prec=50, traps=[Inexact])
UNPRICED_NAMED_MAX = 20
_MONEY = ("old_cost", "old_price", "cost", "price")


@dataclass(frozen=True, slots=True)
class Effect:
    """What a re-rating does.

    `sums` has a row for each tenant and model: `events` in scope, `changed`, and old and new cost and price
    of all of them, in USD. `adjusted` counts events of closed months; `unpriced` those that keep their rating
    because the card has no rate for them, by sentence.
    """

    sums: pl.DataFrame
    adjusted: int
    unpriced: Counter[str]


def preview(
    client: Client, scope: Scope, card: RateCard, closed: Sequence[date], on_progress: OnProgress
) -> Effect:
    """What a re-rating would do. Nothing is written."""
    reading = Reading(client, scope, HISTORY_COLUMNS)

    def judged() -> Iterator[tuple[Repriced, pl.DataFrame]]:
        for page in _told(reading, on_progress):
            repriced = reprice(page.rows, card)
            yield repriced, changes(repriced.rows, closed)

    return _effect(judged())


def apply(client: Client, one: Rerate, on_progress: OnProgress, now_ms: Callable[[], int]) -> Effect:
    """Do a re-rating that has begun, or what is left of it; `now_ms` is the wall clock.

    Raises:
        RerateRefusedError: it was begun with a Meterline that reads its card in another way.
        ClickHouseError: as any query; it is finished by the next one.
    """
    card = compiled(pricing_of(one.card))
    if card.version != one.rate_card_version:
        raise RerateRefusedError(
            f"re-rating {one.rating} was begun by a version of Meterline that reads its rate card as "
            f"{one.rate_card_version}, where this one reads {card.version}: finish it with that version"
        )
    reading = Reading(client, one.scope, HISTORY_COLUMNS, one.rating)

    def written() -> Iterator[tuple[Repriced, pl.DataFrame]]:
        for page in _told(reading, on_progress):
            repriced = reprice(page.rows, card)
            changed = changes(repriced.rows, one.closed)
            _write(client, one, page, changed)
            yield repriced, changed

    effect = _effect(written())
    note_applied(client, one, sum(effect.unpriced.values()), now_ms())
    return effect


def changes(rows: pl.DataFrame, closed: Sequence[date]) -> pl.DataFrame:
    """The repriced rows for which something is to be written.

    Adds `adjusted` (the month is closed, so the row stays), `delta_…` to what is in force, and `booked_…`,
    the part of it that is booked elsewhere. Of a closed month amounts alone matter, else the multiplier too.
    """
    month = pl.from_epoch("timestamp_ms", "ms").dt.truncate("1mo").dt.date()
    judged = rows.with_columns(
        adjusted=month.is_in(list(closed)),
        **{f"delta_{name}": (pl.col(name) - pl.col(f"old_{name}")).cast(USD) for name in AMOUNTS},
    ).with_columns(
        pl.when("adjusted")
        .then(f"delta_{name}")
        .otherwise((pl.col(f"row_{name}") - pl.col(f"old_{name}")).cast(USD))
        .alias(f"booked_{name}")
        for name in AMOUNTS
    )
    is_booked = pl.any_horizontal(pl.col(f"booked_{name}") != 0 for name in AMOUNTS)
    is_other = pl.any_horizontal(pl.col(name) != pl.col(f"row_{name}") for name in (*AMOUNTS, "multiplier"))
    return judged.with_columns(is_booked=is_booked).filter(
        pl.col("is_booked") | (~pl.col("adjusted") & is_other)
    )


def _told(reading: Reading, on_progress: OnProgress) -> Iterator[Page]:
    whole = sum(count for _, count in events_in(reading.client, reading.scope))
    done = 0
    for page in pages(reading):
        yield page
        done += len(page.rows)
        on_progress(f"{done:,} of {whole:,} events")


def _write(client: Client, one: Rerate, page: Page, changed: pl.DataFrame) -> None:
    if not len(changed):
        return
    stamped = changed.with_columns(
        timestamp=pl.from_epoch("timestamp_ms", "ms").dt.replace_time_zone("UTC"),
        rating=pl.lit(one.rating, pl.UInt32),
        rerate_id=pl.lit(one.rerate_id),
        at=pl.lit(one.begun_ms, pl.Int64).cast(pl.Datetime("ms", "UTC")),
        booked_on=pl.lit(one.booked_on),
    )
    _insert(client, "rating_history", _history(stamped, changed["rating"]))
    booked = stamped.filter("is_booked")
    if len(booked):
        _insert(client, "adjustments", _bookings(booked))
    if not changed["adjusted"].all():
        condition, parameters = in_scope(one.scope, page.stretch)
        client.command(
            _COPY.format(condition=condition),
            parameters={**parameters, "rating": one.rating},
            settings=WRITE_SETTINGS,
        )


def _history(stamped: pl.DataFrame, row_rating: pl.Series) -> pl.DataFrame:
    old = {name: pl.col(f"row_{name}") for name in ("multiplier", "rate_card_version")}
    if "booked_rating" in stamped.columns:
        is_newer = pl.col("booked_rating").fill_null(0) > row_rating
        old = {name: pl.when(is_newer).then(f"booked_{name}").otherwise(row) for name, row in old.items()}
    return stamped.select(
        *_LABELS,
        "timestamp",
        "rating",
        "rerate_id",
        *(f"old_{name}" for name in AMOUNTS),
        *(expression.alias(f"old_{name}") for name, expression in old.items()),
        *AMOUNTS,
        "multiplier",
        "rate_card_version",
        *(f"delta_{name}" for name in AMOUNTS),
        "adjusted",
        pl.when("adjusted")
        .then(pl.lit(0, USD))
        .otherwise((pl.col("price") - pl.col("row_price")).cast(USD))
        .alias("row_price_delta"),
        *("late", "source", "source_partition", "source_offset", "source_line"),
        pl.col("at").alias("rated_at"),
    )


def _bookings(stamped: pl.DataFrame) -> pl.DataFrame:
    return stamped.select(
        "booked_on",
        *_LABELS,
        "model_version",
        "timestamp",
        "rating",
        "rerate_id",
        *(pl.col(f"booked_{name}").alias(f"delta_{name}") for name in AMOUNTS),
        "multiplier",
        "rate_card_version",
        pl.col("at").alias("booked_at"),
    )


def _insert(client: Client, table: str, rows: pl.DataFrame) -> None:
    client.insert_arrow(table, rows.to_arrow(), settings=WRITE_SETTINGS)


_COPY = """
INSERT INTO priced_events
SELECT u.* REPLACE (h.cost AS cost, h.price AS price, h.credits AS credits, h.multiplier AS multiplier,
    h.rate_card_version AS rate_card_version, {{rating:UInt32}} AS rating)
FROM (SELECT * FROM usage WHERE {condition} AND rating < {{rating:UInt32}}) AS u
INNER JOIN
(
    SELECT tenant_id, idempotency_key, toDate(timestamp) AS day, cost, price, credits, multiplier,
        rate_card_version
    FROM rating_history FINAL WHERE {condition} AND rating = {{rating:UInt32}} AND NOT adjusted
) AS h
ON u.tenant_id = h.tenant_id AND u.idempotency_key = h.idempotency_key AND toDate(u.timestamp) = h.day
"""


_SUMS = pl.Schema(
    {
        "tenant_id": pl.String(),
        "model": pl.String(),
        "events": pl.Int64(),
        "changed": pl.Int64(),
        **dict.fromkeys(_MONEY, USD),
    }
)


def _effect(judged: Iterable[tuple[Repriced, pl.DataFrame]]) -> Effect:
    sums = _SUMS.to_frame()
    unpriced: Counter[str] = Counter()
    adjusted = 0
    for repriced, changed in judged:
        parts = [sums, _sums(repriced.rows), _sums(as_it_is(repriced.unpriced))]
        counted = changed.select("tenant_id", "model", changed=pl.lit(1, pl.Int64))
        sums = (
            pl.concat([*parts, counted], how="diagonal")
            .group_by("tenant_id", "model")
            .agg(pl.col("events", "changed", *_MONEY).sum())
            .select(list(_SUMS))
        )
        unpriced += repriced.unpriced_why
        adjusted += int(changed["adjusted"].sum())
    return Effect(sums.sort("tenant_id", "model"), adjusted, unpriced)


def _sums(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by("tenant_id", "model").agg(
        pl.len().cast(pl.Int64).alias("events"), pl.col(*_MONEY).sum()
    )


def effect_table(effect: Effect, title: str) -> ReportTable:
    """Old and new cost, price and margin of each tenant and model, the greatest loss of margin first.

    Those of which nothing changed come last, so that a table that is cut short shows changes.
    """
    rows = [_row(tenant, model, *figures) for tenant, model, *figures in effect.sums.iter_rows()]
    rows.sort(key=lambda row: (not row[3], row[-1], row[0], row[1]))
    totals = effect.sums.select(pl.col("events", "changed", *_MONEY).sum()).row(0) if rows else ()
    columns = (
        *("tenant", "model", "events", "changed", "cost", "price", "margin"),
        *("new cost", "new price", "new margin", "difference"),
    )
    return ReportTable(title, columns, tuple(rows), _row("all", "", *totals) if rows else ())


def _row(
    tenant: str,
    model: str,
    events: int,
    changed: int,
    old_cost: Decimal,
    old_price: Decimal,
    cost: Decimal,
    price: Decimal,
) -> tuple[Any, ...]:
    old, new = EXACT.subtract(old_price, old_cost), EXACT.subtract(price, cost)
    amounts = (old_cost, old_price, old, cost, price, new, EXACT.subtract(new, old))
    return (tenant, model, events, changed, *amounts)


def remarks(effect: Effect, closed: Sequence[date], booked_on: date) -> Iterator[str]:
    """What the table does not say: bookings elsewhere, and what keeps its rating."""
    if effect.adjusted:
        months = ", ".join(f"{month:%Y-%m}" for month in closed)
        yield (
            f"{effect.adjusted:,} events are of a closed month ({months}): their rows stay, and the"
            f" difference is booked on {booked_on}"
        )
    yield from kept(effect.unpriced)


def kept(unpriced: Counter[str]) -> Iterator[str]:
    """How many events keep their rating, and why."""
    for why, count in unpriced.most_common(UNPRICED_NAMED_MAX):
        yield f"{count:,} events keep their rating: {why}"
    further = len(unpriced) - UNPRICED_NAMED_MAX
    if further > 0:
        yield f"{sum(unpriced.values()):,} events keep their rating in all, for {further:,} more reasons"
