"""However a watched stream ends, whole or cut, plain or asynchronous, it is one event."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.observe import OngoingCall
from metering.streams import watched
from tests.metering.collecting import CollectingMeter
from tests.metering.stream_sources import (
    ASKED,
    CALL,
    CHUNKS,
    Bare,
    Broken,
    Outcome,
    Stream,
    async_chunks,
    chunks,
    outcome,
    read_some,
    watch,
)


def read_all(stream: Any) -> None:
    assert list(stream) == CHUNKS


def read_and_fail(stream: Any) -> None:
    with pytest.raises(Broken):
        list(stream)


def close_after_some(stream: Any) -> None:
    read_some(stream)
    stream.close()


def leave_with(stream: Any) -> None:
    with stream as entered:
        assert entered is stream
        for number, _ in enumerate(entered):
            if number == 2:
                break


def raise_within(stream: Any) -> None:
    with pytest.raises(KeyError), stream:  # noqa: PT012  # reading comes before raising
        read_some(stream)
        raise KeyError


def interrupt(stream: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(stream)


def close_the_response(stream: Any) -> None:
    read_some(stream)
    stream.response.close()


def close_at_the_end(stream: Any) -> None:
    read_some(stream, len(CHUNKS))
    stream.close()


ENDINGS: list[tuple[Callable[[], Any], Callable[[Any], None], Outcome]] = [
    (chunks, read_all, ("success", "provider", None, 5)),
    (Stream, read_all, ("success", "provider", None, 5)),
    (lambda: iter(CHUNKS), read_all, ("success", "provider", None, 5)),
    (lambda: chunks(3), read_and_fail, ("error", "estimate", "cut", None)),
    (lambda: Stream(3), read_and_fail, ("error", "estimate", "cut", None)),
    (chunks, close_after_some, ("success", "estimate", "cut", None)),
    (Stream, close_after_some, ("success", "estimate", "cut", None)),
    (Stream, close_the_response, ("success", "estimate", "cut", None)),
    (Stream, close_at_the_end, ("success", "provider", None, 5)),
    (Stream, leave_with, ("success", "estimate", "cut", None)),
    (Stream, raise_within, ("success", "estimate", "cut", None)),
    (lambda: chunks(3, KeyboardInterrupt()), interrupt, ("success", "estimate", "cut", None)),
    (chunks, read_some, ("success", "estimate", "cut", None)),  # and then forgotten
    (Stream, read_some, ("success", "estimate", "cut", None)),
]


@pytest.mark.parametrize(("make", "use", "expected"), ENDINGS)
def test_every_end_makes_one_event(
    make: Callable[[], Any], use: Callable[[Any], None], expected: Outcome
) -> None:
    meter = CollectingMeter()
    stream = watched(make(), OngoingCall(meter, CALL, lambda: ASKED))
    use(stream)
    del stream
    assert outcome(meter) == expected


def test_an_end_is_told_at_once_and_not_when_the_garbage_collector_comes() -> None:
    gc.disable()
    try:
        for use in (read_all, close_after_some, close_the_response, leave_with):
            meter, stream = watch(Stream())
            use(stream)
            assert len(meter.records) == 1
        for use in (close_after_some, leave_with, raise_within):
            meter, stream = watch(Bare())
            use(stream)
            assert len(meter.records) == 1
        meter, stream = watch(Stream())
        read_some(stream)
        assert meter.records == []
        del stream
        assert len(meter.records) == 1
    finally:
        gc.enable()


async def async_cancel(stream: Any) -> None:
    await anext_times(stream, 3)
    with pytest.raises(asyncio.CancelledError):
        await stream.__anext__()


async def anext_times(stream: Any, count: int) -> None:
    for _ in range(count):
        await stream.__anext__()


async def async_read(stream: Any) -> None:
    assert [chunk async for chunk in stream] == CHUNKS


async def async_fail(stream: Any) -> None:
    with pytest.raises(Broken):
        [chunk async for chunk in stream]  # reading is the point


async def async_close(stream: Any) -> None:
    await anext_times(stream, 3)
    await stream.aclose()


async def async_forget(stream: Any) -> None:
    await anext_times(stream, 3)


@pytest.mark.parametrize(
    ("make", "use", "expected"),
    [
        (async_chunks, async_read, ("success", "provider", None, 5)),
        (lambda: async_chunks(3), async_fail, ("error", "estimate", "cut", None)),
        (
            lambda: async_chunks(3, asyncio.CancelledError()),
            async_cancel,
            ("success", "estimate", "cut", None),
        ),
        (async_chunks, async_close, ("success", "estimate", "cut", None)),
        (async_chunks, async_forget, ("success", "estimate", "cut", None)),
    ],
)
def test_every_end_of_an_asynchronous_one_makes_one_event(
    make: Callable[[], Any],
    use: Callable[[Any], Any],
    expected: Outcome,
) -> None:
    meter = CollectingMeter()

    async def run() -> None:
        stream = watched(make(), OngoingCall(meter, CALL, lambda: ASKED))
        await use(stream)

    asyncio.run(run())
    assert outcome(meter) == expected


def test_a_task_that_is_cancelled_while_it_waits_leaves_one_event_without_an_error() -> None:
    meter = CollectingMeter()

    async def endless() -> AsyncIterator[Any]:
        for chunk in CHUNKS[:3]:
            yield chunk
        await asyncio.Event().wait()

    async def run() -> None:
        stream = watched(endless(), OngoingCall(meter, CALL, lambda: ASKED))
        seen = asyncio.Event()

        async def read() -> None:
            async for chunk in stream:
                if chunk is CHUNKS[2]:
                    seen.set()

        task = asyncio.create_task(read())
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert outcome(meter) == ("success", "estimate", "cut", None)


@given(st.integers(0, len(CHUNKS)), st.integers(1, 3))
def test_ended_any_number_of_times_it_is_one_event(read: int, ends: int) -> None:
    meter = CollectingMeter()
    stream = watched(Stream(), OngoingCall(meter, CALL, lambda: ASKED))
    read_some(stream, read)
    for _ in range(ends):
        stream.close()
        stream.response.close()
        list(stream)
    del stream
    assert len(meter.records) == 1
