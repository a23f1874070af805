"""Alerts to deliver, endpoints to deliver them to, and the clock they are delivered by."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from pricing.cap import CapAlert
from sinks.delivery import Deliverer, Outcome, RetrySchedule
from sinks.outbox import Outbox, OutboxMessage
from sinks.webhook import Secret, WebhookEndpoint, WebhookSender, alert_message

SECRET = "whsec_" + base64.b64encode(b"a secret of 24 bytes....").decode()
AT_ONCE = RetrySchedule((0,) * 10)
PATIENCE_SECONDS = 20.0  # how long a test waits for what must happen; never how long it takes


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def alert(number: int) -> CapAlert:
    return CapAlert(
        alert_id=f"alert_{number:04d}",
        tenant_id=f"tenant-{number}",
        feature_id="",
        window_kind="day",
        window_start_ms=0,
        window_end_ms=86_400_000,
        cap=Decimal(50),
        threshold=Decimal("0.8"),
        spend=Decimal("40.1"),
        crossing_key=f"key-{number}",
        raised_at_ms=1_000,
    )


def messages(count: int) -> list[OutboxMessage]:
    return [alert_message(alert(number), None) for number in range(count)]


def webhook(
    name: str, url: str, schedule: RetrySchedule = AT_ONCE, timeout_seconds: float = PATIENCE_SECONDS
) -> WebhookSender:
    endpoint = WebhookEndpoint(name, url, (Secret.parse(SECRET),), allow_private=True)
    return WebhookSender(endpoint, schedule=schedule, timeout_seconds=timeout_seconds)


@dataclass
class Local:
    """An endpoint in the process: answers what it is told to and keeps what it got."""

    name: str = "local"
    schedule: RetrySchedule = AT_ONCE
    max_in_flight: int = 4
    answer: Callable[[OutboxMessage], Outcome] = lambda _: Outcome("delivered")
    got: list[str] = field(default_factory=list)
    closed: bool = False

    def deliver(self, message: OutboxMessage, now_ms: int) -> Outcome:  # noqa: ARG002 - the protocol's
        self.got.append(message.id)
        return self.answer(message)

    def close(self) -> None:
        self.closed = True


@dataclass
class Clock:
    now_ms: int = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


def put(outbox: Outbox, deliverer: Deliverer, count: int) -> None:
    outbox.put(messages(count), deliverer.endpoint_names)
    deliverer.notify()


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()
