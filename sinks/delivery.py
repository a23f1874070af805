"""Delivery: threads that carry messages from the outbox to every endpoint, beside the dataflow.

Every endpoint has its own workers, so that a slow or dead one holds up nobody else, and nothing here
holds the outbox's lock while it waits for an endpoint, so that `Outbox.put` never waits for one either.

Delivery: at least once. What an endpoint answered is recorded before the next message is taken; a crash
in between sends the message again, with the same id. When the outbox cannot be written, the answer is
held in memory and recorded later instead of being asked for again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal, Protocol

from sinks.outbox import Outbox, OutboxMessage, PendingDelivery

_log = logging.getLogger(__name__)

RETRY_AFTER_MS_MAX = 24 * 3_600_000
"""The longest wait that an endpoint may ask for, in milliseconds."""

ENDPOINTS_MAX = 32
"""Endpoints of one deliverer: with four workers each, at most 128 threads."""

_POLL_SECONDS = 1.0  # also finds what another process put, and retries whose time has come
_PRUNE_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt.

    `delivered`: the endpoint has the message. `failed`: `reason` says why, in words without secrets, and
    `retry_after_ms` is the wait that the endpoint asked for, if it did. `gone`: the endpoint wants no
    messages any more.
    """

    verdict: Literal["delivered", "failed", "gone"]
    reason: str = ""
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """When to try again: `delays_ms[n]` is the wait before attempt n + 1, counted from the one before.

    After the last delay a delivery is given up. Every wait is prolonged by up to the fraction `jitter` of
    itself, so that what failed together is not tried again all at once.
    """

    delays_ms: tuple[int, ...]
    jitter: float = 0.1

    @classmethod
    def from_seconds(cls, delays_seconds: Sequence[Decimal]) -> RetrySchedule:
        """The schedule of the settings; one delay for each attempt, the first usually 0.

        Raises:
            ValueError: there is no delay, or a negative one.
        """
        if not delays_seconds or min(delays_seconds) < 0:
            raise ValueError("A retry schedule needs at least one delay, and none may be negative.")
        return cls(tuple(int(delay * 1_000) for delay in delays_seconds))

    def next_attempt_ms(
        self, attempts: int, now_ms: int, retry_after_ms: int | None, random_fraction: float
    ) -> int | None:
        """When to try again after `attempts` attempts in vain, epoch ms; None gives up.

        The endpoint's own wish prolongs the wait, up to RETRY_AFTER_MS_MAX; `random_fraction` is in [0, 1).
        """
        if attempts >= len(self.delays_ms):
            return None
        delay_ms = self.delays_ms[attempts]
        delay_ms += int(delay_ms * self.jitter * random_fraction)
        return now_ms + max(delay_ms, min(retry_after_ms or 0, RETRY_AFTER_MS_MAX))


DEFAULT_SCHEDULE = RetrySchedule.from_seconds(
    [Decimal(seconds) for seconds in (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)]
)
"""Standard Webhooks' recommendation: ten attempts over 75 hours."""


class Endpoint(Protocol):
    """Somewhere that messages go.

    `deliver` waits for a bounded time and reports what happened instead of raising; it is called by up to
    `max_in_flight` threads at once. `close` is called when none of them runs any more.
    """

    @property
    def name(self) -> str:
        """What the outbox and the logs call it."""

    @property
    def schedule(self) -> RetrySchedule:
        """When a failed delivery is tried again."""

    @property
    def max_in_flight(self) -> int:
        """How many messages it takes at the same time."""

    def deliver(self, message: OutboxMessage, now_ms: int) -> Outcome:
        """One attempt to hand over one message; `now_ms` is the time of the attempt."""

    def close(self) -> None:
        """Let go of connections."""


@dataclass(frozen=True, slots=True)
class EndpointCounters:
    """What happened at one endpoint since the deliverer was made. `failed` counts attempts."""

    delivered: int = 0
    failed: int = 0
    given_up: int = 0


@dataclass(slots=True)
class _Lane:
    """One endpoint's traffic. `lock` guards the fields below it."""

    endpoint: Endpoint
    lock: threading.Lock = field(default_factory=threading.Lock)
    in_flight: set[str] = field(default_factory=set)
    answered: list[tuple[PendingDelivery, Outcome]] = field(default_factory=list)
    counters: EndpointCounters = EndpointCounters()


