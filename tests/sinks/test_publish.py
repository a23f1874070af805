"""Deferred publishing on the real engine: once, whenever the crash."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from sinks import publish
from sinks.clickhouse import ClickHouseUnavailableError, connect, parse_address
from sinks.migrate import migrate, migrations
from sinks.publish import Publisher, PublisherState, RefusedInsertError
from sinks.rows import delivery_rows, progress_rows
from sinks.stage import BlockStage, DamagedBlockError, OpenBlock, StagedBlock

TABLE = "cap_alert_deliveries"


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    opened = connect(parse_address(clickhouse_url))
    assert len(migrate(opened)) == len(migrations())
    assert migrate(opened) == ()
    yield opened
    opened.close()


def rows(*names: str) -> pl.DataFrame:
    return delivery_rows([(name, 1_700_000_000_000) for name in names])


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


def count(client: Client) -> int:
    return int(client.query("SELECT count() FROM cap_alert_deliveries").result_rows[0][0])


def new(client: Client, directory: Path) -> Publisher:
    publisher = Publisher(client, BlockStage(directory, "sink-00"))
    publisher.resume(())
    return publisher


def test_a_block_stands_when_the_snapshot_after_its_own_is_taken(client: Client, tmp_path: Path) -> None:
    publisher = new(client, tmp_path)
    publisher.collect(TABLE, rows("a", "b"))
    assert [block.rows for block in publisher.turn_epoch()] == [2]
    assert count(client) == 0  # its epoch may never become durable
    publisher.publish_durable()
    publisher.collect(TABLE, rows("c"))
    assert [block.rows for block in publisher.turn_epoch()] == [1]
    assert count(client) == 2
    assert publisher.turn_epoch() == ()  # nobody has said that the epoch is durable, but its successor ends
    assert count(client) == 3
    for _ in range(3):
        publisher.turn_epoch()
    assert list(tmp_path.iterdir()) == []


class Held(BlockStage):
    """Keeps inserts from beginning until they are let go."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "sink-00")
        self.began, self.go_on = threading.Event(), threading.Event()

    def read(self, block: StagedBlock) -> bytes:
        self.began.set()
        assert self.go_on.wait(30)
        return super().read(block)


def test_the_job_goes_on_while_blocks_of_some_epochs_are_inserted(client: Client, tmp_path: Path) -> None:
    stage = Held(tmp_path)
    publisher = Publisher(client, stage)
    publisher.resume(())
    pending: list[list[int]] = []
    for number in range(3):
        publisher.collect(TABLE, rows(*(f"{number}-{row}" for row in range(number + 1))))
        pending.append([block.rows for block in publisher.turn_epoch(2)])
    assert pending == [[1], [1, 2], [1, 2, 3]]  # a snapshot names all that does not stand, oldest first
    assert count(client) == 0
    threading.Timer(0.2, stage.go_on.set).start()
    publisher.collect(TABLE, rows("last"))
    assert [block.rows for block in publisher.turn_epoch()] == [1]  # it has waited for the others
    assert count(client) == 6
    assert publisher.turn_epoch() == ()


def test_a_crash_with_several_epochs_on_their_way_publishes_them_all(client: Client, tmp_path: Path) -> None:
    stage = Held(tmp_path)
    publisher = Publisher(client, stage)
    publisher.resume(())
    for number in range(3):
        publisher.collect(TABLE, rows(f"{number}"))
        pending = publisher.turn_epoch(2)
    assert stage.began.wait(30)  # the thread stays where it is, as it would in a process that was killed
    named = PublisherState.from_json(PublisherState(pending, {}).to_json()).pending
    for _ in range(2):
        Publisher(client, BlockStage(tmp_path, "sink-00")).resume(named)
        assert count(client) == 3
    stage.go_on.set()  # an insert of the old process may still be under way
    publisher.turn_epoch()
    assert count(client) == 3


def test_after_a_block_that_cannot_be_inserted_no_later_one_is(client: Client, tmp_path: Path) -> None:
    stage = Held(tmp_path)
    publisher = Publisher(client, stage, lambda _: None)
    publisher.resume(())
    publisher.collect(TABLE, rows("a"))
    (first,) = publisher.turn_epoch(2)
    publisher.collect(TABLE, rows("b"))
    publisher.turn_epoch(2)
    publisher.publish_durable()  # both are on their way
    (tmp_path / first.file).unlink()
    stage.go_on.set()
    with pytest.raises(DamagedBlockError):
        publisher.turn_epoch()
    with pytest.raises(DamagedBlockError):  # nor does another snapshot forget it
        publisher.turn_epoch(2)
    assert count(client) == 0


