"""Frames of the job as rows of the ClickHouse tables: names, types, and the position that each row keeps."""

from __future__ import annotations

import polars as pl

from dataflows.batch import INTEGER_FIELDS, Partition
from sinks.rows import time_column

_LABELS = (
    "tenant_id",
    "idempotency_key",
    "feature_id",
    "provider",
    "model",
    "model_version",
    "region",
    "service_tier",
)


def _position() -> list[pl.Expr]:
    return [
        pl.col("source"),
        pl.col("source_partition").cast(pl.UInt32),
        pl.col("offset").cast(pl.UInt64).alias("source_offset"),
        pl.col("line").cast(pl.UInt32).alias("source_line"),
    ]


def priced_rows(priced: pl.DataFrame) -> pl.DataFrame:
    """Rows of `priced_events`, but for `ingested_at`."""
    return priced.select(
        *_LABELS,
        time_column("timestamp", "timestamp_ms"),
        *(pl.col(name).cast(pl.UInt64) for name in INTEGER_FIELDS),
        "cache_status",
        "status",
        "usage_source",
        "provider_cost",
        "attributes",
        "billable",
        "credits",
        "cost",
        "price",
        "multiplier",
        "rate_card_version",
        "late",
        *_position(),
    )


def duplicate_rows(duplicates: pl.DataFrame) -> pl.DataFrame:
    """Rows of `duplicates`, but for `received_at`."""
    return duplicates.select(
        "tenant_id", "idempotency_key", time_column("timestamp", "timestamp_ms"), *_position()
    )


def quarantine_rows(quarantined: pl.DataFrame, partition: Partition) -> pl.DataFrame:
    """Rows of `quarantine_log`, but for `received_at`. The newline that ended the line is not part of it."""
    placed = quarantined.with_columns(
        source=pl.lit(partition.source), source_partition=pl.lit(partition.number)
    )
    return placed.select(
        "reason",
        "detail",
        "tenant_id",
        "model",
        pl.when(pl.col("raw").bin.ends_with(b"\n"))
        .then(pl.col("raw").bin.slice(0, pl.col("raw").bin.size() - 1))
        .otherwise(pl.col("raw"))
        .alias("raw"),
        *_position(),
        pl.lit(0, pl.UInt32).alias("revision"),
    )
