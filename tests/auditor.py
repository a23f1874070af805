"""The independent auditor: what the job should have said, computed the plain way.

A slow and obviously right reading of the contract over `json`, `decimal` and `datetime`. It shares
no code with the job, so that a mistake has to be made twice, in two different ways, before a test
that compares the two can miss it. Nothing here is optimised beyond what a million lines need.

Events go in as `Line`s (made by `tests/auditor_event.py`) in the order of their arrival; `audit` answers
with every row, duplicate, quarantined line, spend window, alert and margin that must come out. Amounts
are `Decimal` USD with 12 places, times epoch milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import yaml

from tests.auditor_event import (
    EPOCH,
    EXACT,
    UTC,
    Event,
    Line,
    Position,
    RejectedError,
    read_event,
    usd,
)
from tests.auditor_rates import Card, Rated

HOUR_MS = 3_600_000

RowKey = tuple[str, str, int]
"""(tenant_id, idempotency_key, event time)."""

SpendKey = tuple[str, str, str, int]
"""(tenant_id, feature_id or "" for all features, "day" or "month", window start)."""

AlertKey = tuple[str, str, str, int, Decimal]
"""(tenant_id, feature_id or "", "day" or "month", window start, threshold)."""

MarginKey = tuple[date, str, str, str, str, str]
"""(UTC day, tenant_id, feature_id, provider, model, model_version)."""


class PricedRow(NamedTuple):
    """What `usage` must hold for one event."""

    event: Event
    position: Position
    cost: Decimal
    price: Decimal
    credits: Decimal
    multiplier: Decimal
    billable: bool
    late: bool


class Crossing(NamedTuple):
    """The event that took spend to the threshold, in the order of arrival that was audited."""

    crossing_key: str
    spend: Decimal
    cap: Decimal
    event_ms: int


@dataclass(slots=True)
class Margin:
    """One row of `margin_daily`, without the percentage."""

    requests: int = 0
    billable_requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    credits: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)
    price: Decimal = Decimal(0)

    @property
    def margin(self) -> Decimal:
        return self.price - self.cost


@dataclass(slots=True)
class Audit:
    """Everything that must come out of the lines that went in; `read` leaves blank lines out.

    `spend` has an entry for every window that a row in time fell into, also when it came to zero, and
    for every feature, capped or not.
    """

    read: int = 0
    priced: dict[RowKey, PricedRow] = field(default_factory=dict)
    duplicates: list[Position] = field(default_factory=list)
    quarantined: list[tuple[Position, str]] = field(default_factory=list)
    spend: dict[SpendKey, Decimal] = field(default_factory=dict)
    alerts: dict[AlertKey, Crossing] = field(default_factory=dict)
    margin_daily: dict[MarginKey, Margin] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------
# Configuration


def load_config(text: str) -> dict[str, Any]:
    """The YAML document with every scalar as the text that stands there, so that no rate becomes a float."""
    loaded = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  # BaseLoader builds nothing but text, lists and mappings
    return loaded or {}


def _at(config: Mapping[str, Any], *path: str) -> Any:
    """What stands at a path; None where it ends early, and where it says null, which counts as absent."""
    here: Any = config
    for name in path:
        if not isinstance(here, Mapping) or name not in here:
            return None
        here = here[name]
    return None if here in ("", "~", "null", "Null", "NULL") else here


def _decimal_at(config: Mapping[str, Any], *path: str, default: str) -> Decimal:
    text = _at(config, *path)
    return Decimal(default if text is None else text)


class Settings:
    """What the audit needs of the configuration, each value read once."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        def hours_ms(name: str, default: str) -> int:
            return int(_decimal_at(config, "metering", name, default=default) * HOUR_MS)

        self.config = config
        if _at(config, "pricing", "contracts") or _at(config, "pricing", "cards"):
            raise ValueError("the auditor knows neither contracts nor card files")
        self.card = Card(_at(config, "pricing", "rules") or [])
        self.dedupe_ms = hours_ms("idempotency_window_hours", "24")
        self.retention_ms = hours_ms("window_retention_hours", "72")
        self.future_ms = int(_decimal_at(config, "metering", "max_future_minutes", default="5") * 60_000)
        self.age_ms = int(_decimal_at(config, "metering", "max_age_days", default="35") * 24 * HOUR_MS)
        exclude = _at(config, "limits", "feature", "exclude_cache_from_billing")
        self.hits_are_free = exclude is None or exclude.lower() == "true"
        burst = _decimal_at(config, "limits", "tenant", "burst_threshold", default="0.8")
        self.thresholds = sorted({burst, Decimal(1)})
        self._zones: dict[str, ZoneInfo] = {}
        self._caps: dict[tuple[str, str, str], Decimal | None] = {}

    def zone(self, tenant: str) -> ZoneInfo:
        if tenant not in self._zones:
            name = _at(self.config, "limits", "overrides", "tenants", tenant, "timezone")
            name = name or _at(self.config, "limits", "tenant", "timezone") or "UTC"
            self._zones[tenant] = ZoneInfo(name)
        return self._zones[tenant]

    def cap(self, tenant: str, feature: str, kind: str) -> Decimal | None:
        """USD; None when nothing caps this spend. The nearest setting that is there wins."""
        key = (tenant, feature, kind)
        if key not in self._caps:
            overrides = ("limits", "overrides")
            if feature:
                places = [
                    (*overrides, "tenants", tenant, "features", feature),
                    (*overrides, "features", feature),
                ]
            else:
                places = [(*overrides, "tenants", tenant), ("limits", "tenant")]
            found = [_at(self.config, *place, f"{kind}_cap") for place in places]
            text = next((text for text in found if text is not None), None)
            self._caps[key] = None if text is None else Decimal(text)
        return self._caps[key]


