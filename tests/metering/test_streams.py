"""A watched stream is the same stream to its user, but for what is hidden from who has not asked for it."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from metering.observe import OngoingCall
from metering.streams import watched
from tests.metering.collecting import CollectingMeter
from tests.metering.stream_sources import (
    ASKED,
    CALL,
    CHUNKS,
    HEAD,
    Broken,
    Helper,
    Response,
    Stream,
    async_chunks,
    chunks,
    outcome,
    read_some,
    watch,
)


class Telling(Response):
    def __init__(self, told: list[str]) -> None:
        self._told = told

    def close(self) -> None:
        self._told.append("closed")


def test_a_response_is_closed_by_the_garbage_collector_too() -> None:
    told: list[str] = []
    source = Stream()
    source.response = Telling(told)
    _, stream = watch(source)
    read_some(stream)  # now the generator that it holds holds it, as an SDK's: so the collector has to come
    del source, stream
    gc.collect()
    assert told == ["closed"]


def test_a_response_is_held_by_nobody_but_its_stream() -> None:
    _, stream = watch(Stream())
    held = weakref.ref(stream.response)
    list(stream)
    gc.disable()
    try:
        del stream
        assert held() is None
    finally:
        gc.enable()


def test_it_is_the_same_stream_to_its_user() -> None:
    source = Stream()
    _, stream = watch(source)
    assert isinstance(stream, Stream)
    assert (stream.extra, stream.response, repr(stream)) == ("as it is", source.response, repr(source))
    stream.extra = "changed"
    assert source.extra == "changed"
    with pytest.raises(AttributeError):
        getattr(stream, "missing")  # noqa: B009  # what it has not, it has not
    for first in stream:
        assert first is CHUNKS[0]
        break
    assert next(iter(stream)) is CHUNKS[1]  # leaving a loop ends nothing: the next one goes on
    stream.close()
    assert source.response.is_closed


def test_a_helper_around_a_stream_stays_itself_and_all_its_ways_are_seen() -> None:
    helper = Helper(Stream())
    meter, same = watch(helper)
    assert same is helper
    assert "".join(helper.text_stream) == "one two three "
    assert outcome(meter) == ("success", "provider", None, 5)
    helper = Helper(Stream())
    meter = CollectingMeter()
    watched(helper, OngoingCall(meter, CALL, lambda: ASKED))
    read_some(helper)
    helper.close()
    assert outcome(meter) == ("success", "estimate", "cut", None)


def test_a_generator_is_still_sent_to_and_thrown_into() -> None:
    def echo() -> Any:
        value = yield CHUNKS[0]
        try:
            yield value
        except Broken:
            yield CHUNKS[-1]

    _, stream = watch(echo())
    assert next(stream) is CHUNKS[0]
    assert stream.send(CHUNKS[1]) is CHUNKS[1]
    assert stream.throw(Broken()) is CHUNKS[-1]

    def delegating() -> Any:
        yield from watch(echo())[1]

    outer = delegating()
    assert [next(outer), outer.send(CHUNKS[1]), outer.throw(Broken())] == [CHUNKS[0], CHUNKS[1], CHUNKS[-1]]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="three arguments are deprecated from 3.12 on")
def test_an_error_in_three_arguments_is_thrown_too() -> None:
    def source() -> Any:
        try:
            yield CHUNKS[0]
        except Broken:
            yield CHUNKS[-1]

    _, stream = watch(source())
    next(stream)
    assert stream.throw(Broken, Broken(), None) is CHUNKS[-1]


def test_what_is_hidden_is_read_and_not_handed_on() -> None:
    meter = CollectingMeter()
    call = OngoingCall(meter, CALL)
    stream = watched(chunks(), call, lambda chunk: not chunk["choices"])  # type: ignore[index]
    assert list(stream) == CHUNKS[:-1]
    assert meter.event().output_tokens == 5


def hidden_usage(chunk: Any) -> bool:
    return not chunk["choices"]


def read_to_the_end_of_the_answer(stream: Any) -> None:
    for chunk in stream:
        if chunk["choices"][0].get("finish_reason"):
            break


def test_who_stops_at_the_end_of_the_answer_has_had_its_usage_told() -> None:
    meter = CollectingMeter()
    stream = watched(Stream(), OngoingCall(meter, CALL), hidden_usage)
    read_to_the_end_of_the_answer(stream)
    stream.close()
    assert outcome(meter) == ("success", "provider", None, 5)


def test_who_stops_at_the_end_of_an_asynchronous_one_too() -> None:
    meter = CollectingMeter()

    async def run() -> None:
        stream = watched(async_chunks(), OngoingCall(meter, CALL), hidden_usage)
        async for chunk in stream:
            if chunk["choices"][0].get("finish_reason"):
                break
        await stream.aclose()

    asyncio.run(run())
    assert outcome(meter) == ("success", "provider", None, 5)


@pytest.mark.parametrize("more", [0, 1, 2])
@pytest.mark.parametrize("fails", [False, True])
def test_what_was_fetched_ahead_comes_in_its_turn(more: int, fails: bool) -> None:
    expected = CHUNKS[:-1] + [{**HEAD, "choices": [{"index": 0, "delta": {}}]}] * more

    def source() -> Iterator[Any]:
        yield from expected
        if fails:
            raise Broken

    async def async_source() -> AsyncIterator[Any]:
        for chunk in source():
            yield chunk

    async def read_async(stream: Any) -> None:
        async for chunk in stream:
            read_async_chunks.append(chunk)

    meter, read, read_async_chunks = CollectingMeter(), [], list[Any]()
    with pytest.raises(Broken) if fails else nullcontext():
        for chunk in watched(source(), OngoingCall(meter, CALL, lambda: ASKED), hidden_usage):
            read.append(chunk)  # noqa: PERF402  # what came before a failure is kept
    with pytest.raises(Broken) if fails else nullcontext():
        asyncio.run(
            read_async(watched(async_source(), OngoingCall(meter, CALL, lambda: ASKED), hidden_usage))
        )
    assert read == read_async_chunks == expected
    assert [event.status for event in meter.events()] == ["error" if fails else "success"] * 2


def test_a_chunk_that_nobody_can_read_passes_as_it_is() -> None:
    class Odd:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    odd = Odd()
    meter, stream = watch(iter([odd, None, 3]))
    assert list(stream) == [odd, None, 3]
    assert len(meter.records) == 1
