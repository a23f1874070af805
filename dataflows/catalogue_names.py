"""Which models a price of the genai-prices catalogue is for, in the words of a rate card.

The catalogue asks one model after the other, without regard to case, and the first that recognises a name
prices it. A rate card asks for the most specific entry: an exact model, then the longest prefix, then a match
clause. So each alternative of a model becomes the most specific thing that says the same, and one that would
take names from another model of the catalogue is not written: the names that are known stay, the rest waits
in quarantine, and what was left out is told.

Exact names are written in the spellings that the catalogue has; prefixes and clauses as the catalogue has
them, or without regard to case where the model's name has capitals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from metering.event import LABEL_CHARS_MAX
from pricing.card_entry import read_rule
from pricing.card_values import Clause
from pricing.settings_keys import Section
from pricing.settings_yaml import Problem

_LIKE = {
    "starts_with": "(?i)^{}",
    "ends_with": "(?i){}$",
    "contains": "(?i){}",
    "equals": "(?i)^{}$",
}
_MATCH, _PREFIX, _EXACT = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Term:
    """One alternative by which a model is recognised.

    `rank` is that of exact names, prefixes or clauses; `text` is the name or prefix, `clause` the condition.
    `source` is the catalogue's own clause, and `samples` are names, in small letters, that it recognises.
    """

    rank: int
    text: str
    clause: Clause | None
    source: Any
    samples: tuple[str, ...]

    def __str__(self) -> str:
        kinds = {_EXACT: "the name", _PREFIX: "names that begin with", _MATCH: "names that fit"}
        return f"{kinds[self.rank]} {self.text!r}"


@dataclass(frozen=True, slots=True)
class Named:
    """A model of the catalogue, the terms that say its names, and sentences on what cannot be said."""

    model: Any
    terms: tuple[Term, ...]
    untold: tuple[str, ...]


class _Unsaid(ValueError):
    """A clause that a rate card has no words for."""


def name_models(models: Sequence[Any]) -> list[Named]:
    """The terms of each model of one provider, in the catalogue's order."""
    found: list[Named] = []
    for model in models:
        terms: list[Term] = []
        untold: list[str] = []
        for source in (*_alternatives(model.match), None):
            try:
                # Its own name last: it stands where a clause cannot.
                terms += _id_term(model, models) if source is None else _terms(model, source)
            except _Unsaid as exc:
                untold.append(str(exc))
        kept: dict[tuple[int, str], Term] = {}
        for term in terms:
            if not any(_first(models, sample) is model for sample in term.samples):
                continue  # an earlier model takes these names, in the catalogue too
            told = next((one for other in found for one in other.terms if _overruled(term, one)), None)
            if told is None:
                kept.setdefault((term.rank, term.text), term)
            else:
                untold.append(f"{term} (so may an earlier model: {told})")
        found.append(Named(model, tuple(kept.values()), tuple(untold)))
    return found


def collisions(named: Sequence[Named]) -> list[str]:
    """A sentence, if any, on names that fit a clause of an earlier model and have the prefix of a later one.

    Those prefixes say nothing of the clause's text, so such names are unlikely; in a card the prefix
    prevails.
    """
    clauses: list[Term] = []
    prefix: Term | None = None
    for place, one in enumerate(named):
        later = [term for other in named[place + 1 :] for term in other.terms if term.rank == _PREFIX]
        if later:
            kinds = ("contains", "ends_with")
            clauses += [term for term in one.terms if term.rank == _MATCH and _kind(term.source)[0] in kinds]
            prefix = later[0]
    if not clauses or prefix is None:
        return []
    fit = f"names that fit a clause such as {clauses[0].text!r} ({len(clauses)} in all)"
    begin = f"begin as those of a later model do, such as {prefix.text!r}"
    return [f"what the catalogue says of {fit} and {begin}: they have the later one's price"]


def shadows(term: Term, others: Sequence[Term]) -> list[Term]:
    """Those of other models' terms that prevail over this one for some names."""
    if term.rank == _EXACT:
        return []
    return [
        other
        for other in others
        if (other.rank, len(other.text) * (other.rank == _PREFIX))
        > (term.rank, len(term.text) * (term.rank == _PREFIX))
        and _share_names(term, other)
    ]


