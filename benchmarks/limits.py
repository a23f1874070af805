"""What no such job can pass: only decoding the same bytes, only consuming them, only inserting the rows.

Each is a measured child on the worker's core: `python -m benchmarks.limits decode LIBRARY FILE`, and so on.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.json
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from benchmarks.pinned import Measured, cpu_seconds
from benchmarks.workload import PARTITIONS
from sinks.clickhouse import connect, parse_address
from sinks.publish import INSERT_SETTINGS
from sinks.stage import arrow_stream

CHUNK_BYTES = 4 * 1024 * 1024
"""Decoded at a time, some ten thousand events: about what a poll of the job brings."""

ROWS_PER_INSERT = 80_000
"""What a job of 160,000 events a second brings in an epoch of half a second."""

CONSUME_SECONDS_MAX = 120

_STRINGS = (
    *("idempotency_key", "tenant_id", "feature_id", "provider", "model", "model_version", "region"),
    *("service_tier", "cache_status", "status", "usage_source", "provider_cost"),
)
_INTEGERS = (
    *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    *("reasoning_tokens", "latency_ms", "retry_count"),
)


def _with_polars() -> Callable[[bytes], int]:
    texts: dict[str, Any] = dict.fromkeys((*_STRINGS, "timestamp"), pl.String())
    attributes = pl.Struct({"environment": pl.String(), "session": pl.String()})
    schema = texts | dict.fromkeys(_INTEGERS, pl.Int64()) | {"attributes": attributes}
    return lambda chunk: len(pl.read_ndjson(io.BytesIO(chunk), schema=schema))


def _with_pyarrow() -> Callable[[bytes], int]:
    # Arrow's reader refuses a column of texts and numbers: timestamps are left out, to its advantage.
    fields = [pa.field(name, pa.string()) for name in _STRINGS]
    fields += [pa.field(name, pa.int64()) for name in _INTEGERS]
    options = pyarrow.json.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore")
    reading = pyarrow.json.ReadOptions(use_threads=False, block_size=2 * CHUNK_BYTES)
    return lambda chunk: int(pyarrow.json.read_json(io.BytesIO(chunk), reading, options).num_rows)


def _with_msgspec() -> Callable[[bytes], int]:
    import msgspec  # noqa: PLC0415  # optional

    fields: list[tuple[str, Any, Any]] = [(name, str, "") for name in _STRINGS]
    fields += [(name, int, 0) for name in _INTEGERS]
    fields += [("timestamp", str | int, 0), ("attributes", dict[str, str] | None, None)]
    decoder = msgspec.json.Decoder(msgspec.defstruct("Event", fields, gc=False))
    return lambda chunk: len(decoder.decode_lines(chunk))


def _with_orjson() -> Callable[[bytes], int]:
    import orjson  # noqa: PLC0415  # optional

    loads = orjson.loads
    return lambda chunk: len([loads(line) for line in chunk.splitlines()])


DECODERS: dict[str, Callable[[], Callable[[bytes], int]]] = {
    "polars": _with_polars,
    "pyarrow": _with_pyarrow,
    "msgspec": _with_msgspec,
    "orjson": _with_orjson,
}


def decoders() -> list[str]:
    """Those that are installed."""
    return [name for name in DECODERS if find_spec(name)]


def decode(library: str, file: str) -> Measured:
    """Decode the lines of a file, chunk after chunk, keeping nothing."""
    chunks = list(_chunks(Path(file).read_bytes()))
    read = DECODERS[library]()
    read(chunks[0])
    cpu_before, started = cpu_seconds(), time.monotonic()
    events = sum(read(chunk) for chunk in chunks)
    return Measured(events, time.monotonic() - started, cpu_seconds() - cpu_before, library)


def _chunks(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = data.find(b"\n", start + CHUNK_BYTES) + 1 or len(data)
        yield data[start:end]
        start = end


def consume(bootstrap: str, topic: str) -> Measured:
    """Read a topic to its end with one consumer, counting lines."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "limits",
            "enable.auto.commit": False,
            "log_level": 2,
            "fetch.queue.backoff.ms": 10,  # a second by default, in which it would stand idle
        }
    )
    parts = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)]
    left = sum(consumer.get_watermark_offsets(part, timeout=10)[1] for part in parts)
    cpu_before, started = cpu_seconds(), time.monotonic()
    consumer.assign(parts)
    events = 0
    while left > 0 and time.monotonic() - started < CONSUME_SECONDS_MAX:
        for message in consumer.consume(10_000, timeout=0.1):
            if message.error() is None:
                events += (message.value() or b"").count(b"\n") + 1
                left -= 1
    used = Measured(events, time.monotonic() - started, cpu_seconds() - cpu_before)
    consumer.close()
    return used


def insert(url: str, file: str) -> Measured:
    """Insert rows of `priced_events`, kept as an Arrow stream, into that table of another database.

    In blocks like those of the job, one after the other: with nothing to overlap.
    """
    rows = pa.ipc.open_stream(Path(file).read_bytes()).read_all()
    frame = pl.DataFrame(pl.from_arrow(rows))
    blocks = [
        arrow_stream(frame.slice(start, ROWS_PER_INSERT)).to_pybytes()
        for start in range(0, len(frame), ROWS_PER_INSERT)
    ]
    client = connect(parse_address(url))
    cpu_before, started = cpu_seconds(), time.monotonic()
    for block_bytes in blocks:
        client.raw_insert(
            "priced_events", insert_block=block_bytes, fmt="ArrowStream", settings=INSERT_SETTINGS
        )
    used = Measured(len(frame), time.monotonic() - started, cpu_seconds() - cpu_before)
    client.close()
    return used


if __name__ == "__main__":
    {"decode": decode, "consume": consume, "insert": insert}[sys.argv[1]](*sys.argv[2:]).say()
