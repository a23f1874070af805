"""Lines of JSON to the fields of events, compiled: one pass over the bytes, one line at a time.

The scanner accepts a line only if it is surely an event with exactly these values, by the rules of
`metering.event`; whatever it is not sure of is `LEFT` to that reader, which alone refuses. Left are,
among others, lines with a backslash, a control byte or a nested value where the contract knows no
field, second keys, values of another type or out of bounds, and texts that could have too many characters.

It copies no text: each text is a view of 16 bytes (Arrow's: its length, and then the text itself or its
first four bytes and where it stands), so that a column of texts is ready as it is. Only attributes are
written anew, in the one form in which the job keeps them: `{"key": "value", …}`.
"""

from __future__ import annotations

import numpy as np

from dataflows.batch import Int64s
from dataflows.compiled import compiled, inlined
from dataflows.rfc3339 import timestamp_ms
from dataflows.scan_columns import (
    ATTRIBUTES_END,
    LINE_UNKNOWN,
    MEMBERS_REMEMBERED,
    NAMES,
    PRESENT,
    SCANNED_ATTRIBUTES_MAX,
    UNKNOWN_FIELDS_MAX,
    Columns,
)
from dataflows.scan_fields import (
    BYTES_MAX,
    BYTES_MIN,
    CODES,
    DEFAULT_VIEWS,
    INNER,
    NAME_LENGTHS,
    OUTER,
    PLAIN,
    REQUIRED,
    ROLES,
    TEXT_FIELDS,
    UNKNOWN,
    WHOLE_FIELDS,
)
from dataflows.scan_text import WORD, Text, copy, text_end, word_of
from dataflows.scan_values import (
    after_blanks,
    code_of,
    equal,
    is_choice,
    is_cost,
    null_end,
    simple_end,
    stands_at,
    stands_quoted,
)
from metering.event import (
    ATTRIBUTE_VALUE_CHARS_MAX,
    LABEL_CHARS_MAX,
    LINE_BYTES_MAX,
    TIMESTAMP_MS_END,
    TOKENS_MAX,
)

BLANK, EVENT, LEFT = 0, 1, 2
"""What a line is; the lines that are left are for `metering.event`."""


_COST, _ATTRIBUTES, _TIMESTAMP = CODES["provider_cost"], CODES["attributes"], CODES["timestamp"]
_FIRST_WHOLE, _SPECVERSION, _DATA = len(TEXT_FIELDS), CODES["specversion"], CODES["data"]
_INPUT, _OUTPUT, _CACHE_READ, _CACHE_WRITE, _CACHE_WRITE_1H, _REASONING = range(6)
_NOT_SURE, _IS_ENVELOPE = -1, -2
_ENVELOPE_HAS = (1 << _DATA) | (1 << _SPECVERSION)
_VIEW_INLINE_MAX = 12
_HALF = np.uint64(32)
_QUOTE, _SPACE, _COLON, _COMMA, _OPEN, _CLOSE, _ZERO, _NINE, _N, _TAB, _RETURN = b'" :,{}09n\t\r'
_VERSION = np.frombuffer(b"1.0", np.uint8).copy()


@compiled
def scan_lines(text: Text, starts: Int64s, ends: Int64s, byte_max: int, out: Columns) -> tuple[int, int]:
    """Scan lines; one with a byte above `byte_max` in a text is left.

    Returns:
        How many events were found, and how many names of unknown fields.
    """
    events = 0
    for row in range(len(starts)):
        attributes_end = out.state[ATTRIBUTES_END]
        kind = _scan_line(text, starts[row], ends[row], byte_max, events, out)
        out.kinds[row] = kind
        if kind == EVENT:
            out.rows[events] = row
            events += 1
        else:
            out.state[ATTRIBUTES_END] = attributes_end
    return events, out.state[NAMES]


@inlined
def _scan_line(text: Text, start: int, end: int, byte_max: int, event: int, out: Columns) -> int:
    at = start
    while at < end and (text.byte[at] == _SPACE or text.byte[at] == _TAB or text.byte[at] == _RETURN):
        at += 1
    if at == end:
        return BLANK
    if end - start > LINE_BYTES_MAX or at > start or text.byte[at] != _OPEN:
        return LEFT
    at = _scan_object(text, start + 1, end, PLAIN, byte_max, event, out)
    if at == _IS_ENVELOPE:
        at = _scan_object(text, start + 1, end, OUTER, byte_max, event, out)
        if out.state[PRESENT] & _ENVELOPE_HAS != _ENVELOPE_HAS:
            return LEFT
    if at < 0 or after_blanks(text, at, end) != end:
        return LEFT
    if out.state[PRESENT] & REQUIRED != REQUIRED or not _usage_fits(event, out):
        return LEFT
    return EVENT if _count_unknown(text, out) else LEFT


@inlined
def _clear(event: int, out: Columns) -> None:
    for field in range(len(TEXT_FIELDS)):
        for half in range(2):
            out.views[field, event, half] = DEFAULT_VIEWS[field, half]
    for field in range(len(WHOLE_FIELDS)):
        out.wholes[field, event] = 0
    out.has_cost[event] = False
    out.state[PRESENT] = 0
    out.state[LINE_UNKNOWN] = 0


