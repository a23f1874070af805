"""The columnar batches that travel through the job: what each one holds, and its columns.

One Bytewax item is a batch of thousands of events, never one event. Frames are Polars over Arrow
memory; gathering rows moves references, not text.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt
import polars as pl

from dataflows.lines import Lines, split_lines

USD = pl.Decimal(38, 12)

STRING_FIELDS = (
    "idempotency_key",
    "tenant_id",
    "feature_id",
    "provider",
    "model",
    "model_version",
    "region",
    "service_tier",
    "cache_status",
    "status",
    "usage_source",
)
TOKEN_FIELDS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
)
INTEGER_FIELDS = (*TOKEN_FIELDS, "latency_ms", "retry_count")

EVENT_SCHEMA = pl.Schema(
    {
        "idempotency_key": pl.String(),
        "tenant_id": pl.String(),
        "feature_id": pl.String(),
        "provider": pl.String(),
        "model": pl.String(),
        "model_version": pl.String(),
        "region": pl.String(),
        "service_tier": pl.String(),
        "timestamp_ms": pl.Int64(),
        **{name: pl.Int64() for name in INTEGER_FIELDS},
        "cache_status": pl.String(),
        "status": pl.String(),
        "usage_source": pl.String(),
        "provider_cost": USD,
        "attributes": pl.String(),
        "offset": pl.Int64(),
        "line": pl.Int32(),
        "raw": pl.Binary(),
    }
)
"""A decoded event: its fields (attributes as JSON text), where it stood, and its bytes as they arrived."""

QUARANTINE_SCHEMA = pl.Schema(
    {
        "reason": pl.String(),
        "detail": pl.String(),
        "tenant_id": pl.String(),
        "model": pl.String(),
        "offset": pl.Int64(),
        "line": pl.Int32(),
        "raw": pl.Binary(),
    }
)

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Partition:
    """One ordered input: a partition of a Kafka topic, or a file.

    `ordinal` is this job's small number for it, kept for ever in the state directory. `source` is
    the topic or the absolute path; `number` the Kafka partition (0 for a file).
    """

    ordinal: int
    source: str
    number: int

    @property
    def name(self) -> str:
        """What Bytewax, logs and the state directory call it."""
        return f"{self.source}/{self.number}"


@dataclass(frozen=True, slots=True)
class RawBatch:
    """What one poll of one partition brought.

    `lines` are whole lines, each ended by one newline. The arrays hold one number for each of them:
    `offset` (Kafka offset; for a file the line number, from 1), `line` (within a Kafka message,
    from 0; for a file 0), `arrival_ms` (the broker's timestamp, or the wall clock for files).
    `next_offset` is where this partition goes on. `live` is false when the partition has
    nothing more to bring for now, so that it does not hold event time back. An empty batch is a
    heartbeat.
    """

    partition: Partition
    lines: Lines
    offset: Int64s
    line: npt.NDArray[np.int32]
    arrival_ms: Int64s
    next_offset: int
    live: bool
    age_limited: bool

    @classmethod
    def heartbeat(cls, partition: Partition, next_offset: int, *, live: bool) -> RawBatch:
        """A batch without a line: it carries liveness, and wakes every step once an epoch."""
        none = np.empty(0, np.int64)
        lines = split_lines(b"")
        return cls(partition, lines, none, none.astype(np.int32), none, next_offset, live, age_limited=False)


@dataclass(frozen=True, slots=True)
class Decoded:
    """One poll, decoded. `events` follows `EVENT_SCHEMA`, in arrival order.

    `read` counts the lines that are not blank: `read = len(events) + len(quarantined)`.
    """

    partition: Partition
    events: pl.DataFrame
    quarantined: pl.DataFrame
    read: int
    next_offset: int
    live: bool
    unknown_fields: dict[str, int] = field(default_factory=dict)


@cache
def no_events() -> pl.DataFrame:
    """No events. Made once: to make it takes longer than to decode a hundred of them."""
    return EVENT_SCHEMA.to_frame()


@cache
def no_quarantine() -> pl.DataFrame:
    """No rows that were quarantined; made once, as `no_events`."""
    return QUARANTINE_SCHEMA.to_frame()


def without(frame: pl.DataFrame, names: Collection[str]) -> pl.DataFrame:
    """The frame without some columns, if it has them (`DataFrame.drop` runs a query for it)."""
    return frame[[name for name in frame.columns if name not in names]]


def constant(value: object, rows: int, dtype: pl.DataType) -> pl.Series:
    """A column of the same value in so many rows. `pl.repeat` runs a query for it: five times as long."""
    column: pl.Series = pl.Series([value], dtype=dtype).new_from_index(0, rows)
    return column
