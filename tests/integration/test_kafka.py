"""The job on Kafka, end to end: librdkafka's mock cluster, or a real broker where one is named."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from confluent_kafka import Producer

from dataflows.traffic import TrafficShape, generate
from tests.auditor import audit, load_config
from tests.integration.running import Place, assert_agrees
from tests.integration.topics import PARTITIONS, make_topic, read_back

pytestmark = pytest.mark.slow

EVENTS_PER_MESSAGE = 50


def produce(bootstrap: str, topic: str, seed: int) -> None:
    """Events by tenant to partitions, many to a message, in their order; a tombstone and a blank one too."""
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": "zstd", "linger.ms": 5})
    waiting: dict[int, list[bytes]] = {number: [] for number in range(PARTITIONS)}
    day = datetime.now(timezone.utc).date() - timedelta(days=2)
    for line in b"".join(generate(TrafficShape(events=6_000, seed=seed, day=day))).splitlines():
        tenant = line.split(b'"tenant_id":"')[-1].split(b'"')[0]
        number = sum(tenant) % PARTITIONS
        waiting[number].append(line)
        if len(waiting[number]) == EVENTS_PER_MESSAGE:
            producer.produce(topic, b"\n".join(waiting[number]), key=tenant, partition=number)
            waiting[number] = []
    for number, lines in waiting.items():
        for line in lines:
            producer.produce(topic, line, partition=number)
        producer.produce(topic, None, key=b"gone", partition=number)
        producer.produce(topic, b" \n", partition=number)
    assert producer.flush(30) == 0


def test_a_topic_of_many_events_a_message_agrees_with_the_auditor(
    tmp_path: Path, kafka_bootstrap: str, kafka_topic: str
) -> None:
    make_topic(kafka_bootstrap, kafka_topic)
    produce(kafka_bootstrap, kafka_topic, 21)
    place = Place(tmp_path)
    source = f"kafka://{kafka_bootstrap}/{kafka_topic}"
    code, stderr = place.run(source, "--to-end")
    assert code == 0, stderr
    assert_agrees(
        place, audit(read_back(kafka_bootstrap, kafka_topic), load_config(place.config)), by_line=False
    )


@pytest.mark.kafka
def test_a_topic_that_does_not_exist_is_said_in_a_sentence(tmp_path: Path, kafka_bootstrap: str) -> None:
    code, stderr = Place(tmp_path).run(f"kafka://{kafka_bootstrap}/no-such-topic")
    assert code == 1
    assert "the Kafka topic no-such-topic does not exist" in stderr