def test_when_the_job_ends_no_further_epoch_is_begun(client: Client, tmp_path: Path) -> None:
    stage = Held(tmp_path)
    publisher = Publisher(client, stage)
    publisher.resume(())
    for number in range(2):
        publisher.collect(TABLE, rows(f"{number}"))
        publisher.turn_epoch(2)
    publisher.publish_durable()
    publisher.collect(TABLE, rows("of no epoch"))
    assert stage.began.wait(30)
    publisher.close()
    stage.go_on.set()
    insert = next(thread for thread in threading.enumerate() if thread.name == "insert")
    insert.join(30)
    assert count(client) == 1  # the one that was being inserted


def test_a_full_disk_does_not_keep_a_publisher_from_closing(client: Client, tmp_path: Path) -> None:
    class Full(BlockStage):
        def begin(self, table: str) -> OpenBlock:
            block = super().begin(table)
            block._file.close()  # noqa: SLF001  # as below
            block._checked._file = block._file = open("/dev/full", "wb")  # noqa: SIM115, SLF001, PTH123  # it is closed below
            return block

    publisher = Publisher(client, Full(tmp_path, "sink-00"))
    publisher.resume(())
    with pytest.raises(OSError, match="No space left"):
        publisher.collect(TABLE, rows(*(f"{row}" for row in range(100_000))))
    publisher.close()


def test_rows_are_on_the_disk_before_the_snapshot(client: Client, tmp_path: Path) -> None:
    publisher = new(client, tmp_path)
    for number in range(100):
        publisher.collect(TABLE, rows(*(f"{number}-{row}" for row in range(1_000))))
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size > 100_000  # and no longer in memory
    (block,) = publisher.turn_epoch()
    assert (block.rows, block.size_bytes) == (100_000, file.stat().st_size)
    publisher.turn_epoch()
    assert count(client) == 100_000


def test_what_clickhouse_takes_is_synced(client: Client) -> None:
    unsynced = client.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
        " AND NOT (create_table_query LIKE '%fsync_after_insert = 1%'"
        " AND create_table_query LIKE '%min_rows_to_fsync_after_merge = 1%')"
        " ORDER BY name"
    ).result_rows
    # The one is written by `migrate` alone, the other can be made anew from its rows at any time.
    assert unsynced == [("margin_rollup",), ("schema_migrations",)]


def test_a_crash_at_any_point_publishes_each_block_once(client: Client, tmp_path: Path) -> None:
    publisher = new(client, tmp_path)
    publisher.collect(TABLE, rows("a"))
    state = PublisherState(publisher.turn_epoch(), {}).to_json()
    for _ in range(2):  # publishes "a"; then the process dies, before these snapshots are durable
        publisher.turn_epoch()
    assert count(client) == 1
    pending = PublisherState.from_json(state).pending
    for _ in range(3):  # and dies again and again right after its resume
        Publisher(client, BlockStage(tmp_path, "sink-00")).resume(pending)
        assert count(client) == 1


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


