"""The dedupe index against a model that looks at one event at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from dataflows.dedupe import CONFLICT, DUPLICATE, ORIGINAL, DedupeIndex, Sightings, pack_position, times_of

Event = tuple[int, int, int, int]
"""(key, event time, content, position)."""


def sightings(events: list[Event], low_mask: int = -1) -> Sightings:
    keys = np.array([event[0] for event in events], np.uint64)
    return Sightings(
        key_low=keys & np.uint64(low_mask % 2**64),
        key_high=keys,
        time_ms=np.array([event[1] for event in events], np.int64),
        content=np.array([event[2] for event in events], np.uint64),
        position=np.array([event[3] for event in events], np.uint64),
        partition=0,
    )


class Model:
    """First wins, in the order of arrival; firsts of one key lie more than a window apart."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.firsts: dict[int, list[Event]] = {}

    def judge(self, event: Event) -> int:
        key, time, content, position = event
        for _, first_time, first_content, first_position in self.firsts.setdefault(key, []):
            if abs(time - first_time) <= self.window:
                if first_position == position:
                    return ORIGINAL
                return DUPLICATE if first_content == content else CONFLICT
        self.firsts[key].append(event)
        return ORIGINAL


events_strategy = st.lists(
    st.tuples(st.integers(0, 25), st.integers(0, 120), st.integers(0, 1)), max_size=150
).map(lambda rows: [(*row, position) for position, row in enumerate(rows)])


@given(
    events=events_strategy,
    window=st.integers(1, 60),
    cuts=st.lists(st.integers(1, 40), max_size=8),
    low_mask=st.sampled_from([-1, 0, 3]),
    restart=st.booleans(),
)
def test_any_cut_into_batches_and_any_restart_judge_like_the_model(
    events: list[Event], window: int, cuts: list[int], low_mask: int, *, restart: bool
) -> None:
    model, index, kept = Model(window), DedupeIndex(window), []
    found: list[int] = []
    rest = events
    for cut in [*cuts, len(events)]:
        batch, rest = rest[:cut], rest[cut:]
        found += index.classify(sightings(batch, low_mask)).tolist()
        if restart:
            kept.append(index.take_added())
            index = DedupeIndex(window)
            for block in kept:
                index.restore(block)
    assert found == [model.judge(event) for event in events]
    # A state ahead of the stream: reading everything again picks the same originals.
    again = index.classify(sightings(events, low_mask))
    assert [int(v) for v in again] == [model.judge(event) for event in events]


@pytest.mark.parametrize(
    ("times", "contents", "verdicts"),
    [
        # the window is inclusive
        ([0, 24], [1, 1], [ORIGINAL, DUPLICATE]),
        ([0, 25], [1, 1], [ORIGINAL, ORIGINAL]),
        # earlier events are copies too
        ([24, 0], [1, 1], [ORIGINAL, DUPLICATE]),
        # a copy does not prolong the window of its first
        ([0, 20, 40], [1, 1, 1], [ORIGINAL, DUPLICATE, ORIGINAL]),
        # compared with the first that is near, in the order of arrival
        ([0, 40, 20], [1, 2, 2], [ORIGINAL, ORIGINAL, CONFLICT]),
        ([0, 1, 2], [1, 2, 1], [ORIGINAL, CONFLICT, DUPLICATE]),
    ],
)
def test_verdicts_on_one_key(times: list[int], contents: list[int], verdicts: list[int]) -> None:
    events = [(7, time, content, i) for i, (time, content) in enumerate(zip(times, contents, strict=True))]
    assert DedupeIndex(24).classify(sightings(events)).tolist() == verdicts
    # The same from a state that was read back: entries of a key keep their order.
    first, second = DedupeIndex(24), DedupeIndex(24)
    first.classify(sightings(events[:-1]))
    second.restore(first.take_added())
    assert second.classify(sightings(events[-1:])).tolist() == verdicts[-1:]


def test_what_is_forgotten_is_old_and_what_is_young_stays() -> None:
    index = DedupeIndex(10)
    index.classify(sightings([(key, key, 0, key) for key in range(1_000)]))
    index.take_added()
    assert index.forget(400) == 400
    again = index.classify(sightings([(key, key, 0, 5_000 + key) for key in range(1_000)]))
    assert again.tolist() == [ORIGINAL] * 400 + [DUPLICATE] * 600


