"""Bytes of text for compiled code, one by one and eight at a time: where each ends, and copies of it.

Eight bytes at a time are compared and copied as one number, which takes a third of the scanner's time away.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dataflows.compiled import inlined

UInt8s = npt.NDArray[np.uint8]
UInt64s = npt.NDArray[np.uint64]

WORD = 8
_BYTES_MIN = 2 * WORD  # an array of a single word counts as aligned: another type, to compile for anew

_QUOTE, _BACKSLASH, _SPACE = b'"\\ '
_ONES, _TOPS = np.uint64(0x0101_0101_0101_0101), np.uint64(0x8080_8080_8080_8080)
_QUOTES, _BACKSLASHES = np.uint64(_QUOTE) * _ONES, np.uint64(_BACKSLASH) * _ONES
_SPACES = np.uint64(_SPACE) * _ONES
_ASCII_MAX = 0x7F
_ZERO, _ONE, _EIGHT = np.uint64(0), np.uint64(1), np.uint64(8)


class Text(NamedTuple):
    """A buffer. `word[i]` are the eight bytes from `byte[i]` on, the first one lowest; they overlap."""

    byte: UInt8s
    word: UInt64s


def text_of(data: bytes) -> Text:
    """A buffer to read from: these bytes themselves; of fewer than 16 a copy, with blanks behind it."""
    return _text(np.frombuffer(data.ljust(_BYTES_MIN), np.uint8))


def empty_text(size: int) -> Text:
    """A buffer to write to, of at least so many bytes."""
    return _text(np.empty(max(size, _BYTES_MIN), np.uint8))


def _text(byte: UInt8s) -> Text:
    word = np.ndarray((len(byte) - WORD + 1,), "<u8", byte, strides=(1,))
    word.flags.writeable = byte.flags.writeable
    return Text(byte, word)


@inlined
def word_of(text: Text, at: int, length: int) -> np.uint64:
    """The first bytes from `at` on, eight at most, as one number; zeros behind them."""
    if length <= 0:
        return _ZERO  # type: ignore[no-any-return]  # NumPy's scalars
    if at < len(text.word):
        word = text.word[at]
    else:
        word = _ZERO
        for place in range(min(length, len(text.byte) - at)):
            word |= np.uint64(text.byte[at + place]) << (np.uint64(place) * _EIGHT)
    if length < WORD:
        word &= (_ONE << (np.uint64(length) * _EIGHT)) - _ONE
    return word  # type: ignore[no-any-return]  # NumPy's scalars


@inlined
def text_end(text: Text, at: int, end: int, byte_max: int) -> int:
    """The closing quote of the text that begins at `at`; -1 for escapes and bytes above `byte_max`.

    Whole words are passed over while none of their bytes is a quote, a backslash, a control byte, or above
    ASCII where that is too much ("Determine if a word has a byte less than n", S. E. Anderson, Bit Twiddling
    Hacks: no such byte is missed, and the lowest top bit that remains is a true one).
    """
    while at + WORD <= end:
        word = text.word[at]
        quote, backslash = word ^ _QUOTES, word ^ _BACKSLASHES
        ends = (quote - _ONES) & ~quote | (backslash - _ONES) & ~backslash | (word - _SPACES) & ~word
        if byte_max == _ASCII_MAX:
            ends |= word
        if ends & _TOPS:
            break
        at += WORD
    while at < end:
        byte = text.byte[at]
        if byte == _QUOTE:
            return at
        if byte < _SPACE or byte == _BACKSLASH or byte > byte_max:
            return -1
        at += 1
    return -1


@inlined
def copy(text: Text, start: int, stop: int, into: Text, at: int) -> int:
    """Copy a stretch of a text; where the copy ends."""
    ahead = at - start
    while start + WORD <= stop:
        into.word[start + ahead] = text.word[start]
        start += WORD
    while start < stop:
        into.byte[start + ahead] = text.byte[start]
        start += 1
    return stop + ahead
