"""Server-sent events: the same values from the same bytes, however these are split, and bounds that hold."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import sse
from metering.sse import SseReader


def read(data: bytes, cuts: list[int] | None = None) -> tuple[list[object], SseReader]:
    reader = SseReader()
    found = [value for part in split(data, cuts or []) for value in reader.feed(part)]
    return found + reader.close(), reader


def split(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        yield data[start:end]


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b'data: {"a": 1}\n\n', [{"a": 1}]),
        (b'data:{"a": 1}\n\n', [{"a": 1}]),
        (b'data: {"a": 1}\r\rdata: 2\r\r', [{"a": 1}, 2]),
        (b'data: {"a": 1}\r\n\r\ndata: 2\r\n\r\n', [{"a": 1}, 2]),
        (b'\xef\xbb\xbfdata: {"a": 1}\n\n', [{"a": 1}]),
        (b'data: {"a":\ndata: 1}\n\n', [{"a": 1}]),
        (b'event: message_start\nid: 7\nretry: 10\ndata: {"a": 1}\n\n', [{"a": 1}]),
        (b": keep-alive\n\n: OPENROUTER PROCESSING\n\ndata: 1\n\n", [1]),
        (b'data: {"a": 1}\n\ndata: [DONE]\n\n', [{"a": 1}]),
        ('data: {"a": "Grüße 😀"}\n\n'.encode(), [{"a": "Grüße 😀"}]),
        (b'data: {"cost": 0.1000000000000000055}\n\n', [{"cost": Decimal("0.1000000000000000055")}]),
        (b"data\n\ndata:\n\ndatabase: 1\n\n", []),
        (b'data: {"a": 1}', [{"a": 1}]),  # the end cut off its blank line
        (b'data: {"a": \n\ndata: 2\n\n', [2]),
        (b"data: \xff\n\ndata: 2\n\n", [2]),
        (b'{"a": 1}', []),
        (b"", []),
    ],
)
def test_bytes_and_their_values(data: bytes, values: list[object]) -> None:
    assert read(data)[0] == values
    assert read(data, list(range(len(data))))[0] == values


def test_the_end_of_openai_s_streams_is_told_apart() -> None:
    assert read(b"data: 1\n\n")[1].is_done is False
    assert read(b"data: 1\n\ndata: [DONE]\n\n")[1].is_done is True


EVENTS = st.lists(
    st.sampled_from(
        [
            *("data: {}", ": comment", "event: x", 'data: {"a": "Grüße"}', "data: [1,", "data: 2]", ""),
            *("data: [DONE]", "data: nothing", "id: 1", "data"),
        ]
    ),
    max_size=12,
)


@given(EVENTS, st.lists(st.sampled_from(["\n", "\r", "\r\n"]), min_size=1), st.lists(st.integers(0, 400)))
def test_any_split_of_the_bytes_gives_the_same_values(
    lines: list[str], ends: list[str], cuts: list[int]
) -> None:
    data = "".join(line + ends[number % len(ends)] for number, line in enumerate(lines)).encode()
    values, reader = read(data)
    again, split_reader = read(data, cuts)
    assert again == values
    assert (split_reader.is_done, split_reader.skipped) == (reader.is_done, reader.skipped)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_no_bytes_raise(data: bytes, cuts: list[int]) -> None:
    assert read(data, cuts)[0] == read(data)[0]


@pytest.mark.parametrize(
    ("data", "values", "skipped"),
    [
        (b'data: "' + b"x" * 55 + b'"\n\ndata: 2\n\n', ["x" * 55, 2], 0),
        (b'data: "' + b"x" * 57 + b'"\n\ndata: 2\n\n', [2], 1),
        (b"data: 1\n" * 9 + b"\ndata: 2\n\n", [2], 1),
        (b": " + b"x" * 100 + b"\ndata: 2\n\n", [2], 0),
        (b"data: " + b"[" * 50 + b"\n\ndata: 2\n\n", [2], 1),
    ],
)
def test_an_event_beyond_the_bound_is_passed_over_and_counted(
    monkeypatch: pytest.MonkeyPatch, data: bytes, values: list[object], skipped: int
) -> None:
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 64)
    for cuts in ([], list(range(len(data)))):
        found, reader = read(data, cuts)
        assert (found, reader.skipped) == (values, skipped)


def test_what_is_kept_of_an_endless_event_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 64)
    for endless in (b"data: x\n" * 100, b"data: x" * 100, b"x" * 1000):
        reader = SseReader()
        tracemalloc.start()
        for _ in range(1000):
            assert reader.feed(endless) == []
        kept_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept_bytes < 10_000  # of 700,000 at least


def test_what_nests_too_deep_is_passed_over() -> None:
    found, reader = read(b"data: " + b"[" * 100_000 + b"]" * 100_000 + b"\n\ndata: 2\n\n")
    assert (found, reader.skipped) == ([2], 1)
