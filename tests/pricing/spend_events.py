"""Events, windows and alerts of spend as short lines of text, for tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import polars as pl

from pricing.cap import CapAlert
from pricing.money import from_pico
from pricing.settings import LimitSettings, timezone_for
from pricing.spend import SpendBook, WindowKey, alert_of, sum_rows
from pricing.windows import day_window

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MILLISECOND = timedelta(milliseconds=1)
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "tenant_id": pl.String,
    "feature_id": pl.String,
    "idempotency_key": pl.String,
    "timestamp_ms": pl.Int64,
    "day_start_ms": pl.Int64,
    "price": pl.Decimal(38, 12),
}
THRESHOLDS = (Decimal("0.8"), Decimal(1))


@dataclass(frozen=True, slots=True)
class Event:
    tenant: str
    feature: str
    at_ms: int
    key: str
    price: Decimal


def ms(utc: str) -> int:
    return (datetime.fromisoformat(utc).replace(tzinfo=timezone.utc) - EPOCH) // MILLISECOND


def utc(instant_ms: int) -> str:
    return (EPOCH + instant_ms * MILLISECOND).strftime("%Y-%m-%dT%H:%M")


def events_of(lines: Iterable[str]) -> list[Event]:
    """One event from each line: tenant, feature, UTC, key, price in USD."""
    parts = [line.split() for line in lines]
    return [Event(part[0], part[1], ms(part[2]), part[3], Decimal(part[4])) for part in parts]


def rows_of(limits: LimitSettings, events: Sequence[Event]) -> pl.DataFrame:
    rows = [
        (
            event.tenant,
            event.feature,
            event.key,
            event.at_ms,
            day_window(event.at_ms, timezone_for(limits, event.tenant))[0],
            event.price,
        )
        for event in events
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def add_all(book: SpendBook, limits: LimitSettings, batches: Iterable[Sequence[Event]]) -> list[CapAlert]:
    return [alert for batch in batches for alert in add(book, limits, rows_of(limits, batch))[1]]


def add(book: SpendBook, limits: LimitSettings, rows: pl.DataFrame) -> tuple[list[WindowKey], list[CapAlert]]:
    """Add the sums of rows: the windows that changed, and the alerts of what they crossed."""
    touched, crossings = book.add(sum_rows(rows, limits))
    return touched, [alert_of(crossing, rows) for crossing in crossings]


def plain(amount: Decimal) -> str:
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def windows_in(book: SpendBook) -> list[str]:
    """Tenant, feature or -, kind, start and end in UTC, spend in USD, events, of each window, sorted."""
    return sorted(
        f"{tenant} {feature or '-'} {kind} {utc(start)} {utc(window.end_ms)} "
        f"{plain(from_pico(window.spend_pico))} {window.events}"
        for (tenant, feature, kind, start), window in book.windows.items()
    )


def told(alerts: Iterable[CapAlert]) -> list[str]:
    """Tenant, feature or -, kind, start in UTC, cap, threshold, spend, crossing key of each alert, sorted."""
    return sorted(
        f"{alert.tenant_id} {alert.feature_id or '-'} {alert.window_kind} {utc(alert.window_start_ms)} "
        f"{plain(alert.cap)} {alert.threshold} {plain(alert.spend)} {alert.crossing_key}"
        for alert in alerts
    )
