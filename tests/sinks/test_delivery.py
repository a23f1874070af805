"""Delivery: what reaches whom, how often, when and in which order."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest
from standardwebhooks import Webhook

from sinks.delivery import Deliverer, EndpointCounters, RetrySchedule
from sinks.outbox import GivenUpDelivery, Outbox, OutboxCounts
from tests.sinks.delivering import (
    PATIENCE_SECONDS,
    SECRET,
    Clock,
    Local,
    eventually,
    messages,
    put,
    wall_clock_ms,
    webhook,
)
from tests.sinks.receiver import Answer, Received, Receiver, closed_port, receiving


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