# ---------------------------------------------------------------------------------------------
# Money and time


@lru_cache(maxsize=4096)
def _local_midnight_ms(day: date, zone: ZoneInfo) -> int:
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    return (midnight.astimezone(UTC) - EPOCH) // timedelta(milliseconds=1)


def windows_of(event_ms: int, zone: ZoneInfo) -> tuple[int, int, int]:
    """The day's start and end and the month's start, of the tenant's calendar, in epoch milliseconds."""
    local = (EPOCH + timedelta(milliseconds=event_ms)).astimezone(zone).date()
    return (
        _local_midnight_ms(local, zone),
        _local_midnight_ms(local + timedelta(days=1), zone),
        _local_midnight_ms(local.replace(day=1), zone),
    )


def _priced(event: Event, position: Position, rated: Rated, settings: Settings, *, late: bool) -> PricedRow:
    hit = event.cache_status == "hit"
    billable = event.status == "success" and not (hit and settings.hits_are_free)
    return PricedRow(
        event=event,
        position=position,
        cost=usd(Decimal(0)) if hit else usd(rated.cost),
        price=usd(rated.price) if billable else usd(Decimal(0)),
        credits=usd(rated.credits) if billable else usd(Decimal(0)),
        multiplier=rated.multiplier,
        billable=billable,
        late=late,
    )


# ---------------------------------------------------------------------------------------------
# The audit


def _what_a_copy_may_not_change(event: Event) -> Event:
    return event._replace(timestamp=0, latency_ms=0, retry_count=0, attributes={})


