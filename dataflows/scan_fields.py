"""What the scanner knows of the contract, as arrays: names, what they stand for where, bounds, defaults."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dataflows.batch import INTEGER_FIELDS, STRING_FIELDS
from metering.event import LABEL_CHARS_MAX

TEXT_FIELDS = (*STRING_FIELDS, "provider_cost", "attributes")
"""Fields whose value is kept as text, in the order of their codes."""

WHOLE_FIELDS = (*INTEGER_FIELDS, "timestamp")
"""Fields whose value is a whole number, in the order of their codes."""

_ENVELOPE_NAMES = (
    "specversion",
    "id",
    "subject",
    "time",
    "data",
    "source",
    "type",
    "datacontenttype",
    "dataschema",
)
_NAMES = (*TEXT_FIELDS, *WHOLE_FIELDS, *_ENVELOPE_NAMES)
CODES = {name: code for code, name in enumerate(_NAMES)}
"""The code of each name that means something in an event or in an envelope."""

UNKNOWN, IGNORED = len(_NAMES), len(_NAMES) + 1
"""Codes of names that are counted, and of an envelope's own that are not."""

PLAIN, OUTER, INNER = 0, 1, 2
"""Kinds of objects: a plain event, an envelope, the data of an envelope."""

_CARRIED = {"id": "idempotency_key", "subject": "tenant_id", "time": "timestamp"}


def _roles() -> npt.NDArray[np.int64]:
    roles = np.full((3, len(_NAMES) + 1), UNKNOWN, np.int64)
    event = CODES["specversion"]
    roles[PLAIN, : event + 1] = np.arange(event + 1)
    roles[INNER, :event] = np.arange(event)
    roles[OUTER, event:-1] = IGNORED
    roles[OUTER, event], roles[OUTER, CODES["data"]] = event, CODES["data"]
    for name, field in _CARRIED.items():
        roles[OUTER, CODES[name]] = CODES[field]
        roles[INNER, CODES[field]] = UNKNOWN  # the envelope's own counts, even where it has none
    return roles


ROLES = _roles()
"""(kind of object, code of a name) → the code of what it stands for there. The last column: other names."""

_LENGTHS = np.array([len(name) for name in _NAMES])
LENGTH_MAX = int(_LENGTHS.max())
BY_LENGTH = np.argsort(_LENGTHS, kind="stable")
"""The codes, short names first; those of length n stand from `OF_LENGTH[n]` to `OF_LENGTH[n + 1]`."""
OF_LENGTH = np.searchsorted(_LENGTHS[BY_LENGTH], np.arange(LENGTH_MAX + 2))

NAME_BYTES = np.zeros((len(_NAMES), LENGTH_MAX), np.uint8)
for _code, _name in enumerate(_NAMES):
    NAME_BYTES[_code, : len(_name)] = np.frombuffer(_name.encode(), np.uint8)

NAME_LENGTHS = _LENGTHS
_QUOTED_MAX = -(-(LENGTH_MAX + 2) // 8) * 8
_quoted = np.zeros((2, len(_NAMES), _QUOTED_MAX), np.uint8)
for _code, _name in enumerate(_NAMES):
    _quoted[0, _code, : len(_name) + 2] = np.frombuffer(f'"{_name}"'.encode(), np.uint8)
    _quoted[1, _code, : len(_name) + 2] = 0xFF
NAME_WORDS, NAME_MASKS = _quoted.view("<u8")
"""The names between quotes, eight bytes a number, zeros behind them; and which of these bits are theirs."""

BYTES_MIN = np.array(
    [name in ("idempotency_key", "tenant_id", "feature_id", "model") for name in TEXT_FIELDS], np.int64
)
"""The least length of each text: one byte where it may not be empty."""

BYTES_MAX = np.array([256 if name == "idempotency_key" else LABEL_CHARS_MAX for name in TEXT_FIELDS])
"""No text of so many bytes has too many characters; a longer one may have."""

_CHOICES = {
    "cache_status": ("miss", "hit"),
    "status": ("success", "error", "validation_failed"),
    "usage_source": ("provider", "tokenizer", "estimate"),
}
CHOICES = np.zeros((len(TEXT_FIELDS), 3, 32), np.uint8)
"""For each text field three texts, each its length and then its bytes; all zeros where any text will do."""
for _name, _texts in _CHOICES.items():
    for _at, _text in enumerate(_texts):
        CHOICES[CODES[_name], _at, 0] = len(_text)
        CHOICES[CODES[_name], _at, 1 : len(_text) + 1] = np.frombuffer(_text.encode(), np.uint8)

_DEFAULTS = {
    "feature_id": "unknown",
    "cache_status": "miss",
    "status": "success",
    "usage_source": "provider",
    "attributes": "{}",
}
DEFAULT_VIEWS = np.zeros((len(TEXT_FIELDS), 2), np.uint64)
"""The view of each text where the field is absent; every default is short enough to stand in its view."""
for _name, _text in _DEFAULTS.items():
    DEFAULT_VIEWS[CODES[_name], 0] = len(_text)
    DEFAULT_VIEWS.view(np.uint8)[CODES[_name], 4 : 4 + len(_text)] = np.frombuffer(_text.encode(), np.uint8)

REQUIRED = sum(
    1 << CODES[name]
    for name in ("idempotency_key", "tenant_id", "model", "timestamp", "input_tokens", "output_tokens")
)
"""The codes of the fields that an event must have, as bits."""
