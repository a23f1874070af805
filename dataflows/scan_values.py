"""Single values in a line of JSON, compiled: where each ends, or that it is not surely what it should be.

Every function is given where a value begins and where its line ends, reads nothing behind that, and
answers -1 when it is not sure. `stands_quoted` alone may look behind it, within the buffer: what it looks for
holds no newline.
"""

from __future__ import annotations

import numpy as np

from dataflows.compiled import inlined
from dataflows.scan_fields import (
    BY_LENGTH,
    CHOICES,
    LENGTH_MAX,
    NAME_BYTES,
    NAME_MASKS,
    NAME_WORDS,
    OF_LENGTH,
)
from dataflows.scan_text import WORD, Text, UInt8s, text_end

_COST_WHOLE_DIGITS_MAX, _COST_PLACES_MAX = 20, 12
_QUOTE, _BACKSLASH, _SPACE, _MINUS, _PLUS, _DOT, _ZERO, _NINE = b'"\\ -+.09'
_N, _T, _F, _E, _BIG_E = b"ntfeE"
_NULL, _TRUE, _FALSE = (np.frombuffer(word, np.uint8).copy() for word in (b"null", b"true", b"false"))


@inlined
def after_blanks(text: Text, at: int, end: int) -> int:
    """Where the next byte stands that is not a blank."""
    while at < end and text.byte[at] == _SPACE:
        at += 1
    return at


@inlined
def equal(text: Text, start: int, stop: int, other: int, other_stop: int) -> bool:
    """Whether two stretches of a text hold the same bytes."""
    if stop - start != other_stop - other:
        return False
    for place in range(stop - start):
        if text.byte[start + place] != text.byte[other + place]:
            return False
    return True


@inlined
def stands_at(text: Text, at: int, end: int, word: UInt8s) -> bool:
    """Whether a word begins here."""
    if at + len(word) > end:
        return False
    for place in range(len(word)):
        if text.byte[at + place] != word[place]:
            return False
    return True


@inlined
def stands_quoted(text: Text, at: int, code: int) -> bool:
    """Whether the name of this code stands here between quotes; none does for a negative code."""
    if code < 0 or at + NAME_WORDS.shape[1] * WORD > len(text.byte):
        return False
    unlike = np.uint64(0)
    for place in range(NAME_WORDS.shape[1]):
        unlike |= (text.word[at + place * WORD] & NAME_MASKS[code, place]) ^ NAME_WORDS[code, place]
    return bool(unlike == np.uint64(0))


@inlined
def code_of(text: Text, start: int, stop: int) -> int:
    """The code of the name that stands here, -1 if it means nothing to us."""
    length = stop - start
    if length > LENGTH_MAX:
        return -1
    for place in range(OF_LENGTH[length], OF_LENGTH[length + 1]):
        code = BY_LENGTH[place]
        alike = True
        for byte in range(length):
            if text.byte[start + byte] != NAME_BYTES[code, byte]:
                alike = False
                break
        if alike:
            return int(code)
    return -1


@inlined
def is_choice(text: Text, start: int, stop: int, field: int) -> bool:
    """Whether a field may have this text, where only a few will do."""
    if CHOICES[field, 0, 0] == 0:
        return True
    for choice in CHOICES[field]:
        if (
            choice[0] == stop - start
            and choice[0] > 0
            and stands_at(text, start, stop, choice[1 : 1 + choice[0]])
        ):
            return True
    return False


@inlined
def is_cost(text: Text, start: int, stop: int) -> bool:
    """Whether this is a decimal number that needs no rounding to twelve places."""
    point = start
    while point < stop and _ZERO <= text.byte[point] <= _NINE:
        point += 1
    at = point
    if at < stop and text.byte[at] == _DOT:
        at += 1
        while at < stop and _ZERO <= text.byte[at] <= _NINE:
            at += 1
        if not 1 <= at - point - 1 <= _COST_PLACES_MAX:
            return False
    return at == stop and 1 <= point - start <= _COST_WHOLE_DIGITS_MAX


@inlined
def null_end(text: Text, at: int, end: int) -> int:
    """Where a null ends that begins here."""
    return at + len(_NULL) if stands_at(text, at, end, _NULL) else -1


@inlined
def simple_end(text: Text, at: int, end: int, byte_max: int) -> int:
    """Where a text, a number, a null or a truth value ends; not sure of objects and arrays."""
    if at >= end:
        return -1
    byte = text.byte[at]
    if byte == _QUOTE:
        stop = text_end(text, at + 1, end, byte_max)
        return stop + 1 if stop >= 0 else -1
    if byte == _N:
        return null_end(text, at, end)
    if byte == _T:
        return at + len(_TRUE) if stands_at(text, at, end, _TRUE) else -1
    if byte == _F:
        return at + len(_FALSE) if stands_at(text, at, end, _FALSE) else -1
    return _number_end(text, at, end)


@inlined
def _number_end(text: Text, at: int, end: int) -> int:
    if text.byte[at] == _MINUS:
        at += 1
    whole = at
    at = _after_digits(text, at, end)
    if at == whole or (text.byte[whole] == _ZERO and at > whole + 1):
        return -1
    if at < end and text.byte[at] == _DOT:
        fraction = at + 1
        at = _after_digits(text, fraction, end)
        if at == fraction:
            return -1
    if at < end and (text.byte[at] == _E or text.byte[at] == _BIG_E):
        at += 1
        if at < end and (text.byte[at] == _PLUS or text.byte[at] == _MINUS):
            at += 1
        exponent = at
        at = _after_digits(text, exponent, end)
        if at == exponent:
            return -1
    return at


@inlined
def _after_digits(text: Text, at: int, end: int) -> int:
    while at < end and _ZERO <= text.byte[at] <= _NINE:
        at += 1
    return at
