"""A rate card as text, in the form that `pricing.settings` reads: what is read from it is what was written.

Rates are written for a million tokens and for a thousand units, every digit of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Context, Decimal, Inexact
from typing import TypeAlias

from pricing.card_entry import UNCONFIRMED_RATE_MAX
from pricing.card_values import PLAIN_RATES, Clause, ContextTier, Rates, Rule, TimeOfDay

_EXACT = Context(prec=100, traps=[Inexact])
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_PER_TOKENS = 6
_PER_UNITS = 3

Keys: TypeAlias = "dict[str, str]"
"""Of one mapping: the text of each value, written already."""


def card_text(rules: Sequence[Rule], comments: Iterable[str] = ()) -> str:
    """The text of a rate-card file with some rules, under comments of one line each."""
    head = "".join(f"# {_on_one_line(line)}".rstrip() + "\n" for line in comments)
    return head + "rules:\n" + "".join(_entry(rule) for rule in rules)


def instant_text(instant_ms: int) -> str:
    """An instant as a rate card has it, such as 2026-01-01T00:00:00Z."""
    moment = (_EPOCH + timedelta(milliseconds=instant_ms)).isoformat(timespec="milliseconds")
    return moment.replace(".000", "").replace("+00:00", "Z")


def number_text(number: Decimal) -> str:
    """Every digit of a number, without an exponent and without zeros that say nothing."""
    return f"{number.normalize(_EXACT):f}" if number else "0"


def clause_text(clause: Clause) -> str:
    """A condition on a model's name, as it stands after `match:`."""
    if not clause.parts:
        return _mapping({clause.kind: _quoted(clause.text)})
    return _mapping({clause.kind: f"[{', '.join(clause_text(part) for part in clause.parts)}]"})


def _on_one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _entry(rule: Rule) -> str:
    keys = _selected(rule)
    keys["per"] = "1_000_000"
    highest = max(_token_rates(rule), default=Decimal(0))
    if highest > UNCONFIRMED_RATE_MAX:
        keys["confirm_rates_above"] = _per_million(highest)
    keys |= _rates(rule) | _units(rule)
    if rule.context_tiers:
        keys["context_tiers"] = "".join(f"\n      - {_mapping(_tier(tier))}" for tier in rule.context_tiers)
    if rule.minimum_charge:
        keys["minimum_charge"] = number_text(rule.minimum_charge)
    if rule.price is not None:
        keys["price"] = _mapping(_rates(rule.price) | _units(rule.price))
    for name in ("multiplier", "credit_multiplier"):
        if getattr(rule, name) != 1:
            keys[name] = number_text(getattr(rule, name))
    if rule.credits:
        keys["credits"] = _mapping({name: number_text(number) for name, number in rule.credits.items()})
    lines = (f"{key}:{'' if value.startswith(chr(10)) else ' '}{value}" for key, value in keys.items())
    return "  - " + "\n    ".join(lines) + "\n"


def _selected(rule: Rule) -> Keys:
    """Which events an entry is for."""
    names = ("provider", "model", "model_prefix", "model_version", "region", "service_tier")
    keys = {name: _quoted(getattr(rule, name)) for name in names if getattr(rule, name)}
    if rule.match is not None:
        keys["match"] = clause_text(rule.match)
    if rule.effective_from_ms is not None:
        keys["effective_from"] = instant_text(rule.effective_from_ms)
    if rule.effective_until_ms is not None:
        keys["effective_until"] = instant_text(rule.effective_until_ms)
    if rule.gap_intended:
        keys["gap"] = "intended"
    if rule.time_of_day is not None:
        keys["time_of_day"] = _mapping(_hours(rule.time_of_day))
    return keys


def _hours(hours: TimeOfDay) -> Keys:
    return {
        "from": _minute(hours.from_minute),
        "until": _minute(hours.until_minute),
        "weekdays": f"[{', '.join(_WEEKDAYS[day] for day in hours.weekdays)}]",
        "timezone": _quoted(hours.timezone),
    }


def _minute(minute: int) -> str:
    return f'"{minute // 60:02d}:{minute % 60:02d}"'


def _rates(rates: Rates) -> Keys:
    plain = {name: getattr(rates, name) for name in PLAIN_RATES}
    modal = {f"{name}_rate": rate for name, rate in rates.modality_rates.items()}
    return {name: _per_million(rate) for name, rate in (plain | modal).items() if rate is not None}


def _units(rates: Rates) -> Keys:
    keys: Keys = {}
    if rates.unit_rates:
        written = {name: rate.scaleb(_PER_UNITS, _EXACT) for name, rate in rates.unit_rates.items()}
        keys["units"] = _mapping(
            {name: f"{{rate: {number_text(rate)}, per: 1_000}}" for name, rate in written.items()}
        )
    if rates.request_fee:
        keys["request_fee"] = number_text(rates.request_fee)
    return keys


def _tier(tier: ContextTier) -> Keys:
    keys = {"above": str(tier.tokens_min - 1)}
    keys |= _rates(tier)
    return keys if tier.price is None else keys | {"price": _mapping(_rates(tier.price))}


def _token_rates(rule: Rule) -> list[Decimal]:
    costs: list[Rule | ContextTier] = [rule, *rule.context_tiers]
    sides: list[Rates] = [*costs, *(cost.price for cost in costs if cost.price is not None)]
    found = [getattr(side, name) for side in sides for name in PLAIN_RATES]
    found += [rate for side in sides for rate in side.modality_rates.values()]
    return [rate for rate in found if rate is not None]


def _per_million(rate: Decimal) -> str:
    return number_text(rate.scaleb(_PER_TOKENS, _EXACT))


def _quoted(text: str) -> str:
    # Text in JSON's quotes is text in YAML, whatever it looks like, but for what YAML takes for a line's end.
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in quoted)


def _mapping(keys: Keys) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}"
