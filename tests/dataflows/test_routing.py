"""Which worker a key goes to, as Bytewax 0.21.1 was seen to decide it."""

from __future__ import annotations

import pytest

from dataflows.routing import keys_of, shard_keys, worker_of

SEEN = "2121110012100020100221102020020102010200"
"""The workers, of three processes, that a stateful step ran on for the keys "00" to "39"."""


def test_keys_go_where_bytewax_was_seen_to_send_them() -> None:
    assert "".join(str(worker_of(f"{number:02d}", 3)) for number in range(40)) == SEEN


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_keys_of_a_worker_all_go_to_it(workers: int) -> None:
    for worker in range(workers):
        keys = keys_of(worker, workers, 8)
        assert len(set(keys)) == 8
        assert {worker_of(key, workers) for key in keys} == {worker}


@pytest.mark.parametrize("workers", range(1, 9))
def test_shards_are_dealt_to_workers_in_turn(workers: int) -> None:
    keys = shard_keys(8)
    assert len(set(keys)) == 8
    assert [worker_of(key, workers) for key in keys] == [shard % workers for shard in range(8)]
