"""Spend per tenant and window, and the alerts that its caps raise.

Theory of operation. A book holds one running sum for each (tenant, feature or "", day or month,
window start) that has seen an event. Sums are whole picodollars, so their order never matters.
A batch is summed by column first; Python then touches each group once, never each event. Only a
group that crosses a threshold is looked at row by row, to name the event that crossed it.

A window is kept for the retention after its end, in event time of the slowest live input, so
that late events still correct it; later ones are marked `late` before they come here. A month is
closed by the same rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import polars as pl

from pricing.cap import CapAlert, alert_id
from pricing.money import PICO, from_pico, to_pico
from pricing.settings import LimitSettings, caps_for, timezone_for
from pricing.windows import day_window, month_window

WindowKey = tuple[str, str, str, int]
"""(tenant_id, feature_id or "", "day" or "month", window_start_ms)."""


@dataclass(slots=True)
class SpendWindow:
    """One running sum. `events` counts what it holds and so orders its versions; `raised` has thresholds."""

    end_ms: int
    spend_pico: int = 0
    events: int = 0
    cap: Decimal | None = None
    raised: list[Decimal] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Group:
    """Events of one batch that fall in one window."""

    key: WindowKey
    end_ms: int
    amount_pico: int
    events: int
    cap: Decimal | None


def sum_rows(rows: pl.DataFrame, limits: LimitSettings) -> pl.DataFrame:
    """`tenant_id`, `feature_id` where some cap asks for it, `day_start_ms`, `price` and `events`, a count.

    Once for a whole batch: a shard's few rows cost nearly as much to sum as all of them.
    """
    with_features = limits.feature_overrides or any(o.features for o in limits.tenant_overrides.values())
    by = ["tenant_id", "feature_id", "day_start_ms"] if with_features else ["tenant_id", "day_start_ms"]
    return rows.group_by(by, maintain_order=True).agg(price=pl.col("price").sum(), events=pl.len())


class SpendBook:
    """The windows of some tenants. `changed` collects the keys touched since `take_changed`."""

    def __init__(self, limits: LimitSettings, thresholds: Sequence[Decimal]) -> None:
        self.windows: dict[WindowKey, SpendWindow] = {}
        self._limits = limits
        self._thresholds = thresholds
        self._changed: dict[WindowKey, None] = {}

    def add(self, sums: pl.DataFrame, rows: pl.DataFrame) -> tuple[list[WindowKey], list[CapAlert]]:
        """Add priced rows.

        Args:
            sums: what `sum_rows` makes of them.
            rows: the same in their order of arrival, with `tenant_id`, `feature_id`, `idempotency_key`,
                `timestamp_ms`, `day_start_ms` and `price` (USD); none of them late.

        Returns:
            The windows that changed, and the alerts that this raised.
        """
        touched: list[WindowKey] = []
        alerts: list[CapAlert] = []
        for group in self._groups(sums):
            window = self._grown(group)
            touched.append(group.key)
            self._changed[group.key] = None
            alerts += self._cross(group.key, window, window.spend_pico - group.amount_pico, rows)
        return touched, alerts

    def restore(self, sums: pl.DataFrame) -> None:
        """Take in what earlier rows sum to: as `add`, but nothing changes or alerts."""
        for group in self._groups(sums):
            self._grown(group)

    def _grown(self, group: _Group) -> SpendWindow:
        window = self.windows.setdefault(group.key, SpendWindow(group.end_ms))
        window.cap = group.cap
        window.spend_pico += group.amount_pico
        window.events += group.events
        return window

    def unraised(self) -> list[WindowKey]:
        """Windows that have reached a threshold which nobody was told of: their next event raises it."""
        return [
            key
            for key, window in self.windows.items()
            if window.cap is not None
            for threshold in self._thresholds
            if threshold not in window.raised and window.spend_pico >= _ceil_pico(window.cap, threshold)
        ]

    def forget(self, before_ms: int) -> list[WindowKey]:
        """Drop every window that ended before an instant; returns their keys.

        One that ended at that very instant stays: an event of it is not late yet.
        """
        gone = [key for key, window in self.windows.items() if window.end_ms < before_ms]
        for key in gone:
            del self.windows[key]
            self._changed.pop(key, None)
        return gone

    def take_changed(self) -> list[WindowKey]:
        """Keys changed since the last call, which this call forgets."""
        changed, self._changed = list(self._changed), {}
        return changed

    def _groups(self, sums: pl.DataFrame) -> Iterable[_Group]:
        groups: dict[WindowKey, _Group] = {}
        for record in sums.iter_rows(named=True):
            for group in self._windows_of(record):
                known = groups.get(group.key)
                groups[group.key] = group if known is None else _merge(known, group)
        return groups.values()

    def _windows_of(self, record: dict[str, Any]) -> Iterator[_Group]:
        tenant, feature = record["tenant_id"], record.get("feature_id", "")
        zone = timezone_for(self._limits, tenant)
        amount, events = to_pico(record["price"]), record["events"]
        scopes = [("", caps_for(self._limits, tenant))]
        if feature:
            scopes.append((feature, caps_for(self._limits, tenant, feature)))
        for kind, bounds in (("day", day_window), ("month", month_window)):
            start, end = bounds(record["day_start_ms"], zone)
            for scope, caps in scopes:
                cap = caps.daily_cap if kind == "day" else caps.monthly_cap
                # A feature's spend is kept only where a cap asks for it; the tenant's always.
                if cap is not None or not scope:
                    yield _Group((tenant, scope, kind, start), end, amount, events, cap)

    def _cross(
        self, key: WindowKey, window: SpendWindow, before_pico: int, rows: pl.DataFrame
    ) -> Iterable[CapAlert]:
        if window.cap is None:
            return
        for threshold in self._thresholds:
            limit_pico = _ceil_pico(window.cap, threshold)
            if threshold in window.raised or window.spend_pico < limit_pico:
                continue
            window.raised.append(threshold)
            yield _alert(key, window, threshold, _crossing(key, window, before_pico, limit_pico, rows))


def _merge(left: _Group, right: _Group) -> _Group:
    return _Group(
        left.key, left.end_ms, left.amount_pico + right.amount_pico, left.events + right.events, left.cap
    )


def _ceil_pico(cap: Decimal, threshold: Decimal) -> int:
    """The least whole number of picodollars that is no less than threshold x cap."""
    cap_top, cap_bottom = cap.as_integer_ratio()
    top, bottom = threshold.as_integer_ratio()
    least: int = -(-cap_top * top * PICO // (cap_bottom * bottom))
    return least


@dataclass(frozen=True, slots=True)
class _Crossing:
    idempotency_key: str
    timestamp_ms: int
    spend_pico: int


def _crossing(
    key: WindowKey, window: SpendWindow, before_pico: int, limit_pico: int, rows: pl.DataFrame
) -> _Crossing:
    """The first event, in order of arrival, with which the sum reaches the limit."""
    tenant, feature, _, start = key
    # By its day, as the sums are: the row that crosses is one of those that were summed.
    mine = (
        (pl.col("tenant_id") == tenant)
        & (pl.col("day_start_ms") >= start)
        & (pl.col("day_start_ms") < window.end_ms)
    )
    if feature:
        mine &= pl.col("feature_id") == feature
    spend = before_pico
    event: dict[str, Any] = {}
    for event in rows.filter(mine).iter_rows(named=True):
        spend += to_pico(event["price"])
        if spend >= limit_pico:
            break
    return _Crossing(event["idempotency_key"], event["timestamp_ms"], spend)


def _alert(key: WindowKey, window: SpendWindow, threshold: Decimal, crossing: _Crossing) -> CapAlert:
    tenant, feature, kind, start = key
    if window.cap is None:  # only windows with a cap come here
        raise AssertionError(key)
    return CapAlert(
        alert_id=alert_id(tenant, feature, kind, start, threshold),
        tenant_id=tenant,
        feature_id=feature,
        window_kind=kind,
        window_start_ms=start,
        window_end_ms=window.end_ms,
        cap=window.cap,
        threshold=threshold,
        spend=from_pico(crossing.spend_pico),
        crossing_key=crossing.idempotency_key,
        raised_at_ms=crossing.timestamp_ms,
    )
