"""Delivery: what reaches whom, how often and when, whatever endpoints, the outbox and the process do."""

from __future__ import annotations

import base64
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from pricing.cap import CapAlert
from sinks import outbox as outbox_module
from sinks.delivery import (
    DEFAULT_SCHEDULE,
    RETRY_AFTER_MS_MAX,
    Deliverer,
    EndpointCounters,
    Outcome,
    RetrySchedule,
)
from sinks.outbox import GivenUpDelivery, Outbox, OutboxCounts, OutboxError, OutboxMessage
from sinks.outbox_file import open_outbox_file
from sinks.webhook import Secret, WebhookEndpoint, WebhookSender, alert_message
from tests.sinks.receiver import Answer, Received, Receiver, closed_port, receiving

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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite3"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    outbox = Outbox.open(path)
    yield outbox
    outbox.close()


@pytest.fixture
def deliver(outbox: Outbox) -> Iterator[Callable[..., Deliverer]]:
    """Starts deliverers over the test's outbox and stops them before it is closed."""
    running: list[Deliverer] = []

    def start(
        *endpoints: WebhookSender | Local, now_ms: Callable[[], int] = wall_clock_ms, over: Outbox = outbox
    ) -> Deliverer:
        deliverer = Deliverer(over, endpoints, now_ms=now_ms, random_fraction=lambda: 0.5)
        running.append(deliverer)
        deliverer.start()
        return deliverer

    yield start
    for deliverer in running:
        assert deliverer.stop(PATIENCE_SECONDS)


def put(outbox: Outbox, deliverer: Deliverer, count: int) -> None:
    outbox.put(messages(count), deliverer.endpoint_names)
    deliverer.notify()


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_a_receiver_that_fails_five_times_gets_every_alert_with_one_id(
    outbox: Outbox, deliver: Callable[..., Deliverer]
) -> None:
    attempts: Counter[str] = Counter()
    lock = threading.Lock()

    def five_times_500(request: Received) -> Answer:
        with lock:
            attempts[request.message_id] += 1
            return Answer(500 if attempts[request.message_id] <= 5 else 200)

    with receiving(five_times_500) as receiver:
        deliverer = deliver(webhook("ops", receiver.url, RetrySchedule((0, 1, 2, 3, 4, 5, 6))))
        put(outbox, deliverer, 5)
        assert eventually(lambda: outbox.counts().delivered == 5)

    assert Counter(receiver.ids) == {message.id: 6 for message in messages(5)}
    for request in receiver.received:
        data = Webhook(SECRET).verify(request.body, dict(request.headers))["data"]
        assert data["alert_id"] == request.message_id
    assert deliverer.counters() == {"ops": EndpointCounters(delivered=5, failed=25, given_up=0)}
    assert sorted(id_ for id_, _ in outbox.unrecorded_deliveries(9)) == [
        message.id for message in messages(5)
    ]


def test_neither_a_dead_nor_a_slow_receiver_holds_up_the_others(
    outbox: Outbox, deliver: Callable[..., Deliverer]
) -> None:
    released = threading.Event()

    def slowly(_: Received) -> Answer:
        released.wait(PATIENCE_SECONDS)
        return Answer()

    with receiving(slowly) as slow, receiving() as healthy:
        deliverer = deliver(
            webhook("dead", f"http://127.0.0.1:{closed_port()}/", RetrySchedule((0, 86_400_000))),
            webhook("slow", slow.url),
            webhook("healthy", healthy.url),
        )
        put(outbox, deliverer, 20)
        # Every alert arrives while the slow receiver has answered nothing at all.
        assert eventually(lambda: deliverer.counters()["healthy"].delivered == 20)
        assert deliverer.counters()["slow"] == EndpointCounters()
        # `put` is not held up either: its messages are there at once.
        outbox.put(messages(21), deliverer.endpoint_names)
        assert not deliverer.drain(0.01)

        released.set()
        assert deliverer.drain(PATIENCE_SECONDS)

    assert Counter(healthy.ids) == Counter(slow.ids) == Counter(message.id for message in messages(21))
    assert deliverer.counters()["dead"].failed == 21
    assert outbox.counts() == OutboxCounts(pending=21, delivered=42, given_up=0, disabled_endpoints=0)


def test_at_most_four_requests_are_in_flight_at_one_receiver_and_all_four_are_used(
    outbox: Outbox, deliver: Callable[..., Deliverer]
) -> None:
    four_at_once = threading.Barrier(4, timeout=PATIENCE_SECONDS)
    lock = threading.Lock()
    inside = most = 0

    def meet(_: Received) -> Answer:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        four_at_once.wait()
        with lock:
            inside -= 1
        return Answer()

    with receiving(meet) as receiver:
        deliverer = deliver(webhook("ops", receiver.url))
        put(outbox, deliverer, 12)
        assert deliverer.drain(PATIENCE_SECONDS)
    assert most == 4
    assert len(receiver.received) == 12


