"""The broker and ClickHouse of a benchmark, started on the core that is not measured."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.pinned import on_core
from benchmarks.report import Size
from benchmarks.workload import ARRIVAL_MS, PARTITIONS, Message
from sinks.clickhouse import connect, parse_address
from tests.clickhouse_process import running_clickhouse
from tests.kafka_broker import BOOTSTRAP_VARIABLE, BrokerUnavailable, running_broker

FLUSH_SECONDS_MAX = 120
ADMIN_SECONDS_MAX = 30


@dataclass(frozen=True)
class Servers:
    """What answers, and what it is. `real` says whether the broker is Apache Kafka."""

    bootstrap: str
    broker: str
    real: bool
    clickhouse_port: int
    core: int

    @property
    def clickhouse(self) -> str:
        """ClickHouse's address, without a database."""
        return f"clickhouse://127.0.0.1:{self.clickhouse_port}"

    def topic(self, messages: Iterable[Message]) -> str:
        """A new topic that holds the messages."""
        name = f"bench-{uuid.uuid4().hex[:12]}"
        if self.real:
            _create_topic(self.bootstrap, name)
        _produce(self.bootstrap, name, messages, ARRIVAL_MS)
        return name

    def send(self, topic: str, messages: Iterable[Message]) -> None:
        """More messages, with the present time."""
        _produce(self.bootstrap, topic, messages, int(time.time() * 1000))


@contextmanager
def fresh_database(clickhouse: str) -> Iterator[tuple[str, Client]]:
    """A database of its own at an address, as (address with database, client); it is dropped at the end."""
    name = f"bench_{uuid.uuid4().hex[:12]}"
    client = connect(parse_address(f"{clickhouse}/{name}"))
    try:
        yield f"{clickhouse}/{name}", client
    finally:
        client.command(f"DROP DATABASE {name} SYNC")
        client.close()


@contextmanager
def running_servers(size: Size, directory: Path, core: int) -> Iterator[Servers]:
    """Broker and ClickHouse until the end of the block, on a core that this thread takes too.

    `SMOKE` takes librdkafka's mock cluster, and so does `FULL` where Apache Kafka cannot run.
    """
    with ExitStack() as stack, on_core(core):
        clickhouse = stack.enter_context(running_clickhouse(directory / "clickhouse"))
        bootstrap, broker = os.environ.get(BOOTSTRAP_VARIABLE, ""), "a broker that was running already"
        if not bootstrap and size is Size.FULL:
            try:
                bootstrap = stack.enter_context(running_broker()).bootstrap
                broker = "Apache Kafka, one node, 512 MB heap"
            except BrokerUnavailable as exc:
                print(f"{exc} The mock cluster stands in.")
        if bootstrap:
            yield Servers(bootstrap, broker, real=True, clickhouse_port=clickhouse.port, core=core)
        else:
            mock = Producer({"test.mock.num.brokers": 1, "log_level": 0})
            found = next(iter(mock.list_topics(timeout=ADMIN_SECONDS_MAX).brokers.values()))
            address = f"{found.host}:{found.port}"
            yield Servers(
                address, "librdkafka's mock cluster", real=False, clickhouse_port=clickhouse.port, core=core
            )
            del mock  # the cluster lives in this client


def _create_topic(bootstrap: str, name: str) -> None:
    # The events' day is past: a topic that forgets by time would forget them while they are read.
    topic = NewTopic(name, PARTITIONS, 1, config={"retention.ms": "-1"})
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([topic])[name].result(ADMIN_SECONDS_MAX)


def _produce(bootstrap: str, topic: str, messages: Iterable[Message], timestamp_ms: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": "lz4", "linger.ms": 50})
    failures: list[Any] = []

    def delivered(error: Any, _: Any) -> None:
        if error is not None:
            failures.append(error)

    for message in messages:
        while True:
            try:
                producer.produce(
                    topic,
                    message.value,
                    message.key,
                    message.partition,
                    on_delivery=delivered,
                    timestamp=timestamp_ms,
                )
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    deadline = time.monotonic() + FLUSH_SECONDS_MAX
    while producer.flush(1) and time.monotonic() < deadline:
        pass
    if failures or len(producer):
        raise KafkaException(f"{len(failures) + len(producer)} messages did not reach the broker")
