"""The meter: what an application records events with.

    meter = Meter("kafka://localhost:9092/ai-metering-events", spool_dir="/var/lib/app/meterline")
    meter.record(event)

`record` puts the event into a queue and returns. A thread of its own, started by the first event in each
process, reads, packs and delivers (see `metering.sender` and `metering.delivery`). Nothing here waits for
anything but `flush` and `close`, which are asked to, and nothing raises into the caller but the constructor.

Bounds: `queue_events_max` events in the queue (and one for each thread that records at the very moment at
which it becomes full). Observations are taken only up to a length of `QUEUE_OBSERVED_MAX`, whatever stands in
it, and of `QUEUE_OBSERVED_BYTES_MAX` bytes. What does not fit is dropped, counted and logged.
"""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Protocol

from typing_extensions import Self

from metering.assembly import make_delivery
from metering.counts import MeterStats
from metering.destination import (
    EVENTS_ENV,
    SPOOL_DIR_ENV,
    KafkaSecurity,
    parse_destination,
    parse_spool_dir,
    security_from,
)
from metering.event import UsageEvent
from metering.queued import Mark
from metering.sender import Sender

QUEUE_EVENTS_MAX = 100_000
"""Half a second at the fastest that events are recorded, some 150 MB of dictionaries at the worst."""

QUEUE_OBSERVED_MAX = 10_000
"""At this length of the queue no more observations are taken: each may hold a prompt and an answer."""

QUEUE_OBSERVED_BYTES_MAX = 128 * 1024 * 1024
"""So much may the observations in the queue say that they hold (`Observed`): of a gateway, each has a request
and the body of an answer, which are megabytes at the worst."""

SPOOL_BYTES_MAX = 2**30
"""Some two million events of an application that cannot reach its broker."""

SPOOL_AFTER_SECONDS = 1.0
FLUSH_SECONDS = 10.0
CLOSE_SECONDS = 5.0
"""How long `flush` and `close` wait by default; the end of the interpreter waits for `CLOSE_SECONDS` too."""

WAIT_SECONDS_MAX = 86_400.0
"""No caller is kept waiting for longer, whatever it asked for."""

ANSWER_SHARE = 0.8
"""Of the time that a caller waits: by then the sender gives up, and uses the rest to put things away."""


MARKS_MAX = 1_000
"""So many calls of `flush` may stand in a queue that is full; more are told False at once."""


class Observed(Protocol):
    """One observed call; its events are asked for in the sender's thread, where counting harms nobody.

    Where it holds much, an attribute `size_bytes` says how much.
    """

    def events(self) -> Iterable[Mapping[str, object]]:
        """The events that it comes to, with the same keys whenever it is asked; none for a repeat."""
        ...


