"""The same job as one would write it after reading Bytewax's documentation: one item an event.

Kafka → JSON → key by idempotency key → stateful dedupe → rate → key by tenant → stateful spend → rows into
ClickHouse in batches, with recovery. It does less than Meterline: no validation, no quarantine, no caps, keys
are never forgotten, and rows are at least once. Every choice that is not the idiom is the faster one, but for
one: by default Bytewax deletes, at the end of each epoch, the snapshots that newer ones have replaced, which
takes longer the more keys there are. Told to keep them for a day (its backup interval), it does not become
slower with each key, so the flow can be run both ways.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import bytewax.operators as op
import clickhouse_connect
from bytewax.connectors.kafka import KafkaError, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from benchmarks.per_event import DAY_MS, NOTHING, Event, parse, rate
from benchmarks.pinned import Measured, cpu_seconds
from sinks.clickhouse import connect, parse_address

TABLE = """
CREATE TABLE naive_events
(
    tenant_id String, idempotency_key String, timestamp DateTime64(3, 'UTC'),
    feature_id LowCardinality(String), provider LowCardinality(String), model LowCardinality(String),
    input_tokens UInt64, output_tokens UInt64,
    cost Decimal(38, 12), price Decimal(38, 12), spend Decimal(38, 12)
)
ENGINE = ReplacingMergeTree ORDER BY (tenant_id, toDate(timestamp), idempotency_key)
"""
COLUMNS = (
    *("tenant_id", "idempotency_key", "timestamp", "feature_id", "provider", "model"),
    *("input_tokens", "output_tokens", "cost", "price", "spend"),
)
ROWS_PER_INSERT = 50_000
EPOCH = timedelta(seconds=1)


class Progress:
    """When the last row was written, and how many events were read."""

    read = 0
    last_written = 0.0
    cpu_at_last_written = 0.0


def parse_message(message: KafkaSourceMessage[Any, Any] | KafkaError[Any, Any]) -> list[Event]:
    """The events of one message; the source raises errors itself."""
    assert isinstance(message, KafkaSourceMessage)
    events = [parse(line) for line in message.value.splitlines()]
    Progress.read += len(events)
    return events


def identity(event: Event) -> str:
    """The state key of an event."""
    return f"{event.tenant_id}/{event.idempotency_key}"


def first_only(first_ms: int | None, event: Event) -> tuple[int, Event | None]:
    """The event, if it is the first with its key within a day."""
    if first_ms is not None and abs(event.timestamp_ms - first_ms) <= DAY_MS:
        return first_ms, None
    return event.timestamp_ms, event


def add_spend(days: dict[int, Decimal] | None, event: Event) -> tuple[dict[int, Decimal], Event]:
    """The tenant's spend of the event's day, with this event."""
    days = {} if days is None else days
    day = event.timestamp_ms // DAY_MS
    event.spend = days[day] = days.get(day, NOTHING) + event.price
    return days, event


class Rows(StatefulSinkPartition[Event, None]):
    """Rows are collected and inserted at each snapshot, or when there are many."""

    def __init__(self, url: str) -> None:
        address = parse_address(url)
        # On loopback compression would only cost time.
        self._client = clickhouse_connect.get_client(
            host=address.host, port=address.port, database=address.database, compress=False
        )
        self._rows: list[tuple[Any, ...]] = []

    def write_batch(self, items: list[Event]) -> None:
        """Collect."""
        for one in items:
            time_of = datetime.fromtimestamp(one.timestamp_ms / 1000, timezone.utc)
            text = (one.tenant_id, one.idempotency_key, time_of, one.feature_id, one.provider, one.model)
            self._rows.append((*text, one.input_tokens, one.output_tokens, one.cost, one.price, one.spend))
        if len(self._rows) >= ROWS_PER_INSERT:
            self._flush()

    def snapshot(self) -> None:
        """Nothing that was collected may be missing once the epoch is durable."""
        self._flush()

    def close(self) -> None:
        """Leave ClickHouse."""
        self._client.close()

    def _flush(self) -> None:
        if self._rows:
            self._client.insert("naive_events", self._rows, column_names=COLUMNS)
            self._rows.clear()
            Progress.last_written = time.monotonic()
            Progress.cpu_at_last_written = cpu_seconds()


@dataclass(frozen=True)
class ClickHouseRows(FixedPartitionedSink[Event, None]):
    """One partition."""

    url: str

    def list_parts(self) -> list[str]:
        """The one."""
        return ["rows"]

    def part_fn(self, item_key: str) -> int:  # noqa: ARG002  # all go to the one
        """The one."""
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> Rows:  # noqa: ARG002  # Bytewax's interface
        """Connect."""
        return Rows(self.url)


def flow(bootstrap: str, topic: str, clickhouse_url: str) -> Dataflow:
    """The dataflow."""
    dataflow = Dataflow("naive")
    messages = op.input("kafka", dataflow, KafkaSource([bootstrap], [topic], tail=False))
    events = op.flat_map("parse", messages, parse_message)
    by_key = op.key_on("by_key", events, identity)
    judged = op.stateful_map("dedupe", by_key, first_only)
    fresh = op.filter_map("fresh", judged, lambda item: item[1])
    rated = op.map("rate", fresh, rate)
    by_tenant = op.key_on("by_tenant", rated, lambda event: event.tenant_id)
    with_spend = op.stateful_map("spend", by_tenant, add_spend)
    op.output("clickhouse", with_spend, ClickHouseRows(clickhouse_url))
    return dataflow


def main(bootstrap: str, topic: str, clickhouse_url: str, directory: str, keep_days: str) -> None:
    """Run it to the end of the topic; the clock runs from before it connects until its last insert."""
    recovery = Path(directory)
    recovery.mkdir(parents=True)
    init_db_dir(recovery, 1)
    client = connect(parse_address(clickhouse_url))
    client.command(TABLE)
    client.close()
    dataflow = flow(bootstrap, topic, clickhouse_url)
    cpu_before, started = cpu_seconds(), time.monotonic()
    config = RecoveryConfig(str(recovery), timedelta(days=int(keep_days)))
    cli_main(dataflow, epoch_interval=EPOCH, recovery_config=config)
    Measured(
        events=Progress.read,
        seconds=Progress.last_written - started,
        cpu_seconds=Progress.cpu_at_last_written - cpu_before,
    ).say()


if __name__ == "__main__":
    main(*sys.argv[1:])