class Deliverer:
    """Carries what is due from the outbox to its endpoints until it is stopped.

    `now_ms` is the clock (epoch ms); `random_fraction` gives the jitter, in [0, 1). Nothing that happens
    at an endpoint or in the outbox is raised into the caller: it is logged, counted and tried again.

    Raises:
        ValueError: two endpoints share a name, or there are more than ENDPOINTS_MAX.
    """

    def __init__(
        self,
        outbox: Outbox,
        endpoints: Sequence[Endpoint],
        *,
        now_ms: Callable[[], int],
        random_fraction: Callable[[], float],
    ) -> None:
        names = [endpoint.name for endpoint in endpoints]
        if len(set(names)) < len(names):
            raise ValueError(f"Two alert endpoints have the same name: {', '.join(sorted(names))}.")
        if len(names) > ENDPOINTS_MAX:
            raise ValueError(f"There are {len(names)} alert endpoints; at most {ENDPOINTS_MAX} are served.")
        self._outbox = outbox
        self._now_ms = now_ms
        self._random_fraction = random_fraction
        self._lanes = [_Lane(endpoint) for endpoint in endpoints]
        self._threads: list[threading.Thread] = []
        # One lock, two conditions: workers wait for work, `drain` waits for the workers to run out of it.
        state = threading.Lock()
        self._wake = threading.Condition(state)
        self._idle = threading.Condition(state)
        self._wakeups = 0
        self._stopping = False

    @property
    def endpoint_names(self) -> tuple[str, ...]:
        """The names under which messages are put for these endpoints."""
        return tuple(lane.endpoint.name for lane in self._lanes)

    def start(self) -> None:
        """Start the threads; once started, or stopped, this does nothing."""
        if self._threads or self._stopping:
            return
        self._threads = [
            threading.Thread(
                target=self._work, args=(lane,), name=f"delivery-{lane.endpoint.name}", daemon=True
            )
            for lane in self._lanes
            for _ in range(lane.endpoint.max_in_flight)
        ]
        self._threads.append(threading.Thread(target=self._keep_house, name="delivery-house", daemon=True))
        for thread in self._threads:
            thread.start()

    def notify(self) -> None:
        """Something new is due: look now, not at the next poll."""
        with self._wake:
            self._wakeups += 1
            self._wake.notify_all()

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until nothing is due now, at most `timeout_seconds`; whether that came true.

        What failed and waits for its next attempt is not due.
        """
        deadline = time.monotonic() + timeout_seconds
        self.notify()
        while not self._nothing_due():
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not any(thread.is_alive() for thread in self._threads):
                return False
            with self._idle:
                self._idle.wait(min(remaining, 0.05))
        return True

    def stop(self, timeout_seconds: float) -> bool:
        """Take up nothing new and wait at most `timeout_seconds` for what is in flight.

        True: all threads have ended and the endpoints are closed. False: some attempt is still under way;
        its thread is a daemon, and what it delivers unrecorded is sent again at the next start.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return False
        for lane in self._lanes:
            lane.endpoint.close()
        return True

    def counters(self) -> dict[str, EndpointCounters]:
        """What happened at each endpoint, by name."""
        return {lane.endpoint.name: lane.counters for lane in self._lanes}

    def _nothing_due(self) -> bool:
        # What is in flight counts too: the outbox calls it due until its outcome is recorded.
        try:
            now_ms = self._now_ms()
            return not any(self._outbox.due(name, now_ms, 1) for name in self.endpoint_names)
        except Exception as error:  # noqa: BLE001 - an unreadable outbox is no reason to end the job
            _log.error("Whether alerts are still due cannot be told: %s", error)
            return False

    def _work(self, lane: _Lane) -> None:
        while True:
            with self._wake:
                if self._stopping:
                    return
                seen = self._wakeups
            try:
                found = self._deliver_one(lane)
            except Exception as error:  # noqa: BLE001 - a worker that ends would silence its endpoint
                _log.error("Delivery to %s is held up: %s", lane.endpoint.name, error)
                found = False
            if not found:
                self._await_work(seen)

    def _await_work(self, seen: int) -> None:
        """Wait for a wake-up that came after the `seen` first ones, or for the next poll."""
        with self._wake:
            self._idle.notify_all()
            self._wake.wait_for(lambda: self._stopping or self._wakeups != seen, _POLL_SECONDS)

    def _deliver_one(self, lane: _Lane) -> bool:
        """Take one due delivery and see it through; False when there was none to take."""
        self._record_answers(lane)
        delivery = self._claim(lane)
        if delivery is None:
            return False
        outcome = self._attempt(lane.endpoint, delivery)
        with lane.lock:
            lane.answered.append((delivery, outcome))
        self._record_answers(lane)
        return True

    def _claim(self, lane: _Lane) -> PendingDelivery | None:
        # The lock spans both looks: a delivery leaves `in_flight` only after the outbox knows its outcome.
        with lane.lock:
            due = self._outbox.due(lane.endpoint.name, self._now_ms(), len(lane.in_flight) + 1)
            for delivery in due:
                if delivery.message.id not in lane.in_flight:
                    lane.in_flight.add(delivery.message.id)
                    return delivery
        return None

    def _attempt(self, endpoint: Endpoint, delivery: PendingDelivery) -> Outcome:
        try:
            return endpoint.deliver(delivery.message, self._now_ms())
        except Exception as error:  # noqa: BLE001 - an endpoint's defect must not end its worker
            # Only the kind: the text of an unforeseen error might quote an address or a key.
            return Outcome("failed", f"unforeseen {type(error).__name__}")

    def _record_answers(self, lane: _Lane) -> None:
        """Write down what endpoints answered; raises OutboxError and keeps the rest when that fails."""
        with lane.lock:
            while lane.answered:
                delivery, outcome = lane.answered[0]
                self._record(lane, delivery, outcome)
                del lane.answered[0]
                lane.in_flight.discard(delivery.message.id)

    def _record(self, lane: _Lane, delivery: PendingDelivery, outcome: Outcome) -> None:
        name, message_id, counters = lane.endpoint.name, delivery.message.id, lane.counters
        now_ms = self._now_ms()
        if outcome.verdict == "delivered":
            self._outbox.record_delivered(message_id, name, now_ms)
            lane.counters = replace(counters, delivered=counters.delivered + 1)
            return
        if outcome.verdict == "gone":
            self._outbox.disable_endpoint(name, now_ms, outcome.reason)
            lane.counters = replace(counters, failed=counters.failed + 1, given_up=counters.given_up + 1)
            _log.error("Alert endpoint %s is disabled: %s.", name, outcome.reason)
            return
        next_attempt_ms = lane.endpoint.schedule.next_attempt_ms(
            delivery.attempts + 1, now_ms, outcome.retry_after_ms, self._random_fraction()
        )
        self._outbox.record_failed(message_id, name, now_ms, next_attempt_ms, outcome.reason)
        lane.counters = replace(
            counters,
            failed=counters.failed + 1,
            given_up=counters.given_up + (next_attempt_ms is None),
        )
        _log.warning(
            "Alert %s did not reach %s at attempt %d (%s); %s.",
            message_id,
            name,
            delivery.attempts + 1,
            outcome.reason,
            "given up" if next_attempt_ms is None else f"next attempt in {next_attempt_ms - now_ms} ms",
        )

    def _keep_house(self) -> None:
        try:
            retired = self._outbox.retire_unconfigured(self.endpoint_names, self._now_ms())
            if retired:
                _log.warning("Gave up %d alerts for endpoints that are no longer configured.", retired)
            for name, reason in self._outbox.disabled_endpoints().items():
                _log.warning("Alert endpoint %s is still disabled: %s.", name, reason)
        except Exception as error:  # noqa: BLE001 - as in `_work`
            _log.error("The alert outbox was not tidied: %s", error)
        while not self._stopping:
            try:
                self._outbox.prune(self._now_ms())
            except Exception as error:  # noqa: BLE001 - as in `_work`
                _log.error("The alert outbox was not pruned: %s", error)
            with self._wake:
                self._wake.wait_for(lambda: self._stopping, _PRUNE_SECONDS)
