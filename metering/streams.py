"""Streams that are watched and nothing else: each chunk is read once it is there, and handed on as it is.

`watched(source, call)` stands in for an iterator, a generator or an SDK's stream object, synchronous or not.
Attributes, context management and `isinstance` reach the object behind it. Nothing is kept, and nothing
fetched ahead but one chunk: where usage was asked for on the caller's behalf, it is there before the end of
the answer is handed on, since many a caller stops reading at that.

The call ends, once, when

- the stream is read to its end,
- fetching a chunk raises: an error of the provider, or, where it is a cancellation, of nobody,
- somebody closes the stream, its response, or the generator, or leaves its `with`,
- the stream is forgotten and collected, or the process ends.

The helpers of OpenAI's and Anthropic's SDKs (`MessageStream` with its `text_stream` and `get_final_message`,
`ChatCompletionStream`, `ResponseStream`) fetch from a stream of their own, `_raw_stream`: that one is
replaced, and the helper stays what it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from metering.observe import OngoingCall

IsHidden = Callable[[object], bool]
"""Whether a chunk is not to be handed on: the caller has not asked for it."""


def nothing_hidden(chunk: object) -> bool:  # noqa: ARG001  # an `IsHidden`
    """Every chunk is handed on."""
    return False


def is_stream(value: object) -> bool:
    """Whether it is fetched from chunk by chunk: an iterator of either kind, or a helper around one."""
    kind = type(value)
    return hasattr(kind, "__next__") or hasattr(kind, "__anext__")


def watched(source: Any, call: OngoingCall, is_hidden: IsHidden = nothing_hidden) -> Any:
    """A stand-in for the stream. The call, which has a reader, ends with it."""
    raw = getattr(source, "_raw_stream", None)
    if raw is not None and is_stream(raw):
        source._raw_stream = watched(raw, call, is_hidden)  # noqa: SLF001  # see the module's docstring
        return source
    watch_closing(getattr(source, "response", None), call)
    kind = WatchedAsyncStream if hasattr(type(source), "__anext__") else WatchedStream
    return kind(source, call, is_hidden)


def watch_closing(response: Any, call: OngoingCall) -> None:
    """End the call when the response is closed by somebody else than the stream itself."""
    kind: Any = type(response)
    if not hasattr(kind, "close") or not hasattr(response, "__dict__"):
        return
    if "_metered_call" not in vars(response):
        response.__class__ = _told_of_closing(kind)
    response._metered_call = call  # noqa: SLF001  # our own


_KINDS_MAX = 16
"""Classes of responses, as in `metering/raw_answers.py`."""


@functools.lru_cache(maxsize=_KINDS_MAX)
def _told_of_closing(kind: type[Any]) -> type[Any]:
    """This kind of response, which tells of its closing.

    By methods: functions of the response's own would hold it in a cycle, and its connection until the garbage
    collector comes; and if they held it weakly, that would have taken it when it comes to be closed.
    """

    def close(self: Any) -> None:
        kind.close(self)
        if not self._metered_call.is_fetching:
            self._metered_call.stopped()

    async def aclose(self: Any) -> None:
        await kind.aclose(self)
        if not self._metered_call.is_fetching:
            self._metered_call.stopped()

    methods = {"close": close, "aclose": aclose} if hasattr(kind, "aclose") else {"close": close}
    return type(kind.__name__, (kind,), {"__slots__": (), "__module__": kind.__module__, **methods})


class _Stand:
    """What both kinds have in common: everything but the fetching is that of the stream behind."""

    __slots__ = ("__weakref__", "_watched_ahead", "_watched_call", "_watched_is_hidden", "_watched_source")

    def __init__(self, source: Any, call: OngoingCall, is_hidden: IsHidden) -> None:
        object.__setattr__(self, "_watched_source", source)
        object.__setattr__(self, "_watched_call", call)
        object.__setattr__(self, "_watched_is_hidden", is_hidden)
        object.__setattr__(self, "_watched_ahead", [])

    @property  # type: ignore[misc]  # `isinstance` asks for it, and nobody sets it
    def __class__(self) -> Any:
        return type(self._watched_source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watched_source, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._watched_source, name, value)

    def __repr__(self) -> str:
        return repr(self._watched_source)

    def __del__(self) -> None:
        self._watched_call.collected()

    def _take_ahead(self) -> Any:
        """The chunk that was fetched ahead, or what fetching it raised."""
        item, error = self._watched_ahead.pop()
        if error is None:
            return item
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            self._watched_call.stopped()
        else:
            self._watched_call.failed(error)
        raise error

    def _lacks_usage(self) -> bool:
        return self._watched_is_hidden is not nothing_hidden and self._watched_call.lacks_usage

    def _keep_ahead(self, item: Any) -> None:
        self._watched_call.chunk(item)
        if not self._watched_is_hidden(item):
            self._watched_ahead.append((item, None))

    _watched_source: Any
    _watched_call: OngoingCall
    _watched_is_hidden: IsHidden
    _watched_ahead: list[tuple[Any, Exception | None]]


class WatchedStream(_Stand):
    """Stands in for an iterator, a generator, or an SDK's `Stream`."""

    __slots__ = ()

    def __iter__(self) -> WatchedStream:
        return self

    def __next__(self) -> Any:
        return self._fetch(self._watched_source.__next__)

    def send(self, value: object) -> Any:
        """To the generator behind."""
        return self._fetch(self._watched_source.send, value)

    def throw(self, *error: Any) -> Any:
        """Into the generator behind; in one argument, or in three as before Python 3.12."""
        return self._fetch(self._watched_source.throw, *error)

    def _fetch(self, step: Callable[..., Any], *arguments: object) -> Any:
        call = self._watched_call
        if not call.has_left:
            call.leave()
        if self._watched_ahead:
            return self._take_ahead()
        while True:
            call.is_fetching = True
            try:
                item = step(*arguments)
            except StopIteration:
                call.stopped()
                raise
            except BaseException as error:
                call.failed(error)
                raise
            finally:
                call.is_fetching = False
            call.chunk(item)
            if not self._watched_is_hidden(item):
                if self._lacks_usage():
                    self._look_ahead()
                return item
            step, arguments = self._watched_source.__next__, ()

    def _look_ahead(self) -> None:
        call = self._watched_call
        call.is_fetching = True
        try:
            self._keep_ahead(self._watched_source.__next__())
        except Exception as error:  # noqa: BLE001  # it is raised when its turn comes
            self._watched_ahead.append((None, error))
        except BaseException as error:
            call.failed(error)
            raise
        finally:
            call.is_fetching = False

    def close(self) -> None:
        """Close what is behind, and end the call."""
        try:
            close = getattr(self._watched_source, "close", None)
            if close is not None:
                close()
        finally:
            self._watched_call.stopped()

    def __enter__(self) -> Any:
        entered = self._watched_source.__enter__()
        return self if entered is self._watched_source else entered

    def __exit__(self, *raised: object) -> Any:
        try:
            return self._watched_source.__exit__(*raised)
        finally:
            self._watched_call.stopped()


