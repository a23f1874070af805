"""The prices of the genai-prices catalogue as entries of a rate card; whatever cannot be one is told.

Nothing is fetched: the prices are those that the installed package ships. The catalogue answers for an
instant and a context (batch, a service tier), so it is asked for each period between two of its dates, each
part of a day between two of its hours, and each context; equal answers become one entry. A context that the
catalogue knows only since a date has no entry before it, where the catalogue would answer with the standard
price: such events are unpriced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, timezone
from decimal import Context, Decimal, Inexact
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from dataflows.catalogue_names import Named, Term, collisions, name_models, shadows
from pricing.card_values import MODALITIES, Clause, ContextTier, Rule, TimeOfDay
from pricing.money import USD_SCALE

_EXACT = Context(prec=100, traps=[Inexact])
_ONE = Decimal(1)
_ZERO = Decimal(0)
_MILLION = 6
_PLACES = 18
_DAY_MINUTES = 1440
_MINUTE = timedelta(minutes=1)
_EARLIEST = date(1970, 1, 1)

_PLAIN = {
    "input_mtok": "input_rate",
    "output_mtok": "output_rate",
    "cache_read_mtok": "cache_read_rate",
    "cache_write_mtok": "cache_write_rate",
    "cache_write_1h_mtok": "cache_write_1h_rate",
    "output_reasoning_mtok": "reasoning_rate",
}
_MODAL = {
    key: name
    for modality in MODALITIES
    for key, name in (
        (f"input_{modality}_mtok", f"input_{modality}"),
        (f"output_{modality}_mtok", f"output_{modality}"),
        (f"cache_{modality}_read_mtok", f"cache_read_{modality}"),
        (f"cache_{modality}_write_mtok", f"cache_write_{modality}"),
    )
}
_CONTEXTS = ("processing", "service_tier", "speed")
"""What a context may be about: each of its values is a service tier of the card."""


@dataclass(frozen=True, slots=True)
class Imported:
    """Entries, and sentences on what is not in them, each of which begins with the model that it is about."""

    rules: tuple[Rule, ...]
    untold: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to import: models by their names in the catalogue (as `fnmatch` has them), and what to add to it.

    `output_rate` is USD per token for models without a price for output, such as those that embed; None
    leaves these out.
    """

    patterns: tuple[str, ...] = ("*",)
    multiplier: Decimal = _ONE
    output_rate: Decimal | None = None


@dataclass(frozen=True, slots=True)
class _Priced:
    """Prices of a model in one tier and period. `rules` differ by their hours alone, and name no model."""

    tier: str
    begin: date | None
    end: date | None
    rules: tuple[Rule, ...]


class _Unsaid(ValueError):
    """A price that a rate card cannot say."""


def import_provider(provider: Any, wanted: Wanted) -> Imported:
    """Entries for the wanted models of a provider; no entry is for a name that is another model's."""
    named = name_models(provider.models)
    untold = [f"{provider.id}: {told}" for told in collisions(named)]
    if provider.fallback_model_providers:
        lenders = ", ".join(provider.fallback_model_providers)
        untold.append(f"{provider.id}: models that the catalogue prices as those of {lenders}")
    priced: list[list[_Priced]] = []
    for one in named:
        told: list[str] = []
        is_wanted = any(fnmatchcase(one.model.id.lower(), pattern.lower()) for pattern in wanted.patterns)
        priced.append(_prices(one.model, wanted, told) if is_wanted else [])
        if is_wanted:
            untold += [f"{one.model.id}: {sentence}" for sentence in (*told, *one.untold)]
    rules: list[Rule] = []
    for position, one in enumerate(named):
        for part in priced[position]:
            others = [
                term
                for other, theirs in zip(named, priced, strict=True)
                if other is not one and not _covers(theirs, part)
                for term in other.terms
            ]
            kept = _unshadowed(one, part, others, untold)
            rules += [
                replace(rule, service_tier=part.tier, **selected)
                for rule in part.rules
                for selected in _selections(kept)
            ]
    rules = [replace(rule, provider=provider.id, multiplier=wanted.multiplier) for rule in rules]
    return Imported(tuple(rules), tuple(dict.fromkeys(untold)))


def _covers(priced: Sequence[_Priced], part: _Priced) -> bool:
    """Whether a model has prices in a tier for all of a period: its periods there touch, to the end."""
    same = [one for one in priced if one.tier == part.tier]
    if not same or (same[0].begin or _EARLIEST) > (part.begin or _EARLIEST) or same[-1].end is not None:
        return False
    return all(before.end == after.begin for before, after in pairwise(same))


