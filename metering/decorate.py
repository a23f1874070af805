"""Meter calls that are made by hand: a function that returns a provider's answer, or a block around the call.

    @metered(meter, feature_id="summary", on_missing_tenant="anonymous")
    def summarise(text): return bedrock.converse(...)

    with meter_call(meter, tenant_id="acme", model="llama-3") as call:
        call.response(requests.post(...).json())

Functions may be async, and may yield chunks instead. What they return is read as a provider's answer;
`usage=` reads what nobody knows the shape of. Clients that are instrumented may be used inside: an answer is
recorded once (`metering/nesting.py`).
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, cast

from typing_extensions import Self

from metering.arguments import Arguments
from metering.call import Call
from metering.contexts import Labels, MissingTenant, OnMissingTenant, Policy, labels
from metering.generators import stepped, stepped_async
from metering.mishaps import note
from metering.nesting import Boundary, Inside, current
from metering.observe import OngoingCall, checked_meter
from metering.recorder import Recorder
from metering.responses import StreamReader
from metering.streams import is_stream, watched
from metering.taking import taken, taken_later
from metering.usage import Usage

Function = TypeVar("Function", bound=Callable[..., Any])

UsageOf = Callable[[Any], Usage | Sequence[Usage] | None]
"""Reads what a function returned, or one of its chunks; None where that says nothing."""


@dataclass(frozen=True, slots=True)
class _Said:
    """What was said when a function was decorated."""

    meter: Recorder
    policy: Policy
    provider: str
    usage: UsageOf | None

    def begin(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> OngoingCall | None:
        """The call that begins now; None where it is not to be metered.

        What was asked is read off the function's arguments, where they are named as a provider's are
        (`model`, `messages`, `input`, …).

        Raises:
            MissingTenant: where that was chosen, and nothing else.
        """
        try:
            return self._begun(function, args, kwargs)
        except MissingTenant:
            raise
        except Exception as error:  # noqa: BLE001  # a caller must not notice
            note("request_unread", "a call could not be begun, so it is not metered", error)
            return None

    def _begun(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> OngoingCall | None:
        call = self.policy.call(Labels(), model="", provider=self.provider, started_ms=_now_ms())
        if call is None:
            return None
        inside = Boundary(current())
        asked = Arguments(function, args, kwargs)
        return OngoingCall(self.meter, call, asked, self._reader(call), inside)

    def _reader(self, call: Call) -> Any:
        return None if self.usage is None else ReaderOfUsage(self.usage, call)


class ReaderOfUsage:
    """Reads answers and chunks with an application's own function; its last word counts."""

    __slots__ = ("_reader", "_usage", "_usages")

    def __init__(self, usage: UsageOf, call: Call) -> None:
        self._usage = usage
        self._usages: list[Usage] = []
        self._reader = StreamReader(call.provider, call.model)

    def feed(self, chunk: Any) -> None:
        """Read one chunk, or the whole answer."""
        self._reader.feed(chunk)
        try:
            found = self._usage(chunk)
        except Exception as error:  # noqa: BLE001  # an application's own function
            note("resolver_failed", "the function that reads usage raised", error)
            return
        if isinstance(found, Usage):
            self._usages = [found]
        elif found:
            self._usages = list(found)

    @property
    def is_complete(self) -> bool:
        """Whether usage was told, or the end of an answer of a known form was seen."""
        return bool(self._usages) or self._reader.is_complete

    @property
    def output_text(self) -> str:
        """What could be seen of an answer of a known form."""
        return self._reader.output_text

    @property
    def output_chars(self) -> int:
        """How long that is."""
        return self._reader.output_chars

    @property
    def size_bytes(self) -> int:
        """About how much is kept of it."""
        return self._reader.size_bytes

    def usages(self) -> list[Usage]:
        """What was told last."""
        return self._usages


