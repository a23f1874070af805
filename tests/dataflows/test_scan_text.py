"""Eight bytes at a time find and copy the same as one at a time does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.compiled import compiled
from dataflows.scan_text import Text, copy, empty_text, text_end, text_of, word_of

PLAIN = st.sampled_from([*b'ab ~!#[]{}:,\x7f"\\\x00\x1f\n', 0x80, 0xC3, 0xFF])
CONTENT = st.lists(PLAIN, max_size=40).map(bytes)


@compiled
def _text_end(text: Text, at: int, end: int, byte_max: int) -> int:
    return text_end(text, at, end, byte_max)


@compiled
def _word_of(text: Text, at: int, length: int) -> int:
    return int(word_of(text, at, length))


@compiled
def _copy(text: Text, start: int, stop: int, into: Text, at: int) -> int:
    return copy(text, start, stop, into, at)


def end_of_text(data: bytes, at: int, byte_max: int) -> int:
    """What `text_end` promises, one byte at a time."""
    for place in range(at, len(data)):
        if data[place] == ord('"'):
            return place
        if data[place] < ord(" ") or data[place] == ord("\\") or data[place] > byte_max:
            return -1
    return -1


@pytest.mark.parametrize("byte_max", [0x7F, 0xFF])
@given(before=st.binary(max_size=9), content=CONTENT, after=st.binary(max_size=9))
def test_a_text_ends_where_its_first_quote_stands(
    byte_max: int, before: bytes, content: bytes, after: bytes
) -> None:
    text, end = text_of(before + content + after), len(before + content)
    assert _text_end(text, len(before), end, byte_max) == end_of_text(before + content, len(before), byte_max)


@pytest.mark.parametrize("last", [*b'"\\', 0x00, 0x1F, 0x80, 0xFF])
@pytest.mark.parametrize("length", range(20))
def test_what_ends_a_text_is_found_in_every_place_of_a_word(length: int, last: int) -> None:
    data = b"a" * length + bytes([last]) + b"a" * 20 + b'"'
    assert _text_end(text_of(data), 0, len(data), 0x7F) == (length if last == ord('"') else -1)


@given(data=st.binary(min_size=1, max_size=40), length=st.integers(-3, 20))
def test_a_word_holds_the_first_bytes_and_zeros_behind_them(data: bytes, length: int) -> None:
    padded = data.ljust(16)
    for at in range(len(padded)):
        wanted = padded[at : at + max(0, min(length, 8))]
        assert _word_of(text_of(data), at, length) % 2**64 == int.from_bytes(wanted, "little")


@given(data=st.binary(min_size=1, max_size=40), at=st.integers(0, 9))
def test_a_copy_is_the_same_bytes_and_touches_no_others(data: bytes, at: int) -> None:
    into = empty_text(at + len(data) + 9)
    into.byte[:] = 7
    assert _copy(text_of(data), 0, len(data), into, at) == at + len(data)
    rest = len(into.byte) - at - len(data)
    assert into.byte.tobytes() == b"\7" * at + data + b"\7" * rest
