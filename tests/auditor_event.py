"""The auditor's own reading of the event contract: a line of bytes becomes an `Event` or a reason.

Plain `json`, `re`, `datetime` and `decimal`; shares no code with the job (see `tests/auditor.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from decimal import ROUND_HALF_EVEN, Context, Decimal
from pathlib import Path
from typing import Any, NamedTuple

UTC = timezone.utc
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_2100_MS = 4_102_444_800_000
LINE_BYTES_MAX = 16 * 1024 * 1024
NESTING_MAX = 64
INTEGER_MAX = 2**40
TWELVE_PLACES = Decimal("0.000000000001")

# Wide enough that no product or sum of the contract's largest numbers is ever cut: the only
# rounding is the one that `usd` asks for.
EXACT = Context(prec=200, rounding=ROUND_HALF_EVEN)


Position = tuple[str, int, int, int]
"""(source, partition, offset, line)."""


def usd(exact: Decimal) -> Decimal:
    """An amount as it is kept: 12 places, half-even."""
    return exact.quantize(TWELVE_PLACES, context=EXACT)


class Line(NamedTuple):
    """One line as it arrived. `arrival_ms` is the broker's timestamp; None for files, which have none."""

    source: str
    partition: int
    offset: int
    line: int
    raw: bytes
    arrival_ms: int | None = None

    @property
    def position(self) -> Position:
        return self[:4]


class Event(NamedTuple):
    """A line that passed the contract, with every default filled in."""

    idempotency_key: str
    tenant_id: str
    feature_id: str
    provider: str
    model: str
    model_version: str
    region: str
    service_tier: str
    timestamp: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    reasoning_tokens: int
    latency_ms: int
    retry_count: int
    cache_status: str
    status: str
    usage_source: str
    provider_cost: Decimal | None
    attributes: dict[str, str]


class RejectedError(Exception):
    """The line is quarantined; the only argument is the reason."""


# ---------------------------------------------------------------------------------------------
# Lines


def lines_of_message(
    topic: str, partition: int, offset: int, value: bytes, arrival_ms: int | None
) -> Iterator[Line]:
    """The lines of one Kafka message, numbered from 0."""
    for number, raw in enumerate(value.split(b"\n")):
        yield Line(topic, partition, offset, number, raw, arrival_ms)


def lines_of_file(path: Path) -> Iterator[Line]:
    """The lines of one file, numbered from 1; `offset` is the byte at which the line starts."""
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            yield Line(str(path), 0, offset, number, raw.removesuffix(b"\n"))
            offset += len(raw)


# ---------------------------------------------------------------------------------------------
# JSON, more strictly than Python reads it


class _NotAnInteger:
    """Stands for a JSON number with a fraction or an exponent: no field takes one."""


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int:
    # Python refuses to convert more than 4300 digits, though such a number is JSON; 20 digits are out
    # of every field's range already.
    return int(digits) if len(digits) <= 20 else int(digits[:20])


def _nests_too_deep(text: str) -> bool:
    if text.count("{") + text.count("[") <= NESTING_MAX:
        return False
    depth = 0
    # Whole strings first, so that brackets inside them are not counted.
    for token in re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text, re.DOTALL):
        if token in "[{":
            depth += 1
            if depth > NESTING_MAX:
                return True
        elif token in "]}":
            depth -= 1
    return False


def _has_lone_surrogate(text: str) -> bool:
    # Pairs are taken out, then anything that is left of the range stands alone. A backslash that is
    # itself escaped goes first: the u after it is a letter.
    plain = re.sub(r"\\[^u]", " ", text, flags=re.DOTALL)
    unpaired = re.sub(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}", " ", plain)
    return re.search(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", unpaired) is not None


def _document(raw: bytes) -> dict[str, Any]:
    if len(raw) > LINE_BYTES_MAX:
        raise RejectedError("line_too_long")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise RejectedError("invalid_utf8") from None
    text = text.removeprefix("\ufeff")
    if "\\u" in text and _has_lone_surrogate(text):
        raise RejectedError("invalid_utf8")
    if _nests_too_deep(text):
        raise RejectedError("invalid_json")
    repeated: list[bool] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(items)
        if len(built) < len(items):
            repeated.append(True)
        return built

    try:
        document = json.loads(
            text,
            object_pairs_hook=pairs,
            parse_int=_integer,
            parse_float=lambda _: _NotAnInteger(),
            parse_constant=_refuse_constant,
        )
    except ValueError:
        raise RejectedError("invalid_json") from None
    if repeated:
        raise RejectedError("duplicate_field")
    if not isinstance(document, dict):
        raise RejectedError("not_an_object")
    return document


def _without_envelope(document: dict[str, Any]) -> dict[str, Any]:
    """The event inside a CloudEvents envelope, or the document itself when it is not one."""
    if document.get("specversion") is None:  # null is as absent here as anywhere
        return document
    if document["specversion"] != "1.0":
        raise RejectedError("invalid_value")
    data = document.get("data")
    if data is None:
        raise RejectedError("missing_field")
    if not isinstance(data, dict):
        raise RejectedError("wrong_type")
    carried = {
        "idempotency_key": document.get("id"),
        "tenant_id": document.get("subject"),
        "timestamp": document.get("time"),
    }
    return {**data, **carried}


# ---------------------------------------------------------------------------------------------
# Fields, in the contract's order


def _text(shortest: int, longest: int) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise RejectedError("wrong_type")
        if not shortest <= len(value) <= longest:
            raise RejectedError("out_of_range")
        return value

    return read


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise RejectedError("wrong_type")
        if value not in allowed:
            raise RejectedError("invalid_value")
        return value

    return read


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RejectedError("wrong_type")
    if not 0 <= value <= INTEGER_MAX:
        raise RejectedError("out_of_range")
    return value


def _provider_cost(value: Any) -> Decimal:
    if not isinstance(value, str):
        raise RejectedError("wrong_type")
    if re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,30})?", value) is None:
        raise RejectedError("invalid_value")
    return usd(Decimal(value))


