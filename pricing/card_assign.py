"""Which row of a rate card, and which contract, each event of a batch is rated by.

Each distinct combination of model and dimensions is looked at once, and the answer is remembered. Only where
dates, hours, context tiers or match clauses leave a choice are its events looked at by column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import polars as pl

from pricing.card_match import always_in_force, fits_dimension, in_force, numbers_of, rank_of
from pricing.card_values import Entry
from pricing.rate_card import NONE, Int64s, RateCard

AMBIGUOUS = -2
"""Two entries that are equally specific apply to one event: neither of them rates it."""

CHOSEN_MAX = 65_536
"""Combinations that a card remembers. Whoever invents models makes it forget, and look again."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """For each event its row of the card's costs (negative: unpriced), and its contract.

    A contract that is NONE means the list price; the column is None where no event has one.
    """

    row: Int64s
    contract: Int64s | None


def assign(card: RateCard, events: pl.DataFrame) -> Assigned:
    """Choose a row, and a contract, for each event.

    Args:
        card: What to choose from.
        events: `tenant_id`, `model`, the dimensions, `timestamp_ms` and `input_tokens`.
    """
    rule = _choose(card, card.rules, events, ("model", *card.dimensions))
    row = np.where(rule >= 0, card.first_row[rule], rule) if card.rules else rule.copy()
    tiered = [number for number, starts in enumerate(card.tier_starts) if starts]
    if tiered:
        inputs = events["input_tokens"].to_numpy()
        for number in set(np.unique(rule).tolist()).intersection(tiered):
            mine = rule == number
            row[mine] += np.searchsorted(card.tier_starts[number], inputs[mine], side="right")
    return Assigned(row, None) if not card.contracts else _with_contracts(card, events, row)


def _with_contracts(card: RateCard, events: pl.DataFrame, row: Int64s) -> Assigned:
    tenants = sorted({contract.tenant for contract in card.contracts})
    at = events["tenant_id"].is_in(tenants).arg_true().to_numpy()
    if not len(at):
        return Assigned(row, None)
    contract = np.full(len(row), NONE, np.int64)
    contract[at] = _choose(card, card.contracts, events[at], ("tenant_id", "model", *card.dimensions))
    # Which price was agreed is not known, so the event waits.
    row[contract == AMBIGUOUS] = AMBIGUOUS
    contract[contract == AMBIGUOUS] = NONE
    return Assigned(row, contract)


def _choose(card: RateCard, entries: Sequence[Entry], events: pl.DataFrame, names: tuple[str, ...]) -> Int64s:
    """The number of each event's entry, NONE or AMBIGUOUS."""
    asked = events.select(pl.struct(names).alias("asked"))
    known = asked.unique()
    found = [_candidates(card, entries, one) for one in known["asked"]]
    fixed = [numbers[0] if numbers else NONE for numbers in found]
    open_ = [position for position, numbers in enumerate(found) if not _is_settled(entries, numbers)]
    table = known.with_columns(number=pl.Series(fixed, dtype=pl.Int64), of=pl.int_range(len(found)))
    joined = asked.join(table, on="asked", how="left", maintain_order="left")
    chosen = joined["number"].to_numpy(writable=True)
    if open_:
        of, times_ms = joined["of"].to_numpy(), events["timestamp_ms"].to_numpy()
        order = np.argsort(of, kind="stable")
        starts = np.searchsorted(of[order], np.arange(len(found) + 1))
        for position in open_:
            mine = order[starts[position] : starts[position + 1]]
            chosen[mine] = _in_force(entries, found[position], times_ms[mine])
    return chosen


def _is_settled(entries: Sequence[Entry], numbers: Sequence[int]) -> bool:
    """Whether the first of some candidates rates every event, whenever it happened."""
    if not numbers:
        return True
    alone = len(numbers) == 1 or rank_of(entries[numbers[0]]) > rank_of(entries[numbers[1]])
    return alone and always_in_force(entries[numbers[0]])


def _in_force(entries: Sequence[Entry], numbers: Sequence[int], times_ms: Int64s) -> Int64s:
    """The most specific candidate that is in force at each instant."""
    chosen = np.full(len(times_ms), NONE, np.int64)
    for _, equals in groupby(numbers, key=lambda number: rank_of(entries[number])):
        free = chosen == NONE
        for number in equals:
            applies = free & in_force(entries[number], times_ms)
            chosen[applies] = np.where(chosen[applies] == NONE, number, AMBIGUOUS)
    return chosen


def _candidates(card: RateCard, entries: Sequence[Entry], asked: Mapping[str, str]) -> tuple[int, ...]:
    """Numbers of the entries for one combination, the most specific first, whatever the time."""
    key = tuple(asked.values())
    found = card.chosen.get(key)
    if found is None:
        tenant = asked.get("tenant_id", "")
        index = card.contract_index if tenant else card.index
        fitting = [
            number
            for number in numbers_of(index, entries, tenant, asked["model"])
            if all(fits_dimension(entries[number], name, asked[name]) for name in card.dimensions)
        ]
        found = tuple(sorted(fitting, key=lambda number: rank_of(entries[number]), reverse=True))
        # Workers of one process share the card: another one may clear it at any moment.
        if len(card.chosen) >= CHOSEN_MAX:
            card.chosen.clear()
        card.chosen[key] = found
    return found
