"""Rows to publish, and how many of them stand."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from clickhouse_connect.driver.client import Client

from sinks.publish import Publisher
from sinks.rows import delivery_rows
from sinks.stage import BlockStage

TABLE = "cap_alert_deliveries"


def rows(*names: str) -> pl.DataFrame:
    return delivery_rows([(name, 1_700_000_000_000) for name in names])


def count(client: Client) -> int:
    return int(client.query("SELECT count() FROM cap_alert_deliveries").result_rows[0][0])


def new(client: Client, directory: Path) -> Publisher:
    publisher = Publisher(client, BlockStage(directory, "sink-00"))
    publisher.resume(())
    return publisher