@inlined
def _usage_fits(event: int, out: Columns) -> bool:
    wholes = out.wholes
    cached = wholes[_CACHE_READ, event] + wholes[_CACHE_WRITE, event]
    if cached > wholes[_INPUT, event] or wholes[_REASONING, event] > wholes[_OUTPUT, event]:
        return False
    return bool(wholes[_CACHE_WRITE_1H, event] <= wholes[_CACHE_WRITE, event])


@inlined
def _scan_object(  # noqa: C901  # one loop over the members of two objects
    text: Text, at: int, end: int, kind: int, byte_max: int, event: int, out: Columns
) -> int:
    """Read an object's members from behind its opening brace; where it has ended, or a negative answer.

    An envelope's data are read in the same way, and then the rest of the envelope.
    """
    _clear(event, out)
    seen = outer_seen = member = 0
    at = after_blanks(text, at, end)
    inside = at < end and text.byte[at] != _CLOSE
    while True:
        if inside:
            key = at + 1
            key_end, code = _scan_key(text, at, end, member, byte_max, out)
            member = min(member + 1, MEMBERS_REMEMBERED - 1)
            at = _value_begin(text, key_end, end)
            if at < 0:
                return _NOT_SURE
            role = ROLES[kind, code]
            if role == UNKNOWN:
                new = _note_unknown(text, key, key_end, kind, out)
            else:
                new = not seen & (1 << code)
                seen |= 1 << code
            if not new:
                return _NOT_SURE
            if role == _SPECVERSION and kind == PLAIN:
                return _IS_ENVELOPE
            if role == _DATA:
                if text.byte[at] != _OPEN:
                    return _NOT_SURE
                out.state[PRESENT] |= 1 << _DATA
                kind, outer_seen, seen = INNER, seen, 0
                at = after_blanks(text, at + 1, end)
                inside = at < end and text.byte[at] != _CLOSE
                continue
            at = _scan_value(text, at, end, role, byte_max, event, out)
            if at < 0:
                return _NOT_SURE
            at = after_blanks(text, at, end)
        if at >= end or (text.byte[at] != _COMMA and text.byte[at] != _CLOSE):
            return _NOT_SURE
        inside = text.byte[at] == _COMMA
        at += 1
        if not inside and kind != INNER:
            return at
        if not inside:
            kind, seen = OUTER, outer_seen
        at = after_blanks(text, at, end)


@inlined
def _scan_key(text: Text, at: int, end: int, member: int, byte_max: int, out: Columns) -> tuple[int, int]:
    """The closing quote of the key that should stand here, and its code."""
    code = out.member_codes[member]
    if stands_quoted(text, at, code):
        return at + 1 + NAME_LENGTHS[code], code
    key_end = _quoted_end(text, at, end, byte_max)
    code = code_of(text, at + 1, key_end) if key_end >= 0 else -1
    out.member_codes[member] = code
    return key_end, code


@inlined
def _quoted_end(text: Text, at: int, end: int, byte_max: int) -> int:
    """The closing quote of the text whose opening quote should stand here."""
    return text_end(text, at + 1, end, byte_max) if at < end and text.byte[at] == _QUOTE else _NOT_SURE


@inlined
def _value_begin(text: Text, key_end: int, end: int) -> int:
    """Where the value begins that belongs to a key."""
    if key_end < 0:
        return _NOT_SURE
    at = after_blanks(text, key_end + 1, end)
    if at >= end or text.byte[at] != _COLON:
        return _NOT_SURE
    at = after_blanks(text, at + 1, end)
    return at if at < end else _NOT_SURE


@inlined
def _scan_value(text: Text, at: int, end: int, role: int, byte_max: int, event: int, out: Columns) -> int:
    """Take the value of a field; where it ends."""
    if role >= UNKNOWN or at >= end:
        return simple_end(text, at, end, byte_max)
    if text.byte[at] == _N:
        return null_end(text, at, end)
    out.state[PRESENT] |= 1 << role
    if role == _ATTRIBUTES:
        return _scan_attributes(text, at, end, byte_max, event, out)
    if text.byte[at] != _QUOTE:
        if role < _FIRST_WHOLE or role == _SPECVERSION:
            return _NOT_SURE
        limit = TIMESTAMP_MS_END - 1 if role == _TIMESTAMP else TOKENS_MAX
        return _scan_whole(text, at, end, limit, role - _FIRST_WHOLE, event, out)
    start = at + 1
    stop = text_end(text, start, end, byte_max)
    if stop < 0:
        return _NOT_SURE
    if role >= _FIRST_WHOLE:
        if role == _TIMESTAMP:
            millis = timestamp_ms(text.byte, start, stop)
            out.wholes[_TIMESTAMP - _FIRST_WHOLE, event] = millis
            fits = 0 <= millis < TIMESTAMP_MS_END
        else:
            fits = (
                role == _SPECVERSION
                and stop - start == len(_VERSION)
                and stands_at(text, start, end, _VERSION)
            )
        return stop + 1 if fits else _NOT_SURE
    _put_view(text, start, stop, role, event, out)
    if role == _COST:
        out.has_cost[event] = True
        fits = is_cost(text, start, stop)
    else:
        fits = BYTES_MIN[role] <= stop - start <= BYTES_MAX[role] and is_choice(text, start, stop, role)
    return stop + 1 if fits else _NOT_SURE