def metered(
    meter: Recorder,
    *,
    tenant_id: str | None = None,
    feature_id: str | None = None,
    model: str | None = None,
    attributes: Mapping[str, object] | None = None,
    on_missing_tenant: OnMissingTenant | None = None,
    provider: str = "",
    usage: UsageOf | None = None,
) -> Callable[[Function], Function]:
    """Meter a function: each run of it is one call to a model.

    Args:
        tenant_id: For runs outside of any `context` that says one; so are `feature_id`, `model` and
            `attributes`.
        on_missing_tenant: What a run is that nobody has said the tenant of. Required without `tenant_id`.
        usage: Reads what the function returned or yields, where that is no provider's answer.

    Raises:
        TypeError: the meter is none, or what is decorated is no function.
        ValueError: it is open what a call without a tenant is.
    """
    if inspect.isroutine(meter):
        raise TypeError("metered is told a meter first: @metered(meter, …)")
    policy = Policy.of(labels(tenant_id, feature_id, model, attributes), on_missing_tenant)
    said = _Said(checked_meter(meter), policy, provider, usage)

    def decorate(function: Function) -> Function:
        """The function, in the wrapper that its kind needs."""
        if not callable(function):
            raise TypeError(f"@metered(…) decorates functions, not {type(function).__name__}")
        if inspect.isasyncgenfunction(function):
            return cast(Function, _async_generator(function, said))
        if inspect.isgeneratorfunction(function):
            return cast(Function, _generator(function, said))
        if inspect.iscoroutinefunction(function):
            return cast(Function, _coroutine(function, said))
        return cast(Function, _function(function, said))

    return decorate


def _function(function: Callable[..., Any], said: _Said) -> Callable[..., Any]:
    @functools.wraps(function)
    def metered_function(*args: Any, **kwargs: Any) -> Any:
        call = said.begin(function, args, kwargs)
        if call is None or call.inside is None:
            return function(*args, **kwargs)
        try:
            with Inside(call.inside):
                answer = function(*args, **kwargs)
        except BaseException as error:
            call.failed(error)
            raise
        if inspect.isawaitable(answer):  # as a plain function gives it: the call ends when that does
            return taken_later(answer, call, partial(taken, call), partial(Inside, call.inside))
        return taken(call, answer)

    return metered_function


def _coroutine(function: Callable[..., Any], said: _Said) -> Callable[..., Any]:
    @functools.wraps(function)
    async def metered_coroutine(*args: Any, **kwargs: Any) -> Any:
        call = said.begin(function, args, kwargs)
        if call is None or call.inside is None:
            return await function(*args, **kwargs)
        try:
            with Inside(call.inside):
                answer = await function(*args, **kwargs)
        except BaseException as error:  # a task that is cancelled, too
            call.failed(error)
            raise
        return taken(call, answer)

    return metered_coroutine


# The tenant is that of the code which calls, not of the code which iterates: a web framework streams a
# generator when the request's own function has returned. So these are plain functions that return generators.
def _generator(function: Callable[..., Any], said: _Said) -> Callable[..., Any]:
    @functools.wraps(function)
    def metered_generator(*args: Any, **kwargs: Any) -> Any:
        source = function(*args, **kwargs)  # which raises, where the arguments do not fit, before any call
        call = said.begin(function, args, kwargs)
        if call is None:
            return source
        call.has_left = False  # until somebody reads
        return _watched_generator(source, call)

    return metered_generator


def _watched_generator(source: Generator[Any, Any, Any], call: OngoingCall) -> Any:
    inside = cast(Boundary, call.inside)
    return watched(stepped(source, lambda: Inside(inside)), call)


def _async_generator(function: Callable[..., Any], said: _Said) -> Callable[..., Any]:
    @functools.wraps(function)
    def metered_async_generator(*args: Any, **kwargs: Any) -> Any:
        source = function(*args, **kwargs)  # which raises, where the arguments do not fit, before any call
        call = said.begin(function, args, kwargs)
        if call is None:
            return source
        call.has_left = False  # until somebody reads
        return _watched_async_generator(source, call)

    return metered_async_generator


def _watched_async_generator(source: AsyncGenerator[Any, Any], call: OngoingCall) -> Any:
    inside = cast(Boundary, call.inside)
    return watched(stepped_async(source, lambda: Inside(inside)), call)


