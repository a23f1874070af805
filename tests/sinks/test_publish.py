"""Deferred publishing on the real engine: once, whenever the crash."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from sinks import publish
from sinks.clickhouse import ClickHouseUnavailableError
from sinks.publish import Publisher, PublisherState, RefusedInsertError
from sinks.stage import BlockStage, DamagedBlockError, OpenBlock
from tests.sinks.publishing import TABLE, count, new, rows


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
