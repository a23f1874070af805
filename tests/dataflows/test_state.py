"""The state directory: what must never change does not, and what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflows.segments import CorruptStateError
from dataflows.state import StateHeldError, StateLock, open_state


def test_inputs_keep_their_ordinals_and_the_seed_stays(tmp_path: Path) -> None:
    first = open_state(tmp_path, [("topic", 0), ("topic", 1)], 1)
    second = open_state(tmp_path, [("other", 0), ("topic", 1)], 4)
    assert second.hash_seed == first.hash_seed
    assert {name: one.ordinal for name, one in second.partitions.items()} == {
        "topic/0": 0,
        "topic/1": 1,
        "other/0": 2,
    }
    assert second.sink_partitions == 4
    assert open_state(tmp_path, [], 1) == second, "nothing that a snapshot may name ever goes"


@pytest.mark.parametrize("content", [None, "", "{}", '{"hash_seed": "x"}', "[1"])
def test_a_missing_or_damaged_job_file_is_named(tmp_path: Path, content: str | None) -> None:
    open_state(tmp_path, [("topic", 0)], 1)
    path = tmp_path / "job.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(CorruptStateError, match=r"job\.json"):
        open_state(tmp_path, [("topic", 0)], 1)


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    lock = StateLock.acquire(tmp_path)
    with pytest.raises(StateHeldError, match="in use by another Meterline job"):
        StateLock.acquire(tmp_path)
    lock.release()
    StateLock.acquire(tmp_path).release()
