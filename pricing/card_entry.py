"""Reading the entries of a rate card and its contracts, key by key, with every problem that they have.

A rate may be written for one token, a thousand or a million (`per`); here it becomes USD per token, exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact
from typing import Any

from metering.event import LABEL_CHARS_MAX, timestamp_ms
from pricing import settings_keys as read
from pricing.card_values import (
    ALL_CLASSES,
    EVERY_TIER,
    MODEL_CLAUSES,
    PLAIN_RATES,
    STANDARD_TIERS,
    WHOLE_OF,
    Clause,
    ContextTier,
    Contract,
    Rates,
    Rule,
    TimeOfDay,
)
from pricing.money import USD_SCALE
from pricing.settings_keys import Section, Unfit
from pricing.settings_yaml import shown

REGEX_CHARS_MAX = 256
REGEX_CHOICES_MAX = 6
REGEX_LOOPS_MAX = 2
"""Of one pattern. A name has 128 characters, so the worst one tries some millions of ways, never 2**128."""

UNCONFIRMED_RATE_MAX = Decimal("0.01")
"""USD per token. Real rates are far below; one above it was most likely meant for a million tokens."""

MODALITY_RATES = {f"{name}_rate": name for name in WHOLE_OF}

_ZERO = Decimal(0)
_ONE = Decimal(1)
_EXACT = Context(prec=100, traps=[Inexact])
_PLACES = 18
_RATE_MAX = 1000
_PER = {"1": 0, "1000": 3, "1000000": 6}
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 1440

_NAME = read.label(1, LABEL_CHARS_MAX)
_LABEL = read.label(0, LABEL_CHARS_MAX)
_FEE = read.decimal("0", "1000", places=USD_SCALE)
_MULTIPLIER = read.decimal("0", "1000", places=6)
_DISCOUNT = read.decimal("0", "1", places=6)
_UNIT = read.matching(r"[a-z][a-z0-9_]{0,63}", "must be a name of small letters, digits and '_'")


@dataclass(frozen=True, slots=True)
class _Scale:
    """How the rates of one entry are written: for 10**`per_digits` tokens, up to `confirmed` unasked."""

    per_digits: int
    confirmed: Decimal


def read_rule(keys: Section) -> Rule:
    """One entry of `rules`; what is wrong with it goes to the problems of its section."""
    selected = _model(keys, "model")
    scale = _scale(keys)
    rates = _rates(keys, scale)
    price = _price(keys, scale, rates)
    tiers = keys.sections("context_tiers")
    begin, end = _dates(keys)
    rule = Rule(
        **selected,
        **rates,
        provider=keys.optional("provider", _LABEL, ""),
        model_version=keys.optional("model_version", _LABEL, ""),
        region=keys.optional("region", _LABEL, ""),
        service_tier=keys.optional("service_tier", _tier, ""),
        effective_from_ms=begin,
        effective_until_ms=end,
        gap_intended=keys.optional("gap", read.one_of("intended"), "") == "intended",
        time_of_day=_time_of_day(keys.section("time_of_day")) if keys.given("time_of_day") else None,
        context_tiers=tuple(_tier_of_context(section, scale, rates, price) for section in tiers),
        minimum_charge=keys.optional("minimum_charge", _FEE, _ZERO),
        price=price,
        multiplier=keys.optional("multiplier", _MULTIPLIER, _ONE),
        credit_multiplier=keys.optional("credit_multiplier", _MULTIPLIER, _ONE),
        credits=_credits(keys),
    )
    if keys.given("credit_multiplier") and keys.given("credits"):
        keys.problem(None, "has both credit_multiplier and credits: give one of them")
    for before, tier, section in zip(rule.context_tiers, rule.context_tiers[1:], tiers[1:], strict=False):
        if tier.tokens_min <= before.tokens_min:
            section.problem(None, "must begin above the context tier before it")
    keys.finish()
    return rule


def read_contract(keys: Section) -> Contract:
    """One entry of `contracts`."""
    scale = _scale(keys)
    begin, end = _dates(keys)
    contract = Contract(
        tenant=keys.required("tenant", _NAME, ""),
        **_model(keys, None),
        provider=keys.optional("provider", _LABEL, ""),
        model_version=keys.optional("model_version", _LABEL, ""),
        region=keys.optional("region", _LABEL, ""),
        service_tier=keys.optional("service_tier", _tier, EVERY_TIER),
        effective_from_ms=begin,
        effective_until_ms=end,
        multiplier=keys.optional("multiplier", _MULTIPLIER, None),
        discount=keys.optional("discount", _DISCOUNT, None),
        price=_price(keys, scale, {}),
    )
    given = [name for name in ("multiplier", "discount", "price") if keys.given(name)]
    if keys.is_mapping and len(given) != 1:
        keys.problem(None, f"must have one of multiplier, discount and price, got {len(given)}")
    keys.finish()
    return contract


def _scale(keys: Section) -> _Scale:
    confirmed = read.decimal("0", str(_RATE_MAX * 10**6), places=_PLACES)
    return _Scale(
        _PER[keys.optional("per", _per, "1")], keys.optional("confirm_rates_above", confirmed, _ZERO)
    )


def _model(keys: Section, required: str | None) -> dict[str, Any]:
    given = [name for name in ("model", "model_prefix", "match") if keys.given(name)]
    if not given and required is not None:
        keys.missing(required)
    if len(given) > 1:
        keys.problem(None, f"must have only one of {' and '.join(given)}")
    return {
        "model": keys.optional("model", _NAME, ""),
        "model_prefix": keys.optional("model_prefix", _NAME, ""),
        "match": _clause(keys.section("match")) if keys.given("match") else None,
    }


def _clause(keys: Section) -> Clause | None:
    given = [name for name in (*MODEL_CLAUSES, "and", "or") if keys.given(name)]
    if keys.is_mapping and len(given) != 1:
        kinds = f"{', '.join(MODEL_CLAUSES)}, and, or"
        keys.problem(None, f"must have one clause ({kinds}), got {len(given)}")
    found: Clause | None = None
    for kind in given[:1]:
        if kind in MODEL_CLAUSES:
            text = keys.optional(kind, _regex if kind == "regex" else _NAME, "")
            found = Clause(kind, text) if text else None
        else:
            parts = [_clause(section) for section in keys.sections(kind, count_min=1)]
            whole = tuple(part for part in parts if part is not None)
            found = Clause(kind, parts=whole) if whole else None
    keys.finish()
    return found


def _regex(text: str) -> str:
    """A pattern that cannot hold the job up: its engine goes back, so what it may choose among is bounded."""
    if not 1 <= len(text) <= REGEX_CHARS_MAX:
        raise Unfit(f"must have 1 to {REGEX_CHARS_MAX} characters, got {len(text)}")
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        raise Unfit(f"must be a regular expression, got {shown(text)}") from None
    # Without escapes, classes, and what stands after an opening bracket to say what the group is.
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "a", text, flags=re.DOTALL)
    bare = bare.replace("(?", "(")
    choices = re.findall(r"(?:[*+]|\{\d*,\d*\})[?+]?|\?|\|", bare)
    loops = [choice for choice in choices if choice[0] in "*+{"]
    if len(choices) > REGEX_CHOICES_MAX or len(loops) > REGEX_LOOPS_MAX or re.search(r"\)[*+{]", bare):
        raise Unfit(
            f"must repeat no group, and have at most {REGEX_LOOPS_MAX} of *, + and {{,}}, and "
            f"{REGEX_CHOICES_MAX} of these, ? and | together, got {shown(text)}"
        )
    return text


def _tier(text: str) -> str:
    label = _LABEL(text)
    return "" if label in STANDARD_TIERS else label


def _per(text: str) -> str:
    digits = text.replace("_", "")
    if digits not in _PER:
        raise Unfit(f"must be 1, 1_000 or 1_000_000, got {shown(text)}")
    return digits


def _instant(text: str) -> int:
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        raise Unfit(f"must say in which zone the day begins, such as {text}T00:00:00Z, got {shown(text)}")
    try:
        return timestamp_ms(text)
    except (ValueError, OverflowError):
        raise Unfit(
            f"must be a date and time with an offset, such as 2026-01-01T00:00:00Z, got {shown(text)}"
        ) from None


def _dates(keys: Section) -> tuple[int | None, int | None]:
    begin = keys.optional("effective_from", _instant, None)
    end = keys.optional("effective_until", _instant, None)
    if begin is not None and end is not None and end <= begin:
        keys.problem("effective_until", "must be after effective_from")
    return begin, end


def _rates(keys: Section, scale: _Scale) -> dict[str, Any]:
    """The keys of `Rates`, as they are given here."""
    rate = _rate(scale)
    return {
        "input_rate": keys.required("input_rate", rate, _ZERO),
        "output_rate": keys.required("output_rate", rate, _ZERO),
        **{name: keys.optional(name, rate, None) for name in PLAIN_RATES[2:]},
        "modality_rates": {
            name: value
            for key, name in MODALITY_RATES.items()
            if (value := keys.optional(key, rate, None)) is not None
        },
        "unit_rates": {name: _unit(section) for name, section in keys.entries("units", _unit_name)},
        "request_fee": keys.optional("request_fee", _FEE, _ZERO),
    }


def _rate(scale: _Scale) -> Callable[[str], Decimal]:
    per = 10**scale.per_digits
    number = read.decimal("0", str(_RATE_MAX * per), places=_PLACES - scale.per_digits)

    def rate(text: str) -> Decimal:
        """USD for one token, exactly. Raises Unfit: it is no rate, or one that nobody has confirmed."""
        written = number(text)
        value = written.scaleb(-scale.per_digits, _EXACT) if scale.per_digits else written
        if value > UNCONFIRMED_RATE_MAX and written > scale.confirmed:
            raise Unfit(
                f"is over {UNCONFIRMED_RATE_MAX} USD for one token, got {shown(text)}: add per: 1_000_000 if "
                f"it is for a million tokens, or confirm_rates_above: {shown(text)} if it is right"
            )
        return value

    return rate


def _unit_name(text: str) -> str:
    name = _UNIT(text)
    if name.removesuffix("_tokens") in WHOLE_OF:
        raise Unfit(f"is a class of tokens: give it {name.removesuffix('_tokens')}_rate instead")
    return name


def _unit(keys: Section) -> Decimal:
    digits = _PER[keys.optional("per", _per, "1")]
    number = read.decimal("0", str(_RATE_MAX * 10**digits), places=_PLACES - digits)
    rate = keys.required("rate", number, _ZERO)
    keys.finish()
    return rate.scaleb(-digits, _EXACT)


def _price(keys: Section, scale: _Scale, cost: Mapping[str, Any]) -> Rates | None:
    """Own price rates: they name what the cost names, since a price is never guessed from a cost."""
    if not keys.given("price"):
        return None
    section = keys.section("price")
    rates = _rates(section, scale)
    _same_rates(section, rates, cost)
    section.finish()
    return Rates(**rates)


def _tier_of_context(
    keys: Section, scale: _Scale, base: Mapping[str, Any], base_price: Rates | None
) -> ContextTier:
    above = keys.optional("above", read.whole(0, 2**40), None)
    least = keys.optional("from", read.whole(1, 2**40), None)
    if keys.is_mapping and keys.given("above") == keys.given("from"):
        keys.problem(None, "must have one of above and from")
    cost = _tier_rates(keys, scale, base)
    price = None
    if keys.given("price") and base_price is not None:
        section = keys.section("price")
        price = Rates(**_tier_rates(section, scale, {name: getattr(base_price, name) for name in base}))
        section.finish()
    if keys.given("price") != (base_price is not None):
        keys.problem("price", "must be given where the entry has price rates of its own, and nowhere else")
    keys.finish()
    tokens_min = least if least is not None else 0 if above is None else above + 1
    return ContextTier(**cost, tokens_min=tokens_min, price=price)


def _tier_rates(keys: Section, scale: _Scale, base: Mapping[str, Any]) -> dict[str, Any]:
    """Rates of tokens in a context tier; what does not depend on the context is taken from the entry."""
    fixed = ("units", "request_fee")
    for name in fixed:
        keys.refuse(name, "must stand in the entry itself: it does not depend on the context")
    rates = {**_rates(keys, scale), "unit_rates": base["unit_rates"], "request_fee": base["request_fee"]}
    _same_rates(keys, rates, base)
    return rates


def _same_rates(keys: Section, rates: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Each rate that others name must be named here, too: none is taken over unsaid."""
    absent = [name for name in PLAIN_RATES[2:] if rates[name] is None and others.get(name) is not None]
    absent += [
        f"{name}_rate" for name in others.get("modality_rates", ()) if name not in rates["modality_rates"]
    ]
    absent += [f"units.{name}" for name in others.get("unit_rates", ()) if name not in rates["unit_rates"]]
    for name in absent:
        keys.problem(None, f"lacks {name}, which the entry has")


