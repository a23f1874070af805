"""A tenant's statement of a month: lines that sum exactly to its total.

The plan of the month makes the lines of fees and usage. A commitment is trued up in the last month of its
period, on what all months of the period came to. Prepaid credits pay for usage: they are taken from lines
of usage and overage alone, and usage that they pay for counts towards a commitment all the same. What
re-ratings booked in the month, because the month of the events was closed, has lines of its own; credits
do not pay for it, and it does not count towards a commitment. The total is rounded half-even once, and what
that adds or takes is a line of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from pricing.money import from_pico, nearest_cent, to_pico
from pricing.plans import Line, LineKind, UsageTotal, amount_of, is_rated, plan_lines, true_up
from pricing.prepaid import Grant, GrantMonth, burn
from pricing.settings import PlanOfMonth, Settings, plan_for, timezone_for
from pricing.windows import month_starting, months_between, next_month

UsageByMonth = Mapping[date, Sequence[UsageTotal]]
"""Billable usage of one tenant by the first day of the month; a month that is not in it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """What a re-rating booked for events of another `month` (its first day): `price` USD, with its sign."""

    month: date
    rating: int
    feature_id: str
    model: str
    events: int
    price: Decimal


_PAID_BY_CREDITS = (LineKind.USAGE, LineKind.OVERAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The amounts of `lines` sum to `total`, to the last digit.

    The month is `[start_ms, end_ms)` in the tenant's time zone. It is open until it is over; until then all
    lines are provisional. `remainder` is what rounding added, with its sign, and is among the lines unless
    it is zero. `credits_left` is USD of prepaid credits that later months may burn, None without any grant.
    """

    tenant_id: str
    month: date
    timezone: str
    start_ms: int
    end_ms: int
    is_open: bool
    plan: str
    rounding: str
    lines: tuple[Line, ...]
    remainder: Decimal
    total: Decimal
    credits_left: Decimal | None


def is_configured(settings: Settings, tenant_id: str) -> bool:
    """Whether the configuration names a tenant."""
    named = (settings.limits.tenant_overrides, settings.plans.tenants, settings.plans.prepaid)
    return any(tenant_id in names for names in named)


def months_needed(settings: Settings, tenant_id: str, month: date) -> tuple[date, ...]:
    """The months whose usage a statement depends on, in their order; the last one is its own."""
    grants = settings.plans.prepaid.get(tenant_id, ())
    first = min(
        _period_start(plan_for(settings.plans, tenant_id, month), month),
        *(grant.granted_at for grant in grants if grant.granted_at <= month),
        month,
    )
    months = [first]
    while months[-1] < month:
        months.append(next_month(months[-1]))
    return tuple(months)


def make_statement(
    settings: Settings,
    tenant_id: str,
    month: date,
    usage: UsageByMonth,
    now_ms: int,
    adjustments: Sequence[Adjustment] = (),
) -> Statement:
    """The statement of a tenant's month.

    Args:
        month: its first day.
        usage: of `months_needed`.
        adjustments: what was booked in the month.
        now_ms: the wall clock's time in epoch milliseconds UTC; it decides whether the month is open.
    """
    active = plan_for(settings.plans, tenant_id, month)
    months = months_needed(settings, tenant_id, month)
    charged = {one: _charged(plan_for(settings.plans, tenant_id, one), usage.get(one, ())) for one in months}
    lines = list(charged[month])
    lines += [_adjustment_line(settings, tenant_id, one) for one in adjustments]
    lines += _trued_up(active, month, charged)
    grants = settings.plans.prepaid.get(tenant_id, ())
    due = {one: amount_of(found, *_PAID_BY_CREDITS) for one, found in charged.items()}
    burned = burn(grants, due, month)
    for one in burned:
        lines += _credit_lines(one)
    exact = amount_of(lines)
    rounding = settings.pricing.rounding
    total = nearest_cent(exact) if rounding == "nearest_cent" else exact
    remainder = from_pico(to_pico(total) - to_pico(exact))
    if remainder:
        lines.append(Line(kind=LineKind.ROUNDING, text="rounding to the nearest cent", amount=remainder))
    zone = timezone_for(settings.limits, tenant_id)
    start_ms, end_ms = month_starting(month, zone)
    return Statement(
        tenant_id=tenant_id,
        month=month,
        timezone=zone,
        start_ms=start_ms,
        end_ms=end_ms,
        is_open=now_ms < end_ms,
        plan=active.name,
        rounding=rounding,
        lines=tuple(lines),
        remainder=remainder,
        total=total,
        credits_left=from_pico(sum(to_pico(one.left) for one in burned)) if grants else None,
    )


def _charged(active: PlanOfMonth, usage: Sequence[UsageTotal]) -> tuple[Line, ...]:
    return plan_lines(active.plan, active.name, usage)


def _adjustment_line(settings: Settings, tenant_id: str, one: Adjustment) -> Line:
    """Of usage that its month's plan did not charge at its rated price, a line that informs."""
    is_charged = is_rated(plan_for(settings.plans, tenant_id, one.month).plan, one.feature_id, one.model)
    note = "" if is_charged else ", which was not paid by its price"
    return Line(
        kind=LineKind.ADJUSTMENT,
        text=f"re-rating {one.rating} of {one.feature_id} with {one.model} in {one.month:%Y-%m}{note}",
        amount=from_pico(to_pico(one.price) if is_charged else 0),
        quantity=Decimal(one.events),
        unit="events",
    )


def _trued_up(active: PlanOfMonth, month: date, charged: Mapping[date, Sequence[Line]]) -> list[Line]:
    """The true-up that is due in `month`: none in the months of a period before its last."""
    commitment = active.plan.commitment
    if commitment is None:
        return []
    start = _period_start(active, month)
    if months_between(start, month) + 1 < commitment.months:
        return []
    period = [line for one, lines in charged.items() if one >= start for line in lines]
    line = true_up(commitment, amount_of(period))
    return [] if line is None else [line]


def _period_start(active: PlanOfMonth, month: date) -> date:
    """The first month of the commitment's period that `month` lies in; `month` itself without one."""
    commitment = active.plan.commitment
    if commitment is None or active.since is None:
        return month
    into = months_between(active.since, month) % commitment.months
    index = month.year * 12 + month.month - 1 - into
    return date(index // 12, index % 12 + 1, 1)


def _credit_lines(one: GrantMonth) -> list[Line]:
    lines = []
    if one.burned:
        lines.append(
            Line(
                kind=LineKind.CREDITS_BURNED,
                text=f"prepaid credits {_named(one.grant)}",
                amount=from_pico(-to_pico(one.burned)),
            )
        )
    if one.expired:
        lines.append(
            Line(
                kind=LineKind.CREDITS_EXPIRED,
                text=f"prepaid credits {_named(one.grant)}: what is left expires",
                amount=from_pico(0),
                quantity=one.expired,
                unit="USD",
            )
        )
    return lines


def _named(grant: Grant) -> str:
    until = "" if grant.expires_at is None else f", until {grant.expires_at:%Y-%m}"
    return f"of {grant.granted_at:%Y-%m}{until}"