def _unshadowed(one: Named, part: _Priced, others: Sequence[Term], untold: list[str]) -> list[Term]:
    """A model's terms, without those that would price what another model of the catalogue leaves unpriced."""
    kept = []
    for term in one.terms:
        over = shadows(term, others)
        if not over:
            kept.append(term)
            continue
        tier = f" in tier {part.tier}" if part.tier else ""
        untold.append(f"{one.model.id}: {term}{tier} (they include {over[0]}, which has no such price)")
    return kept


def _selections(terms: Sequence[Term]) -> Iterator[dict[str, Any]]:
    names = {1: "match", 2: "model_prefix", 3: "model"}
    clauses = [term.clause for term in terms if term.clause is not None]
    for term in terms:
        if term.clause is None:
            yield {names[term.rank]: term.text}
    if clauses:
        yield {"match": clauses[0] if len(clauses) == 1 else Clause("or", parts=tuple(clauses))}


def _prices(model: Any, wanted: Wanted, untold: list[str]) -> list[_Priced]:
    """What a model costs by tier and period; what cannot be said is added to `untold`."""
    found: list[_Priced] = []
    for tier, contexts in _tiers(model, untold):
        periods: list[_Priced] = []
        for begin, end in _periods(model):
            if not any(_holds(variant, begin) for variant in contexts) and tier:
                continue
            context = contexts[0].when if tier else None
            try:
                rules = _by_hours(model, begin, context, wanted, untold)
            except _Unsaid as exc:
                untold.append(f"{exc}{f' (tier {tier})' if tier else ''}")
                continue
            before = periods[-1] if periods else None
            if before is not None and before.end == begin and before.rules == rules:
                periods[-1] = replace(before, end=end)
            else:
                periods.append(_Priced(tier, begin, end, rules))
        found += [_dated(part, before) for before, part in zip((None, *periods), periods, strict=False)]
    return found


def _tiers(model: Any, untold: list[str]) -> Iterator[tuple[str, list[Any]]]:
    """The service tiers of a model, each with the catalogue's variants for it; "" is the standard one."""
    yield "", []
    found: dict[str, list[Any]] = {}
    for variant in model.price_variants or ():
        (about, value), *more = variant.when.items()
        if more or about not in _CONTEXTS or hasattr(variant.constraint, "start_time"):
            told = ", ".join(f"{key} {one}" for key, one in variant.when.items())
            untold.append(f"the price for {told}")
        elif value not in ("default", "standard"):
            found.setdefault(value, []).append(variant)
    for value, variants in found.items():
        if len({tuple(variant.when) for variant in variants}) == 1:
            yield value, variants
        else:
            untold.append(f"the prices of tier {value}, which two contexts name")


def _holds(variant: Any, begin: date | None) -> bool:
    """Whether a variant applies from the beginning of a period on."""
    start = getattr(variant.constraint, "start_date", None)
    return start is None or (begin is not None and start <= begin)


def _constraints(model: Any) -> list[Any]:
    prices = model.prices if isinstance(model.prices, list) else []
    return [one.constraint for one in (*prices, *(model.price_variants or ())) if one.constraint is not None]


def _periods(model: Any) -> list[tuple[date | None, date | None]]:
    starts = sorted({one.start_date for one in _constraints(model) if hasattr(one, "start_date")})
    return list(pairwise([None, *starts, None]))


def _by_hours(
    model: Any, begin: date | None, context: Any, wanted: Wanted, untold: list[str]
) -> tuple[Rule, ...]:
    """Rules for the parts of a day; the price of most of its minutes stands without hours."""
    edges = {0, _DAY_MINUTES}
    for one in _constraints(model):
        if not hasattr(one, "start_date"):
            edges |= {_minute(one.start_time), _minute(one.end_time)}
    hours: dict[int, list[tuple[int, int]]] = {}
    answers: list[Any] = []
    midnight = datetime.combine(begin or _EARLIEST, time(), timezone.utc)
    for start, end in pairwise(sorted(edges)):
        answer = model.get_prices(midnight + start * _MINUTE, context)
        if answer not in answers:
            answers.append(answer)
        spans = hours.setdefault(answers.index(answer), [])
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    most = max(hours, key=lambda number: sum(end - start for start, end in hours[number]))
    rules = [_rule(answers[most], wanted, untold)]
    for number in sorted(hours.keys() - {most}):
        spans = hours[number]
        if len(spans) > 1 and (spans[0][0], spans[-1][1]) == (0, _DAY_MINUTES):
            spans = [(spans[-1][0], spans[0][1]), *spans[1:-1]]
        rule = _rule(answers[number], wanted, untold)
        rules += [replace(rule, time_of_day=TimeOfDay(start, end)) for start, end in spans]
    return tuple(rules)


