"""The meter in this process: what `record`, `flush`, `close` and `stats` promise, shown on files."""

from __future__ import annotations

import itertools
import json
import logging
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metering import delivery, notices, sender
from metering.event import UsageEvent
from metering.meter import Meter
from tests.metering.recording import SECONDS, ends, event, keys_in, run, until


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def meter(file: Path, tmp_path: Path) -> Iterator[Meter]:
    with Meter(f"file://{file}", spool_dir=tmp_path / "spool") as meter:
        yield meter


def test_recorded_events_stand_in_the_file_in_their_order(meter: Meter, file: Path) -> None:
    for number in range(1_500):
        meter.record(event(number, tenant=f"t{number % 7}"))
    assert meter.flush(SECONDS)
    assert keys_in(file) == [f"k{number}" for number in range(1_500)]
    assert ends(meter.stats()) == (1_500, 1_500, 0, 0)


def test_a_usage_event_and_any_mapping_are_taken(meter: Meter, file: Path) -> None:
    meter.record(UsageEvent.model_validate(event(1)))
    meter.record(json.loads(json.dumps(event(2)), object_hook=dict))
    assert meter.flush(SECONDS)
    assert keys_in(file) == ["k1", "k2"]


def test_what_becomes_of_a_dictionary_afterwards_does_not_matter(meter: Meter, file: Path) -> None:
    reused = event(0, attributes={"n": ""})
    for number in range(100):
        reused["idempotency_key"] = f"k{number}"
        reused["attributes"]["n"] = str(number)
        meter.record(reused)
    assert meter.flush(SECONDS)
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert [(one["idempotency_key"], one["attributes"]["n"]) for one in lines] == [
        (f"k{number}", str(number)) for number in range(100)
    ]


def test_an_event_that_the_contract_refuses_is_sent_and_counted(
    meter: Meter, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "meterline"):
        for number in range(50):
            meter.record(event(number, input_tokens=-1))
        meter.record(event(50, model=None))
        assert meter.flush(SECONDS)
    assert len(keys_in(file)) == 51
    assert meter.stats().invalid == {"out_of_range": 50, "missing_field": 1}
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "out_of_range: input_tokens: input should be greater than or equal to 0" in told[0]


def test_what_the_queue_does_not_hold_is_counted_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    meter = Meter(f"file://{tmp_path}/none/events.jsonl", queue_events_max=10)
    with caplog.at_level(logging.WARNING, "meterline"):
        for number in range(5_000):
            meter.record(event(number))
        assert not meter.close(0.3)
    stats = meter.stats()
    assert stats.recorded == 5_000 == sum(stats.dropped.values())
    assert set(stats.dropped) == {"queue_full", "undelivered"}
    (told,) = [text for record in caplog.records if "queue_full" in (text := record.getMessage())]
    assert told.startswith("event dropped, queue_full: the queue was full")
    assert stats.last_error.endswith("No such file or directory")


def test_a_queue_that_nobody_takes_is_counted_and_told_when_the_meter_is_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    meter = Meter(f"file://{tmp_path}/none/events.jsonl")
    with caplog.at_level(logging.WARNING, "meterline"):
        for number in range(5_000):
            meter.record(event(number))
        assert not meter.close(0.3)
        until(lambda: meter.stats().waiting == 0)
    assert (meter.stats().recorded, meter.stats().dropped) == (5_000, {"undelivered": 5_000})
    told = [text for record in caplog.records if "undelivered" in (text := record.getMessage())]
    assert len(told) == 1
    assert "No such file or directory (5000 times" in told[0]


def test_a_queue_that_the_destination_does_not_take_goes_to_the_spool_when_the_meter_is_closed(
    tmp_path: Path,
) -> None:
    meter = Meter(f"file://{tmp_path}/none/events.jsonl", spool_dir=tmp_path, spool_after_seconds=600)
    for number in range(5_000):
        meter.record(event(number))
    assert meter.close(SECONDS)
    assert ends(meter.stats()) == (5_000, 0, 5_000, 0)


