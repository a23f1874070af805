"""Spend per tenant and window, and the alerts that its caps raise.

Theory of operation. A book holds one running sum for each (tenant, feature or "", day or month,
window start) that has seen an event. Sums are whole picodollars, so their order never matters.
A batch is summed by column first; Python then touches each group once, never each event. Only where a
group crosses a threshold are rows looked at one by one, to name the event that crossed it: the book tells
the `Crossing`, and `alert_of` finds the event among the rows, which may be in another process.

A window is kept for the retention after its end, in event time of the slowest live input, so
that late events still correct it; later ones are marked `late` before they come here. A month is
closed by the same rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache

import polars as pl

from pricing.cap import CapAlert, alert_id
from pricing.money import PICO, from_pico, to_pico
from pricing.settings import LimitSettings, caps_for, timezone_for
from pricing.windows import day_window, month_window

WindowKey = tuple[str, str, str, int]
"""(tenant_id, feature_id or "", "day" or "month", window_start_ms)."""

TARGETS_MAX = 4_096
"""For so many combinations of tenant, feature and day a book remembers in which windows they count."""


@dataclass(slots=True)
class SpendWindow:
    """One running sum. `events` counts what it holds and so orders its versions; `raised` has thresholds."""

    end_ms: int
    spend_pico: int = 0
    events: int = 0
    cap: Decimal | None = None
    raised: list[Decimal] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Crossing:
    """A window whose sum, `before_pico` before a batch, has reached a threshold of its cap with that batch.

    `limit_pico` is the least sum that reaches it.
    """

    key: WindowKey
    end_ms: int
    cap: Decimal
    threshold: Decimal
    limit_pico: int
    before_pico: int


@dataclass(frozen=True, slots=True)
class _Target:
    """A window as the limits have it."""

    key: WindowKey
    end_ms: int
    cap: Decimal | None


@dataclass(slots=True)
class _Group:
    """Events of one batch that fall in one window."""

    target: _Target
    amount_pico: int = 0
    events: int = 0


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
        self._targets_of = lru_cache(TARGETS_MAX)(self._find_targets)

    def add(self, sums: pl.DataFrame) -> tuple[list[WindowKey], list[Crossing]]:
        """Add what `sum_rows` makes of priced rows, none of them late.

        Returns:
            The windows that changed, and the thresholds that they reached.
        """
        touched: list[WindowKey] = []
        crossings: list[Crossing] = []
        for group in self._groups(sums):
            window, key = self._grown(group), group.target.key
            touched.append(key)
            self._changed[key] = None
            crossings += self._cross(key, window, window.spend_pico - group.amount_pico)
        return touched, crossings

    def restore(self, sums: pl.DataFrame) -> None:
        """Take in what earlier rows sum to: as `add`, but nothing changes or alerts."""
        for group in self._groups(sums):
            self._grown(group)

    def _grown(self, group: _Group) -> SpendWindow:
        target = group.target
        window = self.windows.setdefault(target.key, SpendWindow(target.end_ms))
        window.cap = target.cap
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
        features = sums["feature_id"].to_list() if "feature_id" in sums.columns else [""] * len(sums)
        columns = (sums[name].to_list() for name in ("tenant_id", "day_start_ms", "price", "events"))
        for feature, tenant, day_start_ms, price, events in zip(features, *columns, strict=True):
            amount_pico = to_pico(price)
            for target in self._targets_of(tenant, feature, day_start_ms):
                group = groups.setdefault(target.key, _Group(target))
                group.amount_pico += amount_pico
                group.events += events
        return groups.values()

    def _find_targets(self, tenant: str, feature: str, day_start_ms: int) -> tuple[_Target, ...]:
        """The windows in which a tenant's events of one feature ("": any) and day count."""
        zone = timezone_for(self._limits, tenant)
        scopes = [("", caps_for(self._limits, tenant))]
        if feature:
            scopes.append((feature, caps_for(self._limits, tenant, feature)))
        targets: list[_Target] = []
        for kind, bounds in (("day", day_window), ("month", month_window)):
            start, end = bounds(day_start_ms, zone)
            for scope, caps in scopes:
                cap = caps.daily_cap if kind == "day" else caps.monthly_cap
                # A feature's spend is kept only where a cap asks for it; the tenant's always.
                if cap is not None or not scope:
                    targets.append(_Target((tenant, scope, kind, start), end, cap))
        return tuple(targets)

    def _cross(self, key: WindowKey, window: SpendWindow, before_pico: int) -> Iterable[Crossing]:
        if window.cap is None:
            return
        for threshold in self._thresholds:
            limit_pico = _ceil_pico(window.cap, threshold)
            if threshold not in window.raised and window.spend_pico >= limit_pico:
                window.raised.append(threshold)
                yield Crossing(key, window.end_ms, window.cap, threshold, limit_pico, before_pico)


@lru_cache(1_024)
def _ceil_pico(cap: Decimal, threshold: Decimal) -> int:
    """The least whole number of picodollars that is no less than threshold x cap."""
    cap_top, cap_bottom = cap.as_integer_ratio()
    top, bottom = threshold.as_integer_ratio()
    least: int = -(-cap_top * top * PICO // (cap_bottom * bottom))
    return least


def alert_of(crossing: Crossing, rows: pl.DataFrame) -> CapAlert:
    """The alert of a crossing, which names the first event, in order of arrival, that reached the limit.

    Args:
        crossing: what `SpendBook.add` told of the sums of these rows.
        rows: in their order of arrival, with `tenant_id`, `feature_id`, `idempotency_key`, `timestamp_ms`,
            `day_start_ms` and `price` (USD). Rows of other windows do no harm.

    Raises:
        AssertionError: the rows are others, and do not reach the limit.
    """
    tenant, feature, kind, start = crossing.key
    # By its day, as the sums are: the row that crosses is one of those that were summed.
    mine = (
        (pl.col("tenant_id") == tenant)
        & (pl.col("day_start_ms") >= start)
        & (pl.col("day_start_ms") < crossing.end_ms)
    )
    if feature:
        mine &= pl.col("feature_id") == feature
    spend_pico = crossing.before_pico
    for event in rows.filter(mine).iter_rows(named=True):
        spend_pico += to_pico(event["price"])
        if spend_pico >= crossing.limit_pico:
            return CapAlert(
                alert_id=alert_id(tenant, feature, kind, start, crossing.threshold),
                tenant_id=tenant,
                feature_id=feature,
                window_kind=kind,
                window_start_ms=start,
                window_end_ms=crossing.end_ms,
                cap=crossing.cap,
                threshold=crossing.threshold,
                spend=from_pico(spend_pico),
                crossing_key=event["idempotency_key"],
                raised_at_ms=event["timestamp_ms"],
            )
    raise AssertionError(f"no row crosses {crossing}")