@inlined
def _put_view(text: Text, start: int, stop: int, field: int, event: int, out: Columns) -> None:
    length = stop - start
    first = word_of(text, start, length)
    if length > _VIEW_INLINE_MAX:
        second = np.uint64(start) << _HALF  # in buffer 0, the only one
    else:
        second = first >> _HALF | word_of(text, start + WORD, length - WORD) << _HALF
    out.views[field, event, 0] = np.uint64(length) | first << _HALF
    out.views[field, event, 1] = second


@inlined
def _scan_whole(text: Text, at: int, end: int, limit: int, field: int, event: int, out: Columns) -> int:
    start, value = at, 0
    while at < end and _ZERO <= text.byte[at] <= _NINE and value <= limit:
        value = value * 10 + (text.byte[at] - _ZERO)
        at += 1
    if at == start or value > limit or (text.byte[start] == _ZERO and at > start + 1):
        return _NOT_SURE
    out.wholes[field, event] = value
    return at


@inlined
def _scan_attributes(text: Text, at: int, end: int, byte_max: int, event: int, out: Columns) -> int:
    """Copy an object of texts into `out.attributes`, with a blank after each colon and comma."""
    if text.byte[at] != _OPEN:
        return _NOT_SURE
    begin = put = out.state[ATTRIBUTES_END]
    keys = out.keys
    members = 0
    put = _put_mark(_OPEN, 0, out.attributes, put)
    at = after_blanks(text, at + 1, end)
    while at < end and text.byte[at] != _CLOSE:
        if members:
            if text.byte[at] != _COMMA or members == SCANNED_ATTRIBUTES_MAX:
                return _NOT_SURE
            put = _put_mark(_COMMA, _SPACE, out.attributes, put)
            at = after_blanks(text, at + 1, end)
        key, key_end = at, _quoted_end(text, at, end, byte_max)
        at = _value_begin(text, key_end, end)
        if at < 0 or not 1 <= key_end - key - 1 <= LABEL_CHARS_MAX:
            return _NOT_SURE
        for other in range(members):
            if equal(text, keys[other, 0], keys[other, 1], key, key_end):
                return _NOT_SURE
        keys[members, 0], keys[members, 1] = key, key_end
        members += 1
        put = copy(text, key, key_end + 1, out.attributes, put)
        put = _put_mark(_COLON, _SPACE, out.attributes, put)
        value_end = _quoted_end(text, at, end, byte_max)
        if value_end < 0 or value_end - at - 1 > ATTRIBUTE_VALUE_CHARS_MAX:
            return _NOT_SURE
        put = copy(text, at, value_end + 1, out.attributes, put)
        at = after_blanks(text, value_end + 1, end)
    if at >= end:
        return _NOT_SURE
    put = _put_mark(_CLOSE, 0, out.attributes, put)
    _put_view(out.attributes, begin, put, _ATTRIBUTES, event, out)
    out.state[ATTRIBUTES_END] = put
    return at + 1


@inlined
def _put_mark(mark: int, blank: int, into: Text, at: int) -> int:
    """Write a mark, and a blank if there is one; where they end."""
    into.byte[at] = mark
    if blank:
        into.byte[at + 1] = blank
        return at + 2
    return at + 1


@inlined
def _note_unknown(text: Text, start: int, stop: int, kind: int, out: Columns) -> bool:
    """Remember that the line has a field which the contract does not know; false where it cannot be."""
    count = out.state[LINE_UNKNOWN]
    if count == UNKNOWN_FIELDS_MAX:
        return False
    for other in range(count):
        known = out.line_unknown[other]
        if known[2] == kind and equal(text, known[0], known[1], start, stop):
            return False
    out.line_unknown[count, 0], out.line_unknown[count, 1], out.line_unknown[count, 2] = start, stop, kind
    out.state[LINE_UNKNOWN] = count + 1
    return True


@inlined
def _count_unknown(text: Text, out: Columns) -> bool:
    """Count the unknown fields of an accepted line; false, with nothing counted, where there are too many.

    The names of such a line keep their places, so that later lines with new ones may be left as well.
    """
    for field in range(out.state[LINE_UNKNOWN]):
        start, stop = out.line_unknown[field, 0], out.line_unknown[field, 1]
        name = 0
        while name < out.state[NAMES] and not equal(
            text, out.unknown[name, 0], out.unknown[name, 1], start, stop
        ):
            name += 1
        if name == UNKNOWN_FIELDS_MAX:
            return False
        if name == out.state[NAMES]:
            out.unknown[name, 0], out.unknown[name, 1] = start, stop
            out.state[NAMES] += 1
        out.line_unknown[field, 2] = name
    for field in range(out.state[LINE_UNKNOWN]):
        out.unknown_counts[out.line_unknown[field, 2]] += 1
    return True