def _minute(moment: time) -> int:
    if moment.second or moment.microsecond:
        raise _Unsaid("nothing, because its prices change within a minute")
    offset = moment.utcoffset() or timedelta(0)
    return (moment.hour * 60 + moment.minute - offset // _MINUTE) % _DAY_MINUTES


def _dated(part: _Priced, before: _Priced | None) -> _Priced:
    begin, end = _ms(part.begin), _ms(part.end)
    gap = before is not None and before.end != part.begin
    dated = (
        replace(rule, effective_from_ms=begin, effective_until_ms=end, gap_intended=gap)
        for rule in part.rules
    )
    return replace(part, rules=tuple(dated))


def _ms(day: date | None) -> int | None:
    return None if day is None else (day - _EARLIEST).days * 86_400_000


def _rule(prices: Any, wanted: Wanted, untold: list[str]) -> Rule:
    """A rule that names no model, with what the catalogue answers.

    Raises:
        _Unsaid: it has no rate for input or output tokens, which an entry needs.
    """
    found = {key: value for key, value in vars(prices).items() if value is not None}
    if not found:
        raise _Unsaid("nothing, because it has no price")
    starts = sorted({tier.start for value in found.values() for tier in getattr(value, "tiers", ())})
    base = _rates(found, 0, wanted, untold)
    tiers = []
    for start in starts:
        rates = _rates(found, start + 1, wanted, [])
        tiers.append(ContextTier(**rates, tokens_min=start + 1))
    return Rule(**base, context_tiers=tuple(tiers))


def _rates(found: dict[str, Any], tokens: int, wanted: Wanted, untold: list[str]) -> dict[str, Any]:
    """The fields of `Rates` for requests with so many input tokens."""
    if "input_mtok" not in found:
        keys = ", ".join(sorted(found))
        raise _Unsaid(f"nothing, because it has {keys} and no price for input tokens, which an entry needs")
    outputs = [key for key in found if key.startswith("output_")]
    if "output_mtok" not in found and (outputs or wanted.output_rate is None):
        raise _Unsaid("nothing, because it has no price for output tokens, which an entry needs")
    plain: dict[str, Decimal] = {}
    modal: dict[str, Decimal] = {}
    units: dict[str, Decimal] = {}
    fee = _ZERO
    if "output_mtok" not in found and wanted.output_rate is not None:
        plain["output_rate"] = wanted.output_rate
    for key, value in found.items():
        try:
            if key in _PLAIN:
                plain[_PLAIN[key]] = _exactly(_at(value, tokens), 10**_MILLION, _PLACES)
            elif key in _MODAL:
                modal[_MODAL[key]] = _exactly(_at(value, tokens), 10**_MILLION, _PLACES)
            elif key == "requests_kcount":
                fee = _exactly(_flat(value), 1000, USD_SCALE)
            else:
                name, per = _unit(key)
                units[name] = _exactly(_flat(value), per, _PLACES)
        except _Unsaid as exc:
            if key in _PLAIN:
                # Without a rate of their own, tokens of this class would be priced as others are.
                raise _Unsaid(f"nothing, because the price {key} {exc}") from None
            untold.append(f"the price {key} {exc}")
    if "cache_write_rate" in plain:
        # There, writes for an hour cost what other writes do; in a card they would cost what input does.
        plain.setdefault("cache_write_1h_rate", plain["cache_write_rate"])
    return {**plain, "modality_rates": modal, "unit_rates": units, "request_fee": fee}


def _at(value: Any, tokens: int) -> Any:
    """A price at so many input tokens: the last tier that begins below them."""
    if not hasattr(value, "tiers"):
        return value
    return next((tier.price for tier in reversed(value.tiers) if tokens > tier.start), value.base)


def _flat(value: Any) -> Any:
    if hasattr(value, "tiers"):
        raise _Unsaid("depends on the context")
    return value


def _exactly(price: Decimal, per: int, places: int) -> Decimal:
    try:
        rate = _EXACT.divide(price, Decimal(per))
        if rate == rate.quantize(Decimal(1).scaleb(-places), context=_EXACT):
            return rate
    except Inexact:
        pass
    raise _Unsaid(f"is {price} USD for {per:,}: for one, that has more than {places} decimal places")


_UNITS = {
    "input_mchars": ("input_characters", 10**6),
    "input_text_messages_kcount": ("input_text_messages", 1000),
    "audio_hours": ("audio_seconds", 3600),
    "input_audio_hours": ("input_audio_seconds", 3600),
    "output_audio_hours": ("output_audio_seconds", 3600),
    "input_gpixels": ("input_pixels", 10**9),
    "input_document_kpages": ("input_document_pages", 1000),
    "input_annotated_document_kpages": ("input_annotated_document_pages", 1000),
}


def _unit(key: str) -> tuple[str, int]:
    """The name of a unit, which is the attribute `unit.NAME` of an event, and how many the price is for."""
    if key in _UNITS:
        return _UNITS[key]
    if key.endswith("_kcount"):
        return key.removesuffix("_kcount"), 1000
    raise _Unsaid("is for a class of tokens that a card does not know")
