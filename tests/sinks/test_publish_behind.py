"""Publishing behind the job: blocks of several epochs on their way at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from sinks.publish import Publisher, PublisherState
from sinks.stage import BlockStage, DamagedBlockError, StagedBlock
from tests.sinks.publishing import TABLE, count, rows


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


def behind(client: Client, directory: Path, epochs: int) -> tuple[Publisher, Held, tuple[StagedBlock, ...]]:
    """A publisher whose inserts are held, after so many epochs of one row; and what its snapshot names."""
    stage = Held(directory)
    publisher = Publisher(client, stage, lambda _: None)
    publisher.resume(())
    named: tuple[StagedBlock, ...] = ()
    for number in range(epochs):
        publisher.collect(TABLE, rows(f"{number}"))
        named = publisher.turn_epoch(epochs)
    return publisher, stage, named


def test_a_crash_with_several_epochs_on_their_way_publishes_them_all(client: Client, tmp_path: Path) -> None:
    publisher, stage, pending = behind(client, tmp_path, epochs=3)
    assert stage.began.wait(30)  # the thread stays where it is, as it would in a process that was killed
    named = PublisherState.from_json(PublisherState(pending, {}).to_json()).pending
    for _ in range(2):
        Publisher(client, BlockStage(tmp_path, "sink-00")).resume(named)
        assert count(client) == 3
    stage.go_on.set()  # an insert of the old process may still be under way
    publisher.turn_epoch()
    assert count(client) == 3


def test_after_a_block_that_cannot_be_inserted_no_later_one_is(client: Client, tmp_path: Path) -> None:
    publisher, stage, pending = behind(client, tmp_path, epochs=2)
    publisher.publish_durable()  # both are on their way
    (tmp_path / pending[0].file).unlink()
    stage.go_on.set()
    with pytest.raises(DamagedBlockError):
        publisher.turn_epoch()
    with pytest.raises(DamagedBlockError):  # nor does another snapshot forget it
        publisher.turn_epoch(2)
    assert count(client) == 0


def test_when_the_job_ends_no_further_epoch_is_begun(client: Client, tmp_path: Path) -> None:
    publisher, stage, _ = behind(client, tmp_path, epochs=2)
    publisher.publish_durable()
    publisher.collect(TABLE, rows("of no epoch"))
    assert stage.began.wait(30)
    publisher.close()
    stage.go_on.set()
    insert = next(thread for thread in threading.enumerate() if thread.name == "insert")
    insert.join(30)
    assert count(client) == 1  # the one that was being inserted
