"""What differs between two rate cards: period by period, and from when on events come to something else.

Entries that are for the same events are compared over the periods in which both, or one of them, is in force.
A change that reprices may make something else of an event that the old card priced; where only the beginning
of a match clause is known, or a less specific entry may give the same amount, that is said of more changes
than need be, and never of fewer.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise

from pricing.card_match import may_share_events, rank_of
from pricing.card_values import ALL_CLASSES, Contract, Entry, Rates, Rule
from pricing.rate_card import RateCard, rates_by_class

_SELECTION = ("model", "model_prefix", "match", "provider", "model_version", "region", "service_tier")
_BEGINNING_MS = 0
"""Of event time: no event is older."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One number of an entry: USD per token, per unit or per event, or a factor. None: it has none."""

    name: str
    old: Decimal | None
    new: Decimal | None


@dataclass(frozen=True, slots=True)
class Change:
    """What is different in `[from_ms, until_ms)`, None meaning without bound.

    `old` is None where an entry was added, `new` where one was removed; both select the same events, and
    their own dates may be wider. With `reprices` an event that the old card priced may come to something
    else.
    """

    old: Entry | None
    new: Entry | None
    from_ms: int | None
    until_ms: int | None
    reprices: bool

    @property
    def entry(self) -> Entry:
        """The one that says which events this is about."""
        entry = self.old if self.new is None else self.new
        assert entry is not None
        return entry

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Each number that is not the same."""
        old = {} if self.old is None else numbers(self.old)
        new = {} if self.new is None else numbers(self.new)
        names = dict.fromkeys((*old, *new))
        return tuple(
            Difference(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)
        )


def changes(old: RateCard, new: RateCard) -> tuple[Change, ...]:
    """Every change from one card to another: of rules, then of contracts, as they stand in the new card."""
    return (*_changes(old.rules, new.rules), *_changes(old.contracts, new.contracts))


def repriced_from_ms(found: Sequence[Change]) -> int | None:
    """The first instant of events that the old card priced and that may come to something else now.

    None where there are none: the new card then adds to the old one, and events before it are as they were.
    """
    return min((one.from_ms or _BEGINNING_MS for one in found if one.reprices), default=None)


def numbers(entry: Entry) -> Mapping[str, Decimal]:
    """What an entry makes of usage, by name: the same for two entries that make the same of it."""
    found: dict[str, Decimal] = {}
    if isinstance(entry, Rule):
        found |= _rates(entry, "")
        for tier in entry.context_tiers:
            where = f" above {tier.tokens_min - 1}"
            found |= _rates(tier, where) | _priced(tier.price, where)
        found["minimum_charge"] = entry.minimum_charge
        found["multiplier"] = entry.multiplier
        if entry.credits:
            found |= {f"credits.{name}": number for name, number in entry.credits.items()}
        else:
            found["credit_multiplier"] = entry.credit_multiplier
    else:
        named = {"multiplier": entry.multiplier, "discount": entry.discount}
        found |= {name: number for name, number in named.items() if number is not None}
    return found | _priced(entry.price, "")


def _priced(price: Rates | None, where: str) -> dict[str, Decimal]:
    return {} if price is None else {f"price.{name}": rate for name, rate in _rates(price, where).items()}


def _rates(rates: Rates, where: str) -> dict[str, Decimal]:
    by_class = zip(ALL_CLASSES, rates_by_class(rates), strict=True)
    found = {f"{name}_rate{where}": rate for name, rate in by_class if rate is not None}
    if not where:
        found |= {f"units.{name}": rate for name, rate in rates.unit_rates.items()}
        found["request_fee"] = rates.request_fee
    return found


def _changes(old: Sequence[Entry], new: Sequence[Entry]) -> Iterator[Change]:
    scopes: dict[Hashable, tuple[list[Entry], list[Entry]]] = {}
    for side, entries in ((1, new), (0, old)):
        for entry in entries:
            scopes.setdefault(_scope(entry), ([], []))[side].append(entry)
    for before, after in scopes.values():
        for change in _of_scope(before, after):
            yield replace(change, reprices=_reprices(change, old))


def _scope(entry: Entry) -> Hashable:
    apart = entry.tenant if isinstance(entry, Contract) else entry.time_of_day
    return (*(getattr(entry, name) for name in _SELECTION), apart)


def _of_scope(old: Sequence[Entry], new: Sequence[Entry]) -> Iterator[Change]:
    """Changes of entries that select the same events, of which one at most is in force at a time."""
    edges = {edge for one in (*old, *new) for edge in (one.effective_from_ms, one.effective_until_ms)}
    cuts = [None, *sorted(edge for edge in edges if edge is not None), None]
    waiting: Change | None = None
    for begin, end in pairwise(cuts):
        before, after = _in_force(old, begin, end), _in_force(new, begin, end)
        change = Change(before, after, begin, end, reprices=True)
        if not change.differences:
            continue
        if waiting is not None and waiting.until_ms == begin and waiting.differences == change.differences:
            waiting = replace(waiting, until_ms=end)
            continue
        if waiting is not None:
            yield waiting
        waiting = change
    if waiting is not None:
        yield waiting


def _in_force(entries: Sequence[Entry], begin: int | None, end: int | None) -> Entry | None:
    """The entry of a scope that holds all over a period; its dates never end within one."""
    for one in entries:
        begins = one.effective_from_ms is None or (begin is not None and one.effective_from_ms <= begin)
        if begins and (one.effective_until_ms is None or (end is not None and end <= one.effective_until_ms)):
            return one
    return None


def _reprices(change: Change, old: Sequence[Entry]) -> bool:
    """Whether a change may be of an event that the old card priced.

    What was added takes events from entries that are not more specific; the list price is what a contract
    takes them from.
    """
    added = change.new
    if change.old is not None or added is None or isinstance(added, Contract):
        return True
    bounded = replace(added, effective_from_ms=change.from_ms, effective_until_ms=change.until_ms)
    rank, makes = rank_of(added), numbers(added)
    return any(
        rank_of(one) <= rank
        and may_share_events(one, bounded)
        and (rank_of(one) == rank or numbers(one) != makes)
        for one in old
    )