class _Auditor:
    def __init__(self, settings: Settings, now_ms: int | None) -> None:
        self.settings = settings
        self.now_ms = now_ms
        self.audit = Audit()
        self.firsts: dict[tuple[str, str], list[Event]] = {}
        self.watermarks: dict[tuple[str, int], int] = {}

    def take(self, line: Line) -> None:
        if not line.raw.strip(b" \t\r\n"):
            return
        self.audit.read += 1
        try:
            event = read_event(line.raw)
            self._check_time(event.timestamp, line)
            rated = self.settings.card.rate(event)
            partition = (line.source, line.partition)
            self.watermarks[partition] = max(event.timestamp, self.watermarks.get(partition, 0))
            if self._is_copy(event):
                self.audit.duplicates.append(line.position)
                return
        except RejectedError as rejected:
            self.audit.quarantined.append((line.position, rejected.args[0]))
            return
        self._book(event, line, rated, self.watermarks[partition])

    def _check_time(self, event_ms: int, line: Line) -> None:
        arrival_ms = self.now_ms if line.arrival_ms is None else line.arrival_ms
        if arrival_ms is None:
            raise ValueError("a line without an arrival time needs now_ms")
        if event_ms > arrival_ms + self.settings.future_ms:
            raise RejectedError("timestamp_in_future")
        if line.arrival_ms is not None and event_ms < arrival_ms - self.settings.age_ms:
            raise RejectedError("timestamp_too_old")

    def _is_copy(self, event: Event) -> bool:
        """True for a duplicate; a first is remembered.

        Raises:
            RejectedError: the key is that of an earlier event that said something else.
        """
        firsts = self.firsts.setdefault((event.tenant_id, event.idempotency_key), [])
        for first in firsts:
            if abs(event.timestamp - first.timestamp) <= self.settings.dedupe_ms:
                if _what_a_copy_may_not_change(event) != _what_a_copy_may_not_change(first):
                    raise RejectedError("idempotency_conflict")
                return True
        firsts.append(event)
        return False

    def _book(self, event: Event, line: Line, rated: Rated, watermark_ms: int) -> None:
        zone = self.settings.zone(event.tenant_id)
        day_start, day_end, month_start = windows_of(event.timestamp, zone)
        late = watermark_ms > day_end + self.settings.retention_ms
        row = _priced(event, line.position, rated, self.settings, late=late)
        self.audit.priced[event.tenant_id, event.idempotency_key, event.timestamp] = row
        self._add_to_margin(row)
        if late:
            return
        for feature in ("", event.feature_id):
            self._add_to_spend(row, (event.tenant_id, feature, "day", day_start))
            self._add_to_spend(row, (event.tenant_id, feature, "month", month_start))

    def _add_to_spend(self, row: PricedRow, key: SpendKey) -> None:
        spend = self.audit.spend.get(key, Decimal(0)) + row.price
        self.audit.spend[key] = spend
        tenant, feature, kind, _ = key
        cap = self.settings.cap(tenant, feature, "daily" if kind == "day" else "monthly")
        if cap is None:
            return
        for threshold in self.settings.thresholds:
            if spend >= threshold * cap:
                crossing = Crossing(row.event.idempotency_key, spend, cap, row.event.timestamp)
                self.audit.alerts.setdefault((*key, threshold), crossing)

    def _add_to_margin(self, row: PricedRow) -> None:
        event = row.event
        day = (EPOCH + timedelta(milliseconds=event.timestamp)).date()
        key = (day, event.tenant_id, event.feature_id, event.provider, event.model, event.model_version)
        margin = self.audit.margin_daily.setdefault(key, Margin())
        margin.requests += 1
        margin.billable_requests += row.billable
        margin.input_tokens += event.input_tokens
        margin.output_tokens += event.output_tokens
        margin.cache_read_tokens += event.cache_read_tokens
        margin.cache_write_tokens += event.cache_write_tokens
        margin.cache_write_1h_tokens += event.cache_write_1h_tokens
        margin.reasoning_tokens += event.reasoning_tokens
        margin.credits += row.credits
        margin.cost += row.cost
        margin.price += row.price


def audit(lines: Iterable[Line], config: Mapping[str, Any], *, now_ms: int | None = None) -> Audit:
    """Everything that must come out of `lines`, which stand in the order of their arrival.

    `config` is what `load_config` gives; `now_ms` is the wall clock for lines that carry no arrival time.
    """
    with localcontext(EXACT):
        auditor = _Auditor(Settings(config), now_ms)
        for line in lines:
            auditor.take(line)
    found = auditor.audit
    if found.read != len(found.priced) + len(found.duplicates) + len(found.quarantined):
        raise AssertionError("the auditor itself lost a line")
    return found
