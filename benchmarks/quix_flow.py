"""The same job in Quix Streams: stateful dedupe and a tumbling sum in RocksDB, changelog topics on.

One event a message, keyed by tenant, as Quix wants it: its state belongs to the message's key. Rows go into
ClickHouse at each checkpoint, once a second; the windows stay in its state. It runs in an environment of its
own (benchmarks/peers.txt), because it wants an older Kafka client than Meterline.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from importlib.metadata import version
from typing import Any

import clickhouse_connect
from quixstreams import Application, State
from quixstreams.sinks import BatchingSink, SinkBatch

from benchmarks.per_event import DAY_MS, Event, parse, rate
from benchmarks.pinned import Measured, cpu_seconds

TABLE = """
CREATE TABLE quix_events
(
    tenant_id String, idempotency_key String, timestamp DateTime64(3, 'UTC'),
    feature_id LowCardinality(String), provider LowCardinality(String), model LowCardinality(String),
    input_tokens UInt64, output_tokens UInt64, cost Decimal(38, 12), price Decimal(38, 12)
)
ENGINE = ReplacingMergeTree ORDER BY (tenant_id, toDate(timestamp), idempotency_key)
"""
COLUMNS = (
    *("tenant_id", "idempotency_key", "timestamp", "feature_id", "provider", "model"),
    *("input_tokens", "output_tokens", "cost", "price"),
)
IDLE_SECONDS = 5.0
"""Without a message for so long, the topic is at its end."""

LATENESS = timedelta(hours=72)
PICO = Decimal(10**12)


class Rows(BatchingSink):  # type: ignore[misc]  # mypy does not see into another environment
    """Rows into ClickHouse, and a note of when the last ones went there."""

    def __init__(self, client: Any) -> None:
        super().__init__()
        self._client = client
        self.last_written = self.cpu_at_last_written = 0.0

    def write(self, batch: SinkBatch) -> None:
        """Insert what one partition collected since the last checkpoint."""
        rows = [_row(item.value) for item in batch]
        self._client.insert("quix_events", rows, column_names=COLUMNS)
        self.last_written, self.cpu_at_last_written = time.monotonic(), cpu_seconds()


def _row(one: Event) -> tuple[Any, ...]:
    time_of = datetime.fromtimestamp(one.timestamp_ms / 1000, timezone.utc)
    text = (one.tenant_id, one.idempotency_key, time_of, one.feature_id, one.provider, one.model)
    return (*text, one.input_tokens, one.output_tokens, one.cost, one.price)


def is_first(event: Event, state: State) -> bool:
    """Whether the tenant's key is new, or older than a day."""
    first_ms = state.get(event.idempotency_key)
    if first_ms is not None and abs(event.timestamp_ms - first_ms) <= DAY_MS:
        return False
    state.set(event.idempotency_key, event.timestamp_ms)
    return True


def main(bootstrap: str, topic: str, port: str, database: str, directory: str) -> None:
    """Run it to the end of the topic; the clock runs from before it connects until its last insert."""
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=int(port), database=database, compress=False
    )
    client.command(TABLE)
    rows, read = Rows(client), [0]

    def parsed(value: bytes) -> Event:
        read[0] += 1
        return parse(value)

    app = Application(
        broker_address=bootstrap,
        consumer_group=f"quix-{topic}-{database}",
        auto_offset_reset="earliest",
        commit_interval=1.0,
        state_dir=directory,
        loglevel="ERROR",
    )
    cpu_before, started = cpu_seconds(), time.monotonic()
    events = app.dataframe(app.topic(topic, value_deserializer="bytes")).apply(parsed)
    events = events.set_timestamp(lambda event, *_: event.timestamp_ms)
    priced = events.filter(is_first, stateful=True).apply(rate)
    prices = priced.apply(lambda event: int(event.price * PICO))
    prices.tumbling_window(timedelta(days=1), grace_ms=LATENESS).sum().current()
    priced.sink(rows)
    app.run(timeout=IDLE_SECONDS, collect=False)
    Measured(
        events=read[0],
        seconds=rows.last_written - started,
        cpu_seconds=rows.cpu_at_last_written - cpu_before,
        detail=f"quixstreams {version('quixstreams')}",
    ).say()


if __name__ == "__main__":
    main(*sys.argv[1:])
