"""Single values in a line of JSON, compiled: where each ends, or that it is not surely what it should be.

Every function is given where a value begins and where its line ends, reads nothing behind that, and
answers -1 when it is not sure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dataflows.compiled import inlined
from dataflows.scan_fields import BY_LENGTH, CHOICES, LENGTH_MAX, NAME_BYTES, OF_LENGTH

UInt8s = npt.NDArray[np.uint8]

_COST_WHOLE_DIGITS_MAX, _COST_PLACES_MAX = 20, 12
_QUOTE, _BACKSLASH, _SPACE, _MINUS, _PLUS, _DOT, _ZERO, _NINE = b'"\\ -+.09'
_N, _T, _F, _E, _BIG_E = b"ntfeE"
_NULL, _TRUE, _FALSE = (np.frombuffer(word, np.uint8).copy() for word in (b"null", b"true", b"false"))


@inlined
def after_blanks(text: UInt8s, at: int, end: int) -> int:
    """Where the next byte stands that is not a blank."""
    while at < end and text[at] == _SPACE:
        at += 1
    return at


@inlined
def text_end(text: UInt8s, at: int, end: int, byte_max: int) -> int:
    """The closing quote of the text that begins at `at`; not sure of escapes and bytes above `byte_max`."""
    while at < end:
        byte = text[at]
        if byte == _QUOTE:
            return at
        if byte < _SPACE or byte == _BACKSLASH or byte > byte_max:
            return -1
        at += 1
    return -1


@inlined
def equal(text: UInt8s, start: int, stop: int, other: int, other_stop: int) -> bool:
    """Whether two stretches of a text hold the same bytes."""
    if stop - start != other_stop - other:
        return False
    for place in range(stop - start):
        if text[start + place] != text[other + place]:
            return False
    return True


@inlined
def stands_at(text: UInt8s, at: int, end: int, word: UInt8s) -> bool:
    """Whether a word begins here."""
    if at + len(word) > end:
        return False
    for place in range(len(word)):
        if text[at + place] != word[place]:
            return False
    return True


@inlined
def copy(text: UInt8s, start: int, stop: int, into: UInt8s, at: int) -> int:
    """Copy a stretch of a text; where the copy ends."""
    for place in range(stop - start):
        into[at + place] = text[start + place]
    return at + stop - start


@inlined
def code_of(text: UInt8s, start: int, stop: int) -> int:
    """The code of the name that stands here, -1 if it means nothing to us."""
    length = stop - start
    if length > LENGTH_MAX:
        return -1
    for place in range(OF_LENGTH[length], OF_LENGTH[length + 1]):
        code = BY_LENGTH[place]
        alike = True
        for byte in range(length):
            if text[start + byte] != NAME_BYTES[code, byte]:
                alike = False
                break
        if alike:
            return int(code)
    return -1


@inlined
def is_choice(text: UInt8s, start: int, stop: int, field: int) -> bool:
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
def is_cost(text: UInt8s, start: int, stop: int) -> bool:
    """Whether this is a decimal number that needs no rounding to twelve places."""
    point = start
    while point < stop and _ZERO <= text[point] <= _NINE:
        point += 1
    at = point
    if at < stop and text[at] == _DOT:
        at += 1
        while at < stop and _ZERO <= text[at] <= _NINE:
            at += 1
        if not 1 <= at - point - 1 <= _COST_PLACES_MAX:
            return False
    return at == stop and 1 <= point - start <= _COST_WHOLE_DIGITS_MAX


@inlined
def null_end(text: UInt8s, at: int, end: int) -> int:
    """Where a null ends that begins here."""
    return at + len(_NULL) if stands_at(text, at, end, _NULL) else -1


@inlined
def simple_end(text: UInt8s, at: int, end: int, byte_max: int) -> int:
    """Where a text, a number, a null or a truth value ends; not sure of objects and arrays."""
    if at >= end:
        return -1
    byte = text[at]
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
def _number_end(text: UInt8s, at: int, end: int) -> int:
    if text[at] == _MINUS:
        at += 1
    whole = at
    at = _after_digits(text, at, end)
    if at == whole or (text[whole] == _ZERO and at > whole + 1):
        return -1
    if at < end and text[at] == _DOT:
        fraction = at + 1
        at = _after_digits(text, fraction, end)
        if at == fraction:
            return -1
    if at < end and (text[at] == _E or text[at] == _BIG_E):
        at += 1
        if at < end and (text[at] == _PLUS or text[at] == _MINUS):
            at += 1
        exponent = at
        at = _after_digits(text, exponent, end)
        if at == exponent:
            return -1
    return at


@inlined
def _after_digits(text: UInt8s, at: int, end: int) -> int:
    while at < end and _ZERO <= text[at] <= _NINE:
        at += 1
    return at
