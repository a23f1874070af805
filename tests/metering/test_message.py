from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.message import MESSAGE_BYTES_MAX, MESSAGE_LINES_MAX, Message, halves, pack


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([(b"a", b"1")], [(b"a", b"1", 1)]),
        ([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")], [(b"a", b"1\n3", 2), (b"b", b"2", 1)]),
        ([(b"", b"x")] * 101, [(b"", b"\n".join([b"x"] * 100), 100), (b"", b"x", 1)]),
        ([(b"", b"x" * 499_999), (b"", b"y")], [(b"", b"x" * 499_999, 1), (b"", b"y", 1)]),
        ([(b"", b"x" * 300_000)] * 3, [(b"", b"x" * 300_000, 1)] * 3),
        ([(b"", b"x" * 499_997), (b"", b"y")], [(b"", b"x" * 499_997 + b"\ny", 2)]),
    ],
)
def test_lines_of_a_tenant_share_messages(
    lines: list[tuple[bytes, bytes]], expected: list[tuple[bytes, bytes, int]]
) -> None:
    assert [(one.key, one.lines, one.events) for one in pack(lines)] == expected


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b""]), st.integers(1, 200_000)), max_size=400))
def test_every_line_is_in_one_message_in_its_tenants_order(drawn: list[tuple[bytes, int]]) -> None:
    lines = [(key, b"%d," % number + b"x" * size) for number, (key, size) in enumerate(drawn)]
    messages = pack(lines)
    for key in (b"a", b"b", b""):
        own = [line for message in messages if message.key == key for line in message.lines.split(b"\n")]
        assert own == [line for of, line in lines if of == key]
    for message in messages:
        assert message.events == message.lines.count(b"\n") + 1 <= MESSAGE_LINES_MAX
        assert len(message.lines) <= MESSAGE_BYTES_MAX


def test_a_message_is_halved_by_lines() -> None:
    assert halves(Message(b"a", b"1\n2\n3", 3)) == (Message(b"a", b"1", 1), Message(b"a", b"2\n3", 2))