def _attributes(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise RejectedError("wrong_type")
    if len(value) > 64:
        raise RejectedError("out_of_range")
    for name, item in value.items():
        if not 1 <= len(name) <= 128 or len(item) > 1024:
            raise RejectedError("out_of_range")
    return value


def _rfc3339_ms(text: str) -> int:
    match = re.fullmatch(
        r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})"
        r"(?:\.([0-9]{1,9}))?(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))",
        text,
    )
    if match is None:
        raise RejectedError("invalid_timestamp")
    try:
        local = datetime(*(int(part) for part in match.groups()[:6]), tzinfo=UTC)  # type: ignore[arg-type, misc]  # six integers
    except ValueError:
        raise RejectedError("invalid_timestamp") from None
    fraction, sign, hours, minutes = match.groups()[6:]
    offset_ms = 0
    if sign is not None:
        if int(hours) > 23 or int(minutes) > 59:
            raise RejectedError("invalid_timestamp")
        offset_ms = (int(hours) * 60 + int(minutes)) * 60_000 * (-1 if sign == "-" else 1)
    since_epoch = local - EPOCH
    whole_ms = (since_epoch.days * 86_400 + since_epoch.seconds) * 1000
    return whole_ms + int(((fraction or "") + "000")[:3]) - offset_ms


def _timestamp(value: Any) -> int:
    if isinstance(value, str):
        millis = _rfc3339_ms(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        millis = value
    else:
        raise RejectedError("wrong_type")
    if not 0 <= millis < YEAR_2100_MS:
        raise RejectedError("invalid_timestamp")
    return millis


REQUIRED = object()

FIELDS: tuple[tuple[str, Callable[[Any], Any], Any], ...] = (
    ("idempotency_key", _text(1, 256), REQUIRED),
    ("tenant_id", _text(1, 128), REQUIRED),
    ("feature_id", _text(1, 128), "unknown"),
    ("provider", _text(0, 128), ""),
    ("model", _text(1, 128), REQUIRED),
    ("model_version", _text(0, 128), ""),
    ("region", _text(0, 128), ""),
    ("service_tier", _text(0, 128), ""),
    ("timestamp", _timestamp, REQUIRED),
    ("input_tokens", _count, REQUIRED),
    ("output_tokens", _count, REQUIRED),
    ("cache_read_tokens", _count, 0),
    ("cache_write_tokens", _count, 0),
    ("cache_write_1h_tokens", _count, 0),
    ("reasoning_tokens", _count, 0),
    ("latency_ms", _count, 0),
    ("retry_count", _count, 0),
    ("cache_status", _one_of("miss", "hit"), "miss"),
    ("status", _one_of("success", "error", "validation_failed"), "success"),
    ("usage_source", _one_of("provider", "tokenizer", "estimate"), "provider"),
    ("provider_cost", _provider_cost, None),
    ("attributes", _attributes, {}),
)


def read_event(raw: bytes) -> Event:
    """The event on a line that is not blank.

    Raises:
        RejectedError: with the first reason that applies.
    """
    document = _without_envelope(_document(raw))
    values = []
    for name, read, default in FIELDS:
        value = document.get(name)
        if value is not None:
            values.append(read(value))
        elif default is REQUIRED:
            raise RejectedError("missing_field")
        else:
            values.append(default)
    event = Event(*values)
    if (
        event.cache_read_tokens + event.cache_write_tokens > event.input_tokens
        or event.cache_write_1h_tokens > event.cache_write_tokens
        or event.reasoning_tokens > event.output_tokens
    ):
        raise RejectedError("inconsistent_usage")
    return event
