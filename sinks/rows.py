"""What the job hands to its sink, and how each becomes rows of a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

import polars as pl

from pricing.cap import CapAlert
from pricing.money import from_pico

USD = pl.Decimal(38, 12)
_TIME = pl.Datetime("ms", "UTC")


@dataclass(frozen=True, slots=True)
class TableRows:
    """Rows of one table, finished or in the job's own columns: the sink is told how to finish those."""

    table: str
    frame: pl.DataFrame


@dataclass(frozen=True, slots=True)
class WindowVersion:
    """A spend window as it is now; a later version of the same window replaces it."""

    tenant_id: str
    feature_id: str
    window_kind: str
    window_start_ms: int
    window_end_ms: int
    spend_pico: int
    events: int
    cap: Decimal | None


@dataclass(frozen=True, slots=True)
class WindowVersions:
    """Windows that one batch changed, in order."""

    versions: tuple[WindowVersion, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """One poll of one input was decoded: the input goes on at `next_offset`; `read` lines were not blank."""

    source: str
    number: int
    next_offset: int
    read: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing to write; wakes the sink partition so that its last block is published."""


SinkItem: TypeAlias = "TableRows | WindowVersions | CapAlert | Progress | Heartbeat"


def time_column(name: str, millis: str) -> pl.Expr:
    """Epoch milliseconds as ClickHouse's DateTime64(3, 'UTC')."""
    return pl.col(millis).cast(_TIME).alias(name)


def window_rows(versions: Iterable[WindowVersion], generation: int, now_ms: int) -> pl.DataFrame:
    """Rows of `spend_sums`; the version of a greater generation prevails, then the one of more events."""
    schema = {
        "tenant_id": pl.String(),
        "feature_id": pl.String(),
        "window_kind": pl.String(),
        "window_start": pl.Int64(),
        "window_end": pl.Int64(),
        "spend": USD,
        "events": pl.Int64(),
        "cap": USD,
    }
    rows = [
        (
            one.tenant_id,
            one.feature_id,
            one.window_kind,
            one.window_start_ms,
            one.window_end_ms,
            from_pico(one.spend_pico),
            one.events,
            one.cap,
        )
        for one in versions
    ]
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns(
        time_column("window_start", "window_start"),
        time_column("window_end", "window_end"),
        updated_at=pl.lit(now_ms, pl.Int64).cast(_TIME),
        generation=pl.lit(generation, pl.UInt32),
    )


def alert_rows(alerts: Iterable[CapAlert]) -> pl.DataFrame:
    """Rows of `cap_alert_log`."""
    schema = {
        "alert_id": pl.String(),
        "tenant_id": pl.String(),
        "feature_id": pl.String(),
        "window_kind": pl.String(),
        "window_start": pl.Int64(),
        "window_end": pl.Int64(),
        "cap": USD,
        "threshold": USD,
        "spend": USD,
        "crossing_key": pl.String(),
        "raised_at": pl.Int64(),
    }
    rows = [
        (
            alert.alert_id,
            alert.tenant_id,
            alert.feature_id,
            alert.window_kind,
            alert.window_start_ms,
            alert.window_end_ms,
            alert.cap,
            alert.threshold,
            alert.spend,
            alert.crossing_key,
            alert.raised_at_ms,
        )
        for alert in alerts
    ]
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        time_column("window_start", "window_start"),
        time_column("window_end", "window_end"),
        time_column("raised_at", "raised_at"),
    )


def progress_rows(progress: Iterable[tuple[str, int, int, int]], now_ms: int) -> pl.DataFrame:
    """Rows of `source_progress` from (source, number, next_offset, events_read)."""
    schema = {
        "source": pl.String(),
        "source_partition": pl.Int64(),
        "next_offset": pl.Int64(),
        "events_read": pl.Int64(),
    }
    return pl.DataFrame(list(progress), schema=schema, orient="row").with_columns(
        updated_at=pl.lit(now_ms, pl.Int64).cast(_TIME)
    )


def delivery_rows(deliveries: Iterable[tuple[str, int]]) -> pl.DataFrame:
    """Rows of `cap_alert_deliveries` from (alert id, epoch ms of the delivery)."""
    schema = {"alert_id": pl.String(), "delivered_at": pl.Int64()}
    return pl.DataFrame(list(deliveries), schema=schema, orient="row").with_columns(
        time_column("delivered_at", "delivered_at")
    )


def stamped(frame: pl.DataFrame, column: str, now_ms: int) -> pl.DataFrame:
    """The frame with one more column that says when its rows were staged."""
    return frame.with_columns(pl.lit(now_ms, pl.Int64).cast(_TIME).alias(column))
