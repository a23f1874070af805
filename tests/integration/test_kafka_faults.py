"""What a real Kafka does to a job: it restarts, loses a topic, expires messages, grows, and aborts."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic  # type: ignore[attr-defined]  # not in its stubs

from tests.auditor import audit, load_config
from tests.clickhouse_process import running_clickhouse
from tests.integration.running import JOB_SECONDS, Place, assert_agrees, published, until
from tests.integration.test_kafka import produce
from tests.integration.topics import make_topic, read_back
from tests.kafka_broker import Broker, running_broker

pytestmark = pytest.mark.kafka
NOON_MS = int(time.time() // 86_400 - 1) * 86_400_000 + 43_200_000


def event(key: str, **fields: object) -> bytes:
    known = {"idempotency_key": key, "tenant_id": "acme", "model": "gpt-4o", "timestamp": NOON_MS}
    return json.dumps({**known, "input_tokens": 1, "output_tokens": 0, **fields}).encode()


def send(bootstrap: str, topic: str, values: list[bytes], partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 1_000_000})
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(30) == 0


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def keys(place: Place) -> list[str]:
    return [row[0] for row in place.ask("SELECT idempotency_key FROM usage ORDER BY idempotency_key")]


def test_a_topic_that_was_created_anew_is_refused_even_if_its_offsets_would_fit(
    place: Place, kafka_bootstrap: str, kafka_topic: str
) -> None:
    make_topic(kafka_bootstrap, kafka_topic)
    source = f"kafka://{kafka_bootstrap}/{kafka_topic}"
    send(kafka_bootstrap, kafka_topic, [event("a"), event("b")])
    assert place.run(source, "--to-end")[0] == 0
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.delete_topics([kafka_topic])[kafka_topic].result(30)
    until(lambda: kafka_topic not in admin.list_topics(timeout=10).topics, "the topic is gone")
    make_topic(kafka_bootstrap, kafka_topic)
    send(kafka_bootstrap, kafka_topic, [event(key) for key in "cdefg"])
    for flags in ([], ["--rebuild-state"]):
        code, stderr = place.run(source, "--to-end", *flags)
        assert (code, "was created anew since" in stderr, "Traceback" in stderr) == (1, True, False), stderr
    assert keys(place) == ["a", "b"]


def test_messages_that_expired_unread_stop_the_job_and_nothing_is_skipped(
    place: Place, kafka_bootstrap: str, kafka_topic: str
) -> None:
    make_topic(kafka_bootstrap, kafka_topic)
    source = f"kafka://{kafka_bootstrap}/{kafka_topic}"
    send(kafka_bootstrap, kafka_topic, [event("a"), event("b")])
    assert place.run(source, "--to-end")[0] == 0
    send(kafka_bootstrap, kafka_topic, [event(key) for key in "cdef"])
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    expired = TopicPartition(kafka_topic, 0, 4)
    admin.delete_records([expired])[expired].result(30)
    code, stderr = place.run(source, "--to-end")
    assert (code, f"no longer has offset 2 of {kafka_topic}/0" in stderr) == (1, True), stderr
    assert keys(place) == ["a", "b"]
    # The way on, once somebody has understood the loss.
    code, stderr = place.run(source, "--to-end", "--rebuild-state")
    assert (code, f"{kafka_topic}/0 had 2 offsets below it that expired unread" in stderr) == (0, True), (
        stderr
    )
    assert keys(place) == ["a", "b", "e", "f"]


def test_partitions_that_were_added_are_read_from_their_beginning(
    place: Place, kafka_bootstrap: str, kafka_topic: str
) -> None:
    make_topic(kafka_bootstrap, kafka_topic)
    source = f"kafka://{kafka_bootstrap}/{kafka_topic}"
    produce(kafka_bootstrap, kafka_topic, 41)
    assert place.run(source, "--to-end")[0] == 0
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.create_partitions([NewPartitions(kafka_topic, 6)])[kafka_topic].result(30)
    send(kafka_bootstrap, kafka_topic, [event("new-4"), event("new-5")], partition=5)
    send(kafka_bootstrap, kafka_topic, [event("new-0")], partition=0)
    assert place.run(source, "--to-end")[0] == 0
    lines = read_back(kafka_bootstrap, kafka_topic, partitions=6)
    assert_agrees(place, audit(lines, load_config(place.config)), by_line=False)


def test_aborted_messages_and_the_gaps_they_leave_are_no_events(
    place: Place, kafka_bootstrap: str, kafka_topic: str
) -> None:
    make_topic(kafka_bootstrap, kafka_topic)
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": kafka_topic})
    producer.init_transactions(30)
    for key, kept in (("a", True), ("b", False), ("c", True), ("d", False)):
        producer.begin_transaction()
        producer.produce(kafka_topic, event(key), partition=0)
        producer.flush(30)
        (producer.commit_transaction if kept else producer.abort_transaction)(30)
    source = f"kafka://{kafka_bootstrap}/{kafka_topic}"
    assert place.run(source, "--to-end")[0] == 0
    assert place.run(source, "--to-end")[0] == 0
    assert keys(place) == ["a", "c"]


def test_a_compacted_topic_is_read_with_its_gaps(
    place: Place, kafka_bootstrap: str, kafka_topic: str
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    eager = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.0",
        "min.compaction.lag.ms": "0",
        "max.compaction.lag.ms": "100",
    }
    admin.create_topics([NewTopic(kafka_topic, 1, 1, config=eager)])[kafka_topic].result(30)
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    for number in range(40):
        producer.produce(kafka_topic, event(f"k{number % 4}-{number}"), key=f"{number % 4}")
        producer.flush(10)
        time.sleep(0.05)
    until(lambda: len(read_back(kafka_bootstrap, kafka_topic, partitions=1)) < 40, "some are compacted away")
    lines = read_back(kafka_bootstrap, kafka_topic, partitions=1)
    source = f"kafka://{kafka_bootstrap}/{kafka_topic}"
    assert place.run(source, "--to-end")[0] == 0
    assert set(keys(place)) >= {line.raw.decode().split('"')[3] for line in lines[-4:]}
    assert place.run(source, "--to-end")[0] == 0
    rows = place.ask("SELECT count() FROM priced_events")[0][0]
    assert rows == len(keys(place)) < 40


def test_a_message_of_900_kb_is_read(place: Place, kafka_bootstrap: str, kafka_topic: str) -> None:
    make_topic(kafka_bootstrap, kafka_topic)
    many = [event(f"k{number}", attributes={"note": "x" * 100}) for number in range(3_500)]
    message = b"\n".join(many)
    assert 900_000 < len(message) < 1_000_000
    send(kafka_bootstrap, kafka_topic, [message, event("last")])
    assert place.run(f"kafka://{kafka_bootstrap}/{kafka_topic}", "--to-end")[0] == 0
    assert len(keys(place)) == 3_501


@pytest.fixture
def broker() -> Iterator[Broker]:
    """One of this test's own, which it may kill."""
    with running_broker() as found:
        yield found


def test_a_broker_that_is_killed_and_started_again_or_hangs_costs_nothing(
    tmp_path: Path, broker: Broker
) -> None:
    topic = "events"
    make_topic(broker.bootstrap, topic)
    with running_clickhouse(tmp_path / "ch") as server:
        (tmp_path / "job").mkdir()
        place = Place(tmp_path / "job", served=server.url())
        source = f"kafka://{broker.bootstrap}/{topic}"
        produce(broker.bootstrap, topic, 51)
        child = place.start(source, "--workers", "2", "--follow")
        until(lambda: bool(published(place)), "something is priced")
        broker.kill()
        time.sleep(2)
        broker.start()
        produce(broker.bootstrap, topic, 52)
        os.kill(broker.pid, signal.SIGSTOP)
        time.sleep(8)
        os.kill(broker.pid, signal.SIGCONT)
        produce(broker.bootstrap, topic, 53)
        expected = audit(read_back(broker.bootstrap, topic), load_config(place.config))
        until(lambda: published(place) == len(expected.priced), "everything is priced")
        child.terminate()
        _, stderr = child.communicate(timeout=JOB_SECONDS)
        assert child.returncode == 0, stderr.decode()
        assert_agrees(place, expected, by_line=False)
