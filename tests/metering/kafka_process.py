"""A broker that can go away: librdkafka's mock cluster in a process of its own, which is stopped and resumed.

A stopped process keeps its connections and answers nothing, as a broker does behind a cut cable.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition

PARTITIONS = 4
READ_SECONDS = 30

_SCRIPT = """
import sys
from confluent_kafka import Producer
client = Producer({"test.mock.num.brokers": 1, "log_level": 0})
(broker,) = client.list_topics(timeout=20).brokers.values()
print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class KafkaProcess:
    bootstrap: str
    process: subprocess.Popen[str]

    def go_away(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def come_back(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def running_kafka() -> Iterator[KafkaProcess]:
    child = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        yield KafkaProcess(child.stdout.readline().strip(), child)
    finally:
        child.kill()
        child.communicate()


def lines_at(bootstrap: str, topic: str) -> list[tuple[int, bytes]]:
    """Every line of a topic with its partition, each partition in its order."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "test",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    lines: list[tuple[int, bytes]] = []
    ended: set[int] = set()
    while len(ended) < PARTITIONS:
        message = consumer.poll(READ_SECONDS)
        assert message is not None
        partition = message.partition()
        assert partition is not None
        if message.error():
            ended.add(partition)
        else:
            lines += [(partition, line) for line in (message.value() or b"").split(b"\n")]
    consumer.close()
    return lines
