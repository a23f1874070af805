"""What is wrong with a rate card as a whole: entries that contradict each other, and gaps between dates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from typing import TypeVar

from pricing.card_match import Rank, may_both_apply, may_share_events, rank_of
from pricing.card_text import instant_text
from pricing.card_values import PLAIN_RATES, Contract, Rates, Rule
from pricing.settings_yaml import Problem

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry stands: the file ("" is the configuration itself) and the path within it."""

    file: str
    path: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.file, self.path) if part)


E = TypeVar("E", Rule, Contract)


def card_problems(
    rules: Sequence[tuple[Place, Rule]], contracts: Sequence[tuple[Place, Contract]]
) -> Iterator[Problem]:
    """Every contradiction and every gap, of entries in which nothing is wrong by itself.

    Between the dates of two contracts there may be a gap: the list price holds in it.
    """
    yield from _contradictions(rules, lambda _: "")
    yield from _contradictions(contracts, lambda contract: contract.tenant)
    yield from _gaps(rules)
    yield from _unsaid_prices(rules, contracts)


def _unsaid_prices(
    rules: Sequence[tuple[Place, Rule]], contracts: Sequence[tuple[Place, Contract]]
) -> Iterator[Problem]:
    """Contracts whose own price lacks a rate that a rule of theirs has, and would take it from a whole."""
    for place, contract in contracts:
        if contract.price is None:
            continue
        for rule_place, rule in rules:
            unsaid = unsaid_rates(contract.price, rule)
            if unsaid and may_share_events(contract, rule):
                yield Problem(f"{place}.price", f"lacks {' and '.join(unsaid)}, which {rule_place} has")
                break


def _contradictions(entries: Sequence[tuple[Place, E]], apart: Callable[[E], str]) -> Iterator[Problem]:
    """Entries that some event may be rated by alike, each named with the first such one before it."""
    groups: dict[tuple[Rank, str, str, str], dict[str, list[tuple[Place, E]]]] = {}
    for place, entry in entries:
        key = (rank_of(entry), entry.model, entry.model_prefix, apart(entry))
        by_provider = groups.setdefault(key, {})
        # Entries of two providers never meet, which leaves few of the pairs in a catalogue of many.
        asked = {entry.provider, ""} if entry.provider else set(by_provider)
        earlier = (one for provider in by_provider if provider in asked for one in by_provider[provider])
        first = next((other for other, rule in earlier if may_both_apply(rule, entry)), None)
        if first is not None:
            yield Problem(str(place), f"applies to the same events as {first}, and neither is more specific")
        by_provider.setdefault(entry.provider, []).append((place, entry))


def _gaps(rules: Sequence[tuple[Place, Rule]]) -> Iterator[Problem]:
    """Entries that begin after the end of the one before them, of the same events but for the dates."""
    groups: dict[str, list[tuple[Place, Rule]]] = {}
    for place, rule in rules:
        groups.setdefault(_scope(rule), []).append((place, rule))
    for group in groups.values():
        if len(group) == 1:
            continue
        group.sort(key=lambda one: -1 if one[1].effective_from_ms is None else one[1].effective_from_ms)
        for (before_place, before), (place, rule) in pairwise(group):
            end, begin = before.effective_until_ms, rule.effective_from_ms
            if end is not None and begin is not None and end < begin and not rule.gap_intended:
                yield Problem(
                    str(place),
                    f"begins at {instant_text(begin)}, but {before_place} ends at {instant_text(end)}, and "
                    "nothing is priced in between: let one end when the other begins, or say gap: intended",
                )


def _scope(rule: Rule) -> str:
    names = ("model", "model_prefix", "match", "provider", "model_version", "region", "service_tier")
    return repr([*(getattr(rule, name) for name in names), rule.time_of_day])


def unsaid_rates(price: Rates, cost: Rates) -> list[str]:
    """Rates of token classes that a cost names and a price does not."""
    absent = [
        name for name in PLAIN_RATES[2:] if getattr(price, name) is None and getattr(cost, name) is not None
    ]
    return absent + [f"{name}_rate" for name in cost.modality_rates if name not in price.modality_rates]