class WatchedAsyncStream(_Stand):
    """Stands in for an asynchronous iterator or generator, or an SDK's `AsyncStream`."""

    __slots__ = ()

    def __aiter__(self) -> WatchedAsyncStream:
        return self

    async def __anext__(self) -> Any:
        return await self._fetch(self._watched_source.__anext__)

    async def asend(self, value: object) -> Any:
        """To the generator behind."""
        return await self._fetch(self._watched_source.asend, value)

    async def athrow(self, *error: Any) -> Any:
        """Into the generator behind, as `throw`."""
        return await self._fetch(self._watched_source.athrow, *error)

    async def _fetch(self, step: Callable[..., Any], *arguments: object) -> Any:
        call = self._watched_call
        if not call.has_left:
            call.leave()
        if self._watched_ahead:
            return self._take_ahead()
        while True:
            call.is_fetching = True
            try:
                item = await step(*arguments)
            except StopAsyncIteration:
                call.stopped()
                raise
            except BaseException as error:
                call.failed(error)
                raise
            finally:
                call.is_fetching = False
            call.chunk(item)
            if not self._watched_is_hidden(item):
                if self._lacks_usage():
                    await self._look_ahead()
                return item
            step, arguments = self._watched_source.__anext__, ()

    async def _look_ahead(self) -> None:
        call = self._watched_call
        call.is_fetching = True
        try:
            self._keep_ahead(await self._watched_source.__anext__())
        except Exception as error:  # noqa: BLE001  # it is raised when its turn comes
            self._watched_ahead.append((None, error))
        except BaseException as error:
            call.failed(error)
            raise
        finally:
            call.is_fetching = False

    async def close(self) -> None:
        """Close what is behind, and end the call."""
        await self._close("close", "aclose")

    async def aclose(self) -> None:
        """As `close`."""
        await self._close("aclose", "close")

    async def _close(self, *names: str) -> None:
        try:
            for name in names:
                close = getattr(self._watched_source, name, None)
                if close is not None:
                    await close()
                    break
        finally:
            self._watched_call.stopped()

    async def __aenter__(self) -> Any:
        entered = await self._watched_source.__aenter__()
        return self if entered is self._watched_source else entered

    async def __aexit__(self, *raised: object) -> Any:
        try:
            return await self._watched_source.__aexit__(*raised)
        finally:
            self._watched_call.stopped()
