"""Topics of a test's own, and what stands in them."""

from __future__ import annotations

import os

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # not in its stubs

from sinks.cap_state import CAP_STATE_TOPIC
from tests.auditor_event import Line, lines_of_message

PARTITIONS = 4


def make_topic(bootstrap: str, topic: str) -> None:
    if os.environ.get("METERLINE_TEST_KAFKA"):
        admin = AdminClient({"bootstrap.servers": bootstrap})
        admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(30)
    else:
        # The mock cluster makes a topic when it is asked about it; to create one is beyond it, which a job
        # that publishes cap states would learn only after ten seconds.
        AdminClient({"bootstrap.servers": bootstrap}).list_topics(CAP_STATE_TOPIC, timeout=20)


def read_back(bootstrap: str, topic: str, partitions: int = PARTITIONS) -> list[Line]:
    """Every line of the topic with the broker's timestamps, partition by partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "enable.partition.eof": True})
    lines: list[Line] = []
    for number in range(partitions):
        consumer.assign([TopicPartition(topic, number, 0)])
        while True:
            message = consumer.poll(30)
            assert message is not None
            if message.error():
                break
            offset = message.offset()
            assert offset is not None
            lines += lines_of_message(topic, number, offset, message.value() or b"", message.timestamp()[1])
    consumer.close()
    return lines
