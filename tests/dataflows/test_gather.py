"""What waits for its shards is complete once the last of them has spoken, in whatever order that comes."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from bytewax.operators import StatefulBatchLogic

from dataflows.batch import Partition
from dataflows.gather import GatherLogic
from dataflows.steps import Tick


@dataclass(frozen=True)
class Asked:
    tick: Tick
    shards: tuple[int, ...]


@dataclass(frozen=True)
class Answered:
    tick: Tick
    shard: int


INPUT = Partition(0, "input", 0)


def tick(number: int, partition: Partition = INPUT) -> Tick:
    return Tick(partition, peak_ms=-1, live=True, next_offset=number)


def gathering() -> GatherLogic[Asked, Answered, tuple[int, list[int]]]:
    """Makes of what waits its number and the shards that have spoken."""
    return GatherLogic(Asked, lambda asked, found: (asked.tick.next_offset, [one.shard for one in found]))


@pytest.mark.parametrize("seed", range(40))
def test_each_waits_for_its_own_shards_in_whatever_order_they_speak(seed: int) -> None:
    chance = random.Random(seed)
    asked = [
        Asked(tick(number), tuple(sorted(chance.sample(range(4), chance.randint(1, 4)))))
        for number in range(6)
    ]
    wanted = [(one.tick.next_offset, list(one.shards)) for one in asked]
    queues: list[list[Asked | Answered]] = [list(asked)]
    queues += [[Answered(one.tick, shard) for one in asked if shard in one.shards] for shard in range(4)]
    logic, whole = gathering(), []
    while any(queues):
        queue = chance.choice([one for one in queues if one])
        count = chance.randint(1, len(queue))
        arrived, queue[:count] = queue[:count], []
        found, is_done = logic.on_batch(arrived)
        whole += found
        still_to_come = [one.tick.next_offset for queue in queues for one in queue]
        assert whole == wanted[: min(still_to_come, default=6)]
        waits = len(whole) < 6 and seen_of(queues, asked) > sum(1 + len(one[1]) for one in whole)
        assert is_done == (StatefulBatchLogic.RETAIN if waits else StatefulBatchLogic.DISCARD)
        if waits:
            with pytest.raises(AssertionError, match="waits"):
                logic.snapshot()
    assert whole == wanted


def seen_of(queues: list[list[Asked | Answered]], asked: list[Asked]) -> int:
    """How many have arrived: the questions and the answers to them."""
    return sum(1 + len(one.shards) for one in asked) - sum(map(len, queues))


def test_inputs_do_not_wait_for_each_other() -> None:
    logic, other = gathering(), Partition(1, "other", 0)
    assert logic.on_batch([Asked(tick(1), (0,)), Asked(tick(7, other), (0,))])[0] == []
    assert logic.on_batch([Answered(tick(7, other), 0)]) == ([(7, [0])], StatefulBatchLogic.RETAIN)
    assert logic.on_batch([Answered(tick(1), 0)]) == ([(1, [0])], StatefulBatchLogic.DISCARD)


def test_an_answer_to_another_batch_is_refused() -> None:
    logic = gathering()
    logic.on_batch([Answered(tick(2), 0)])
    with pytest.raises(AssertionError, match="answers to another batch of input/0"):
        logic.on_batch([Asked(tick(1), (0,))])
