"""The auditor's own reading of a rate card: which entry rates an event, and the exact amounts.

Written for clarity over the configuration as it stands, entry by entry; it knows plain token rates, tiers,
versions, regions, prefixes, dates, context tiers and units. Whatever else an entry says is refused, so that
nobody takes silence for agreement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from tests.auditor_event import Event, RejectedError

RATES = {
    "input_rate",
    "output_rate",
    "cache_read_rate",
    "cache_write_rate",
    "cache_write_1h_rate",
    "reasoning_rate",
}
KNOWN = RATES | {
    *("model", "model_prefix", "provider", "model_version", "region", "service_tier"),
    *("effective_from", "effective_until", "gap", "multiplier", "credit_multiplier"),
    *("per", "confirm_rates_above", "context_tiers", "units", "request_fee", "minimum_charge"),
}


@dataclass(frozen=True, slots=True)
class Rated:
    """Exact amounts of one event, not rounded."""

    cost: Decimal
    price: Decimal
    credits: Decimal
    multiplier: Decimal


class Card:
    """The entries of `pricing.rules`."""

    def __init__(self, rules: list[dict[str, Any]]) -> None:
        for rule in rules:
            unknown = set(rule) - KNOWN
            unknown |= (
                {key for tier in rule.get("context_tiers") or [] for key in tier} - RATES - {"above", "from"}
            )
            if unknown:
                raise ValueError(f"the auditor does not know {sorted(unknown)} in a pricing rule")
        self.rules = rules

    def rate(self, event: Event) -> Rated:
        """What the event comes to.

        Raises:
            RejectedError: its units make no sense, or no entry rates it or one of its units.
        """
        units = _units(event)
        fitting = [rule for rule in self.rules if _applies(rule, event)]
        fitting.sort(key=_specific)
        if not fitting:
            raise RejectedError("unpriced")
        if len(fitting) > 1 and _specific(fitting[-1]) == _specific(fitting[-2]):
            raise ValueError(f"two pricing rules for {event.model}")
        return _rated(event, fitting[-1], units)


def _text(rule: Mapping[str, Any], name: str) -> str:
    return rule.get(name) or ""


def _standard(tier: str) -> str:
    return "standard" if tier in ("", "default", "standard") else tier


def _applies(rule: Mapping[str, Any], event: Event) -> bool:
    prefix = rule.get("model_prefix")
    named = event.model == rule["model"] if prefix is None else event.model.startswith(prefix)
    of_tier = _text(rule, "service_tier") == "*" or (
        _standard(_text(rule, "service_tier")) == _standard(event.service_tier)
    )
    places = ("provider", "model_version", "region")
    of_place = all(_text(rule, name) in ("", getattr(event, name)) for name in places)
    begun = "effective_from" not in rule or event.timestamp >= _instant(rule["effective_from"])
    ended = "effective_until" in rule and event.timestamp >= _instant(rule["effective_until"])
    return named and of_tier and of_place and begun and not ended


def _instant(text: str) -> int:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return round((moment - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds() * 1000)


def _specific(rule: Mapping[str, Any]) -> tuple[int, int, int]:
    given = [name for name in ("provider", "model_version", "region") if _text(rule, name)]
    return (
        1 if "model" in rule else 0,
        len(_text(rule, "model_prefix")),
        len(given) + (_text(rule, "service_tier") != "*"),
    )


def _units(event: Event) -> dict[str, int]:
    """Counts above 0 by name."""
    found: dict[str, int] = {}
    for key, text in event.attributes.items():
        if not key.startswith("unit."):
            continue
        if not text or any(letter not in "0123456789" for letter in text):
            raise RejectedError("invalid_value")
        digits = text.lstrip("0") or "0"
        if len(digits) > 13 or int(digits) > 2**40:
            raise RejectedError("out_of_range")
        if int(digits):
            found[key[len("unit.") :]] = int(digits)
    _check_parts(event, found)
    return found


def _check_parts(event: Event, units: Mapping[str, int]) -> None:
    """What is not text is a part of its whole, and cached audio is audio of the prompt."""

    def of(whole: str, kind: str) -> int:
        return units.get(f"{whole}_{kind}_tokens", 0)

    kinds = ("audio", "image", "video")
    fresh = {kind: of("input", kind) - of("cache_read", kind) - of("cache_write", kind) for kind in kinds}
    writes = event.cache_write_tokens - event.cache_write_1h_tokens
    uncached = event.input_tokens - event.cache_read_tokens - event.cache_write_tokens
    visible = event.output_tokens - event.reasoning_tokens
    fits = (
        min(fresh.values()) >= 0
        and sum(fresh.values()) <= uncached
        and sum(of("cache_read", kind) for kind in kinds) <= event.cache_read_tokens
        and sum(of("cache_write", kind) for kind in kinds) <= writes
        and sum(of("output", kind) for kind in kinds) <= visible
    )
    if not fits:
        raise RejectedError("inconsistent_usage")


def _rated(event: Event, rule: Mapping[str, Any], units: Mapping[str, int]) -> Rated:
    per = Decimal((rule.get("per") or "1").replace("_", ""))
    rates = rule
    for tier in rule.get("context_tiers") or []:
        first = int(tier["above"]) + 1 if "above" in tier else int(tier["from"])
        if event.input_tokens >= first:
            rates = tier
    cost = _tokens(event, rates) / per
    for name, count in units.items():
        # Tokens that are not text have no rate in any card that the auditor reads.
        if name not in (rule.get("units") or {}):
            raise RejectedError("unpriced")
        unit = rule["units"][name]
        cost += count * Decimal(unit["rate"]) / Decimal((unit.get("per") or "1").replace("_", ""))
    cost += Decimal(rule.get("request_fee") or 0)
    cost = max(cost, Decimal(rule.get("minimum_charge") or 0))
    multiplier = Decimal(rule.get("multiplier") or 1)
    tokens = event.input_tokens + event.output_tokens
    return Rated(cost, cost * multiplier, tokens * Decimal(rule.get("credit_multiplier") or 1), multiplier)


def _tokens(event: Event, rates: Mapping[str, Any]) -> Decimal:
    """Tokens at their rates as they are written: each token in one class, no rounding."""

    def rate(name: str, whole: str) -> Decimal:
        return Decimal(rates.get(name) or rates[whole])

    five_minute_writes = event.cache_write_tokens - event.cache_write_1h_tokens
    uncached = event.input_tokens - event.cache_read_tokens - event.cache_write_tokens
    visible = event.output_tokens - event.reasoning_tokens
    return (
        uncached * Decimal(rates["input_rate"])
        + event.cache_read_tokens * rate("cache_read_rate", "input_rate")
        + five_minute_writes * rate("cache_write_rate", "input_rate")
        + event.cache_write_1h_tokens * rate("cache_write_1h_rate", "input_rate")
        + visible * Decimal(rates["output_rate"])
        + event.reasoning_tokens * rate("reasoning_rate", "output_rate")
    )
