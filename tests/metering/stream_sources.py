"""Streams as SDKs have them, to be watched, and the one event that each is to make."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

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


def read_some(stream: Any, count: int = 3) -> None:
    for _ in range(count):
        next(stream)


ASKED = {"messages": [{"role": "user", "content": "say a few words"}]}
