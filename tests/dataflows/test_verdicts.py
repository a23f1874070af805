"""Verdicts of the shards: each event gets its own, however they come, and its batch waits for all of them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from bytewax.operators import StatefulBatchLogic
from hypothesis import given
from hypothesis import strategies as st

from dataflows.batch import Partition, RawBatch
from dataflows.decode import decode
from dataflows.dedupe import CONFLICT, DUPLICATE, ORIGINAL
from dataflows.lines import split_lines
from dataflows.operators import JudgeLogic
from dataflows.rate import rate_events, refuse_unpriced
from dataflows.steps import KeyedBatch, ShardVerdicts, judge, split_by_key
from tests.auditor_cases import NOON_MS, fields
from tests.dataflows.remembering import CARD, NO_BOUNDS, SETTINGS, SHARDS, event
from tests.dataflows.stepped import decoded, rated, settings_of


@given(st.lists(st.sampled_from([ORIGINAL, DUPLICATE, CONFLICT]), min_size=1, max_size=40), st.integers(1, 9))
def test_each_event_gets_its_own_verdict(verdicts: list[int], shards: int) -> None:
    batch = decoded(*(fields(idempotency_key=f"k-{number}") for number in range(len(verdicts))))
    keyed, slices = split_by_key(rated(batch, settings_of()), shards, seed=7)
    wanted = np.array(verdicts, np.int8)[keyed.order]
    ends = np.cumsum([len(one.sightings) for one in slices])[:-1]
    found = judge(
        keyed,
        [
            ShardVerdicts(one.shard, one.tick, part, -1, "")
            for one, part in zip(slices, np.split(wanted, ends), strict=True)
        ],
    )
    by_verdict = {
        ORIGINAL: found.priced["offset"].to_list(),
        DUPLICATE: found.duplicates["offset"].to_list(),
        CONFLICT: found.quarantined["offset"].to_list(),
    }
    offsets = batch.events["offset"].to_list()
    assert by_verdict == {
        kind: [offset for offset, one in zip(offsets, verdicts, strict=True) if one == kind]
        for kind in (ORIGINAL, DUPLICATE, CONFLICT)
    }


def test_verdicts_on_another_batch_are_refused() -> None:
    keyed, (one, other) = split_by_key(rated(decoded(fields()), settings_of()), 2, seed=7)
    found = [ShardVerdicts(part.shard, part.tick, np.zeros(1, np.int8), 5, "") for part in (one, other)]
    later = replace(found[1], tick=replace(one.tick, next_offset=one.tick.next_offset + 1))
    for wrong in ([found[0], later], [found[1], found[0]]):
        with pytest.raises(AssertionError, match="verdicts of another batch"):
            judge(keyed, wrong)


def keyed_batch(number: int) -> tuple[KeyedBatch, list[ShardVerdicts]]:
    """The nth batch of an input, of n events, and what each shard says: all of them are originals."""
    lines = split_lines(b"".join(event(f"k-{number}-{one}", NOON_MS) + b"\n" for one in range(number)))
    none, arrivals = np.zeros(number, np.int32), np.full(number, NOON_MS, np.int64)
    offsets = np.arange(number, dtype=np.int64)
    partition = Partition(0, "input", 0)
    raw = RawBatch(partition, lines, offsets, none, arrivals, number, live=True, age_limited=False)
    rated = rate_events(refuse_unpriced(decode(raw, NO_BOUNDS), CARD), CARD, SETTINGS.limits, 72)
    keyed, slices = split_by_key(rated, SHARDS, seed=7)
    return keyed, [
        ShardVerdicts(one.shard, one.tick, np.full(len(one.sightings), ORIGINAL, np.int8), -1, "")
        for one in slices
    ]


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_waits_for_the_verdicts_of_every_shard_in_whatever_order_they_come(seed: int) -> None:
    chance = random.Random(seed)
    batches = [keyed_batch(number) for number in range(5)]
    queues: list[list[KeyedBatch | ShardVerdicts]] = [[keyed for keyed, _ in batches]]
    queues += [[verdicts[shard] for _, verdicts in batches] for shard in range(SHARDS)]
    waiting = JudgeLogic(SHARDS)
    judged: list[int] = []
    while any(queues):
        queue = chance.choice([one for one in queues if one])
        count = chance.randint(1, len(queue))
        arrived, queue[:count] = queue[:count], []
        found, is_done = waiting.on_batch(arrived)
        judged += [len(one.priced) for one in found]
        assert judged == list(range(5 - max(map(len, queues))))
        uneven = len(set(map(len, queues))) > 1
        assert is_done == (StatefulBatchLogic.RETAIN if uneven else StatefulBatchLogic.DISCARD)
        if uneven:
            with pytest.raises(AssertionError, match="waits"):
                waiting.snapshot()
