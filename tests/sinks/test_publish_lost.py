"""Blocks that ClickHouse knows and has lost are inserted again, and no others."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from clickhouse_connect.driver.client import Client

from sinks.publish import Publisher
from sinks.rows import progress_rows
from sinks.stage import BlockStage
from tests.sinks.publishing import TABLE, count, new, rows


def priced(
    days: int, events_per_day: int, ingested: datetime = datetime(2026, 12, 1, tzinfo=timezone.utc)
) -> pl.DataFrame:
    """The columns that matter here; ClickHouse fills the others."""
    times = [
        datetime(2026, 11, 1, tzinfo=timezone.utc) + timedelta(days=day, minutes=number)
        for number in range(events_per_day)
        for day in range(days)
    ]
    return pl.DataFrame(
        {
            "tenant_id": ["acme"] * len(times),
            "idempotency_key": [f"k{number}" for number in range(len(times))],
            "timestamp": pl.Series(times, dtype=pl.Datetime("ms", "UTC")),
            "ingested_at": pl.Series([ingested] * len(times), dtype=pl.Datetime("ms", "UTC")),
        }
    )


def lose(client: Client, table: str, condition: str = "1") -> None:
    """What a kill between the token and the part leaves: ClickHouse knows the block and has no rows of it."""
    client.command(f"ALTER TABLE {table} DELETE WHERE {condition}", settings={"mutations_sync": 2})


def test_a_block_that_clickhouse_knows_but_has_lost_is_inserted_on_resume(
    client: Client, tmp_path: Path
) -> None:
    publisher = new(client, tmp_path)
    publisher.collect(TABLE, rows("a", "it's\tb\\n", "ü\n"))
    pending = publisher.turn_epoch()
    for _ in range(2):
        publisher.turn_epoch()
    lose(client, TABLE)
    assert count(client) == 0
    for _ in range(3):
        Publisher(client, BlockStage(tmp_path, "sink-00")).resume(pending)
        assert count(client) == 3


@pytest.mark.parametrize("lost", [(), (0,), (1, 3), (0, 1, 2, 3)])
def test_only_the_days_that_are_lost_are_inserted(
    client: Client, tmp_path: Path, lost: tuple[int, ...]
) -> None:
    publisher = new(client, tmp_path)
    publisher.collect("priced_events", priced(days=4, events_per_day=5))
    pending = publisher.turn_epoch()
    for _ in range(2):
        publisher.turn_epoch()
    for day in lost:
        lose(client, "priced_events", f"toDate(timestamp) = toDate('2026-11-01') + {day}")
    Publisher(client, BlockStage(tmp_path, "sink-00")).resume(pending)
    by_day = "SELECT count() FROM priced_events GROUP BY toDate(timestamp)"
    assert client.query(by_day).result_rows == [(5,)] * 4


def test_an_earlier_row_of_the_same_event_is_no_witness(client: Client, tmp_path: Path) -> None:
    for day in (1, 2):  # the second is priced by a job that has lost its state
        publisher = new(client, tmp_path)
        publisher.collect(
            "priced_events", priced(1, 1, ingested=datetime(2026, 12, day, tzinfo=timezone.utc))
        )
        pending = publisher.turn_epoch()
        for _ in range(2):
            publisher.turn_epoch()
    lose(client, "priced_events", "toDate(ingested_at) = '2026-12-02'")
    Publisher(client, BlockStage(tmp_path, "sink-00")).resume(pending)
    assert client.query("SELECT toString(ingested_at) FROM usage").result_rows == [
        ("2026-12-02 00:00:00.000",)
    ]


def test_a_block_that_a_dying_clickhouse_lost_is_inserted_by_the_retry(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = client.raw_insert

    def die_in_it(table: str, **how: Any) -> object:
        insert(table, **how)
        lose(client, table)
        monkeypatch.setattr(client, "raw_insert", insert)
        raise OSError("connection reset")

    publisher = Publisher(client, BlockStage(tmp_path, "sink-00"), lambda _: None)
    publisher.resume(())
    publisher.collect(TABLE, rows("a", "b"))
    publisher.turn_epoch()
    monkeypatch.setattr(client, "raw_insert", die_in_it)
    for _ in range(2):
        publisher.turn_epoch()
    assert count(client) == 2


def test_progress_of_an_earlier_run_does_not_stand_for_this_ones(client: Client, tmp_path: Path) -> None:
    before, now_ms = [("/a", 0, 100, 10), ("/b", 0, 500, 50)], 1_700_000_000_000
    for rows_of_run in (before, [("/a", 0, 100, 10), ("/b", 0, 900, 90)]):  # the second has lost its state
        publisher = new(client, tmp_path)
        publisher.collect("source_progress", progress_rows(rows_of_run, now_ms))
        now_ms += 1
        pending = publisher.turn_epoch()
        for _ in range(2):
            publisher.turn_epoch()
    lose(
        client, "source_progress", "next_offset = 900 OR updated_at > fromUnixTimestamp64Milli(1700000000000)"
    )
    Publisher(client, BlockStage(tmp_path, "sink-00")).resume(pending)
    found = client.query("SELECT source, next_offset FROM source_progress FINAL ORDER BY source")
    assert found.result_rows == [("/a", 100), ("/b", 900)]


def test_an_alert_of_an_earlier_run_does_not_stand_for_the_others_of_its_block(
    client: Client, tmp_path: Path
) -> None:
    for names in (("a",), ("a", "b", "c")):  # the second run has lost its state, and raises "a" again
        publisher = new(client, tmp_path)
        publisher.collect(TABLE, rows(*names))
        pending = publisher.turn_epoch()
        for _ in range(2):
            publisher.turn_epoch()
    lose(client, TABLE, "alert_id != 'a'")
    Publisher(client, BlockStage(tmp_path, "sink-00")).resume(pending)
    found = client.query("SELECT DISTINCT alert_id FROM cap_alert_deliveries ORDER BY alert_id").result_rows
    assert found == [("a",), ("b",), ("c",)]


def test_what_stands_is_not_sent_again_even_if_its_token_is_forgotten(client: Client, tmp_path: Path) -> None:
    client.command(f"ALTER TABLE {TABLE} MODIFY SETTING non_replicated_deduplication_window = 1")
    publisher = new(client, tmp_path)
    publisher.collect(TABLE, rows("a", "b"))
    pending = publisher.turn_epoch()
    for _ in range(2):
        publisher.turn_epoch()
    for name in ("c", "d", "e"):
        client.insert(TABLE, [[name, datetime.now(timezone.utc)]])
    Publisher(client, BlockStage(tmp_path, "sink-00")).resume(pending)
    assert count(client) == 5