def test_what_was_staged_for_an_epoch_that_never_became_durable_is_thrown_away(
    client: Client, tmp_path: Path
) -> None:
    publisher = new(client, tmp_path)
    publisher.collect(TABLE, rows("a"))
    publisher.turn_epoch()
    assert len(list(tmp_path.iterdir())) == 1
    new(client, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert count(client) == 0


def test_an_insert_is_tried_again_until_the_table_is_back(client: Client, tmp_path: Path) -> None:
    pauses: list[float] = []

    def come_back(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            client.command(f"RENAME TABLE away TO {TABLE}")

    publisher = Publisher(client, BlockStage(tmp_path, "sink-00"), come_back)
    publisher.resume(())
    publisher.collect(TABLE, rows("a"))
    publisher.turn_epoch()
    client.command(f"RENAME TABLE {TABLE} TO away")
    for _ in range(2):
        publisher.turn_epoch()
    assert len(pauses) == 2
    assert count(client) == 1


def test_retries_end_with_a_sentence_and_the_block_stays_staged(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "RETRY_SECONDS_MAX", 0)
    publisher = Publisher(client, BlockStage(tmp_path, "sink-00"), lambda _: None)
    publisher.resume(())
    publisher.collect(TABLE, rows("a"))
    pending = publisher.turn_epoch()
    client.command(f"RENAME TABLE {TABLE} TO away")
    with pytest.raises(ClickHouseUnavailableError, match="they stay staged"):
        publisher.turn_epoch()
    client.command(f"RENAME TABLE away TO {TABLE}")
    Publisher(client, BlockStage(tmp_path, "sink-00")).resume(pending)
    assert count(client) == 1


@pytest.mark.parametrize("damage", ["missing", "short", "flipped"])
def test_a_damaged_block_is_named_and_nothing_of_it_is_sent(
    client: Client, tmp_path: Path, damage: str
) -> None:
    publisher = new(client, tmp_path)
    publisher.collect(TABLE, rows("a"))
    pending = publisher.turn_epoch()
    path = tmp_path / pending[0].file
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(content[:-1])
    else:
        content[content.index(b"a")] ^= 1  # it would still be a block, of another alert
        path.write_bytes(content)
    resumed = PublisherState.from_json(PublisherState(pending, {}).to_json()).pending
    with pytest.raises(DamagedBlockError) as refused:
        Publisher(client, BlockStage(tmp_path, "sink-00")).resume(resumed)
    assert str(path) in str(refused.value)
    assert "--rebuild-state" in str(refused.value)
    assert count(client) == 0


def test_what_clickhouse_refuses_is_named_after_few_attempts_and_stays_staged(
    client: Client, tmp_path: Path
) -> None:
    pauses: list[float] = []
    publisher = Publisher(client, BlockStage(tmp_path, "sink-00"), pauses.append)
    publisher.resume(())
    publisher.collect(TABLE, rows("a"))
    (block,) = publisher.turn_epoch()
    client.command(f"RENAME TABLE {TABLE} TO away")
    with pytest.raises(RefusedInsertError) as refused:
        publisher.turn_epoch()
    said = str(refused.value)
    assert f"ClickHouse refuses 1 rows for {TABLE} (staged/{block.file}), or to say" in said
    assert "they stay staged" in said
    assert "UNKNOWN_TABLE" in said
    assert len(pauses) == publish.REFUSALS_MAX - 1
    client.command(f"RENAME TABLE away TO {TABLE}")
    Publisher(client, BlockStage(tmp_path, "sink-00")).resume((block,))
    assert count(client) == 1


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        pytest.param(DatabaseError("too many simultaneous queries", code=202), 10, id="too many queries"),
        pytest.param(DatabaseError("memory limit exceeded", code=241), 10, id="no memory"),
        pytest.param(DatabaseError("too many parts", code=252), 10, id="too many parts"),
        pytest.param(DatabaseError("table is in readonly mode", code=242), 10, id="read-only"),
        pytest.param(DatabaseError("not enough space", code=243), 10, id="disk full"),
        pytest.param(DatabaseError("an error without its code"), 10, id="unknown"),
        pytest.param(OSError("connection reset"), 10, id="network"),
        pytest.param(DatabaseError("cannot read the stream", code=117), publish.REFUSALS_MAX, id="data"),
        pytest.param(DatabaseError("no such column", code=16), publish.REFUSALS_MAX, id="columns"),
        pytest.param(DatabaseError("not enough privileges", code=497), publish.REFUSALS_MAX, id="rights"),
        pytest.param(DatabaseError("authentication failed", code=516), publish.REFUSALS_MAX, id="login"),
    ],
)
def test_what_passes_is_waited_for_and_what_does_not_is_not(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, attempts: int
) -> None:
    tries: list[str] = []
    insert = client.raw_insert

    def fail_nine_times(table: str, **how: Any) -> object:
        tries.append(table)
        if len(tries) < 10:
            raise error
        return insert(table, **how)

    publisher = Publisher(client, BlockStage(tmp_path, "sink-00"), lambda _: None)
    publisher.resume(())
    publisher.collect(TABLE, rows("a"))
    publisher.turn_epoch()
    monkeypatch.setattr(client, "raw_insert", fail_nine_times)
    with contextlib.suppress(RefusedInsertError):
        publisher.turn_epoch()
    assert (len(tries), count(client)) == (attempts, int(attempts == 10))


def test_a_large_epoch_is_several_blocks(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "BLOCK_ROWS_MAX", 10)
    publisher = new(client, tmp_path)
    publisher.collect(TABLE, rows(*(f"a{n}" for n in range(25))))
    assert [block.rows for block in publisher.turn_epoch()] == [10, 10, 5]
    for _ in range(2):
        publisher.turn_epoch()
    assert count(client) == 25
