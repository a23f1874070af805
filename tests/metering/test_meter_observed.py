"""What instrumentation records: observations, whose events are asked for in the sender's thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metering import meter as meter_module
from metering import sender
from metering.call import Call, Ending
from metering.event import UsageEvent, parse_line
from metering.meter import Meter
from metering.observation import Observation
from metering.usage import Usage
from tests.metering.recording import SECONDS, event, keys_in, until
from tests.metering.samples import SMALLEST


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def meter(file: Path) -> Iterator[Meter]:
    with Meter(f"file://{file}") as meter:
        yield meter


class Told:
    """An observation that comes to the rest of `events`, or raises the first of them."""

    def __init__(self, *events: Any) -> None:
        self.found = events
        self.size_bytes: Any = 0
        self.asked_in: list[str] = []

    def events(self) -> list[Any]:
        self.asked_in.append(threading.current_thread().name)
        if isinstance(self.found[0], BaseException):
            raise self.found[0]
        return list(self.found[1:])


class Slow(Told):
    """It waits for `begin`."""

    def __init__(self, *events: Any) -> None:
        super().__init__(*events)
        self.is_asked, self.begin = threading.Event(), threading.Event()

    def events(self) -> list[Any]:
        self.is_asked.set()
        self.begin.wait(SECONDS)
        return super().events()


def test_an_observation_is_asked_for_its_events_in_the_senders_thread(meter: Meter, file: Path) -> None:
    several = Told("ok", event(1), UsageEvent.model_validate(event(2)), event(3, input_tokens=-1))
    for one in (several, Told("a repeat"), Told(KeyboardInterrupt()), Told("odd", None)):
        meter.record(one)
    meter.record(event(4))
    assert meter.flush(SECONDS)
    assert keys_in(file) == ["k1", "k2", "k3", "k4"]
    stats = meter.stats()
    assert (stats.recorded, stats.delivered, stats.dropped) == (7, 4, {"not_serialisable": 2})
    assert stats.without_event == 1
    assert several.asked_in == ["meterline"]


def test_what_a_provider_did_not_say_is_counted_in_the_senders_thread(meter: Meter, file: Path) -> None:
    call = Call("acme", "gpt-4o", SMALLEST["timestamp"])
    meter.record(Observation(call, [Usage(response_id="r" * 16)], Ending(10), "How many?", "Two."))
    assert meter.flush(SECONDS)
    (line,) = file.read_bytes().splitlines()
    read, _ = parse_line(line)
    assert (read.idempotency_key, read.usage_source == "provider") == ("r" * 16 + "-1", False)
    assert read.input_tokens > 0 < read.output_tokens


def test_observations_leave_most_of_the_queue_to_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter_module, "QUEUE_OBSERVED_MAX", 5)
    with Meter(f"file://{tmp_path}/events.jsonl") as meter:
        slow = Slow("ok", event(0))
        meter.record(slow)
        assert slow.is_asked.wait(SECONDS)
        for number in range(1, 11):
            meter.record(Told("ok", event(number)))
        meter.record(event(11))
        slow.begin.set()
        assert meter.flush(SECONDS)
        assert meter.stats().dropped == {"queue_full": 5}
    assert keys_in(tmp_path / "events.jsonl") == [f"k{number}" for number in [0, 1, 2, 3, 4, 5, 11]]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([60, 40, 1, 0], [0, 1, 3]),
        ([101, 100], [1]),
        ([60, 60, 40], [0, 2]),
        (["not a number", -1], [1]),
    ],
)
def test_observations_hold_no_more_bytes_than_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[Any], expected: list[int]
) -> None:
    monkeypatch.setattr(meter_module, "QUEUE_OBSERVED_BYTES_MAX", 100)
    with Meter(f"file://{tmp_path}/events.jsonl") as meter:
        for part in range(2):  # what has left the queue leaves its room to others
            waiting = Slow("ok", event(100))
            meter.record(waiting)
            assert waiting.is_asked.wait(SECONDS)
            for number, size in enumerate(sizes):
                told = Told("ok", event(10 * part + number))
                told.size_bytes = size
                meter.record(told)
            waiting.begin.set()
            assert meter.flush(SECONDS)
        stats = meter.stats()
    assert sum(stats.dropped.values()) == 2 * (len(sizes) - len(expected))
    assert [key for key in keys_in(tmp_path / "events.jsonl") if key != "k100"] == [
        f"k{10 * part + number}" for part in range(2) for number in expected
    ]


def test_no_more_marks_stand_in_a_queue_than_the_bound(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_module, "MARKS_MAX", 3)
    monkeypatch.setattr(meter, "_queue_events_max", 5)
    slow = Slow("ok", event(0))
    meter.record(slow)
    assert slow.is_asked.wait(SECONDS)
    for number in range(1, 10):
        meter.record(event(number))
        assert not meter.flush(0)
    in_queue = len(meter._sender.queue)  # noqa: SLF001  # what the bound is on
    slow.begin.set()
    assert in_queue == 5 + 3
    until(lambda: meter.flush(SECONDS))


@pytest.mark.parametrize(
    ("queued", "backlog", "expected"),
    [
        (20, 5_000, 0),
        (110, 5_000, 4),
        (110, 60, 2),
    ],
)
def test_the_sender_lets_go_of_the_interpreter_while_the_queue_is_short(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, queued: int, backlog: int, expected: int
) -> None:
    slept: list[float] = []
    real = time.sleep

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        real(seconds)

    monkeypatch.setattr(sender, "BACKLOG_EVENTS", backlog)
    monkeypatch.setattr(time, "sleep", sleep)
    slow = Slow("ok", event(0))
    meter.record(slow)
    assert slow.is_asked.wait(SECONDS)
    for number in range(queued):
        meter.record(event(number))
    slow.begin.set()
    assert meter.flush(SECONDS)
    assert slept.count(sender.BREATH_SECONDS) == expected
