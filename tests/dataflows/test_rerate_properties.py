"""Whatever cards follow each other, and months are closed or not: row and bookings are the new amount."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from dataflows.batch import TOKEN_FIELDS
from dataflows.repricing import AMOUNTS, reprice
from dataflows.rerate import changes
from pricing.rate_card import RateCard, compile_card
from pricing.settings import Rule
from sinks.rows import USD
from tests.dataflows.priced import NOON_MS

MARCH = date(2026, 3, 1)
RATES = st.decimals("0", "10", places=15)


@st.composite
def cards(draw: st.DrawFn) -> RateCard:
    return compile_card(
        [
            Rule(
                model=model,
                provider="",
                input_rate=draw(RATES),
                output_rate=draw(RATES),
                multiplier=draw(st.decimals("0", "10", places=6)),
                credit_multiplier=draw(st.decimals("0", "10", places=6)),
            )
            for model in ("big", "small")
        ]
    )


EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(["big", "small"]),
            "billable": st.booleans(),
            "cache_status": st.sampled_from(["miss", "hit"]),
            "input_tokens": st.integers(0, 2**40),
            "output_tokens": st.integers(0, 10_000),
        }
    ),
    min_size=1,
    max_size=8,
)


def rows_of(events: list[dict[str, Any]], card: RateCard) -> pl.DataFrame:
    """Rows as the job would have left them."""
    plain = dict.fromkeys(
        ("tenant_id", "feature_id", "provider", "model_version", "region", "service_tier"), ""
    )
    counts = dict.fromkeys(TOKEN_FIELDS, 0)
    whole = [{**plain, **counts, "attributes": "{}", "timestamp_ms": NOON_MS, **one} for one in events]
    rows = reprice(pl.DataFrame(whole, infer_schema_length=None), card).rows
    return standing(rows.with_columns(pl.lit(0, USD).alias(f"sum_{name}") for name in AMOUNTS))


def standing(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows that show what they were rated, beside the `sum_…` of their bookings."""
    shown = rows.with_columns(
        *(pl.col(name).alias(f"row_{name}") for name in (*AMOUNTS, "multiplier")),
        *((pl.col(name) + pl.col(f"sum_{name}")).cast(USD).alias(f"old_{name}") for name in AMOUNTS),
    )
    return shown.drop(*AMOUNTS, "multiplier", "rate_card_version")


def re_rated(rows: pl.DataFrame, card: RateCard, closed: list[date]) -> pl.DataFrame:
    """What stands after a re-rating: rows of an open month as they are rated, and bookings added up."""
    numbered = rows.with_row_index()
    changed = changes(reprice(numbered, card).rows, closed)
    booked = changed.select(
        "index", "adjusted", *(f"booked_{name}" for name in AMOUNTS), *AMOUNTS, "multiplier"
    )
    joined = numbered.join(booked, on="index", how="left").with_columns(
        (pl.col(f"sum_{name}") + pl.col(f"booked_{name}").fill_null(0)).cast(USD).alias(f"sum_{name}")
        for name in AMOUNTS
    )
    is_written = pl.col("adjusted").fill_null(value=True).not_()
    rated = joined.with_columns(
        pl.when(is_written).then(name).otherwise(f"row_{name}").alias(name)
        for name in (*AMOUNTS, "multiplier")
    )
    drop = ["index", "adjusted", *(f"{kind}_{name}" for kind in ("booked", "row", "old") for name in AMOUNTS)]
    return standing(rated.drop(*drop, "row_multiplier").with_columns(rate_card_version=pl.lit("")))


def in_force(rows: pl.DataFrame) -> list[tuple[Decimal, ...]]:
    return rows.select(f"old_{name}" for name in AMOUNTS).rows()


@given(EVENTS, cards(), st.lists(st.tuples(cards(), st.booleans()), max_size=4))
def test_row_and_bookings_are_always_what_the_last_card_says(
    events: list[dict[str, Any]], first: RateCard, steps: list[tuple[RateCard, bool]]
) -> None:
    rows = rows_of(events, first)
    for card, is_closed in steps:
        rows = re_rated(rows, card, [MARCH] if is_closed else [])
        assert in_force(rows) == in_force(rows_of(events, card))
        if not is_closed:
            assert rows["row_multiplier"].equals(rows_of(events, card)["row_multiplier"])
            assert all(
                value == 0 for row in rows.select(f"sum_{name}" for name in AMOUNTS).rows() for value in row
            )


@given(EVENTS, cards(), cards(), st.booleans())
def test_the_same_card_again_changes_nothing_and_the_first_one_restores_all(
    events: list[dict[str, Any]], first: RateCard, second: RateCard, is_closed: bool
) -> None:
    closed = [MARCH] if is_closed else []
    rows = rows_of(events, first)
    assert not len(changes(reprice(rows, first).rows, closed))
    there = re_rated(rows, second, closed)
    assert not len(changes(reprice(there, second).rows, closed))
    assert re_rated(there, first, closed).equals(rows)


def test_what_was_billed_stays_billed_and_what_was_not_stays_free() -> None:
    card = compile_card([Rule(model="big", provider="", input_rate=Decimal(1), output_rate=Decimal(1))])
    events = [
        {"model": "big", "input_tokens": 1, "cache_status": cache_status, "billable": billable}
        for cache_status in ("miss", "hit")
        for billable in (True, False)
    ]
    rows = rows_of(events, card)
    assert rows["row_price"].to_list() == [1, 0, 1, 0]
    assert rows["row_cost"].to_list() == [1, 1, 0, 0]
