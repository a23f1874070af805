"""From what an application recorded to one line of JSON, and what the contract says of it. Pure.

An event that the contract refuses is a line all the same: the job keeps it in quarantine, where somebody can
see it and mend it. A value that JSON has no form for becomes an object that no field takes (`_unreadable`):
an event is never lost for one odd field, and none is billed to a tenant called `nan`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from metering.contract import fits
from metering.event import FIELDS, NESTING_MAX, InvalidEvent, UsageEvent, parse_line

LINE_BYTES_MAX = 500_000
"""A valid event cannot be longer: 64 attributes of 1,152 characters, each at most six bytes (`\\u0000`), make
442,368. And a message of one such line stays well below the megabyte that a Kafka topic takes by default."""


class Unsendable(ValueError):
    """Nothing of it can be sent. `reason`: `not_serialisable`, `too_large`. The sentence shows no content."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Line:
    """One event as JSON without a newline in it; `tenant_id` is "" where it names none.

    `invalid_reason` is the contract's (`metering.event.QuarantineReason`), "" for a valid event; `detail`
    says it in a sentence.
    """

    tenant_id: str
    data: bytes
    invalid_reason: str = ""
    detail: str = ""


def encode_common(event: Any) -> bytes | None:
    """The line of an event of the commonest form, a plain dictionary; None for any other (see `encode`).

    Nothing raises: neither half a surrogate pair, nor what a kind of number or text of the caller's own does.
    """
    try:
        is_common = type(event) is dict and fits(event) and type(event["tenant_id"]) is str
        return to_json(event) if is_common else None
    except BaseException:  # noqa: BLE001  # such a number may raise anything where it is compared
        return None


def encode(event: object) -> Line:
    """The line of any event.

    Args:
        event: A `UsageEvent`, or a mapping of the contract's fields (or a CloudEvents envelope of them).

    Raises:
        Unsendable: it is neither, cannot be read, or is longer than `LINE_BYTES_MAX` even without the fields
            that the contract does not know. Whatever its own code raises while it is read comes through.
    """
    fields = _fields(event)
    data = encode_common(fields)
    return _encode_anything(fields) if data is None else Line(fields["tenant_id"], data)


def _fields(event: object) -> dict[str, Any]:
    if isinstance(event, UsageEvent):
        known = event.model_dump(by_alias=True)
        cost = known.pop("provider_cost", None)
        return known if cost is None else {**known, "provider_cost": _plain(cost, 0)}
    if isinstance(event, dict):
        return event
    if isinstance(event, Mapping):
        return dict(event)
    raise Unsendable("not_serialisable", f"a {type(event).__name__} is no event")


def _encode_anything(fields: Mapping[Any, Any]) -> Line:
    data = _json(fields)
    if len(data) > LINE_BYTES_MAX and "specversion" not in fields:
        # The job would pass over the others anyway. An envelope's are further in: it stays as it is.
        data = _json({name: fields[name] for name in FIELDS if name in fields})
    if len(data) > LINE_BYTES_MAX:
        raise Unsendable("too_large", f"an event of {len(data)} bytes, more than {LINE_BYTES_MAX}")
    try:
        return Line(parse_line(data)[0].tenant_id, data)
    except InvalidEvent as exc:
        tenant = fields.get("tenant_id")
        is_usable = isinstance(tenant, str) and 0 < len(tenant) <= 128 and _is_utf8(tenant)
        return Line(str.__str__(tenant) if is_usable else "", data, exc.reason.value, exc.detail)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json(fields: Mapping[Any, Any]) -> bytes:
    # ASCII: half a surrogate pair stays what it is, as an escape, and the job can name the fault.
    text = json.dumps(_plain(fields, 0), separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii")


def _plain(value: object, depth: int) -> object:
    """The value in JSON's terms."""
    if depth > NESTING_MAX:
        raise Unsendable("not_serialisable", f"an event that nests deeper than {NESTING_MAX}")
    if value is None or isinstance(value, (bool, Enum)):
        return _plain(value.value, depth + 1) if isinstance(value, Enum) else value
    if isinstance(value, int):
        # Python writes no number of thousands of digits, and no field takes more than 13.
        return int(value) if abs(value) < 10**40 else _unreadable(value, depth)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _unreadable(value, depth)
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else _unreadable(value, depth)
    if isinstance(value, Mapping):
        return {_key(name): _plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else _unreadable(value, depth)


def _unreadable(value: object, depth: int) -> object:
    """What stands for a value that JSON has no form for. Its own text might hold anything, a secret too.

    For a field it is an object, which no field of the contract takes: two tenants that are bytes must not
    become one that is text. In attributes, and below, it is text.
    """
    name = f"<{type(value).__name__}>"
    return {"unreadable": name} if depth == 1 else name


def _key(name: object) -> str:
    return str.__str__(name) if isinstance(name, str) else f"<{type(name).__name__}>"
