"""Which entries of a rate card an event may be rated by, and which of two is the more specific.

An entry applies when its model clause, its dimensions, its dates and its hours all do. The most specific one
prevails: an exact model, then the longest prefix, then match clauses; among these the one that gives more
dimensions; then the one with hours of the day. The order in which entries stand means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from pricing.card_values import EVERY_TIER, STANDARD_TIERS, Clause, Contract, Entry, Rule, TimeOfDay

DIMENSIONS = ("provider", "model_version", "region", "service_tier")

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Rank: TypeAlias = "tuple[int, int, int, int]"

_MINUTE_MS = 60_000
_DAY_MINUTES = 1440
_WEEK_MINUTES = 7 * _DAY_MINUTES
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def rank_of(entry: Entry) -> Rank:
    """How specific an entry is: of those that apply to an event, the greatest prevails."""
    kind = 3 if entry.model else 2 if entry.model_prefix else 1 if entry.match is not None else 0
    given = sum(getattr(entry, name) not in ("", EVERY_TIER) for name in DIMENSIONS[:3])
    given += entry.service_tier != EVERY_TIER
    return (
        kind,
        len(entry.model_prefix),
        given,
        int(isinstance(entry, Rule) and entry.time_of_day is not None),
    )


def is_of_model(entry: Entry, model: str) -> bool:
    """Whether an entry is for a model of this name."""
    if entry.model:
        return model == entry.model
    if entry.match is not None:
        return _satisfies(entry.match, model)
    return model.startswith(entry.model_prefix)


def _satisfies(clause: Clause, model: str) -> bool:
    if clause.kind in ("and", "or"):
        held = (_satisfies(part, model) for part in clause.parts)
        return all(held) if clause.kind == "and" else any(held)
    if clause.kind == "regex":
        return _compiled(clause.text).search(model) is not None
    if clause.kind == "starts_with":
        return model.startswith(clause.text)
    if clause.kind == "ends_with":
        return model.endswith(clause.text)
    return clause.text in model if clause.kind == "contains" else clause.text == model


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


@dataclass(frozen=True, slots=True)
class ModelIndex:
    """Numbers of entries, by (tenant or "", model or prefix) and, of those with neither, by tenant."""

    models: Mapping[tuple[str, str], tuple[int, ...]]
    prefixes: Mapping[tuple[str, str], tuple[int, ...]]
    prefix_lengths: tuple[int, ...]
    others: Mapping[str, tuple[int, ...]]


def index_of(entries: Sequence[Entry]) -> ModelIndex:
    """An index with which `numbers_of` asks the clauses of entries that have some, and no others."""
    models: dict[tuple[str, str], tuple[int, ...]] = {}
    prefixes: dict[tuple[str, str], tuple[int, ...]] = {}
    others: dict[str, tuple[int, ...]] = {}
    for number, entry in enumerate(entries):
        tenant = entry.tenant if isinstance(entry, Contract) else ""
        if entry.model:
            models[tenant, entry.model] = (*models.get((tenant, entry.model), ()), number)
        elif entry.model_prefix:
            key = (tenant, entry.model_prefix)
            prefixes[key] = (*prefixes.get(key, ()), number)
        else:
            others[tenant] = (*others.get(tenant, ()), number)
    return ModelIndex(models, prefixes, tuple(sorted({len(prefix) for _, prefix in prefixes})), others)


def numbers_of(index: ModelIndex, entries: Sequence[Entry], tenant: str, model: str) -> list[int]:
    """Numbers of the entries that are for a model of this name, whatever its provider and the time."""
    found = list(index.models.get((tenant, model), ()))
    for length in index.prefix_lengths:
        if length <= len(model):
            found += index.prefixes.get((tenant, model[:length]), ())
    found += [number for number in index.others.get(tenant, ()) if is_of_model(entries[number], model)]
    return found


def fits_dimension(entry: Entry, name: str, value: str) -> bool:
    """Whether an entry is for events with this value of one of `DIMENSIONS`."""
    wanted: str = getattr(entry, name)
    if name != "service_tier":
        return wanted in ("", value)
    return wanted in (EVERY_TIER, "" if value in STANDARD_TIERS else value)


def in_force(entry: Entry, times_ms: Int64s) -> Bools:
    """At which instants an entry's dates and hours hold."""
    holds = np.ones(len(times_ms), np.bool_)
    if entry.effective_from_ms is not None:
        holds &= times_ms >= entry.effective_from_ms
    if entry.effective_until_ms is not None:
        holds &= times_ms < entry.effective_until_ms
    if isinstance(entry, Rule) and entry.time_of_day is not None:
        holds &= _minutes_of_week(entry.time_of_day)[_minute_of_week(times_ms, entry.time_of_day.timezone)]
    return holds


def always_in_force(entry: Entry) -> bool:
    """Whether neither dates nor hours bound an entry."""
    dated = entry.effective_from_ms is not None or entry.effective_until_ms is not None
    return not dated and not (isinstance(entry, Rule) and entry.time_of_day is not None)