def test_the_log_tells_how_many_events_were_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notices, "NOTICE_SECONDS", 0.0)
    meter = Meter(f"file://{tmp_path}/events.jsonl", queue_events_max=1)
    with caplog.at_level(logging.WARNING, "meterline"):
        for part in range(3):
            for number in range(1_000):
                meter.record(event(1_000 * part + number))
            assert meter.flush(SECONDS)
        assert meter.close(SECONDS)
    told = [re.search(r"queue_full: .* \((\d+) times", record.getMessage()) for record in caplog.records]
    assert sum(int(one[1]) for one in told if one) == meter.stats().dropped["queue_full"]


def test_after_close_events_are_counted_and_closing_again_does_nothing(meter: Meter, file: Path) -> None:
    meter.record(event(1))
    assert meter.close(SECONDS)
    meter.record(event(2))
    assert (meter.close(SECONDS), meter.flush(SECONDS)) == (True, True)
    assert keys_in(file) == ["k1"]
    assert meter.stats().dropped == {"closed": 1}
    assert meter.stats().recorded == 2


def test_who_waits_in_a_flush_is_no_event(meter: Meter) -> None:
    began, may_go_on = threading.Event(), threading.Event()

    class Slow:
        def events(self) -> list[dict[str, Any]]:
            began.set()
            may_go_on.wait(SECONDS)
            return [event(0)]

    meter.record(Slow())
    assert began.wait(SECONDS)
    meter.record(event(1))
    waiting = [threading.Thread(target=meter.flush, args=(SECONDS,)) for _ in range(5)]
    for thread in waiting:
        thread.start()
    until(lambda: len(meter._sender.queue) == 6)  # noqa: SLF001  # the event, and whoever waits
    stats = meter.stats()
    may_go_on.set()
    assert (stats.recorded, stats.queue_depth, stats.waiting) == (1, 1, 1)
    for thread in waiting:
        thread.join()
    assert (meter.stats().recorded, meter.stats().delivered) == (2, 2)


