"""The file format of the spool: whatever is cut or changed, every record that it left alone is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.message import Message
from metering.spool_records import HEAD_BYTES, Found, find, frame, frames, head, replayed_to

MESSAGES = st.lists(
    st.builds(
        Message,
        st.text(max_size=5).map(str.encode),
        st.text(max_size=40).map(str.encode),
        st.integers(1, 100),
    ),
    min_size=1,
    max_size=6,
)


def found(data: bytes) -> tuple[list[Message], tuple[tuple[int, int], ...]]:
    read = find(data, 0)
    return [message for _, message in read.messages], read.damages


@given(MESSAGES, st.integers(0, 10**9))
def test_what_is_written_is_read(messages: list[Message], offset: int) -> None:
    data, ends = frames(messages)
    read = find(data, offset)
    assert read == Found(tuple(zip([offset + end for end in ends], messages, strict=True)), ())


@given(MESSAGES, st.data())
def test_a_cut_costs_the_record_that_it_touches(messages: list[Message], data: st.DataObject) -> None:
    whole, ends = frames(messages)
    cut = data.draw(st.integers(0, len(whole)))
    intact = [end for end in ends if end <= cut]
    last = intact[-1] if intact else 0
    assert found(whole[:cut]) == (messages[: len(intact)], ((last, cut),) if last < cut else ())


@given(MESSAGES, st.data())
def test_a_changed_byte_costs_the_record_that_it_is_in(messages: list[Message], data: st.DataObject) -> None:
    whole, ends = frames(messages)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    hit = next(number for number, end in enumerate(ends) if at < end)
    start = ends[hit - 1] if hit else 0
    assert found(bytes(changed)) == ([*messages[:hit], *messages[hit + 1 :]], ((start, ends[hit]),))


@given(MESSAGES, st.binary(min_size=1, max_size=60), st.data())
def test_bytes_that_nobody_wrote_cost_no_record(
    messages: list[Message], foreign: bytes, data: st.DataObject
) -> None:
    parts = [frame(message) for message in messages]
    parts.insert(data.draw(st.integers(0, len(parts))), foreign)
    assert found(b"".join(parts))[0] == messages


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (head(HEAD_BYTES), HEAD_BYTES),
        (head(4711), 4711),
        (head(4711)[:-1], HEAD_BYTES),
        (head(4711)[:7] + b"\0" + head(4711)[8:], HEAD_BYTES),
        (head(3), HEAD_BYTES),
        (b"\0" * HEAD_BYTES, HEAD_BYTES),
        (b"", HEAD_BYTES),
    ],
)
def test_a_head_that_is_not_whole_says_nothing_was_replayed(data: bytes, expected: int) -> None:
    assert replayed_to(data) == expected