def may_both_apply(left: Entry, right: Entry) -> bool:
    """Whether some event may be rated by either of two entries that are equally specific.

    Of two match clauses this is known only for the texts that stand in them; where it shows at an event,
    neither of them rates it.
    """
    return (
        all(_share_dimension(left, right, name) for name in DIMENSIONS)
        and _begin(left) < _end(right)
        and _begin(right) < _end(left)
        and _share_an_hour(left, right)
        and _share_a_model(left, right)
    )


def _share_a_model(left: Entry, right: Entry) -> bool:
    if left.match is None or right.match is None:
        return (left.model, left.model_prefix) == (right.model, right.model_prefix)
    texts = {*_texts(left.match), *_texts(right.match)}
    shared = (is_of_model(left, text) and is_of_model(right, text) for text in texts)
    return left.match == right.match or any(shared)


def _texts(clause: Clause) -> list[str]:
    if clause.kind == "regex":
        return []
    return [clause.text] if clause.text else [text for part in clause.parts for text in _texts(part)]


def _share_dimension(left: Entry, right: Entry, name: str) -> bool:
    one, other = getattr(left, name), getattr(right, name)
    anything = EVERY_TIER if name == "service_tier" else ""
    return one == other or anything in (one, other)


def _begin(entry: Entry) -> float:
    return float("-inf") if entry.effective_from_ms is None else entry.effective_from_ms


def _end(entry: Entry) -> float:
    return float("inf") if entry.effective_until_ms is None else entry.effective_until_ms


def _share_an_hour(left: Entry, right: Entry) -> bool:
    if not (isinstance(left, Rule) and isinstance(right, Rule)):
        return True
    one, other = left.time_of_day, right.time_of_day
    if one is None or other is None or one.timezone != other.timezone:
        return True
    return bool((_minutes_of_week(one) & _minutes_of_week(other)).any())


@lru_cache(maxsize=1024)
def _minutes_of_week(hours: TimeOfDay) -> Bools:
    """Which minutes of a week, from Monday's midnight on, are within some hours."""
    minutes = np.zeros(_WEEK_MINUTES, np.bool_)
    length = (hours.until_minute - hours.from_minute - 1) % _DAY_MINUTES + 1
    for day in hours.weekdays:
        begin = day * _DAY_MINUTES + hours.from_minute
        minutes[np.arange(begin, begin + length) % _WEEK_MINUTES] = True
    return minutes


def _minute_of_week(times_ms: Int64s, zone_name: str) -> Int64s:
    minutes = times_ms // _MINUTE_MS
    if zone_name != "UTC":
        distinct, where = np.unique(minutes, return_inverse=True)
        zone = ZoneInfo(zone_name)
        minutes = (
            minutes + np.array([_offset_minutes(one, zone) for one in distinct.tolist()], np.int64)[where]
        )
    week: Int64s = (minutes + _EPOCH_WEEKDAY * _DAY_MINUTES) % _WEEK_MINUTES
    return week


def _offset_minutes(minute: int, zone: ZoneInfo) -> int:
    offset = (_EPOCH + timedelta(minutes=minute)).astimezone(zone).utcoffset()
    return 0 if offset is None else offset // timedelta(minutes=1)


def dimensions_of(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Those of `DIMENSIONS` that decide something: the tier always, as an unknown one is not the standard."""
    return tuple(
        name
        for name in DIMENSIONS
        if name == "service_tier" or any(getattr(entry, name) for entry in entries)
    )


def may_share_events(left: Entry, right: Entry) -> bool:
    """Whether both of two entries may apply to one event, however specific they are.

    Of match clauses only the beginnings of names are compared: the answer may be yes for no reason, never no.
    """
    return (
        all(_share_dimension(left, right, name) for name in DIMENSIONS)
        and _begin(left) < _end(right)
        and _begin(right) < _end(left)
        and _share_an_hour(left, right)
        and _may_share_a_name(left, right)
    )


def _may_share_a_name(left: Entry, right: Entry) -> bool:
    for one, other in ((left, right), (right, left)):
        if one.model:
            return is_of_model(other, one.model)
    return any(
        one.startswith(other) or other.startswith(one)
        for one in _beginnings(left)
        for other in _beginnings(right)
    )


def _beginnings(entry: Entry) -> list[str]:
    return [entry.model_prefix] if entry.match is None else _clause_beginnings(entry.match)


def _clause_beginnings(clause: Clause) -> list[str]:
    """Texts with one of which every name begins that satisfies a clause."""
    if clause.kind == "or":
        return [text for part in clause.parts for text in _clause_beginnings(part)]
    if clause.kind == "and":
        return max(map(_clause_beginnings, clause.parts), key=lambda texts: min(map(len, texts)))
    return [clause.text] if clause.kind in ("starts_with", "equals") else [""]
