"""Prepaid credits: USD that a tenant has paid before and that pay for usage until they expire.

Not to be taken for the compute credits of an event, which count tokens. A grant pays for whole months, from
that of `granted_at` to the one before `expires_at`. What expires first is burned first, then what has the
lower priority number, then what is older, then what stands first in the configuration.

What is left of a grant depends on all months before, so they are gone through one by one, in whole
picodollars. A grant never goes below zero, and no month burns more than its usage costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from pricing.money import from_pico, to_pico
from pricing.windows import next_month


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """`amount` USD; the months are given by their first days, and `expires_at` None means never."""

    amount: Decimal
    granted_at: date
    expires_at: date | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantMonth:
    """What became of a grant in one month, in USD: what was burned, what expired at its end, what is left."""

    grant: Grant
    burned: Decimal
    expired: Decimal
    left: Decimal


def burn_order(grants: Sequence[Grant]) -> tuple[Grant, ...]:
    """The grants as they are burned."""
    return tuple(sorted(grants, key=lambda one: (one.expires_at or date.max, one.priority, one.granted_at)))


def burn(grants: Sequence[Grant], due: Mapping[date, Decimal], month: date) -> tuple[GrantMonth, ...]:
    """What becomes of each grant in `month`, in the order of burning, after all months before it.

    Args:
        due: what usage costs, in USD, by the first day of the month; a month that is not in it has none.

    Returns:
        Only grants that pay for `month`; none of the others has anything left to say in it.
    """
    ordered = burn_order([one for one in grants if one.granted_at <= month])
    left = [to_pico(one.amount) for one in ordered]
    taken = [0] * len(ordered)
    current = min((one.granted_at for one in ordered), default=month)
    while current <= month:
        unpaid = to_pico(due.get(current, Decimal(0)))
        for position, grant in enumerate(ordered):
            taken[position] = min(left[position], unpaid) if _pays(grant, current) else 0
            left[position] -= taken[position]
            unpaid -= taken[position]
        current = next_month(current)
    return tuple(
        _month(grant, month, burned, rest)
        for grant, burned, rest in zip(ordered, taken, left, strict=True)
        if _pays(grant, month)
    )


def _month(grant: Grant, month: date, burned: int, rest: int) -> GrantMonth:
    is_last = grant.expires_at == next_month(month)
    return GrantMonth(
        grant=grant,
        burned=from_pico(burned),
        expired=from_pico(rest if is_last else 0),
        left=from_pico(0 if is_last else rest),
    )


def _pays(grant: Grant, month: date) -> bool:
    return grant.granted_at <= month and (grant.expires_at is None or month < grant.expires_at)