def test_without_failures_every_message_is_sent_exactly_once(
    outbox: Outbox, deliver: Callable[..., Deliverer]
) -> None:
    local = Local()
    deliverer = deliver(local)
    for count in range(0, 200, 20):
        put(outbox, deliverer, count + 20)
    assert deliverer.drain(PATIENCE_SECONDS)
    assert sorted(local.got) == [message.id for message in messages(200)]


def test_an_endpoint_with_one_in_flight_gets_messages_in_the_order_in_which_they_were_put(
    outbox: Outbox, deliver: Callable[..., Deliverer]
) -> None:
    local = Local(max_in_flight=1)
    put(outbox, deliver(local), 50)
    assert eventually(lambda: len(local.got) == 50)
    assert local.got == [message.id for message in messages(50)]


def test_410_disables_the_endpoint_and_keeps_its_alerts(
    outbox: Outbox, deliver: Callable[..., Deliverer]
) -> None:
    with receiving(lambda _: Answer(410)) as receiver:
        deliverer = deliver(webhook("ops", receiver.url))
        put(outbox, deliverer, 1)
        assert deliverer.drain(PATIENCE_SECONDS)
        put(outbox, deliverer, 3)
        assert deliverer.drain(PATIENCE_SECONDS)

        assert receiver.ids == ["alert_0000"]
        assert outbox.counts() == OutboxCounts(pending=0, delivered=0, given_up=3, disabled_endpoints=1)
        assert deliverer.counters() == {"ops": EndpointCounters(delivered=0, failed=1, given_up=1)}

        receiver.answer = lambda _: Answer()
        outbox.enable_endpoint("ops")
        assert outbox.retry_given_up() == 3
        assert deliverer.drain(PATIENCE_SECONDS)
    assert sorted(receiver.ids[1:]) == [message.id for message in messages(3)]


