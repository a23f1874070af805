"""Answers that an application takes as HTTP: `with_raw_response` and `with_streaming_response` of the SDKs.

Nothing is parsed twice on the way. A body that is there already is read later, in the meter's thread. Of one
that is still to come every form of reading (`read`, `json`, `iter_lines`, `parse`, a `Stream` made of it)
goes through `iter_bytes` or `aiter_bytes` of the HTTP response (httpx 0.28, httpx2 2.16), so these are
watched, and the closing. Bytes that are fetched undecoded, by `iter_raw`, are not seen: such a call is
recorded as one that nothing is known of.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

from metering.bodies import Body
from metering.observe import OngoingCall
from metering.streams import watch_closing

_KINDS_MAX = 16
"""Classes of responses: those of httpx and httpx2, and what applications derive of them."""


def is_raw(answer: object) -> bool:
    """Whether it is an SDK's response around the HTTP one: `APIResponse`, `LegacyAPIResponse`."""
    return hasattr(answer, "http_response") and callable(getattr(answer, "parse", None))


def watch_raw(answer: Any, call: OngoingCall) -> None:
    """End the call when its body has been read, or closed."""
    response = answer.http_response
    # httpx has undone a compression when it hands out bytes.
    body = Body(response.headers.get("content-type", ""), "", call.call.provider, call.call.model)
    call.reader = body
    if response.is_closed:
        body.feed(response.content)
        body_over(body, call)
        return
    _watch_bytes(response, body, call)
    watch_closing(response, call)


def _pass_by(data: bytes, body: Body, call: OngoingCall) -> None:
    if body.is_stream:
        call.chunk(data)
    elif not call.is_over:
        body.feed(data)


def body_over(body: Body, call: OngoingCall) -> None:
    """The body has come to its end."""
    call.end(body.told, "", "success")


def _watch_bytes(response: Any, body: Body, call: OngoingCall) -> None:
    response._metered = body, call  # noqa: SLF001  # our own
    kind: Any = type(response)
    response.__class__ = _watched(kind)


@functools.lru_cache(maxsize=_KINDS_MAX)
def _watched(kind: type[Any]) -> type[Any]:
    """This kind of response, watched. By methods, which hold it while it is read, and not for longer."""

    def iter_bytes(self: Any, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        return _passing(kind.iter_bytes(self, *args, **kwargs), *self._metered)

    def aiter_bytes(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
        return _passing_async(kind.aiter_bytes(self, *args, **kwargs), *self._metered)

    return type(kind.__name__, (kind,), {"iter_bytes": iter_bytes, "aiter_bytes": aiter_bytes})


def _passing(source: Iterator[bytes], body: Body, call: OngoingCall) -> Iterator[bytes]:
    call.is_fetching = True
    try:
        for data in source:
            call.is_fetching = False
            _pass_by(data, body, call)
            yield data
            call.is_fetching = True
        body_over(body, call)
    except BaseException as error:
        call.failed(error)
        raise
    finally:
        call.is_fetching = False


async def _passing_async(source: AsyncIterator[bytes], body: Body, call: OngoingCall) -> AsyncIterator[bytes]:
    call.is_fetching = True
    try:
        async for data in source:
            call.is_fetching = False
            _pass_by(data, body, call)
            yield data
            call.is_fetching = True
        body_over(body, call)
    except BaseException as error:
        call.failed(error)
        raise
    finally:
        call.is_fetching = False
