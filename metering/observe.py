"""One observed call: its clock, and its one record. All instrumentation ends here.

An `OngoingCall` begins when a request leaves, and ends exactly once: when the answer is there, the stream is
over, the call failed, or, where it was forgotten, when it is collected or the process exits. Then one record
goes to the meter, which expands it in its sender thread: counting and encoding are off the caller's path, and
nothing in here raises.

**Bounds.** A call that is open holds what its answer has told so far (the reader's bounds); what was asked is
held only until the provider has said what it used.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock
from types import MappingProxyType
from typing import Any, Protocol

from metering import nesting
from metering.call import Call, Ending
from metering.failures import status_code, used_nothing
from metering.mishaps import note
from metering.otel import annotate, marked
from metering.recorder import Recorder
from metering.responses import StreamReader
from metering.seen import Asked, Later, Seen, Told, is_told
from metering.usage import Status, Usage

_NOTHING_TOLD: Mapping[str, str] = MappingProxyType({})


def checked_meter(meter: Recorder) -> Recorder:
    """The meter, which was given at set-up.

    Raises:
        TypeError: it is none.
    """
    if isinstance(meter, type):
        raise TypeError(f"{meter.__name__} is a class: give a meter, {meter.__name__}(…)")
    if not callable(getattr(meter, "record", None)):
        raise TypeError(
            f"a meter has a method `record`, and {type(meter).__name__} has none: give a Meter(…)"
        )
    return meter


class Reader(Protocol):
    """What reads an answer, chunk by chunk or whole: a `StreamReader`, or one of bodies."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer's end was seen."""

    @property
    def output_text(self) -> str:
        """What could be seen of the answer."""

    @property
    def output_chars(self) -> int:
        """How long that is."""

    @property
    def size_bytes(self) -> int:
        """About how much is kept of it."""

    def feed(self, chunk: Any) -> None:
        """Take in one chunk."""

    def usages(self) -> list[Usage]:
        """What is known by now."""


def observe(meter: Recorder, seen: Seen, span: Any = None, operation: str = "chat") -> None:
    """Hand one record to the meter, and its facts to OpenTelemetry's span of the call. Never raises."""
    try:
        meter.record(seen)
    except Exception as error:  # noqa: BLE001  # a caller must not notice
        note("not_recorded", "the meter did not take a record", error)
    try:
        if span is not None:
            annotate(seen.call, seen.usages, seen.ending, operation, span)
    except Exception as error:  # noqa: BLE001  # as above
        note("span_not_annotated", "the span was not told what the call used", error)


def _current_span() -> Any:
    """The span in which the call is made: a stream may end anywhere, or be collected inside of another's."""
    trace = sys.modules.get("opentelemetry.trace")
    try:
        return None if trace is None else marked(trace.get_current_span())
    except Exception as error:  # noqa: BLE001  # a caller must not notice
        note("span_not_annotated", "the span was not told that its call is recorded", error)
        return None