def test_after_the_last_attempt_an_alert_is_given_up_and_listed(
    outbox: Outbox, deliver: Callable[..., Deliverer], caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(lambda _: Answer(503)) as receiver:
        clock = Clock()
        deliverer = deliver(webhook("ops", receiver.url, RetrySchedule((0, 0, 0))), now_ms=clock)
        put(outbox, deliverer, 1)
        assert deliverer.drain(PATIENCE_SECONDS)

    assert receiver.ids == ["alert_0000"] * 3
    assert outbox.given_up(9) == [GivenUpDelivery("alert_0000", "ops", 3, clock.now_ms, "HTTP 503")]
    assert "Alert alert_0000 did not reach ops at attempt 3 (HTTP 503); given up." in caplog.messages


def test_the_wait_that_a_receiver_asks_for_is_granted(
    outbox: Outbox, deliver: Callable[..., Deliverer]
) -> None:
    clock = Clock()
    with receiving(lambda _: Answer(429, {"Retry-After": "30"})) as receiver:
        deliverer = deliver(webhook("ops", receiver.url, RetrySchedule((0, 5_000))), now_ms=clock)
        put(outbox, deliverer, 1)
        assert deliverer.drain(PATIENCE_SECONDS)
        receiver.answer = lambda _: Answer()

        clock.now_ms += 29_999
        assert deliverer.drain(PATIENCE_SECONDS)
        assert len(receiver.received) == 1
        clock.now_ms += 1
        assert deliverer.drain(PATIENCE_SECONDS)
        assert len(receiver.received) == 2


@pytest.mark.parametrize(
    ("attempts", "retry_after_ms", "random_fraction", "wait_ms"),
    [
        (1, None, 0.0, 5_000),
        (1, None, 0.5, 5_250),
        (2, None, 0.0, 300_000),
        (9, None, 0.0, 86_400_000),
        (9, None, 0.999, 95_031_360),
        (10, None, 0.0, None),
        (10, 1_000, 0.0, None),
        (1, 1_000, 0.0, 5_000),
        (1, 7_000, 0.0, 7_000),
        (1, 10**15, 0.0, RETRY_AFTER_MS_MAX),
    ],
)
def test_when_the_next_attempt_is_made(
    attempts: int, retry_after_ms: int | None, random_fraction: float, wait_ms: int | None
) -> None:
    next_ms = DEFAULT_SCHEDULE.next_attempt_ms(attempts, 1_000, retry_after_ms, random_fraction)
    assert next_ms == (None if wait_ms is None else 1_000 + wait_ms)


@given(
    delays=st.lists(st.integers(0, 10**8), min_size=1, max_size=12).map(tuple),
    jitter=st.floats(0, 1),
    random_fraction=st.floats(0, 1, exclude_max=True),
    retry_after_ms=st.none() | st.integers(0, 10**12),
)
def test_every_schedule_ends_and_never_tries_early(
    delays: tuple[int, ...], jitter: float, random_fraction: float, retry_after_ms: int | None
) -> None:
    schedule = RetrySchedule(delays, jitter)
    now_ms, attempts = 1_000, 1
    while True:
        next_ms = schedule.next_attempt_ms(attempts, now_ms, retry_after_ms, random_fraction)
        if next_ms is None:
            break
        assert delays[attempts] <= next_ms - now_ms <= max(2 * delays[attempts], RETRY_AFTER_MS_MAX)
        assert next_ms - now_ms >= min(retry_after_ms or 0, RETRY_AFTER_MS_MAX)
        now_ms, attempts = next_ms, attempts + 1
    assert attempts == len(delays)


@pytest.mark.parametrize("seconds", [[], [Decimal(-1)], [Decimal(0), Decimal("-0.5")]])
def test_a_schedule_needs_delays_that_are_not_negative(seconds: list[Decimal]) -> None:
    with pytest.raises(ValueError, match="A retry schedule needs at least one delay"):
        RetrySchedule.from_seconds(seconds)


def test_a_schedule_from_the_settings_is_in_seconds() -> None:
    assert RetrySchedule.from_seconds([Decimal(0), Decimal("0.25")]).delays_ms == (0, 250)


def test_what_was_put_before_a_crash_is_delivered_after_it(
    path: Path, deliver: Callable[..., Deliverer]
) -> None:
    before = Outbox.open(path)
    before.put(messages(3), ["ops"])
    before.close()

    with receiving() as receiver:
        assert deliver(webhook("ops", receiver.url)).drain(PATIENCE_SECONDS)
    assert sorted(receiver.ids) == [message.id for message in messages(3)]


CHILD = """
import sys, time
from sinks.delivery import Deliverer, RetrySchedule
from sinks.outbox import Outbox, OutboxMessage
from sinks.outbox_file import open_outbox_file
from sinks.webhook import Secret, WebhookEndpoint, WebhookSender

path, url, secret, when = sys.argv[1:]
outbox = Outbox.open(path)
sender = WebhookSender(WebhookEndpoint("ops", url, (Secret.parse(secret),), allow_private=True))
deliver = sender.deliver

def deliver_and_wait_for_the_kill(message, now_ms):
    outcome = deliver(message, now_ms)
    print(outcome.verdict, flush=True)
    time.sleep(600)

if when == "after the answer":
    sender.deliver = deliver_and_wait_for_the_kill
outbox.put([OutboxMessage("alert_killed", "cap.threshold_reached", 0, b'{"type":"t"}')], ["ops"])
deliverer = Deliverer(outbox, [sender], now_ms=lambda: 1_772_357_400_000, random_fraction=lambda: 0.0)
deliverer.start()
time.sleep(600)
"""


@pytest.mark.parametrize("when", ["before the answer", "after the answer"])
def test_a_kill_between_sending_and_recording_sends_again_with_the_same_id(
    path: Path, when: str, deliver: Callable[..., Deliverer], outbox: Outbox
) -> None:
    arrived, killed = threading.Event(), threading.Event()

    def answer(_: Received) -> Answer:
        arrived.set()
        if when == "before the answer":
            killed.wait(PATIENCE_SECONDS)
        return Answer()

    with receiving(answer) as receiver:
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), receiver.url, SECRET, when],
            cwd=Path(outbox_module.__file__).parents[1],
            stdout=subprocess.PIPE,
        ) as child:
            assert child.stdout is not None
            if when == "after the answer":
                assert child.stdout.readline() == b"delivered\n"
            assert arrived.wait(PATIENCE_SECONDS)
            child.kill()
            assert child.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        killed.set()
        assert outbox.counts().pending == 1

        assert deliver(webhook("ops", receiver.url)).drain(PATIENCE_SECONDS)

    assert receiver.ids == ["alert_killed", "alert_killed"]
    assert receiver.received[0].body == receiver.received[1].body
    assert [id_ for id_, _ in outbox.unrecorded_deliveries(9)] == ["alert_killed"]


class FullDisk(Outbox):
    """An outbox whose disk is full for the first few records of a delivery."""

    refusals = 2

    def record_delivered(self, message_id: str, endpoint: str, at_ms: int) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OutboxError("The alert outbox cannot be used: database or disk is full.")
        super().record_delivered(message_id, endpoint, at_ms)