class Meter:
    """Records usage events and delivers them.

    Args:
        destination: `kafka://host:port[,host:port]/topic` or `file:///abs/path/events.jsonl`.
        spool_dir: Where events wait on disk while the destination takes none. Without one they wait in
            memory, and do not outlive the process.
        security: The credentials for Kafka.
        queue_events_max: Bound of the queue.
        spool_bytes_max: Bound of this process's spool.
        spool_after_seconds: How long an event may wait for its acknowledgement in memory.

    Raises:
        ValueError: where events go, or a bound, cannot be used; nothing else ever raises.
    """

    def __init__(
        self,
        destination: str,
        *,
        spool_dir: str | os.PathLike[str] | None = None,
        security: KafkaSecurity | None = None,
        queue_events_max: int = QUEUE_EVENTS_MAX,
        spool_bytes_max: int = SPOOL_BYTES_MAX,
        spool_after_seconds: float = SPOOL_AFTER_SECONDS,
    ) -> None:
        _check_bounds(queue_events_max, spool_bytes_max, spool_after_seconds)
        where = parse_destination(destination, KafkaSecurity() if security is None else security)
        spool = parse_spool_dir(spool_dir)
        self._make_delivery = partial(make_delivery, where, spool, spool_bytes_max, spool_after_seconds)
        self._name = where.name
        self._queue_events_max = queue_events_max
        self._queue_observed_max = min(queue_events_max, QUEUE_OBSERVED_MAX)
        self._sender = Sender(self._make_delivery, self._began)
        _METERS.add(self)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Meter:
        """As METERLINE_EVENTS, METERLINE_SPOOL_DIR and METERLINE_KAFKA_… say (`metering.destination`).

        Raises:
            ValueError: METERLINE_EVENTS is missing, or one of them cannot be used.
        """
        found = os.environ if environment is None else environment
        if not found.get(EVENTS_ENV):
            raise ValueError(f"{EVENTS_ENV} does not say where events go: kafka://host:port/topic")
        return cls(
            found[EVENTS_ENV], spool_dir=found.get(SPOOL_DIR_ENV) or None, security=security_from(found)
        )

    def __repr__(self) -> str:
        return f"Meter({self._name!r})"

    def record(self, event: UsageEvent | Mapping[str, object] | Observed) -> None:
        """Take an event, or an observation of which the sender asks the events.

        A dictionary is copied, so that what becomes of it later does not matter. Never raises and never
        waits: what cannot be taken is dropped and counted (`MeterStats`).
        """
        # No code of the event's own is run here, as `isinstance` and `getattr` would: it might raise what an
        # `except Exception` lets through, and all that is caught here may be the application's own Ctrl-C.
        try:
            sender = self._sender
            queue = sender.queue
            is_plain = type(event) is dict
            is_small = is_plain or type(event) is UsageEvent
            bound = self._queue_events_max if is_small else self._queue_observed_max
            if len(queue) >= bound or not sender.is_open:
                sender.refuse("queue_full" if sender.is_open else "closed")
                return
            if not is_small and (size := _size_bytes(event)) > 0:
                if not sender.place_weighed(event, size, QUEUE_OBSERVED_BYTES_MAX):
                    return
            else:
                queue.append(_copy(event) if is_plain else event)
            if sender.is_idle:
                sender.wake()
        except Exception:  # noqa: BLE001  # not in the caller's request
            self._sender.refuse("not_serialisable")

    def start(self) -> None:
        """Begin to send what earlier processes left in the spool, before the first event comes."""
        self._sender.wake()

    def flush(self, timeout_seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until all that was recorded before is acknowledged or fsynced in the spool.

        `stats` says how much of which. Without a spool that fails while the destination is away.

        Args:
            timeout_seconds: From 0 to a day (`WAIT_SECONDS_MAX`), and cut to that; the default stands for
                what is no number.

        Returns:
            Whether it is so; False after `timeout_seconds`.
        """
        wait_seconds = _seconds(timeout_seconds, FLUSH_SECONDS)
        told: SimpleQueue[bool] = SimpleQueue()
        self._mark(told.put, wait_seconds, is_last=False)
        return _answer(told, wait_seconds)

    def close(self, timeout_seconds: float = CLOSE_SECONDS) -> bool:
        """Take no more events, deliver or spool what there is, and end the sender.

        Without a spool, what the destination has not acknowledged by then is dropped, and counted. A second
        call does nothing.

        Args:
            timeout_seconds: As `flush` takes it.

        Returns:
            Whether all is acknowledged or in the spool.
        """
        wait_seconds = _seconds(timeout_seconds, CLOSE_SECONDS)
        told: SimpleQueue[bool] = SimpleQueue()
        self._mark(told.put, wait_seconds, is_last=True)
        return _answer(told, wait_seconds)

    async def aflush(self, timeout_seconds: float = FLUSH_SECONDS) -> bool:
        """`flush`, without blocking asyncio's loop."""
        return await self._amark(_seconds(timeout_seconds, FLUSH_SECONDS), is_last=False)

    async def aclose(self, timeout_seconds: float = CLOSE_SECONDS) -> bool:
        """`close`, without blocking asyncio's loop."""
        return await self._amark(_seconds(timeout_seconds, CLOSE_SECONDS), is_last=True)

    def stats(self) -> MeterStats:
        """What has become of all events."""
        return self._sender.stats()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _mark(self, answer: Callable[[bool], None], wait_seconds: float, *, is_last: bool) -> None:
        sender = self._sender
        if is_last:
            sender.is_open = False
        if len(sender.queue) >= self._queue_events_max + MARKS_MAX:
            answer(False)  # noqa: FBT003  # what a mark answers
            return
        sender.place(Mark(answer, time.monotonic() + wait_seconds * ANSWER_SHARE, is_last))

    async def _amark(self, wait_seconds: float, *, is_last: bool) -> bool:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[bool] = loop.create_future()

        def settle(is_secure: bool) -> None:  # noqa: FBT001  # what a mark answers
            if not told.done():
                told.set_result(is_secure)

        def tell(is_secure: bool) -> None:  # noqa: FBT001  # as above
            loop.call_soon_threadsafe(settle, is_secure)

        self._mark(tell, wait_seconds, is_last=is_last)
        try:
            return await asyncio.wait_for(told, wait_seconds)
        except asyncio.TimeoutError:
            return False

    def _began(self) -> None:
        # Being a method of this meter's keeps it alive as long as its sender is, for the end to find it.
        _end_in_order()

    def _become_the_childs(self) -> None:
        """After a fork: a queue, a thread, a client and a spool of its own."""
        parents, self._sender = self._sender, Sender(self._make_delivery, self._began)
        self._sender.is_open = parents.is_open
        parents.abandon()


def _check_bounds(queue_events_max: object, spool_bytes_max: object, spool_after_seconds: object) -> None:
    for name, bound in (("queue_events_max", queue_events_max), ("spool_bytes_max", spool_bytes_max)):
        if not isinstance(bound, int) or isinstance(bound, bool) or bound < 1:
            raise ValueError(f"a meter's {name} is a whole number greater than zero")
    seconds = spool_after_seconds
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 < seconds < math.inf:
        raise ValueError("a meter's spool_after_seconds is a number greater than zero, and not infinite")


def _size_bytes(observed: object) -> int:
    try:
        size: int = object.__getattribute__(observed, "size_bytes")
    except AttributeError:
        return 0
    return size


def _copy(event: Any) -> dict[str, object]:
    copied: dict[str, object] = event.copy()
    attributes = copied.get("attributes")
    if type(attributes) is dict:
        copied["attributes"] = attributes.copy()
    return copied


def _seconds(asked: object, usual: float) -> float:
    """How long to wait: what was asked, if it is a number, within bounds."""
    try:
        seconds = float(asked)  # type: ignore[arg-type]  # what is none raises
    except Exception:  # noqa: BLE001  # not in the caller's thread
        return usual
    return usual if math.isnan(seconds) else min(max(seconds, 0.0), WAIT_SECONDS_MAX)


def _answer(told: SimpleQueue[bool], wait_seconds: float) -> bool:
    try:
        return told.get(timeout=wait_seconds)
    except Empty:
        return False


_METERS: weakref.WeakSet[Meter] = weakref.WeakSet()


def _in_the_child() -> None:
    for meter in list(_METERS):
        meter._become_the_childs()  # noqa: SLF001  # of this module


def close_all(timeout_seconds: float = CLOSE_SECONDS) -> None:
    """Close every meter of this process, at its end."""
    deadline = time.monotonic() + timeout_seconds
    for meter in list(_METERS):
        meter.close(max(deadline - time.monotonic(), 0.1))


def _end_in_order() -> None:
    """A child of multiprocessing ends without `atexit`, but not without its own finalizers."""
    process, util = (sys.modules.get(f"multiprocessing.{name}") for name in ("process", "util"))
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, close_all, exitpriority=0)


os.register_at_fork(after_in_child=_in_the_child)
atexit.register(close_all)