class OngoingCall:
    """A call that has left. Ends once, whoever says so first, in whatever thread.

    Args:
        asked: Gives what was asked, from a copy that nobody changes any more.
        reader: Reads the answer.
        inside: The boundary that this call has opened around others, where it has: those may have recorded
            the same answer already.
    """

    __slots__ = (
        *("__weakref__", "_boundary", "_chunk_at", "_first_at", "_once", "_span", "_started_at"),
        *("asked", "call", "has_left", "inside", "is_fetching", "meter", "operation", "reader", "retries"),
    )

    def __init__(
        self,
        meter: Recorder,
        call: Call,
        asked: Asked | None = None,
        reader: Reader | None = None,
        inside: nesting.Boundary | None = None,
    ) -> None:
        self._once = Lock()
        self.meter = meter
        self.call = call
        self.asked = asked
        self.reader: Reader = reader if reader is not None else StreamReader(call.provider, call.model)
        self.inside = inside
        self.retries: Callable[[], int] | None = None
        self.operation = "chat"
        """As OpenTelemetry's conventions name it."""
        self.is_fetching = False
        """Whether somebody waits for a chunk now: who closes the response then is the stream itself."""
        self.has_left = True
        """False for a generator that nobody has begun to read: one that is forgotten then was no call."""
        self._span = _current_span()
        self._started_at = time.monotonic()
        self._chunk_at: float | None = None
        self._first_at: float | None = None
        self._boundary = inside.parent if inside is not None else nesting.current()
        if self._boundary is not None:
            self._boundary.opened(self)
        _remember(self)

    @property
    def is_over(self) -> bool:
        """Whether it has been recorded, or left to others."""
        return self._once.locked()

    @property
    def lacks_usage(self) -> bool:
        """Whether the end of the answer was seen, and what it used was not told."""
        usages, _, is_complete = self._so_far() if self.reader.is_complete else ((), "", False)
        return is_complete and any(leg.output_tokens is None for leg in usages)

    def leave(self) -> None:
        """The request leaves now, and not when the call was made."""
        self.has_left = True
        self._started_at = time.monotonic()
        self.call = replace(self.call, started_ms=time.time_ns() // 1_000_000)

    def began(self) -> None:
        """The first of an answer that is kept unread has come."""
        self._chunk_at = time.monotonic()

    def chunk(self, item: object) -> None:
        """One chunk has come. Never raises."""
        if self._once.locked():
            return
        at = time.monotonic() if self._first_at is None else 0.0
        if self._chunk_at is None:
            self._chunk_at = at
        try:
            self.reader.feed(item)
            if self._first_at is None and self.reader.output_chars:
                self._first_at = at
        except Exception as error:  # noqa: BLE001  # a caller must not notice
            note("response_unread", "a chunk of a stream could not be read", error)

    def answered(self, answer: object) -> None:
        """The whole answer is there, at once."""
        try:
            self.reader.feed(answer)
        except Exception as error:  # noqa: BLE001  # a caller must not notice
            note("response_unread", "an answer could not be read", error)
        usages, text, _ = self._so_far()
        self.end(usages, text, "success")

    def used(self, usages: Sequence[Usage]) -> None:
        """The whole answer is there, and this is what it used, in the words of somebody who knows."""
        self.end(usages, "", "success")

    def stopped(self) -> None:
        """The stream is over: read to its end, or its reader has gone. Its own reader knows which."""
        if self._once.locked():
            return
        usages, text, is_complete = self._so_far() if self.reader.is_complete else ((), "", False)
        if is_complete:
            self.end(usages, text, "success")
        else:
            self.collected()

    def collected(self) -> None:
        """As `stopped`, in the middle, perhaps by the garbage collector, which comes amid whatever runs.

        That may hold the lock of the call's span, or of a logging handler. So nothing is read, told to the
        span or logged here.
        """
        if not self.has_left:
            self.forget()
            return
        self._span = None
        self.end(partial(_told, self.reader), "", "success")

    def failed(self, error: BaseException) -> None:
        """It raised. A caller who goes away is no failure of the call: the provider bills it."""
        if self._once.locked():
            return
        if isinstance(error, GeneratorExit):
            self.collected()
            return
        if not isinstance(error, Exception) or isinstance(error, asyncio.CancelledError):
            self.stopped()
            return
        told = {"error": type(error).__name__}
        code = status_code(error)
        if code is not None:
            told["http_status"] = str(code)
        usages, text, _ = self._so_far()
        if not usages and used_nothing(error, self.call.provider):
            self.end([Usage(input_tokens=0, output_tokens=0)], "", "error", told=told)
        else:
            self.end(usages, text, "error", is_cut=True, told=told)

    def usages_so_far(self) -> Sequence[Usage]:
        """What the answer has told by now; if nothing, a usage with the model that was asked for."""
        # Of a body that is kept unread nothing is known, and somebody else may be about to read it.
        told = self._so_far()[0] if isinstance(self.reader, StreamReader) else ()
        return told or (Usage(model=self.call.model),)

    def _so_far(self) -> tuple[Sequence[Usage], str, bool]:
        try:
            return self.reader.usages(), self.reader.output_text, self.reader.is_complete
        except Exception as error:  # noqa: BLE001  # a caller must not notice
            note("response_unread", "what a stream had told could not be read", error)
            return (), "", False

    def end(
        self,
        usages: Sequence[Usage] | Told,
        output_text: str,
        status: Status,
        *,
        is_cut: bool = False,
        told: Mapping[str, str] = _NOTHING_TOLD,
    ) -> None:
        """Record the call, unless it has ended before, or somebody inside has recorded the same answer.

        Args:
            usages: Or what will tell them, in the meter's own thread.
            told: Further attributes of the event.
        """
        if not self._once.acquire(blocking=False):
            return
        try:
            self._record(usages, output_text, self._ending(status, is_cut=is_cut), told)
        except Exception as error:  # noqa: BLE001  # a caller must not notice
            note("not_recorded", "a call could not be recorded", error)

    def _ending(self, status: Status, *, is_cut: bool) -> Ending:
        now = time.monotonic()
        first_at = self._first_at if self._first_at is not None else self._chunk_at
        return Ending(
            latency_ms=_ms(now - self._started_at),
            status=status,
            first_token_latency_ms=None if first_at is None else _ms(first_at - self._started_at),
            is_cut=is_cut,
        )

    def _record(
        self, usages: Sequence[Usage] | Told, output_text: str, ending: Ending, told: Mapping[str, str]
    ) -> None:
        boundary, inside = self._boundary, self.inside
        if inside is not None and not callable(usages) and inside.is_unread:
            usages = partial(_as_it_is, tuple(usages), output_text, is_complete=not ending.is_cut)
        if inside is not None and not callable(usages) and inside.covers(usages):
            note("already_metered", "an answer was metered by a client inside; it is recorded once")
            if boundary is not None:
                boundary.ended(self, None)
            return
        call = self.call
        if self.retries is not None:
            call = replace(call, retry_count=self.retries())
        if told:
            call = replace(call, attributes={**call.attributes, **told})
        if callable(usages):
            later, size = Later(usages), self._size_bytes()
            seen = Seen(call, (), ending, self.asked, "", later=later, inside=inside, size_bytes=size)
        else:
            legs = tuple(usages) or (Usage(),)
            if is_told(legs, call.model):
                seen = Seen(call, legs, ending, None, "")
            else:
                seen = Seen(call, legs, ending, self.asked, output_text, size_bytes=self._size_bytes())
        observe(self.meter, seen, self._span, self.operation)
        if boundary is not None:
            boundary.ended(self, seen.later or seen.usages)

    def _size_bytes(self) -> int:
        """About how much is held of the answer and of what was asked."""
        try:
            return self.reader.size_bytes + int(getattr(self.asked, "size_bytes", 0))
        except Exception:  # noqa: BLE001  # an application changes what it asked
            return 0

    def forget(self) -> None:
        """It turned out to be no call to be recorded."""
        if self._once.acquire(blocking=False) and self._boundary is not None:
            self._boundary.ended(self, None)

    def __del__(self) -> None:
        _open.pop(id(self), None)
        if not self._once.locked():
            self.collected()


def _as_it_is(usages: Sequence[Usage], text: str, *, is_complete: bool) -> tuple[Sequence[Usage], str, bool]:
    return usages, text, is_complete


def _told(reader: Reader) -> tuple[list[Usage], str, bool]:
    return reader.usages(), reader.output_text, reader.is_complete


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


_open: dict[int, weakref.ref[OngoingCall]] = {}
_is_prepared = Lock()

_EXIT_PRIORITY = 10
"""Before a meter closes, whose finalizer has 0."""


def _remember(call: OngoingCall) -> None:
    if _is_prepared.acquire(blocking=False):
        _end_in_order()
    _open[id(call)] = weakref.ref(call)


def _end_in_order() -> None:
    """At the end of the process, before the meters: these register sooner."""
    atexit.unregister(end_open_calls)
    atexit.register(end_open_calls)
    # A forked child of multiprocessing ends without `atexit`, but not without its own finalizers.
    process, util = (sys.modules.get(f"multiprocessing.{name}") for name in ("process", "util"))
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, end_open_calls, exitpriority=_EXIT_PRIORITY)


def _still_open() -> list[OngoingCall]:
    # A dictionary's values are copied in one step: others begin and end calls meanwhile.
    return [call for found in list(_open.values()) if (call := found()) is not None]


def end_open_calls() -> None:
    """Record what is still open, as cut. A meter does so before it closes at the end of the process."""
    for call in _still_open():
        call.stopped()


def _leave_to_the_parent() -> None:
    """In a child after a fork: the calls that were open are the parent's, which records them itself."""
    global _is_prepared  # noqa: PLW0603  # the child ends in its own way
    _is_prepared = Lock()
    for call in _still_open():
        call.forget()


os.register_at_fork(after_in_child=_leave_to_the_parent)
