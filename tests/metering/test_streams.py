"""A watched stream is the same stream; however it ends, there is one event, which says how much is known."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import Self

from metering.call import Call
from metering.observe import OngoingCall
from metering.streams import watched
from tests.metering.collecting import CollectingMeter

Outcome = tuple[str, str, str | None, int | None]
"""Status, usage source, the attribute `stream`, and the output tokens where the provider told them."""

CALL = Call(tenant_id="acme", model="gpt-4o", started_ms=1_770_000_000_000, provider="openai")
HEAD = {"id": "chatcmpl-0000000000000001", "object": "chat.completion.chunk", "model": "gpt-4o"}
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
CHUNKS: list[dict[str, Any]] = [
    {**HEAD, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    *({**HEAD, "choices": [{"index": 0, "delta": {"content": word}}]} for word in ("one ", "two ", "three ")),
    {**HEAD, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {**HEAD, "choices": [], "usage": USAGE},
]


class Broken(Exception):
    """The provider's connection."""


def chunks(fail_after: int | None = None, error: BaseException | None = None) -> Iterator[dict[str, Any]]:
    for number, chunk in enumerate(CHUNKS):
        if number == fail_after:
            raise error or Broken
        yield chunk


async def async_chunks(
    fail_after: int | None = None, error: BaseException | None = None
) -> AsyncIterator[dict[str, Any]]:
    for number, chunk in enumerate(CHUNKS):
        if number == fail_after:
            raise error or Broken
        await asyncio.sleep(0)
        yield chunk


class Response:
    """As httpx has it."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True

    async def aclose(self) -> None:
        self.is_closed = True


class Stream:
    """As an SDK has it: an iterator with a response, which its end closes, and a context manager."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.response = Response()
        self.extra = "as it is"
        self._iterator = self._chunks(fail_after)

    def _chunks(self, fail_after: int | None) -> Iterator[dict[str, Any]]:
        try:
            yield from chunks(fail_after)
        finally:
            self.response.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self._iterator

    def __next__(self) -> dict[str, Any]:
        return next(self._iterator)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.response.close()


class Bare:
    """An iterator that can be closed and left, without a response that would tell of it."""

    def __init__(self) -> None:
        self._iterator = iter(CHUNKS)

    def __next__(self) -> dict[str, Any]:
        return next(self._iterator)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass


class Helper:
    """As an SDK's helper has it: events of its own around a raw stream; its closing closes the response."""

    def __init__(self, raw: Stream) -> None:
        self._raw_stream = raw
        self._response = raw.response
        self._iterator = self._events()
        self.text_stream = (event["text"] for event in self)

    def _events(self) -> Iterator[dict[str, Any]]:
        for chunk in self._raw_stream:
            for choice in chunk["choices"]:
                yield {"text": choice["delta"].get("content", "")}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self._iterator

    def __next__(self) -> dict[str, Any]:
        return next(self._iterator)

    def close(self) -> None:
        self._response.close()


def watch(source: Any) -> tuple[CollectingMeter, Any]:
    meter = CollectingMeter()
    return meter, watched(source, OngoingCall(meter, CALL))


def outcome(meter: CollectingMeter) -> Outcome:
    """Of the one event."""
    event = meter.event()
    assert event.input_tokens > 0
    assert event.output_tokens > 0
    told = event.output_tokens if event.usage_source == "provider" else None
    return event.status, event.usage_source, (event.attributes or {}).get("stream"), told


def read_all(stream: Any) -> None:
    assert list(stream) == CHUNKS


def read_and_fail(stream: Any) -> None:
    with pytest.raises(Broken):
        list(stream)


def read_some(stream: Any, count: int = 3) -> None:
    for _ in range(count):
        next(stream)


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
ASKED = {"messages": [{"role": "user", "content": "say a few words"}]}


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


def test_a_chunk_that_nobody_can_read_passes_as_it_is() -> None:
    class Odd:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    odd = Odd()
    meter, stream = watch(iter([odd, None, 3]))
    assert list(stream) == [odd, None, 3]
    assert len(meter.records) == 1
