"""The usage event: its contract, and the one reader that decides what is an event and what is not.

`parse_line` is the definition of the contract. The columnar decoder of the job is an optimisation
of it: whatever that decoder accepts, it must accept with the same values, and everything it is not
sure of it hands to `parse_line` (a differential property test holds the two together).

Rules that the table in the README does not spell out:

- An explicit `null` means that the field is absent.
- A line with the same key twice in one object is refused: which of two token counts is the bill?
- Blank lines are not events. A byte order mark before an event is dropped.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

TOKENS_MAX = 2**40
"""Upper bound of every integer of an event (tokens, milliseconds, counts)."""

TIMESTAMP_MS_END = 4_102_444_800_000
"""2100-01-01T00:00:00Z in epoch milliseconds: the first instant that no event may have."""

LINE_BYTES_MAX = 16 * 1024 * 1024
"""A longer line is not read as an event."""

NESTING_MAX = 64
"""Objects and arrays may nest this deep in fields that are ignored."""

LABEL_CHARS_MAX = 128
ATTRIBUTES_MAX = 64
ATTRIBUTE_VALUE_CHARS_MAX = 1024

_MONEY = Context(prec=60, rounding=ROUND_HALF_EVEN)
_USD_QUANTUM = Decimal("1e-12")


class QuarantineReason(str, Enum):
    """Why an event waits in quarantine instead of being priced. A closed list: add, never rename."""

    LINE_TOO_LONG = "line_too_long"
    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"
    DUPLICATE_FIELD = "duplicate_field"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    INVALID_VALUE = "invalid_value"
    INVALID_TIMESTAMP = "invalid_timestamp"
    INCONSISTENT_USAGE = "inconsistent_usage"
    TIMESTAMP_IN_FUTURE = "timestamp_in_future"
    TIMESTAMP_TOO_OLD = "timestamp_too_old"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    UNPRICED = "unpriced"


class InvalidEvent(ValueError):
    """A line that is not a usage event. `reason` is stable; `detail` is one sentence for a person."""

    def __init__(self, reason: QuarantineReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_PROVIDER_COST = re.compile(r"\d{1,20}(?:\.\d{1,30})?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)


def timestamp_ms(text: str) -> int:
    """Epoch milliseconds of an RFC 3339 timestamp with an offset; finer fractions are cut off.

    Raises:
        ValueError: not RFC 3339, no such date or time, a leap second.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("is not RFC 3339 with an offset")
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    offset = match[8]
    if offset in "Zz":
        zone = timezone.utc
    else:
        hours, minutes = int(offset[1:3]), int(offset[4:6])
        if hours > 23 or minutes > 59:
            raise ValueError("has an impossible offset")
        delta = timedelta(hours=hours, minutes=minutes)
        zone = timezone(-delta if offset[0] == "-" else delta)
    moment = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    millis = int((match[7] or "0").ljust(3, "0")[:3])
    return (moment - _EPOCH) // _MILLISECOND + millis


def _read_timestamp(value: object) -> int:
    if isinstance(value, str):
        try:
            millis = timestamp_ms(value)
        except (ValueError, OverflowError) as exc:
            raise PydanticCustomError("invalid_timestamp", "{why}", {"why": str(exc)}) from None
    elif isinstance(value, int) and not isinstance(value, bool):
        millis = value
    else:
        raise PydanticCustomError("wrong_type", "is neither a string nor an integer")
    if not 0 <= millis < TIMESTAMP_MS_END:
        raise PydanticCustomError("invalid_timestamp", "is not between 1970 and 2100")
    return millis


def _read_provider_cost(value: object) -> Decimal:
    if isinstance(value, Decimal):
        value = format(value, "f")
    if not isinstance(value, str):
        raise PydanticCustomError("wrong_type", "is not a decimal string")
    if not _PROVIDER_COST.fullmatch(value):
        raise PydanticCustomError("invalid_value", "is not a plain decimal number")
    return _MONEY.quantize(Decimal(value), _USD_QUANTUM)


def _read_string(value: object) -> str:
    if not isinstance(value, str):
        raise PydanticCustomError("wrong_type", "is not a string")
    return value