def test_a_meter_that_never_recorded_closes_and_leaves_nothing(tmp_path: Path) -> None:
    meter = Meter(f"file://{tmp_path}/events.jsonl", spool_dir=tmp_path / "spool")
    threads = threading.active_count()
    assert meter.stats().recorded == 0
    assert threading.active_count() == threads
    assert meter.close(SECONDS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_thousands_of_threads_record_at_once(meter: Meter, file: Path, count: int) -> None:
    begin = threading.Event()

    def record(number: int) -> None:
        begin.wait()
        meter.record(event(number))

    previous = threading.stack_size(64 * 1024)
    try:
        threads = [threading.Thread(target=record, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
    finally:
        threading.stack_size(previous)
    begin.set()
    for thread in threads:
        thread.join()
    assert meter.flush(SECONDS)
    assert set(keys_in(file)) == {f"k{number}" for number in range(count)}
    assert meter.stats().delivered == count


def test_a_signal_handler_may_record(meter: Meter, file: Path) -> None:
    handled: list[int] = []
    numbers = itertools.count(10**6)

    def handler(*_: object) -> None:
        number = next(numbers)  # a handler may interrupt itself
        handled.append(number)
        meter.record(event(number))

    previous = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for number in range(30_000):
            meter.record(event(number))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert meter.flush(SECONDS)
    assert handled
    assert len(set(keys_in(file))) == 30_000 + len(handled)


def test_the_sender_goes_on_after_a_failure_of_its_own(
    meter: Meter, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "FAILURE_SECONDS", 0.01)
    failures = [MemoryError(), SystemExit(), ValueError("bug")]
    real = delivery.Delivery.turn

    def turn(self: delivery.Delivery, now: float) -> bool:
        if failures:
            raise failures.pop()
        return real(self, now)

    monkeypatch.setattr(delivery.Delivery, "turn", turn)
    for number in range(10):
        meter.record(event(number))
    assert meter.flush(SECONDS)
    assert keys_in(file) == [f"k{number}" for number in range(10)]
    assert (meter.stats().failures, meter.stats().last_error) == (3, "the sender failed: MemoryError")


class NoThread(threading.Thread):
    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def test_where_no_thread_can_be_started_a_flush_does_its_work(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "Thread", NoThread)
    with Meter(f"file://{file}") as lonely:
        lonely.record(event(1))
        assert lonely.flush(SECONDS)
        lonely.record(event(2))
    assert keys_in(file) == ["k1", "k2"]
    assert lonely.stats().last_error == "the sender failed: RuntimeError"


def test_where_no_thread_can_be_started_no_failure_reaches_the_caller(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [MemoryError(), ValueError("bug")]
    real = delivery.Delivery.turn

    def turn(self: delivery.Delivery, now: float) -> bool:
        if failures:
            raise failures.pop()
        return real(self, now)

    monkeypatch.setattr(threading, "Thread", NoThread)
    monkeypatch.setattr(delivery.Delivery, "turn", turn)
    lonely = Meter(f"file://{file}")
    lonely.record(event(1))
    assert lonely.flush(SECONDS)
    assert keys_in(file) == ["k1"]
    assert lonely.stats().failures == 3
    assert lonely.close(SECONDS)


def test_a_sender_that_could_not_start_is_started_by_a_later_event(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "FAILURE_SECONDS", 0.1)
    meter = Meter(f"file://{file}")
    with monkeypatch.context() as crowded:
        crowded.setattr(threading, "Thread", NoThread)
        meter.record(event(0))
    meter.record(event(1))  # too soon
    numbers = itertools.count(2)

    def is_delivered() -> bool:
        meter.record(event(next(numbers)))
        return meter.stats().delivered > 0

    until(is_delivered)
    assert meter.close(SECONDS)
    assert keys_in(file)[:3] == ["k0", "k1", "k2"]


def test_where_no_thread_can_be_started_not_every_event_tries(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "FAILURE_SECONDS", 3_600)
    monkeypatch.setattr(threading, "Thread", NoThread)
    lonely = Meter(f"file://{file}")
    for number in range(10):
        lonely.record(event(number))
    assert lonely.stats().failures == 1
    assert lonely.close(SECONDS)


def test_a_file_that_cannot_be_written_is_made_up_for_by_the_spool(tmp_path: Path) -> None:
    file = tmp_path / "later" / "events.jsonl"
    with Meter(f"file://{file}", spool_dir=tmp_path / "spool") as meter:
        for number in range(10):
            meter.record(event(number))
        assert meter.flush(SECONDS)
        assert ends(meter.stats()) == (10, 0, 10, 0)
        assert meter.stats().spool_bytes > 0
        file.parent.mkdir()
        until(lambda: meter.stats().spool_bytes == 0)
        assert (keys_in(file), ends(meter.stats())) == ([f"k{n}" for n in range(10)], (10, 0, 10, 10))


def test_a_spool_of_the_dead_that_does_not_fit_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "later" / "events.jsonl"
    dead = Meter(f"file://{file}", spool_dir=tmp_path)
    dead.record(event(0))
    assert dead.close(SECONDS)
    with (
        caplog.at_level(logging.WARNING, "meterline"),
        Meter(f"file://{file}", spool_dir=tmp_path, spool_bytes_max=50) as heir,
    ):
        until(lambda: heir.stats().last_error != "")
    told = [record.getMessage() for record in caplog.records]
    assert sum("is left by another process and does not fit: 0 bytes of 50" in one for one in told) == 1
    assert len(list(tmp_path.rglob("*.seg"))) == 1


def test_a_disk_that_takes_nothing_costs_events_only_once_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "DISK_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(delivery, "RETRY_SECONDS_MAX", 0.25)
    file, blocked = tmp_path / "later" / "events.jsonl", tmp_path / "spool"
    blocked.write_text("a file, where a directory should be")
    meter = Meter(f"file://{file}", spool_dir=blocked, queue_events_max=2_000)
    for number in range(500):
        meter.record(event(number))
    assert not meter.flush(0.5)
    assert (meter.stats().waiting, meter.stats().dropped) == (500, {})
    until(lambda: meter.stats().last_error == "the spool: Not a directory")
    for number in range(10_000):
        meter.record(event(number, tenant="too many"))
    dropped = meter.stats().dropped
    assert set(dropped) == {"queue_full"}
    blocked.unlink()
    assert meter.flush(SECONDS)
    assert meter.stats().spooled + dropped["queue_full"] == meter.stats().recorded
    file.parent.mkdir()
    until(lambda: meter.stats().spool_bytes == 0)
    assert len(keys_in(file)) == meter.stats().spooled
    assert meter.close(SECONDS)


def test_a_meter_that_nobody_holds_any_more_still_delivers_at_the_end(file: Path) -> None:
    run("meter.record(event('k')); del meter", events=f"file://{file}")
    assert keys_in(file) == ["k"]
