"""The meter on a broker that comes and goes, and in asyncio."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from metering.counts import MeterStats
from metering.meter import Meter
from metering.spool_directory import destination_directory
from tests.metering.kafka_process import PARTITIONS, KafkaProcess, lines_at, running_kafka
from tests.metering.recording import NOWHERE, SECONDS, ends, event, keys_at, until


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaProcess]:
    with running_kafka() as process:
        yield process


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


def test_a_flush_that_is_cancelled_or_late_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> bool:
        meter = Meter(NOWHERE)
        meter.record(event(1))
        flush = asyncio.ensure_future(meter.aflush(SECONDS))
        await asyncio.sleep(0.01)
        flush.cancel()
        late = await meter.aflush(0.05)
        closed = await meter.aclose(0.2)
        await asyncio.sleep(0.1)  # the answer that nobody waits for any more comes now
        return late or closed

    assert not asyncio.run(scenario())
    assert [record for record in caplog.records if record.name == "asyncio"] == []


# Kafka


def murmur2(data: bytes) -> int:
    """Java's hash of a key (`org.apache.kafka.common.utils.Utils`), made positive as its partitioner does."""
    known, factor = 0x9747B28C ^ len(data), 0x5BD1E995
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * factor & 0xFFFFFFFF
        word = (word ^ word >> 24) * factor & 0xFFFFFFFF
        known = known * factor & 0xFFFFFFFF ^ word
    if whole < len(data):
        known = (known ^ int.from_bytes(data[whole:], "little")) * factor & 0xFFFFFFFF
    known = (known ^ known >> 13) * factor & 0xFFFFFFFF
    return (known ^ known >> 15) & 0x7FFFFFFF


@pytest.mark.parametrize(
    ("key", "expected"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)],
)
def test_the_hash_is_that_of_kafkas_own_tests(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0x7FFFFFFF


def test_a_tenants_events_share_a_partition_and_their_order(kafka: KafkaProcess, kafka_topic: str) -> None:
    with Meter(f"kafka://{kafka.bootstrap}/{kafka_topic}") as meter:
        for number in range(1_000):
            meter.record(event(number, tenant=f"t{number % 10}"))
            if number % 250 == 249:
                assert meter.flush(SECONDS)
        assert meter.stats().recorded == 1_000
    by_tenant: dict[str, list[tuple[int, str]]] = {}
    for partition, line in lines_at(kafka.bootstrap, kafka_topic):
        read = json.loads(line)
        by_tenant.setdefault(read["tenant_id"], []).append((partition, read["idempotency_key"]))
    for tenant, found in by_tenant.items():
        number = int(tenant[1:])
        assert [key for _, key in found] == [f"k{n}" for n in range(number, 1_000, 10)]
        assert {partition for partition, _ in found} == {murmur2(tenant.encode()) % PARTITIONS}
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
