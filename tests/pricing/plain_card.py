"""A rate card applied to one event at a time, as one would do it on paper: with decimals and plain loops.

It shares the values with the code under test (`Rule`, `Contract`), and nothing that works on them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any
from zoneinfo import ZoneInfo

from pricing.card_values import Clause, Contract, Rates, Rule, TimeOfDay

EXACT = Context(prec=300, rounding=ROUND_HALF_EVEN)
TWELVE = Decimal("1e-12")
KINDS = ("audio", "image", "video")
Event = Mapping[str, Any]


class RefusedError(Exception):
    """The event has no amounts; the only argument is the reason."""


def plainly(
    rules: Sequence[Rule], contracts: Sequence[Contract], event: Event
) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    """Cost, price, credits and multiplier of one event.

    Raises:
        RefusedError: it makes no sense, or the card does not rate it.
    """
    classes, units = _usage(event)
    found = _prevailing([rule for rule in rules if _is_for(rule, event)])
    if found is None:
        raise RefusedError("unpriced")
    rule = found
    contract = _prevailing(
        [one for one in contracts if one.tenant == event["tenant_id"] and _is_for(one, event)]
    )
    rates: Any = rule
    for tier in rule.context_tiers:
        if event["input_tokens"] >= tier.tokens_min:
            rates = tier
    cost = max(_sum(rates, classes, units), rule.minimum_charge)
    multiplier, price = _price(rule, rates, contract, cost, classes, units)
    credit = sum((count * _credit(rule, name) for name, count in classes.items()), Decimal(0))
    billable = event["billable"]
    return (
        _rounded(Decimal(0) if event["cache_hit"] else cost),
        _rounded(price if billable else Decimal(0)),
        _rounded(credit if billable else Decimal(0)),
        _rounded(multiplier),
    )


def _rounded(amount: Decimal) -> Decimal:
    return amount.quantize(TWELVE, context=EXACT)


def _price(
    rule: Rule,
    rates: Any,
    contract: Contract | None,
    cost: Decimal,
    classes: dict[str, int],
    units: dict[str, int],
) -> tuple[Decimal, Decimal]:
    if contract is not None and contract.multiplier is not None:
        return contract.multiplier, EXACT.multiply(cost, contract.multiplier)
    if contract is not None and contract.price is not None:
        return Decimal(1), _sum(contract.price, classes, units)
    kept = Decimal(1) if contract is None or contract.discount is None else 1 - contract.discount
    listed = cost if rates.price is None else _sum(rates.price, classes, units)
    multiplier = EXACT.multiply(rule.multiplier, kept)
    return multiplier, EXACT.multiply(listed, multiplier)


def _sum(rates: Rates, classes: dict[str, int], units: dict[str, int]) -> Decimal:
    wholes = {"cache_read": "input", "cache_write": "input", "cache_write_1h": "input", "reasoning": "output"}
    total = rates.request_fee
    for name, count in classes.items():
        if count:
            total = EXACT.add(total, EXACT.multiply(count, _rate(rates, name, wholes)))
    for name, count in units.items():
        if name not in rates.unit_rates:
            raise RefusedError("unpriced")
        total = EXACT.add(total, EXACT.multiply(count, rates.unit_rates[name]))
    return total


def _rate(rates: Rates, name: str, wholes: dict[str, str]) -> Decimal:
    if name.endswith(KINDS):
        if name not in rates.modality_rates:
            raise RefusedError("unpriced")
        return rates.modality_rates[name]
    own = getattr(rates, f"{name}_rate")
    return own if own is not None else getattr(rates, f"{wholes[name]}_rate")  # type: ignore[no-any-return] # a decimal


def _credit(rule: Rule, name: str) -> Decimal:
    if not rule.credits:
        return rule.credit_multiplier
    while name not in rule.credits:
        name = (
            name.rpartition("_")[0] if name.endswith(KINDS) else "output" if name == "reasoning" else "input"
        )
    return rule.credits[name]


def _usage(event: Event) -> tuple[dict[str, int], dict[str, int]]:
    """Tokens by class, each in one of them, and other units."""
    told: dict[str, int] = {}
    for key, text in event["attributes"].items():
        if key.startswith("unit."):
            if not re.fullmatch("[0-9]+", text):
                raise RefusedError("invalid_value")
            if int(text) > 2**40:
                raise RefusedError("out_of_range")
            told[key[5:]] = int(text)
    parts = {
        f"{whole}_{kind}": told.pop(f"{whole}_{kind}_tokens", 0)
        for whole in ("input", "cache_read", "cache_write", "output")
        for kind in KINDS
    }
    for kind in KINDS:
        parts[f"input_{kind}"] -= parts[f"cache_read_{kind}"] + parts[f"cache_write_{kind}"]
    writes = event["cache_write_tokens"]
    classes = {
        "input": event["input_tokens"] - event["cache_read_tokens"] - writes,
        "cache_read": event["cache_read_tokens"],
        "cache_write": writes - event["cache_write_1h_tokens"],
        "cache_write_1h": event["cache_write_1h_tokens"],
        "output": event["output_tokens"] - event["reasoning_tokens"],
        "reasoning": event["reasoning_tokens"],
    }
    for name, count in parts.items():
        classes[name.rpartition("_")[0]] -= count
    classes |= parts
    if min(classes.values()) < 0:
        raise RefusedError("inconsistent_usage")
    return classes, {name: count for name, count in told.items() if count}


def _is_for(entry: Any, event: Event) -> bool:
    model, at = event["model"], event["timestamp_ms"]
    named = (
        model == entry.model
        if entry.model
        else model.startswith(entry.model_prefix)
        if entry.model_prefix
        else entry.match is None or _holds(entry.match, model)
    )
    tier = "" if event["service_tier"] in ("default", "standard") else event["service_tier"]
    return (
        named
        and entry.provider in ("", event["provider"])
        and entry.model_version in ("", event["model_version"])
        and entry.region in ("", event["region"])
        and entry.service_tier in ("*", tier)
        and (entry.effective_from_ms is None or at >= entry.effective_from_ms)
        and (entry.effective_until_ms is None or at < entry.effective_until_ms)
        and (getattr(entry, "time_of_day", None) is None or _within(entry.time_of_day, at))
    )


def _holds(clause: Clause, model: str) -> bool:
    if clause.kind == "and":
        return all(_holds(part, model) for part in clause.parts)
    if clause.kind == "or":
        return any(_holds(part, model) for part in clause.parts)
    if clause.kind == "regex":
        return re.search(clause.text, model) is not None
    tests = {"equals": model == clause.text, "contains": clause.text in model}
    tests |= {"starts_with": model.startswith(clause.text), "ends_with": model.endswith(clause.text)}
    return tests[clause.kind]


def _within(hours: TimeOfDay, at_ms: int) -> bool:
    local = datetime.fromtimestamp(at_ms // 1000, timezone.utc).astimezone(ZoneInfo(hours.timezone))
    minute, today = local.hour * 60 + local.minute, local.weekday()
    if hours.from_minute < hours.until_minute:
        return hours.from_minute <= minute < hours.until_minute and today in hours.weekdays
    if minute >= hours.from_minute:
        return today in hours.weekdays
    return minute < hours.until_minute and (today - 1) % 7 in hours.weekdays


def _prevailing(entries: Sequence[Any]) -> Any:
    """The most specific one; none of two that are equally specific."""
    if not entries:
        return None
    best = max(_specific(entry) for entry in entries)
    first, *more = [entry for entry in entries if _specific(entry) == best]
    if more:
        raise RefusedError("unpriced")
    return first


def _specific(entry: Any) -> tuple[bool, int, bool, int, bool]:
    given = [entry.provider, entry.model_version, entry.region, entry.service_tier != "*"]
    return (
        bool(entry.model),
        len(entry.model_prefix),
        entry.match is not None,
        sum(map(bool, given)),
        getattr(entry, "time_of_day", None) is not None,
    )
