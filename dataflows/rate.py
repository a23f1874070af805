"""Pricing a batch: refuse what cannot be rated, and work out amounts for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa

from dataflows.batch import TOKEN_FIELDS, USD, Decoded, Int64s, constant, without
from dataflows.decode import refuse
from dataflows.steps import HOUR_MS
from metering.event import QuarantineReason
from pricing.card_assign import assign
from pricing.card_refuse import refusals
from pricing.rate_card import NONE, RateCard
from pricing.rating import rate, usage_of
from pricing.settings import LimitSettings, timezone_for
from pricing.usage_units import read_units, units_in
from pricing.windows import day_windows


def refuse_unpriced(decoded: Decoded, card: RateCard) -> Decoded:
    """The batch with the `rate_row` of each event (and its `contract`, if the card has any), fit to be rated.

    What is not fit is quarantined: its units are at fault, or the card has no rate for it (`unpriced`).
    Before dedupe, so that such an event claims no key: once the card knows its model, it is put through again
    (`meterline requeue`), and must not be taken for a copy of itself.
    """
    assigned = assign(card, decoded.events)
    refused = refusals(card, decoded.events, assigned)
    events = decoded.events.with_columns(rate_row=pl.Series(assigned.row, dtype=pl.Int64))
    if card.contracts:
        contract = pl.lit(NONE, pl.Int64) if assigned.contract is None else pl.Series(assigned.contract)
        events = events.with_columns(contract=contract)
    if not refused:
        return replace(decoded, events=events)
    by_reason: dict[QuarantineReason, list[int]] = {}
    for event in sorted(refused):
        by_reason.setdefault(refused[event].reason, []).append(event)
    rows = [
        refuse(events[at], reason, pl.lit(pl.Series([refused[event].detail for event in at])))
        for reason, at in by_reason.items()
    ]
    known = np.ones(len(events), np.bool_)
    known[list(refused)] = False
    quarantined = pl.concat([decoded.quarantined, *rows])
    return replace(decoded, events=events.filter(pl.Series(known)), quarantined=quarantined)


def rate_events(decoded: Decoded, card: RateCard, limits: LimitSettings, retention_hours: int) -> Decoded:
    """Amounts for every event of a batch, of which `refuse_unpriced` has left those with a rate.

    Before dedupe, once for a whole batch: the amounts of a copy are thrown away, which costs less than
    to rate each shard's few events by themselves. Adds `billable`, `credits`, `cost`, `price`,
    `multiplier`, `rate_card_version`, `day_start_ms`, and `late_after_ms`: once its input has passed
    that instant, the event's day is closed.
    """
    events = decoded.events
    hit = (events["cache_status"] == "hit").to_numpy()
    billable = (events["status"] == "success").to_numpy()
    if limits.feature.exclude_cache_from_billing:
        billable = billable & ~hit
    counts = {name: events[name].to_numpy() for name in TOKEN_FIELDS}
    contract = events["contract"].to_numpy() if card.contracts else None
    units = {event: read_units(found) for event, found in units_in(events["attributes"]).items()}
    usage = usage_of(events["rate_row"].to_numpy(), counts, hit, billable, contract, units)
    amounts = rate(card, usage)
    starts, ends = _days(events, limits)
    rated = without(events, ("rate_row", "contract")).with_columns(
        billable=pl.Series(billable),
        credits=_usd(amounts.credits_pico, amounts.oversized, 2),
        cost=_usd(amounts.cost_pico, amounts.oversized, 0),
        price=_usd(amounts.price_pico, amounts.oversized, 1),
        multiplier=_usd(amounts.multiplier_pico, {}),
        rate_card_version=constant(card.version, len(events), pl.String()),
        day_start_ms=pl.Series(starts),
        late_after_ms=pl.Series(ends + retention_hours * HOUR_MS),
        source=constant(decoded.partition.source, len(events), pl.String()),
        source_partition=constant(decoded.partition.number, len(events), pl.UInt32()),
    )
    return replace(decoded, events=rated)


def _days(events: pl.DataFrame, limits: LimitSettings) -> tuple[Int64s, Int64s]:
    """Start and end of each event's day, in its tenant's time zone."""
    times = events["timestamp_ms"].to_numpy()
    starts, ends = day_windows(times, limits.tenant.timezone)
    zones: dict[str, list[str]] = {}
    for tenant in limits.tenant_overrides:
        zone = timezone_for(limits, tenant)
        if zone != limits.tenant.timezone:
            zones.setdefault(zone, []).append(tenant)
    for zone, tenants in zones.items():
        rows = events["tenant_id"].is_in(tenants).to_numpy()
        if rows.any():
            starts[rows], ends[rows] = day_windows(times[rows], zone)
    return starts, ends


def _usd(pico: Int64s, oversized: Mapping[int, tuple[int, ...]], which: int = 0) -> pl.Series:
    """Whole picodollars as a column of decimals with 12 places: the same 128-bit integers, retyped.

    `oversized` has the rows that do not fit 64 bits; `which` of their amounts belongs to this column.
    """
    words = np.empty((len(pico), 2), np.uint64)
    words[:, 0] = pico.view(np.uint64)
    words[:, 1] = (pico >> 63).view(np.uint64)
    for row, values in oversized.items():
        words[row] = (values[which] % 2**64, values[which] >> 64)
    kind = pa.decimal128(38, 12)
    return pl.Series(pa.Array.from_buffers(kind, len(pico), [None, pa.py_buffer(words)]), dtype=USD)
