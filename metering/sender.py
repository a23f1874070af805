"""The sender: a thread that reads the queue, makes lines of events, and turns delivery.

It sleeps while there is nothing to do, and is woken by the first event; it then waits for `LINGER_SECONDS`,
so that events travel together. While the queue is short it rests after each slice, so that the application's
threads need not wait for the interpreter's lock. It ends with the process (a daemon thread), or with a last
mark.

Whatever goes wrong in it, a strange event's own code included, is caught and counted, and it goes on where it
was: events leave the queue one by one, and lines stay with it until delivery has them.

Bounds: `SLICE_EVENTS`, `SLICE_BYTES` and `SLICE_SECONDS` at a time, beside what delivery holds.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from metering.counts import Counts, MeterStats
from metering.delivery import Delivery
from metering.encode import Line, Unsendable, encode, encode_common
from metering.event import UsageEvent
from metering.message import pack
from metering.notices import Notices
from metering.queued import Mark, Weighed

SLICE_EVENTS = 1_000
SLICE_BYTES = 4 * 1024 * 1024
SLICE_SECONDS = 0.1
"""An observation may have its tokens to count: acknowledgements and those in `flush` wait no longer than this
and the one that is being counted."""
BREATH_EVENTS = 25
BREATH_SECONDS = 50e-6
"""While the queue is short, after so many events (0.1 ms) the interpreter's lock is let go for so long: a
sleep of no time at all would take it back before another thread had woken up."""
BACKLOG_EVENTS = 5_000
"""A queue of this length is not short: it is emptied without rests, in the share of time that threads get."""
LINGER_SECONDS = 0.02
PAUSE_SECONDS_MAX = 0.2
"""The longest rest while an acknowledgement or a disk is waited for."""
HURRY_SECONDS = 0.001
"""The first rest while somebody waits in `flush`; it doubles up to `LINGER_SECONDS`."""
IDLE_SECONDS = 30.0
FAILURE_SECONDS = 1.0
"""The rest after a failure of the sender itself, or of the attempt to start it."""


REFUSALS = {
    "queue_full": "the queue was full",
    "closed": "it was recorded after `close`",
    "not_serialisable": "looking at it raised",
}
"""Why an event does not get into the queue."""

MakeDelivery = Callable[[Counts, Callable[[str, int], None]], Delivery]
"""Called in the sender's thread, with the counts that it keeps and whom to tell of damage."""