def _overruled(term: Term, earlier: Term) -> bool:
    """Whether an earlier model's clause should take some of this term's names, and would not."""
    return term.rank != _EXACT and earlier.rank == _MATCH and _share_names(term, earlier)


def _share_names(left: Term, right: Term) -> bool:
    return any(left.source.is_match(one) for one in right.samples) or any(
        right.source.is_match(one) for one in left.samples
    )


def _first(models: Sequence[Any], name: str) -> Any:
    return next((model for model in models if model.is_match(name)), None)


def _alternatives(clause: Any) -> Iterator[Any]:
    if hasattr(clause, "or_"):
        for part in clause.or_:
            yield from _alternatives(part)
    else:
        yield clause


def _id_term(model: Any, models: Sequence[Any]) -> list[Term]:
    if _first(models, model.id) is not model:
        return []
    return [Term(_EXACT, model.id, None, _Exactly(model.id.lower()), (model.id.lower(),))]


@dataclass(frozen=True, slots=True)
class _Exactly:
    """A clause for the name under which the catalogue lists a model."""

    name: str

    def is_match(self, name: str) -> bool:
        return name == self.name


def _terms(model: Any, source: Any) -> list[Term]:
    """A clause of the catalogue as terms; an exact name has one for each of its spellings."""
    kind, text = _kind(source)
    capitals = model.id != model.id.lower()
    if kind == "equals":
        spellings = {text, text.lower(), *([model.id] if model.id.lower() == text.lower() else [])}
        return [Term(_EXACT, _name(one), None, source, (text.lower(),)) for one in sorted(spellings)]
    if kind == "starts_with" and not capitals:
        low = text.lower()
        return [Term(_PREFIX, _name(text), None, source, (low, f"{low}-0", f"{low}0"))]
    clause = _clause(source, capitals=capitals)
    samples = tuple(one for one in _samples(source) if source.is_match(one))
    if not samples:
        raise _Unsaid(f"names that fit {_shown(source)}")
    return [Term(_MATCH, _shown(source), clause, source, samples)]


def _name(text: str) -> str:
    if not 1 <= len(text) <= LABEL_CHARS_MAX:
        raise _Unsaid(f"a name of {len(text)} characters")
    return text


def _kind(source: Any) -> tuple[str, Any]:
    """What a clause asks for, and its text or its parts."""
    for kind in ("equals", "starts_with", "ends_with", "contains", "regex"):
        if hasattr(source, kind):
            return kind, getattr(source, kind)
    return ("and", source.and_) if hasattr(source, "and_") else ("or", source.or_)


def _clause(source: Any, *, capitals: bool) -> Clause:
    kind, found = _kind(source)
    if kind in ("and", "or"):
        return Clause(kind, parts=tuple(_clause(part, capitals=capitals) for part in found))
    if kind == "regex" or capitals:
        pattern = found if kind == "regex" else _LIKE[kind].format(re.escape(found))
        return Clause("regex", _pattern(f"(?i){found}" if kind == "regex" and capitals else pattern))
    return Clause(kind, _name(found))


def _pattern(text: str) -> str:
    """A pattern that a card takes, as the reader of cards has it."""
    problems: list[Problem] = []
    read_rule(Section("", {"match": {"regex": text}, "input_rate": "0", "output_rate": "0"}, problems))
    if problems:
        raise _Unsaid(f"names that fit {text!r}, because a pattern {problems[0].sentence}")
    return text


def _samples(source: Any) -> list[str]:
    """Names that a clause may recognise."""
    kind, found = _kind(source)
    if kind in ("and", "or"):
        return [sample for part in found for sample in _samples(part)]
    if kind != "regex":
        return [found.lower()]
    plain = re.sub(r"\([^()]*\)\?", "", found).removeprefix("^").removesuffix("$")
    plain = re.sub(r"\\d\{(\d+)\}", lambda digits: "20260101"[: int(digits[1])], plain)
    plain = re.sub(r"\[([^\]\\])[^\]\\]*\]", r"\1", plain).replace("\\d", "1")
    return [re.sub(r"\\(.)", r"\1", plain)]


def _shown(source: Any) -> str:
    kind, found = _kind(source)
    if kind in ("and", "or"):
        return f" {kind} ".join(_shown(part) for part in found)
    return f"{kind} {found}"
