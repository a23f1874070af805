"""Caps, and the alert that a tenant's spend has reached a fraction of one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact

# Of our own: the thread's context, which an application may have set to anything, would change an id.
_EXACT = Context(prec=50, traps=[Inexact])


@dataclass(frozen=True, slots=True)
class CapAlert:
    """Spend reached `threshold` of a cap within one window; raised once per identity.

    Amounts are USD; times are epoch milliseconds UTC; the window is `[start, end)`.
    `feature_id` is "" for the tenant's cap over all its features; `raised_at_ms` is the event
    time of the crossing event, so that a replay raises the same alert.
    """

    alert_id: str
    tenant_id: str
    feature_id: str
    window_kind: str
    window_start_ms: int
    window_end_ms: int
    cap: Decimal
    threshold: Decimal
    spend: Decimal
    crossing_key: str
    raised_at_ms: int


def alert_id(
    tenant_id: str, feature_id: str, window_kind: str, window_start_ms: int, threshold: Decimal
) -> str:
    """The same for every alert on one (tenant, cap, window, threshold), whoever computes it and when.

    Parts are length-prefixed, so that no two identities share a text. A threshold is its value, however many
    zeros it was written with.
    """
    fraction = format(threshold.normalize(_EXACT), "f")
    parts = (tenant_id, feature_id, window_kind, str(window_start_ms), fraction)
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return "alert_" + hashlib.sha256(text.encode()).hexdigest()[:32]