def test_an_answer_that_could_not_be_recorded_is_recorded_later_and_not_asked_for_again(
    path: Path, caplog: pytest.LogCaptureFixture, deliver: Callable[..., Deliverer]
) -> None:
    full = FullDisk(path, open_outbox_file(path))
    local = Local(max_in_flight=1)
    deliverer = deliver(local, over=full)
    put(full, deliverer, 2)
    assert eventually(lambda: not full.refusals)
    assert deliverer.drain(PATIENCE_SECONDS)

    assert local.got == ["alert_0000", "alert_0001"]
    assert full.counts().delivered == 2
    assert "Delivery to local is held up: The alert outbox cannot be used: database or disk is full." in (
        caplog.messages
    )
    assert deliverer.stop(PATIENCE_SECONDS)
    full.close()


def test_an_endpoint_that_raises_has_failed_and_its_words_are_not_repeated(
    outbox: Outbox, deliver: Callable[..., Deliverer], caplog: pytest.LogCaptureFixture
) -> None:
    def explode(_: OutboxMessage) -> Outcome:
        raise RuntimeError("https://me:hunter2@hooks.example.com")

    deliverer = deliver(Local(answer=explode, schedule=RetrySchedule((0, 0))))
    put(outbox, deliverer, 1)
    assert deliverer.drain(PATIENCE_SECONDS)
    assert [given.reason for given in outbox.given_up(9)] == ["unforeseen RuntimeError"]
    assert "hunter2" not in caplog.text


def test_nothing_of_a_broken_outbox_is_raised_into_the_caller(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox.open(path)
    deliverer = Deliverer(outbox, [Local()], now_ms=wall_clock_ms, random_fraction=lambda: 0.0)
    outbox.close()
    deliverer.start()
    deliverer.notify()
    assert not deliverer.drain(0.01)
    assert deliverer.stop(PATIENCE_SECONDS)
    assert f"The alert outbox {path} cannot be used" in caplog.text


def test_stopping_waits_for_what_is_in_flight_only_as_long_as_it_may(outbox: Outbox) -> None:
    released = threading.Event()

    def slowly(_: OutboxMessage) -> Outcome:
        released.wait(PATIENCE_SECONDS)
        return Outcome("delivered")

    local = Local(answer=slowly, max_in_flight=1)
    deliverer = Deliverer(outbox, [local], now_ms=wall_clock_ms, random_fraction=lambda: 0.0)
    deliverer.start()
    put(outbox, deliverer, 2)
    assert eventually(lambda: local.got == ["alert_0000"])

    assert not deliverer.stop(0.01)
    assert not local.closed
    released.set()
    assert deliverer.stop(PATIENCE_SECONDS)
    assert local.closed
    deliverer.start()  # stopped is stopped
    assert not deliverer.drain(0.01)
    assert outbox.counts() == OutboxCounts(pending=1, delivered=1, given_up=0, disabled_endpoints=0)
    assert local.got == ["alert_0000"]


def test_alerts_for_endpoints_that_left_the_configuration_are_given_up_at_the_start(
    outbox: Outbox, deliver: Callable[..., Deliverer]
) -> None:
    outbox.put(messages(2), ["left", "local"])
    deliver(Local())
    assert eventually(lambda: len(outbox.given_up(9)) == 2)
    assert eventually(lambda: outbox.counts() == OutboxCounts(0, 2, 2, 0))
    assert {given.endpoint for given in outbox.given_up(9)} == {"left"}


def test_an_idle_deliverer_without_endpoints_is_drained(deliver: Callable[..., Deliverer]) -> None:
    assert deliver().drain(0)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["ops", "ops"], "Two alert endpoints have the same name"),
        ([f"endpoint-{number}" for number in range(33)], "There are 33 alert endpoints; at most 32"),
    ],
)
def test_endpoints_have_names_of_their_own_and_are_few(
    outbox: Outbox, names: list[str], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        Deliverer(outbox, [Local(name) for name in names], now_ms=wall_clock_ms, random_fraction=lambda: 0.0)


def test_a_real_receiver_is_reached_over_many_connections(
    outbox: Outbox, deliver: Callable[..., Deliverer]
) -> None:
    receivers = [Receiver(lambda _: Answer()) for _ in range(3)]
    deliverer = deliver(*(webhook(f"r{number}", receiver.url) for number, receiver in enumerate(receivers)))
    put(outbox, deliverer, 30)
    assert deliverer.drain(PATIENCE_SECONDS)
    for receiver in receivers:
        receiver.close()
        assert sorted(receiver.ids) == [message.id for message in messages(30)]
