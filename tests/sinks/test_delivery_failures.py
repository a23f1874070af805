"""Delivery when the process, the disk or an endpoint fails, or when it is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sinks import outbox as outbox_module
from sinks.delivery import Deliverer, Outcome, RetrySchedule
from sinks.outbox import Outbox, OutboxCounts, OutboxError, OutboxMessage
from sinks.outbox_file import open_outbox_file
from tests.sinks.delivering import (
    PATIENCE_SECONDS,
    SECRET,
    Local,
    eventually,
    messages,
    put,
    wall_clock_ms,
    webhook,
)
from tests.sinks.receiver import Answer, Received, receiving


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
