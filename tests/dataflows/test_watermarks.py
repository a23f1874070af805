"""Watermarks: how far the slowest input is, what that closes, and what wrong clocks do to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflows.batch import Partition
from dataflows.operators import Watermarks
from dataflows.steps import SETTLED_EVENTS, Tick
from tests.auditor_cases import NOON_MS
from tests.dataflows.remembering import DAY_MS, Job, event

LIVE, DONE = True, False


@pytest.mark.parametrize(
    ("news", "slowest_ms"),
    [
        ([], -1),
        ([(0, 50, LIVE)], -1),  # the other expected input has not been heard of
        ([(0, 50, LIVE), (1, 70, LIVE)], 50),
        ([(0, 50, LIVE), (1, 70, LIVE), (0, 90, LIVE)], 70),
        ([(0, 50, LIVE), (1, 70, LIVE), (0, 10, LIVE)], 50),  # watermarks do not go back
        ([(0, 50, DONE), (1, 70, LIVE)], 70),
        ([(0, 50, DONE), (1, 70, DONE)], 50),
        ([(0, 50, LIVE), (1, -1, LIVE)], -1),  # live, and nothing known of it yet
        ([(0, 50, LIVE), (1, -1, DONE)], 50),  # an empty input holds nothing back
    ],
)
def test_the_slowest_watermark(news: list[tuple[int, int, bool]], slowest_ms: int) -> None:
    marks = Watermarks(frozenset({0, 1}))
    for ordinal, peak_ms, live in news:
        marks.advance(Tick(Partition(ordinal, "x", ordinal), peak_ms, live))
    assert marks.slowest_ms() == slowest_ms


def test_what_is_closed_stays_closed_when_a_slow_input_comes_back() -> None:
    marks = Watermarks(frozenset({0, 1}))
    slow, fast = Partition(0, "slow", 0), Partition(1, "fast", 0)
    marks.advance(Tick(slow, 50, LIVE))
    marks.advance(Tick(fast, 70, LIVE))
    assert marks.close() == 50
    marks.advance(Tick(slow, 50, DONE))
    assert marks.before(Tick(slow, 0, LIVE)) == 50
    assert marks.close() == 70
    marks.advance(Tick(slow, 55, LIVE))
    assert marks.slowest_ms() == 55
    assert marks.close() == 70
    assert marks.before(Tick(slow, 0, LIVE)) == 70


def test_a_few_wrong_clocks_make_nothing_be_forgotten() -> None:
    marks = Watermarks(frozenset({0}))
    one = Partition(0, "x", 0)
    marks.advance(Tick(one, NOON_MS, LIVE, (NOON_MS,) * SETTLED_EVENTS))
    assert marks.settled_ms() == NOON_MS
    ahead = NOON_MS + 90 * DAY_MS
    marks.advance(Tick(one, ahead, LIVE, (ahead,) * (SETTLED_EVENTS - 1)))
    assert (marks.settled_ms(), marks.slowest_ms()) == (NOON_MS, ahead)
    marks.advance(Tick(one, ahead, LIVE, (ahead,)))
    assert marks.settled_ms() == ahead


def test_a_copy_is_found_after_an_event_with_a_clock_months_ahead(tmp_path: Path) -> None:
    job = Job(tmp_path)
    keys = [f"k{number}" for number in range(SETTLED_EVENTS)]
    job.feed(*(event(key, NOON_MS) for key in keys), event("ahead", NOON_MS + 90 * DAY_MS))
    for _ in range(3):
        job.feed(event(f"n{_}", NOON_MS))
        job.epoch()
    job.feed(*(event(key, NOON_MS + 1) for key in keys))
    assert (sorted(job.epoch().duplicates), job.keys()) == (sorted(keys), SETTLED_EVENTS + 4)