LATENESS = 12


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 12), st.integers(0, LATENESS), st.integers(0, 1)),
        min_size=50,
        max_size=150,
    ),
    window=st.integers(1, 20),
    cut=st.integers(1, 30),
    low_mask=st.sampled_from([-1, 0, 3]),
    restart=st.booleans(),
)
def test_forgetting_changes_no_verdict_on_an_event_that_is_not_too_late(
    steps: list[tuple[int, int, int, int]], window: int, cut: int, low_mask: int, *, restart: bool
) -> None:
    """`steps` are (key, how far the clock goes on, how late the event is then, content)."""
    clock, events = 0, []
    for position, (key, step, late, content) in enumerate(steps):
        clock += step
        events.append((key, clock - late, content, position))
    model, index, kept = Model(window), DedupeIndex(window), []
    newest = dropped = 0
    for start in range(0, len(events), cut):
        batch = events[start : start + cut]
        verdicts = index.classify(sightings(batch, low_mask)).tolist()
        assert verdicts == [model.judge(one) for one in batch]
        newest = max([newest, *(time for _, time, _, _ in batch)])
        before = newest - window - LATENESS
        kept.append(index.take_added())
        dropped += index.forget(before)
        if restart:  # a restart knows what the segment files still hold: whole blocks, expired entries too
            kept = [block for block in kept if len(block) and times_of(block).max() >= before]
            index = DedupeIndex(window)
            for block in kept:
                index.restore(block)
    event("something was forgotten" if dropped else "nothing was forgotten")


def test_an_expiry_below_a_quarter_waits() -> None:
    index = DedupeIndex(10)
    index.classify(sightings([(key, key, 0, key) for key in range(1_000)]))
    index.take_added()
    assert index.forget(100) == 0
    assert len(index) == 1_000


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_the_first_of_a_key_stays_the_first_when_others_are_forgotten(batch: int) -> None:
    """Each key has two entries within a window of the events that ask: the first has their content."""
    index = DedupeIndex(24)
    firsts = [(key, 100, 1, key) for key in range(120)]
    old = [(key, 0, 1, key) for key in range(1_000, 1_120)]
    seconds = [(key, 140, 2, 1_000 + key) for key in range(120)]
    events = [*(one for pair in zip(firsts, old, strict=True) for one in pair), *seconds]
    for start in range(0, len(events), batch):
        index.classify(sightings(events[start : start + batch]))
    asking = sightings([(key, 120, 1, 2_000 + key) for key in range(120)])
    again = DedupeIndex(24)
    again.restore(index.take_added())
    for one in (index, again):
        assert one.classify(asking).tolist() == [DUPLICATE] * 120
        assert one.forget(100) == 120
        assert one.classify(asking).tolist() == [DUPLICATE] * 120
        assert len(one) == 240


def numbered(start: int, stop: int) -> Sightings:
    """Hashed keys, a millisecond apart."""
    chance = np.random.Generator(np.random.PCG64(start))
    low, high, content = chance.integers(0, 2**64, (3, stop - start), np.uint64)
    numbers = np.arange(start, stop)
    return Sightings(low, high, numbers, content, numbers.astype(np.uint64), 0)


@pytest.mark.parametrize("batch", [700, 1_999, 30_011])
def test_an_entry_takes_48_bytes_at_most_at_every_count(batch: int) -> None:
    index = DedupeIndex(10)
    for start in range(0, 250_000, batch):
        index.classify(numbered(start, start + batch))
        assert index.memory_bytes <= 48 * len(index) + (60_000 if len(index) < 5_000 else 0)
    restored = DedupeIndex(10)
    restored.restore(index.take_added())
    assert restored.memory_bytes <= 48 * len(restored)
    assert restored.forget(200_000) == 200_000
    assert restored.memory_bytes <= 48 * len(restored)
    assert restored.classify(numbered(240_000, 245_000)).tolist() == [ORIGINAL] * 5_000


def test_positions_are_unique_to_offset_and_line() -> None:
    offsets = np.array([0, 0, 1, 2**43], np.int64)
    lines = np.array([0, 1, 0, 2**20 - 1], np.int32)
    packed = pack_position(offsets, lines)
    assert len(set(packed.tolist())) == 4
    assert (packed >> np.uint64(20)).tolist() == offsets.tolist()
