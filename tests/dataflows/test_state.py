"""The state directory: what must never change does not, and what is missing is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dataflows.routing import shard_keys
from dataflows.segments import CorruptStateError
from dataflows.state import (
    FORMAT,
    NewerStateError,
    StateHeldError,
    StateLock,
    TopicNotRecognisedError,
    _write_json,
    open_state,
    recognise_topic,
)


def test_inputs_keep_their_ordinals_and_the_seed_stays(tmp_path: Path) -> None:
    first = open_state(tmp_path, [("topic", 0), ("topic", 1)], 1)
    second = open_state(tmp_path, [("other", 0), ("topic", 1)], 4)
    assert second.hash_seed == first.hash_seed
    assert {name: one.ordinal for name, one in second.partitions.items()} == {
        "topic/0": 0,
        "topic/1": 1,
        "other/0": 2,
    }
    assert (first.sink_partitions, second.sink_partitions) == (1, 4)
    assert second.progress_partitions == 1, "what the first remembers of an input stays with it"
    assert open_state(tmp_path, [], 1) == second, "nothing that a snapshot may name ever goes"


def alter(path: Path, name: str, value: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))


def write_as(directory: Path, **fields: object) -> None:
    """Write `job.json` as another version would: with these fields, and without those that are None."""
    path = directory / "job.json"
    content = {**json.loads(path.read_text()), **fields}
    del content["checksum"]
    _write_json(path, {name: value for name, value in content.items() if value is not None})


def test_a_state_keeps_the_keys_of_its_shards(tmp_path: Path) -> None:
    new = open_state(tmp_path / "new", [("topic", 0)], 1)
    assert new.shard_keys == shard_keys(8)
    assert open_state(tmp_path / "new", [("topic", 1)], 2).shard_keys == new.shard_keys

    write_as(tmp_path / "new", format=None)
    assert open_state(tmp_path / "new", [("topic", 0)], 1).shard_keys == new.shard_keys

    write_as(tmp_path / "new", format=None, shard_keys=None, shards=3)
    assert open_state(tmp_path / "new", [("topic", 0)], 1).shard_keys == ("00", "01", "02")
    for sink_partitions in (3, 1):  # written anew, and read back
        state = open_state(tmp_path / "new", [("topic", 2)], sink_partitions)
        assert (state.shard_keys, state.sink_partitions) == (("00", "01", "02"), 3)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read: Is a directory"),
        (lambda path: path.write_text(""), "it is not JSON"),
        (lambda path: path.write_text("[1]"), "its checksum is wrong"),
        (lambda path: path.write_text("{}"), "its checksum is wrong"),
        (lambda path: alter(path, "hash_seed", 12345), "its checksum is wrong"),
        (lambda path: alter(path, "shard_keys", ["00", "01"]), "its checksum is wrong"),
        (lambda path: alter(path, "generation", 7), "its checksum is wrong"),
        (lambda path: alter(path, "partitions", [{"source": 5, "number": "q"}]), "its checksum is wrong"),
    ],
)
def test_a_missing_or_altered_job_file_is_named_with_one_way_out(
    tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    open_state(tmp_path, [("topic", 0)], 1)
    damage(tmp_path / "job.json")
    with pytest.raises(CorruptStateError) as refused:
        open_state(tmp_path, [("topic", 0)], 1)
    said = str(refused.value)
    assert f"the state file {tmp_path}/job.json" in said
    assert told in said
    assert said.endswith("; `meterline run --rebuild-state` makes the state anew from ClickHouse")


def test_a_note_of_topics_that_was_altered_is_named(tmp_path: Path) -> None:
    recognise_topic(tmp_path, "events", "one")
    recognise_topic(tmp_path, "events", "one")
    alter(tmp_path / "topics.json", "events", "two")
    with pytest.raises(TopicNotRecognisedError, match=r"topics\.json is damaged"):
        recognise_topic(tmp_path, "events", "two")


def test_a_new_state_has_the_generation_it_was_given_and_keeps_it(tmp_path: Path) -> None:
    assert open_state(tmp_path, [], 1, 3).generation == 3
    assert open_state(tmp_path, [], 1, 9).generation == 3


def test_a_state_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    open_state(tmp_path, [("topic", 0)], 1)
    assert json.loads((tmp_path / "job.json").read_text())["format"] == FORMAT
    write_as(tmp_path, format=FORMAT + 1)
    with pytest.raises(NewerStateError, match=f"its format is {FORMAT + 1}, and this one knows {FORMAT} at"):
        open_state(tmp_path, [("topic", 0)], 1)


def test_a_holder_that_does_not_run_here_may_have_left_its_workers(tmp_path: Path) -> None:
    lock = StateLock.acquire(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "lock").write_text(f"{ended.pid}\n")
    with pytest.raises(StateHeldError, match=rf"\(process {ended.pid}, which does not run here: if"):
        StateLock.acquire(tmp_path)
    lock.release()


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    lock = StateLock.acquire(tmp_path)
    with pytest.raises(StateHeldError, match="in use by another Meterline job"):
        StateLock.acquire(tmp_path)
    lock.release()
    StateLock.acquire(tmp_path).release()
