"""The meter in this process: what `record`, `flush`, `close` and `stats` promise, on files and a broker."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from metering import delivery, sender
from metering.counts import MeterStats
from metering.event import UsageEvent
from metering.meter import Meter
from metering.spool_directory import destination_directory
from tests.metering.kafka_process import KafkaProcess, lines_at, running_kafka
from tests.metering.samples import SMALLEST

SECONDS = 30
NOWHERE = "kafka://127.0.0.1:1/events"


def event(number: int, tenant: str = "acme", **fields: Any) -> dict[str, Any]:
    return {**SMALLEST, "idempotency_key": f"k{number}", "tenant_id": tenant, **fields}


def keys_of(lines: list[bytes]) -> list[str]:
    return [json.loads(line)["idempotency_key"] for line in lines]


def keys_in(file: Path) -> list[str]:
    return keys_of(file.read_bytes().splitlines())


def keys_at(bootstrap: str, topic: str) -> list[str]:
    return keys_of([line for _, line in lines_at(bootstrap, topic)])


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ends(stats: MeterStats) -> tuple[int, int, int, int]:
    return (stats.recorded, stats.delivered, stats.spooled, stats.replayed)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def meter(file: Path, tmp_path: Path) -> Iterator[Meter]:
    with Meter(f"file://{file}", spool_dir=tmp_path / "spool") as meter:
        yield meter


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaProcess]:
    with running_kafka() as process:
        yield process


# Files


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


class Strange(Mapping[str, Any]):
    """Its own code raises whatever it likes, in whatever thread reads it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getitem__(self, name: str) -> Any:
        raise self.error

    def __iter__(self) -> Iterator[str]:
        raise self.error

    def __len__(self) -> int:
        raise self.error


@pytest.mark.parametrize(
    "strange",
    [
        Strange(ValueError("x")),
        Strange(KeyboardInterrupt()),
        Strange(SystemExit(3)),
        Strange(GeneratorExit()),
        None,
        7,
        "text",
    ],
)
def test_a_strange_event_is_counted_and_ends_nothing(meter: Meter, file: Path, strange: Any) -> None:
    meter.record(event(1))
    meter.record(strange)
    meter.record(event(2))
    assert meter.flush(SECONDS)
    assert keys_in(file) == ["k1", "k2"]
    stats = meter.stats()
    assert (stats.dropped, stats.recorded, stats.delivered) == ({"not_serialisable": 1}, 3, 2)


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
    assert sum("queue_full" in record.getMessage() for record in caplog.records) == 1
    assert stats.last_error.endswith("No such file or directory")


def test_after_close_events_are_counted_and_closing_again_does_nothing(meter: Meter, file: Path) -> None:
    meter.record(event(1))
    assert meter.close(SECONDS)
    meter.record(event(2))
    assert (meter.close(SECONDS), meter.flush(SECONDS)) == (True, True)
    assert keys_in(file) == ["k1"]
    assert meter.stats().dropped == {"closed": 1}
    assert meter.stats().recorded == 2


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


# Asyncio


def test_a_loop_goes_on_while_a_flush_is_waited_for(tmp_path: Path) -> None:
    async def scenario() -> tuple[bool, int, MeterStats]:
        ticks = 0
        async with Meter(NOWHERE, spool_dir=tmp_path, spool_after_seconds=0.3) as meter:
            meter.record(event(1))
            flush = asyncio.ensure_future(meter.aflush(SECONDS))
            while not flush.done():
                await asyncio.sleep(0.005)
                ticks += 1
            return await flush, ticks, meter.stats()

    is_safe, ticks, stats = asyncio.run(scenario())
    assert (is_safe, stats.spooled, ticks > 5) == (True, 1, True)


def test_a_flush_that_is_cancelled_or_late_harms_nothing() -> None:
    async def scenario() -> bool:
        meter = Meter(NOWHERE)
        meter.record(event(1))
        flush = asyncio.ensure_future(meter.aflush(SECONDS))
        await asyncio.sleep(0.01)
        flush.cancel()
        late = await meter.aflush(0.05)
        return late or await meter.aclose(0.2)

    assert not asyncio.run(scenario())


# Kafka


def test_a_tenants_events_share_a_partition_and_their_order(kafka: KafkaProcess, kafka_topic: str) -> None:
    with Meter(f"kafka://{kafka.bootstrap}/{kafka_topic}") as meter:
        for number in range(1_000):
            meter.record(event(number, tenant=f"t{number % 10}"))
        assert meter.flush(SECONDS)
        assert ends(meter.stats()) == (1_000, 1_000, 0, 0)
    by_tenant: dict[str, list[tuple[int, str]]] = {}
    for partition, line in lines_at(kafka.bootstrap, kafka_topic):
        read = json.loads(line)
        by_tenant.setdefault(read["tenant_id"], []).append((partition, read["idempotency_key"]))
    for tenant, found in by_tenant.items():
        number = int(tenant[1:])
        assert [key for _, key in found] == [f"k{n}" for n in range(number, 1_000, 10)]
        assert len({partition for partition, _ in found}) == 1
    assert len(by_tenant) == 10


def test_while_the_broker_is_away_events_go_to_the_spool_and_come_back_in_order(
    kafka: KafkaProcess, kafka_topic: str, tmp_path: Path
) -> None:
    url = f"kafka://{kafka.bootstrap}/{kafka_topic}"
    with Meter(url, spool_dir=tmp_path, spool_after_seconds=0.2) as meter:
        meter.record(event(0))
        assert meter.flush(SECONDS)
        until(lambda: meter.stats().spool_bytes == 0)  # it may have been slow to make the topic
        before = meter.stats()
        kafka.go_away()
        try:
            for number in range(1, 501):
                meter.record(event(number))
            assert meter.flush(SECONDS)
            assert meter.stats().spooled - before.spooled == 500
            assert meter.stats().delivered == before.delivered
        finally:
            kafka.come_back()
        meter.record(event(501))
        until(lambda: meter.stats().spool_bytes == 0)
        assert meter.flush(SECONDS)
    arrived = Counter(keys_at(kafka.bootstrap, kafka_topic))
    assert set(arrived) == {f"k{number}" for number in range(502)}
    stats = meter.stats()
    assert stats.delivered + stats.replayed == 502
    assert list(destination_directory(tmp_path, f"{kafka_topic}@{kafka.bootstrap}").iterdir()) == []


def test_a_broker_that_never_answers_costs_the_caller_nothing(tmp_path: Path) -> None:
    first = Meter(NOWHERE, spool_dir=tmp_path, spool_after_seconds=0.1)
    for number in range(100):
        first.record(event(number))
    assert first.close(SECONDS)
    assert ends(first.stats()) == (100, 0, 100, 0)
    assert "Kafka" in first.stats().last_error
    second = Meter(NOWHERE, spool_dir=tmp_path, spool_after_seconds=0.1)
    second.start()
    until(lambda: second.stats().spool_bytes > 0)
    assert second.close(SECONDS)


def test_a_password_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    environment = {
        "METERLINE_EVENTS": NOWHERE,
        "METERLINE_SPOOL_DIR": str(tmp_path / "spool"),
        "METERLINE_KAFKA_SASL_USERNAME": "app",
        "METERLINE_KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "password"),
    }
    with Meter.from_environment(environment) as meter:
        meter.record(event(1))
        assert meter.flush(SECONDS)
        assert meter.stats().last_error == "Kafka's password cannot be read: FileNotFoundError"
        assert meter.stats().spooled == 1
