"""Which events of a batch cannot be rated, and what is wrong with each: its units, or what the card lacks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import polars as pl

from metering.event import InvalidEvent, QuarantineReason
from pricing.card_assign import AMBIGUOUS, Assigned
from pricing.card_match import DIMENSIONS, fits_dimension, numbers_of
from pricing.rate_card import NONE, RateCard
from pricing.rating import plain_tokens, price_side
from pricing.usage_units import read_units, split_classes, units_in, without_rate

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)
_DAY_MS = 86_400_000
_TOKEN_FIELDS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
)
_NAMES = ("model", "provider", "model_version", "region", "service_tier", "timestamp_ms")


def refusals(card: RateCard, events: pl.DataFrame, assigned: Assigned) -> dict[int, InvalidEvent]:
    """By position, every event that cannot be rated; what an event says of itself is judged first.

    Args:
        card: The one that assigned them.
        events: as `assign` takes them, with their token fields and `attributes`, the JSON of theirs.
        assigned: What it gave.
    """
    refused = _wrong_units(card, events, assigned)
    at = [event for event in np.flatnonzero(assigned.row < 0).tolist() if event not in refused]
    if not at:
        return refused
    told: dict[tuple[Any, ...], str] = {}
    for event, asked in zip(at, events.select(_NAMES)[at].rows(), strict=True):
        what = (*asked[:-1], asked[-1] // _DAY_MS, int(assigned.row[event]))
        if what not in told:
            told[what] = _lacking(card, int(assigned.row[event]), dict(zip(_NAMES, asked, strict=True)))
        refused[event] = InvalidEvent(QuarantineReason.UNPRICED, told[what])
    return refused


def _wrong_units(card: RateCard, events: pl.DataFrame, assigned: Assigned) -> dict[int, InvalidEvent]:
    found = units_in(events["attributes"])
    if not found:
        return {}
    at = np.array(list(found), np.int64)
    plain = np.stack(plain_tokens({name: events[name].to_numpy()[at] for name in _TOKEN_FIELDS}), axis=1)
    rows = assigned.row[at]
    contract = None if assigned.contract is None else assigned.contract[at]
    _, own = price_side(card, np.maximum(rows, 0), contract) if card.rules else (rows, rows)
    refused: dict[int, InvalidEvent] = {}
    models = events["model"].gather(at).to_list()
    for place, event in enumerate(found):
        try:
            units = read_units(found[event])
            tokens = split_classes(plain[place].tolist(), units)
        except InvalidEvent as exc:
            refused[event] = exc
            continue
        if rows[place] < 0:
            continue
        name = without_rate(card.costs.rows[rows[place]], tokens, units)
        side = "rate"
        if name is None and own[place] != NONE:
            name, side = without_rate(card.prices.rows[own[place]], tokens, units), "price"
        if name is not None:
            detail = f"the rate card has no {side} for unit {name} of model {models[place]}"
            refused[event] = InvalidEvent(QuarantineReason.UNPRICED, detail)
    return refused


def _lacking(card: RateCard, row: int, event: Mapping[str, Any]) -> str:
    """What the card lacks for an event without a row, in a sentence."""
    model = f"model {event['model']} of provider {event['provider']}"
    if row == AMBIGUOUS:
        return f"the rate card has two entries that are equally specific for {model}"
    left = numbers_of(card.index, card.rules, "", event["model"])
    if not left:
        return f"the rate card has no rate for {model}"
    for name in DIMENSIONS:
        left = [number for number in left if fits_dimension(card.rules[number], name, event[name])]
        if not left:
            told = "" if name == "provider" else f"{name} {event[name]!r} of "
            return f"the rate card has no rate for {told}{model}"
    # By day, so that a million events have no million reasons.
    day = (_EPOCH + event["timestamp_ms"] * _MILLISECOND).date()
    tier = f"service_tier {event['service_tier']!r} of " if event["service_tier"] else ""
    return f"the rate card has no rate for {tier}{model} that is in force at its time on {day}"