def _read_attributes(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(
        isinstance(key, str) and isinstance(item, str) for key, item in value.items()
    ):
        raise PydanticCustomError("wrong_type", "is not a flat object of strings")
    if len(value) > ATTRIBUTES_MAX:
        raise PydanticCustomError("out_of_range", "has more than 64 entries")
    for key, item in value.items():
        if not 1 <= len(key) <= LABEL_CHARS_MAX or len(item) > ATTRIBUTE_VALUE_CHARS_MAX:
            raise PydanticCustomError(
                "out_of_range", "has a key not of 1 to 128 characters or a value of more than 1024"
            )
    return value


Key = Annotated[str, Field(min_length=1, max_length=256)]
Name = Annotated[str, Field(min_length=1, max_length=LABEL_CHARS_MAX)]
Label = Annotated[str, Field(max_length=LABEL_CHARS_MAX)]
Count = Annotated[int, Field(ge=0, le=TOKENS_MAX)]


class UsageEvent(BaseModel):
    """One immutable observation of one inference (DESIGN: the event contract).

    `timestamp_ms` is the event time in epoch milliseconds; it is read from `timestamp`.
    `provider_cost` is USD with 12 places. Token counts are gross: the cached and reasoning ones
    are parts of `input_tokens` and `output_tokens`.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", populate_by_name=False)

    idempotency_key: Key
    tenant_id: Name
    feature_id: Name = "unknown"
    provider: Label = ""
    model: Name
    model_version: Label = ""
    region: Label = ""
    service_tier: Label = ""
    timestamp_ms: Annotated[int, BeforeValidator(_read_timestamp)] = Field(alias="timestamp")
    input_tokens: Count
    output_tokens: Count
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0
    cache_write_1h_tokens: Count = 0
    reasoning_tokens: Count = 0
    latency_ms: Count = 0
    retry_count: Count = 0
    cache_status: Annotated[Literal["miss", "hit"], BeforeValidator(_read_string)] = "miss"
    status: Annotated[Literal["success", "error", "validation_failed"], BeforeValidator(_read_string)] = (
        "success"
    )
    usage_source: Annotated[Literal["provider", "tokenizer", "estimate"], BeforeValidator(_read_string)] = (
        "provider"
    )
    provider_cost: Annotated[Decimal, BeforeValidator(_read_provider_cost)] | None = None
    attributes: Annotated[dict[str, str], BeforeValidator(_read_attributes)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _subsets_fit(self) -> UsageEvent:
        if self.cache_read_tokens + self.cache_write_tokens > self.input_tokens:
            raise PydanticCustomError(
                "inconsistent_usage", "cache_read_tokens + cache_write_tokens exceed input_tokens"
            )
        if self.cache_write_1h_tokens > self.cache_write_tokens:
            raise PydanticCustomError("inconsistent_usage", "cache_write_1h_tokens exceed cache_write_tokens")
        if self.reasoning_tokens > self.output_tokens:
            raise PydanticCustomError("inconsistent_usage", "reasoning_tokens exceed output_tokens")
        return self


FIELDS: tuple[str, ...] = tuple(field.alias or name for name, field in UsageEvent.model_fields.items())
"""Field names as they stand in JSON, in the contract's order."""

_FIELD_ORDER = {name: position for position, name in enumerate(FIELDS)}
_ENVELOPE = {"id": "idempotency_key", "subject": "tenant_id", "time": "timestamp"}
_ENVELOPE_ATTRIBUTES = frozenset({"specversion", "source", "type", "datacontenttype", "dataschema", "data"})

_REASON_OF_PYDANTIC = {
    "missing": QuarantineReason.MISSING_FIELD,
    "int_type": QuarantineReason.WRONG_TYPE,
    "string_type": QuarantineReason.WRONG_TYPE,
    "greater_than_equal": QuarantineReason.OUT_OF_RANGE,
    "less_than_equal": QuarantineReason.OUT_OF_RANGE,
    "string_too_short": QuarantineReason.OUT_OF_RANGE,
    "string_too_long": QuarantineReason.OUT_OF_RANGE,
    "literal_error": QuarantineReason.INVALID_VALUE,
}


def parse_line(line: bytes) -> tuple[UsageEvent, tuple[str, ...]]:
    """Read one line: the event, and the names of the fields that the contract does not know.

    Raises:
        InvalidEvent: with the first reason that applies. The line is judged as a whole first, in
            the order of `QuarantineReason`, then its fields one by one in the contract's order, then
            whether its token counts fit together.
    """
    if len(line) > LINE_BYTES_MAX:
        raise InvalidEvent(QuarantineReason.LINE_TOO_LONG, f"the line has {len(line)} bytes")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidEvent(
            QuarantineReason.INVALID_UTF8, f"byte {exc.start} does not belong to UTF-8 text"
        ) from None
    return parse_text(text)


def parse_text(text: str) -> tuple[UsageEvent, tuple[str, ...]]:
    """As `parse_line`, for text that is decoded already."""
    if "\\u" in text and _has_lone_surrogate(text):
        raise InvalidEvent(QuarantineReason.INVALID_UTF8, "an escape names half a surrogate pair")
    document = _read_object(text.removeprefix("\ufeff"))
    if document.get("specversion") is not None:
        document, unknown = _open_envelope(document)
    else:
        unknown = tuple(name for name in document if name not in _FIELD_ORDER)
    present = {name: value for name, value in document.items() if value is not None}
    try:
        return UsageEvent.model_validate(present), unknown
    except ValidationError as exc:
        raise _first_problem(exc) from None


def _first_problem(exc: ValidationError) -> InvalidEvent:
    def rank(error: Any) -> int:
        location = error["loc"]
        return _FIELD_ORDER.get(str(location[0]), len(FIELDS)) if location else len(FIELDS)

    first = min(exc.errors(include_url=False, include_input=False), key=rank)
    kind = first["type"]
    reason = _REASON_OF_PYDANTIC.get(kind) or QuarantineReason(kind)
    field = str(first["loc"][0]) if first["loc"] else ""
    message = first["msg"][0].lower() + first["msg"][1:]
    return InvalidEvent(reason, f"{field}: {message}" if field else message)


class _DuplicateKeyError(Exception):
    pass


class _NotJsonError(Exception):
    pass


def _read_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(key[:LABEL_CHARS_MAX])
            seen.add(key)
    return document


def _read_int(digits: str) -> int:
    # Python refuses to convert thousands of digits, and no field takes more than 13.
    return int(digits) if len(digits) < 40 else (-(10**40) if digits[0] == "-" else 10**40)


def _refuse_constant(name: str) -> Any:
    raise _NotJsonError(f"{name} is not JSON")


class _Float:
    """A JSON number with a fraction or an exponent: of no type that the contract takes."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


_DECODER = json.JSONDecoder(
    object_pairs_hook=_read_pairs, parse_int=_read_int, parse_float=_Float, parse_constant=_refuse_constant
)


_DECODER_OF_DUPLICATES = json.JSONDecoder(
    parse_int=_read_int, parse_float=_Float, parse_constant=_refuse_constant
)


def _read_object(text: str) -> dict[str, Any]:
    if _nests_deeper_than(text, NESTING_MAX):
        raise InvalidEvent(QuarantineReason.INVALID_JSON, "the nesting is too deep")
    try:
        document = _decode(text, _DECODER)
    except _DuplicateKeyError as exc:
        _decode(text, _DECODER_OF_DUPLICATES)  # what follows may not even be JSON, and that counts first
        raise InvalidEvent(
            QuarantineReason.DUPLICATE_FIELD, f"the key {exc.args[0]!r} stands twice in one object"
        ) from None
    if not isinstance(document, dict):
        raise InvalidEvent(QuarantineReason.NOT_AN_OBJECT, "the line is JSON, but not an object")
    return document


def _decode(text: str, decoder: json.JSONDecoder) -> object:
    try:
        return decoder.decode(text)
    except _NotJsonError as exc:
        raise InvalidEvent(QuarantineReason.INVALID_JSON, exc.args[0]) from None
    except json.JSONDecodeError as exc:
        problem = exc.msg.removesuffix(" at")
        raise InvalidEvent(QuarantineReason.INVALID_JSON, f"{problem} at character {exc.pos}") from None


_BRACKET = re.compile(r'\\.|["\[\]{}]', re.DOTALL)


def _nests_deeper_than(text: str, limit: int) -> bool:
    # Counted before the text is parsed: a parser's own limit depends on how deep its caller stands.
    if text.count("[") + text.count("{") <= limit:
        return False
    depth, inside_string = 0, False
    for match in _BRACKET.finditer(text):
        mark = match[0]
        if mark == '"':
            inside_string = not inside_string
        elif mark in "[{" and not inside_string:
            depth += 1
            if depth > limit:
                return True
        elif mark in "]}" and not inside_string:
            depth -= 1
    return False


def _open_envelope(envelope: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A CloudEvents 1.0 structured-mode envelope: its data, with the three fields that it carries itself."""
    if envelope["specversion"] != "1.0":
        raise InvalidEvent(QuarantineReason.INVALID_VALUE, 'specversion: is not "1.0"')
    data = envelope.get("data")
    if data is None:
        raise InvalidEvent(QuarantineReason.MISSING_FIELD, "data: the envelope holds none")
    if not isinstance(data, dict):
        raise InvalidEvent(QuarantineReason.WRONG_TYPE, "data: is not an object")
    carried = set(_ENVELOPE.values())
    document = {name: value for name, value in data.items() if name not in carried}
    document.update({field: envelope[name] for name, field in _ENVELOPE.items() if name in envelope})
    unknown = [name for name in envelope if name not in _ENVELOPE and name not in _ENVELOPE_ATTRIBUTES]
    unknown += [name for name in data if name in carried or name not in _FIELD_ORDER]
    return document, tuple(unknown)


_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


def _has_lone_surrogate(text: str) -> bool:
    expected_at = -1
    for match in _ESCAPE.finditer(text):
        unit = int(match[1], 16) if match[1] else 0
        low = 0xDC00 <= unit <= 0xDFFF
        if expected_at >= 0 and not (low and match.start() == expected_at):
            return True
        if low and expected_at < 0:
            return True
        expected_at = match.end() if 0xD800 <= unit <= 0xDBFF else -1
    return expected_at >= 0