class Sender:
    """One process's. `queue` and `is_idle` are public for `Meter.record`, which must not pay for a call."""

    def __init__(self, make_delivery: MakeDelivery, on_start: Callable[[], None]) -> None:
        self.queue: deque[Any] = deque()
        self.is_open = True
        self.is_idle = True
        self._make_delivery = make_delivery
        self._on_start = on_start
        self._counts = Counts()
        self._notices = Notices()
        self._refused: Counter[str] = Counter()
        self._refusing = threading.RLock()
        self._told: Counter[str] = Counter()
        self._recorded = 0
        self._observed_bytes = 0
        self._marked = 0  # marks in the queue; never fewer than there are
        self._wakeup = threading.Lock()
        self._wakeup.acquire()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._start_again_at = 0.0
        self._delivery: Delivery | None = None
        self._lines: list[tuple[bytes, bytes]] = []
        self._marks: list[Mark] = []
        self._last: Mark | None = None
        self._pause = LINGER_SECONDS
        self._is_over = False
        self._ended_well = True

    def refuse(self, reason: str) -> None:
        """Count an event that did not get into the queue."""
        with self._refusing:
            self._refused[reason] += 1

    def place_weighed(self, observed: object, size_bytes: int, bytes_max: int) -> bool:
        """Put an observation into the queue, where those in it hold no more than `bytes_max` with it."""
        with self._refusing:
            if self._observed_bytes + size_bytes > bytes_max:
                self._refused["queue_full"] += 1
                return False
            self._observed_bytes += size_bytes
        self.queue.append(Weighed(observed, size_bytes))
        return True

    def wake(self) -> None:
        """End the sender's rest, or start it. Never waits for it."""
        self.is_idle = False
        with suppress(RuntimeError):  # it is awake, or about to be
            self._wakeup.release()
        if self._thread is None and not self._is_over:
            self._start()

    def place(self, mark: Mark) -> None:
        """Put a mark behind all that was recorded, and see to it."""
        if mark.is_last and self._last is None:
            self._last = mark
        if mark.is_last and self._delivery is None and not self.queue:
            self._is_over = True  # nothing was ever recorded: nothing is begun for it
        with self._refusing:
            self._marked += 1
        self.queue.append(mark)
        if self._is_over:
            self._answer_the_late()
            return
        self.wake()
        if self._thread is None:
            self._work_here(mark.deadline)

    def stats(self) -> MeterStats:
        """The counts now. Each is exact; events on their way between two of them may be missing from both."""
        counts, delivery = self._counts, self._delivery
        dropped = Counter(counts.dropped)
        with self._refusing:
            refused = Counter(self._refused)
            taken = counts.taken  # before the queue, so that nothing is counted twice
            depth = max(len(self.queue) - self._marked, 0)
            if self._is_over:
                refused["closed"] += depth  # they slipped in while it closed
                depth = 0
            self._recorded = max(self._recorded, taken + depth + sum(refused.values()))
            recorded = self._recorded
        return MeterStats(
            recorded=recorded,
            delivered=counts.delivered,
            spooled=counts.spooled,
            replayed=counts.replayed,
            without_event=counts.without_event,
            waiting=depth + len(self._lines) + (0 if delivery is None else delivery.waiting_events),
            queue_depth=depth,
            spool_bytes=0 if delivery is None else delivery.spool_bytes,
            damaged_bytes=counts.damaged_bytes,
            invalid=dict(counts.invalid),
            dropped=dict(dropped + refused),
            failures=counts.failures,
            last_error=counts.last_error,
        )

    def abandon(self) -> None:
        """In a forked child: leave alone what is the parent's."""
        if self._delivery is not None:
            self._delivery.abandon()

    def _start(self) -> None:
        now = time.monotonic()
        if now < self._start_again_at:
            self.is_idle = True  # the next event asks again
            return
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="meterline", daemon=True)
                self._thread.start()
                self._on_start()
        except RuntimeError as exc:  # no more threads, or the interpreter is ending
            self._thread = None
            self.is_idle = True
            self._start_again_at = now + FAILURE_SECONDS
            self._fail(exc)
        finally:
            self._starting.release()

    def _run(self) -> None:
        try:
            while not self._is_over:
                try:
                    self._rest(moved=self._step())
                except BaseException as exc:  # noqa: BLE001  # nothing may end it but the end
                    self._fail(exc)
                    time.sleep(FAILURE_SECONDS)
        finally:
            self._thread = None
            self.is_idle = True

    def _work_here(self, deadline: float) -> None:
        """Do the sender's work in the caller's thread, where no thread can be started any more."""
        if not self._starting.acquire(blocking=False):
            return
        try:
            while (self._marks or self.queue) and not self._is_over and time.monotonic() < deadline:
                self._step_here()
                time.sleep(HURRY_SECONDS)
            if time.monotonic() >= deadline and not self._is_over:
                self._step_here()
        finally:
            self._starting.release()

    def _step_here(self) -> None:
        try:
            self._step()
        except Exception as exc:  # noqa: BLE001  # not in the caller's thread; what ends that one may
            self._fail(exc)

    def _fail(self, exc: BaseException) -> None:
        self._counts.failures += 1
        self._counts.last_error = f"the sender failed: {type(exc).__name__}"
        self._notices.tell("failure", self._counts.last_error, time.monotonic())

    def _step(self) -> bool:
        """One round; whether anything moved."""
        now = time.monotonic()
        delivery = self._delivery
        if delivery is None:
            delivery = self._delivery = self._make_delivery(self._counts, self._damaged)
        taken = self._take(delivery, now) if delivery.has_room else False
        spooled = self._counts.spooled
        moved = delivery.turn(now)
        if spooled := self._counts.spooled - spooled:
            why = self._counts.last_error or "they were late, or others wait there"
            self._notices.tell("events go to the spool", why, now, spooled)
        for kind, sentence, count in self._counts.to_tell:
            self._notices.tell(kind, sentence, now, count)
        self._counts.to_tell.clear()
        self._answer(delivery, now)
        if self._last is not None and now >= self._last.deadline and not self._is_over:
            self._end(delivery, now)  # its mark may stand behind events that nobody takes
        self._tell_refused(now)
        return taken or moved

    def _take(self, delivery: Delivery, now: float) -> bool:
        queue, lines, counts, key_of = self.queue, self._lines, self._counts, delivery.key_of
        mark: Mark | None = None
        size, until_breath = 0, BREATH_EVENTS
        while len(lines) < SLICE_EVENTS and size < SLICE_BYTES and queue:
            until_breath -= 1
            if not until_breath:
                until_breath = BREATH_EVENTS
                if len(queue) < BACKLOG_EVENTS:
                    time.sleep(BREATH_SECONDS)
            event = queue.popleft()
            if type(event) is Mark:
                mark = self._unmark(event)
                break
            data = encode_common(event)
            if data is not None:
                counts.taken += 1
                lines.append((key_of(event["tenant_id"]), data))
                size += len(data)
                continue
            if type(event) is Weighed:
                with self._refusing:
                    self._observed_bytes -= event.size_bytes
                event = event.observed
            for line in self._encode_all(event, now):
                lines.append((key_of(line.tenant_id), line.data))
                size += len(line.data)
            if time.monotonic() - now > SLICE_SECONDS:
                break
        any_taken = bool(lines) or mark is not None
        delivery.add(pack(lines))
        lines.clear()
        if mark is not None:
            mark.added = delivery.added
            self._marks.append(mark)
        return any_taken

    def _encode_all(self, recorded: Any, now: float) -> list[Line]:
        """The lines of an event, or of all that an observation comes to."""
        try:
            is_plain = isinstance(recorded, (Mapping, UsageEvent)) or not hasattr(recorded, "events")
            events = [recorded] if is_plain else list(recorded.events())
        except BaseException as exc:  # noqa: BLE001  # as in _encode
            self._counts.taken += 1
            self._drop("not_serialisable", f"reading an event raised {type(exc).__name__}", now)
            return []
        self._counts.without_event += not events
        self._counts.taken += max(len(events), 1)
        return [line for event in events if (line := self._encode(event, now)) is not None]

    def _encode(self, event: object, now: float) -> Line | None:
        try:
            line = encode(event)
        except Unsendable as exc:
            self._drop(exc.reason, str(exc), now)
            return None
        except BaseException as exc:  # noqa: BLE001  # an event's own code may raise anything
            self._drop("not_serialisable", f"reading an event raised {type(exc).__name__}", now)
            return None
        if line.invalid_reason:
            self._counts.invalid[line.invalid_reason] += 1
            self._notices.tell(f"invalid event, {line.invalid_reason}", line.detail, now)
        return line

    def _drop(self, reason: str, sentence: str, now: float) -> None:
        self._counts.dropped[reason] += 1
        self._counts.last_error = sentence
        self._notices.tell(f"event dropped, {reason}", sentence, now)

    def _damaged(self, sentence: str, length: int) -> None:
        self._counts.damaged_bytes += length
        self._counts.last_error = sentence
        self._notices.tell("spool damaged, kept aside", sentence, time.monotonic())

    def _tell_refused(self, now: float) -> None:
        with self._refusing:
            new = self._refused - self._told
            self._told = Counter(self._refused)
        for reason, count in new.items():
            sentence = REFUSALS[reason]
            if self._counts.last_error:
                sentence += f"; the latest trouble was: {self._counts.last_error}"
            self._notices.tell(f"event dropped, {reason}", sentence, now, count)

    def _answer(self, delivery: Delivery, now: float) -> None:
        for mark in list(self._marks):
            assert mark.added is not None
            is_secure = delivery.secure(mark.added, now)
            if not is_secure and now < mark.deadline:
                continue
            if mark in self._marks:
                self._marks.remove(mark)
            if mark.is_last and not self._is_over:
                is_secure = self._end(delivery, now) and is_secure
            with suppress(Exception):  # a loop that has been closed meanwhile
                mark.answer(is_secure)

    def _end(self, delivery: Delivery, now: float) -> bool:
        """Put what is left where it is safe, if that can be; whether it could."""
        while self.queue:
            self._take(delivery, now)
            delivery.turn(now)
        before = self._counts.dropped["undelivered"]
        delivery.give_up(now)
        lost = self._counts.dropped["undelivered"] - before
        if lost:
            self._notices.tell("event dropped, undelivered", self._counts.last_error, now, lost)
        with suppress(Exception):  # what is not let go of now goes with the process
            delivery.close(HURRY_SECONDS)
        self._ended_well = lost == 0
        self._is_over = True
        self._answer_the_late()
        return self._ended_well

    def _answer_the_late(self) -> None:
        """After the end: whoever still waits is told how it ended, and events that slipped in are counted."""
        late, self._marks = self._marks, []
        with suppress(IndexError):
            while True:
                found = self.queue.popleft()
                if type(found) is Mark:
                    late.append(self._unmark(found))
                else:
                    self.refuse("closed")
        for mark in late:
            with suppress(Exception):
                mark.answer(self._ended_well)

    def _unmark(self, mark: Mark) -> Mark:
        with self._refusing:
            self._marked -= 1
        return mark

    def _rest(self, *, moved: bool) -> None:
        if self._is_over:
            return
        delivery = self._delivery
        assert delivery is not None
        if delivery.has_room and len(self.queue) >= SLICE_EVENTS:
            if len(self.queue) < BACKLOG_EVENTS:
                time.sleep(BREATH_SECONDS)
            return
        if self._marks:
            self._pause = HURRY_SECONDS if moved else min(2 * self._pause, LINGER_SECONDS)
        else:
            self._pause = LINGER_SECONDS if moved else min(2 * self._pause, PAUSE_SECONDS_MAX)
        if delivery.is_idle and not self._marks:
            self.is_idle = True
            if not self.queue:
                self._wakeup.acquire(timeout=IDLE_SECONDS)
            self.is_idle = False
            self._pause = LINGER_SECONDS
            with suppress(IndexError):
                if type(self.queue[0]) is Mark:
                    return
        self._wakeup.acquire(timeout=self._pause)