class meter_call:  # noqa: N801  # read as a statement: with meter_call(...)
    """One call to a model, made by hand: `with meter_call(...) as call:`, then `call.response(answer)`.

    What is said here wins over any `context` around it. A block that ends without an answer is recorded as a
    call of which nothing is known; one that raises as a failed call.

    Raises:
        TypeError: the meter is none.
        ValueError: it is open what a call without a tenant is.
        MissingTenant: on entering, where `on_missing_tenant` is to reject.
    """

    def __init__(
        self,
        meter: Recorder,
        *,
        tenant_id: str | None = None,
        feature_id: str | None = None,
        model: str | None = None,
        attributes: Mapping[str, object] | None = None,
        on_missing_tenant: OnMissingTenant | None = None,
        provider: str = "",
        retry_count: int = 0,
    ) -> None:
        self._meter = checked_meter(meter)
        self._labels = labels(tenant_id, feature_id, model, attributes)
        self._policy = Policy.of(self._labels, on_missing_tenant)
        self._provider = provider
        self._retry_count = retry_count
        self._call: OngoingCall | None = None
        self._inside: Inside | None = None
        self._is_to_come = False

    def __enter__(self) -> Self:
        call = self._policy.call(
            self._labels, model=self._labels.model or "", provider=self._provider, started_ms=_now_ms()
        )
        if call is not None:
            boundary = Boundary(current())
            call = replace(call, retry_count=self._retry_count)
            self._call = OngoingCall(self._meter, call, inside=boundary)
            self._inside = Inside(boundary)
            self._inside.__enter__()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._call is None or self._inside is None:
            return
        self._inside.__exit__()
        if error is not None:
            self._call.failed(error)
        elif not self._is_to_come:
            self._call.used(())

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)

    def response(self, answer: Any) -> Any:
        """The provider's answer, which is handed back; a stream is to be read from what is handed back.

        So is one to be awaited that is an awaitable still. A block is one call: a second answer is counted
        (`second_answer`) and not metered.
        """
        if self._call is None:
            return answer
        if self._is_to_come or self._call.is_over:
            _note_second()
            return answer
        if inspect.isawaitable(answer):
            self._is_to_come = True
            return taken_later(answer, self._call, partial(taken, self._call), nullcontext)
        if is_stream(answer):
            self._is_to_come = True
        return taken(self._call, answer)

    def usage(self, *usages: Usage) -> None:
        """What the call used, where you know it: an answer of a kind that nobody reads. As `response`."""
        if self._call is None:
            return
        if self._call.is_over:
            _note_second()
        self._call.used(usages)


def _note_second() -> None:
    note(
        "second_answer",
        "a block of meter_call was told of a second answer: each call needs a block of its own",
    )


def cache_hit(
    meter: Recorder,
    answer: Any,
    *,
    tenant_id: str | None = None,
    feature_id: str | None = None,
    attributes: Mapping[str, object] | None = None,
    on_missing_tenant: OnMissingTenant | None = None,
    provider: str = "",
) -> None:
    """Your own cache answered instead of a provider: record it, with the usage that it saved.

    The event says `cache_status` `hit`, so that it costs nothing, and is priced only where the rate card says
    so. Its key is its own: the answer's id, which the first event has, is kept as the attribute
    `cached_response_id`.

    Args:
        answer: The provider's answer as it was cached: an SDK's object, or parsed JSON.

    Raises:
        TypeError, ValueError, MissingTenant: as `meter_call`.
    """
    checked_meter(meter)
    said = labels(tenant_id, feature_id, None, attributes)
    call = Policy.of(said, on_missing_tenant).call(said, model="", provider=provider, started_ms=_now_ms())
    if call is None:
        return
    reader = StreamReader(provider)
    reader.feed(answer)
    usages = reader.usages()
    ids = {usage.response_id for usage in usages} - {""}
    told = {"cached_response_id": min(ids)} if ids and len(min(ids)) <= _ID_CHARS_MAX else {}
    call = replace(call, cache_status="hit", attributes={**call.attributes, **told})
    ongoing = OngoingCall(meter, call, inside=Boundary(current()))
    ongoing.end(
        [replace(usage, response_id="", provider_cost=None) for usage in usages],
        reader.output_text,
        "success",
    )


_ID_CHARS_MAX = 1024
"""Of an attribute's value."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
