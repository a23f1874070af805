"""Events as a rate card sees them, one column a field, for tests of the core."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from metering.event import InvalidEvent
from pricing.card_assign import assign
from pricing.card_refuse import refusals
from pricing.money import from_pico
from pricing.rate_card import RateCard
from pricing.rating import rate, usage_of
from pricing.usage_units import read_units, units_in

NOON_MS = 1_748_779_200_000  # 2025-06-01T12:00:00Z, a Sunday
TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
)
PLAIN: Mapping[str, Any] = {
    "tenant_id": "acme",
    "provider": "",
    "model": "m",
    "model_version": "",
    "region": "",
    "service_tier": "",
    "timestamp_ms": NOON_MS,
    **dict.fromkeys(TOKENS, 0),
    "attributes": {},
    "cache_hit": False,
    "billable": True,
}
Money = tuple[Decimal, Decimal, Decimal, Decimal]
"""Cost, price, credits and multiplier."""


def frame(events: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Events as `assign` takes them; each says what is not plain about it."""
    rows = [{**PLAIN, **event} for event in events]
    unknown = {name for row in rows for name in row} - set(PLAIN)
    assert not unknown, unknown
    kinds: dict[str, pl.DataType | type[pl.DataType]] = {
        name: pl.Boolean if isinstance(value, bool) else pl.Int64 if isinstance(value, int) else pl.String
        for name, value in PLAIN.items()
    }
    told = [{**row, "attributes": json.dumps(row["attributes"])} for row in rows]
    return pl.DataFrame(told, schema=kinds)


def rule_of(card: RateCard, **event: Any) -> int:
    """The number of the rule that rates an event; negative where none does."""
    row = int(assign(card, frame([event])).row[0])
    return row if row < 0 else int(np.searchsorted(card.first_row, row, side="right")) - 1


def priced(card: RateCard, *events: Mapping[str, Any]) -> list[Money | InvalidEvent]:
    """What each event comes to, or why it does not come to anything."""
    columns = frame(events)
    assigned = assign(card, columns)
    refused = refusals(card, columns, assigned)
    fit = [event for event in range(len(events)) if event not in refused]
    taken = columns[fit]
    usage = usage_of(
        assigned.row[fit],
        {name: taken[name].to_numpy() for name in TOKENS},
        taken["cache_hit"].to_numpy(),
        taken["billable"].to_numpy(),
        None if assigned.contract is None else assigned.contract[fit],
        {at: read_units(found) for at, found in units_in(taken["attributes"]).items()},
    )
    amounts = rate(card, usage)
    found: dict[int, Money | InvalidEvent] = dict(refused)
    for at, event in enumerate(fit):
        columns_pico = (amounts.cost_pico, amounts.price_pico, amounts.credits_pico)
        picos = tuple(int(column[at]) for column in columns_pico)
        if at in amounts.oversized:
            assert picos == (0, 0, 0)
            picos = amounts.oversized[at]
        cost, price, credit = (from_pico(pico) for pico in picos)
        found[event] = (cost, price, credit, from_pico(int(amounts.multiplier_pico[at])))
    return [found[event] for event in range(len(events))]
