"""What waits where it was read until its shards have spoken: batches for verdicts, rows for crossings.

Nothing waits when an epoch ends, because Bytewax ends it in a step only when all that was before has; so no
snapshot knows of it, and a crash loses nothing but what is read again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Generic, Protocol, TypeVar, cast

from bytewax.operators import StatefulBatchLogic

from dataflows.steps import Tick


class Waits(Protocol):
    """Something of one batch that waits for an answer of each of these shards."""

    @property
    def tick(self) -> Tick:
        """Of the batch."""

    @property
    def shards(self) -> Collection[int]:
        """The numbers of those that answer."""


class Answers(Protocol):
    """What a shard says of one batch."""

    @property
    def tick(self) -> Tick:
        """Of the batch."""

    @property
    def shard(self) -> int:
        """The number of the shard."""


Waiting = TypeVar("Waiting", bound=Waits)
Answer = TypeVar("Answer", bound=Answers)
Whole = TypeVar("Whole")


class _Queues(Generic[Waiting, Answer]):
    """Of one input: what waits, and what shards have said of it and of what is to come."""

    def __init__(self) -> None:
        self.waiting: deque[Waiting] = deque()
        self.answers: dict[int, deque[Answer]] = {}

    def __bool__(self) -> bool:
        return bool(self.waiting) or any(self.answers.values())

    def complete(self) -> Iterator[tuple[Waiting, list[Answer]]]:
        """Each of which all its shards have spoken, with what they said in the order of `shards`."""
        while self.waiting and all(self.answers.get(shard) for shard in self.waiting[0].shards):
            first = self.waiting.popleft()
            answers = [self.answers[shard].popleft() for shard in first.shards]
            if any(one.tick != first.tick for one in answers):
                raise AssertionError(f"answers to another batch of {first.tick.partition.name}")
            yield first, answers


class GatherLogic(StatefulBatchLogic["Waiting | Answer", Whole, str], Generic[Waiting, Answer, Whole]):
    """Makes a whole of each that waits, once its last answer is there.

    Those of an input come in their order, and so do the answers of each shard; one that waits and its answers
    come in any. At most the batches of an epoch wait, when another worker is slower than this one.
    """

    def __init__(self, waits: type[Waiting], whole_of: Callable[[Waiting, list[Answer]], Whole]) -> None:
        self._waits = waits
        self._whole_of = whole_of
        self._inputs: dict[int, _Queues[Waiting, Answer]] = {}

    def on_batch(self, values: list[Waiting | Answer]) -> tuple[list[Whole], bool]:
        """What has become complete.

        Raises:
            AssertionError: a shard has spoken of another batch.
        """
        for value in values:
            queues = self._inputs.setdefault(value.tick.partition.ordinal, _Queues())
            if isinstance(value, self._waits):
                queues.waiting.append(value)
            else:
                answer = cast("Answer", value)
                queues.answers.setdefault(answer.shard, deque()).append(answer)
        wholes = [self._whole_of(*one) for queues in self._inputs.values() for one in queues.complete()]
        is_done = not any(self._inputs.values())
        return wholes, StatefulBatchLogic.DISCARD if is_done else StatefulBatchLogic.RETAIN

    def snapshot(self) -> str:
        """Never called: a logic in which nothing waits is discarded.

        Raises:
            AssertionError: it was called.
        """
        raise AssertionError("something waits for a shard at the end of an epoch")