def _time_of_day(keys: Section) -> TimeOfDay:
    hours = TimeOfDay(
        from_minute=keys.optional("from", _minute, 0),
        until_minute=keys.optional("until", _minute, _DAY_MINUTES),
        weekdays=tuple(
            sorted(
                set(
                    keys.several("weekdays", _weekday, tuple(range(7)), count_max=7),
                )
            )
        ),
        timezone=keys.optional("timezone", read.timezone, "UTC"),
    )
    if hours.from_minute == hours.until_minute:
        keys.problem(None, "must not end when it begins")
    keys.finish()
    return hours


def _minute(text: str) -> int:
    match = re.fullmatch(r"(\d\d):(\d\d)", text, re.ASCII)
    minute = int(match[1]) * 60 + int(match[2]) if match is not None and int(match[2]) < 60 else -1
    if not 0 <= minute <= _DAY_MINUTES:
        raise Unfit(f"must be a time from 00:00 to 24:00, got {shown(text)}")
    return minute


def _weekday(text: str) -> int:
    if text not in _WEEKDAYS:
        raise Unfit(f"must be {', '.join(_WEEKDAYS[:-1])} or {_WEEKDAYS[-1]}, got {shown(text)}")
    return _WEEKDAYS.index(text)


def _credits(keys: Section) -> Mapping[str, Decimal]:
    if not keys.given("credits"):
        return {}
    section = keys.section("credits")
    found = {
        name: value
        for name in ALL_CLASSES
        if (value := section.optional(name, _MULTIPLIER, None)) is not None
    }
    for name in ("input", "output"):
        if section.is_mapping and not section.given(name):
            section.problem(name, "is missing")
    section.finish()
    return found
