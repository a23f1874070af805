"""Two rate cards side by side, as a table: what was added, removed or changed, when, and by how much."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Context, Decimal

from dataflows.report import ReportTable
from pricing.card_diff import Change, Difference, changes, repriced_from_ms
from pricing.card_text import clause_text, instant_text, number_text
from pricing.card_values import EVERY_TIER, Contract, Entry, Rule
from pricing.rate_card import RateCard

_MILLION_DIGITS = 6
_CONTEXT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_PERCENT_STEP = Decimal("0.01")


def diff_table(old: RateCard, new: RateCard) -> ReportTable:
    """Every change; token rates in USD for a million, all numbers with each of their digits."""
    found = changes(old, new)
    since = repriced_from_ms(found)
    effect = "no event that the old one priced comes to something else"
    if since is not None:
        when = f"from {instant_text(since)} on" if since else "whenever they happened"
        effect = f"events that the old one priced may come to something else, {when}"
    title = f"From card {old.version} to {new.version} (USD for a million tokens): {effect}"
    columns = ("change", "entry", "from", "until", "number", "old", "new", "%")
    return ReportTable(title, columns, tuple(row for change in found for row in _rows(change)))


def entry_text(entry: Entry) -> str:
    """Which events an entry is for, in a few words."""
    model = entry.model or (f"{entry.model_prefix}*" if entry.model_prefix else "")
    words = [entry.provider, model, clause_text(entry.match) if entry.match is not None else ""]
    if isinstance(entry, Contract):
        words.insert(0, f"tenant {entry.tenant}")
    elif entry.service_tier == EVERY_TIER:
        words.append("every tier")
    if entry.service_tier not in ("", EVERY_TIER):
        words.append(f"tier {entry.service_tier}")
    named = {"version": entry.model_version, "region": entry.region}
    words += [f"{name} {value}" for name, value in named.items() if value]
    if isinstance(entry, Rule) and entry.time_of_day is not None:
        hours = entry.time_of_day
        clock = [
            f"{minute // 60:02d}:{minute % 60:02d}" for minute in (hours.from_minute, hours.until_minute)
        ]
        words.append(f"{clock[0]} to {clock[1]} {hours.timezone}")
    return " ".join(word for word in words if word)


def _rows(change: Change) -> Iterator[tuple[str, ...]]:
    period = ["" if edge is None else instant_text(edge) for edge in (change.from_ms, change.until_ms)]
    about = entry_text(change.entry)
    if change.old is not None and change.new is not None:
        for one in change.differences:
            numbers = (_written(one.name, one.old), _written(one.name, one.new), _percent(one))
            yield ("changed", about, *period, one.name, *numbers)
    else:
        whole = _summary(change)
        kind, numbers = ("added", ("", whole, "")) if change.old is None else ("removed", (whole, "", ""))
        yield (kind, about, *period, "", *numbers)


def _summary(change: Change) -> str:
    """The numbers of an entry that was added or removed, but for those that follow from others."""
    told = {one.name: one.old if one.new is None else one.new for one in change.differences}
    plain = {"input": ("cache_read", "cache_write", "cache_write_1h"), "output": ("reasoning",)}
    for whole, parts in plain.items():
        for part in parts:
            if told.get(f"{part}_rate") == told.get(f"{whole}_rate"):
                told.pop(f"{part}_rate", None)
    usual = {"request_fee": 0, "minimum_charge": 0, "multiplier": 1, "credit_multiplier": 1}
    return ", ".join(
        f"{name} {_written(name, number)}"
        for name, number in told.items()
        if " above " not in name and (name not in usual or number != usual[name])
    )


def _written(name: str, number: Decimal | None) -> str:
    if number is None:
        return ""
    return number_text(number.scaleb(_MILLION_DIGITS, _CONTEXT) if "_rate" in name else number)


def _percent(one: Difference) -> str:
    if not one.old or one.new is None:
        return ""
    change = _CONTEXT.divide(_CONTEXT.multiply(_CONTEXT.subtract(one.new, one.old), Decimal(100)), one.old)
    return f"{_CONTEXT.quantize(change, _PERCENT_STEP):+f}"
