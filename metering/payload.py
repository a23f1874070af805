"""Values out of a payload whose type nobody vouches for: JSON, an SDK's objects, or anything else.

A field is read as a key of a mapping or as an attribute, whichever its holder has. What is absent, `null` or
of another type than it should be is None: not said, which is never the same as zero. Nothing is converted:
`"5"`, `5.0` and `True` are no counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from itertools import islice

from metering.event import LABEL_CHARS_MAX
from metering.mishaps import note

COUNT_END = 2**63
"""No count reaches this; one that does is garbage that may not even print. Below it the job decides."""

IDENTIFIER_CHARS_MAX = 4096
"""A longer id of a response is none: it would cost more to carry than it is worth."""

ITEMS_MAX = 10_000
"""Of a list in a payload so many items are looked at."""

COST_PLACES = 30
"""Decimal places that the contract takes in `provider_cost`; it rounds to 12 itself."""

_COST_END = Decimal(10) ** 20
_COST_CONTEXT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_PLAIN_NUMBER = re.compile(r"\d{1,20}(?:\.\d{1,60})?(?:[eE][+-]?\d{1,2})?", re.ASCII)


def get(holder: object, *names: str) -> object:
    """The first of these fields that the holder has and that is not None; None if there is none."""
    for name in names:
        value = _field(holder, name)
        if value is not None:
            return value
    return None


def _field(holder: object, name: str) -> object:
    if holder is None:
        return None
    try:
        if type(holder) is dict or isinstance(holder, Mapping):
            return holder.get(name)
        found: object = getattr(holder, name, None)
    except Exception as exc:  # noqa: BLE001 - the holder is the caller's object: it may raise anything
        note("payload_unread", "a field of a payload could not be read", exc)
        return None
    return found


def path(holder: object, *names: str) -> object:
    """The field of a field of … the holder."""
    for name in names:
        holder = get(holder, name)
    return holder


def count(holder: object, *names: str) -> int | None:
    """The first of these fields that is said, if it is a whole number of 0 or more."""
    value = get(holder, *names)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < COUNT_END:
        return None
    return int(value)


def counts(holder: object, **fields: str | tuple[str, ...]) -> dict[str, int]:
    """The counts that are said, by the names of ours that the keywords give."""
    found: dict[str, int] = {}
    for ours, theirs in fields.items():
        value = count(holder, theirs) if isinstance(theirs, str) else count(holder, *theirs)
        if value is not None:
            found[ours] = value
    return found


def replace_counts(known: dict[str, int], later: Mapping[str, int]) -> None:
    """Take over what a later word says of cumulative counts: it replaces, and is never added.

    Cumulative counts never go back to zero, so a zero after a count is a gateway's way to say nothing.
    """
    for name, value in later.items():
        if value or name not in known:
            known[name] = value


def text(value: object, chars_max: int) -> str:
    """A string of 1 to so many characters that UTF-8 can carry; "" for everything else.

    A member of an SDK's enumeration of strings is its value.
    """
    if not isinstance(value, str) or not 0 < len(value) <= chars_max:
        return ""
    try:
        return value.encode("utf-8").decode("utf-8")
    except UnicodeError:
        return ""  # half a surrogate pair: the event could not be written


def name_in(holder: object, *names: str) -> str:
    """The first of these fields that is said, as the contract takes a name of a model, tier or region."""
    return text(get(holder, *names), LABEL_CHARS_MAX)


def identifier(holder: object, *names: str) -> str:
    """The first of these fields that is said, as a response's id."""
    return text(get(holder, *names), IDENTIFIER_CHARS_MAX)


def items(value: object) -> list[object]:
    """The items of a list or of whatever is like one; nothing of anything else."""
    if isinstance(value, (list, tuple)):
        return list(value[:ITEMS_MAX])
    try:
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview)):
            return list(islice(value, ITEMS_MAX))
    except Exception as exc:  # noqa: BLE001 - as in _field
        note("payload_unread", "a list of a payload could not be read", exc)
    return []


def usd(value: object) -> Decimal | None:
    """An amount that a provider reports, as the contract takes it.

    JSON that `metering.sse` read has exact decimals. Others have made a float of it before we see it: its
    shortest text (`repr`) is then what the provider wrote, to 15 digits at least, and is the best there is.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        value = repr(value)
    elif isinstance(value, Decimal):
        value = str(value) if value.is_finite() else None
    elif isinstance(value, int):
        value = str(value) if 0 <= value < _COST_END else None
    if not isinstance(value, str) or not _PLAIN_NUMBER.fullmatch(value):
        return None
    amount = Decimal(value)
    if amount >= _COST_END:
        return None
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -COST_PLACES:
        return amount.quantize(Decimal(1).scaleb(-COST_PLACES), context=_COST_CONTEXT)
    return amount
