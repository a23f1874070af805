"""When the next attempt is made, and that there is a last one."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.delivery import DEFAULT_SCHEDULE, RETRY_AFTER_MS_MAX, RetrySchedule


@pytest.mark.parametrize(
    ("attempts", "retry_after_ms", "random_fraction", "wait_ms"),
    [
        (1, None, 0.0, 5_000),
        (1, None, 0.5, 5_250),
        (2, None, 0.0, 300_000),
        (9, None, 0.0, 86_400_000),
        (9, None, 0.999, 95_031_360),
        (10, None, 0.0, None),
        (10, 1_000, 0.0, None),
        (1, 1_000, 0.0, 5_000),
        (1, 7_000, 0.0, 7_000),
        (1, 10**15, 0.0, RETRY_AFTER_MS_MAX),
    ],
)
def test_when_the_next_attempt_is_made(
    attempts: int, retry_after_ms: int | None, random_fraction: float, wait_ms: int | None
) -> None:
    next_ms = DEFAULT_SCHEDULE.next_attempt_ms(attempts, 1_000, retry_after_ms, random_fraction)
    assert next_ms == (None if wait_ms is None else 1_000 + wait_ms)


@given(
    delays=st.lists(st.integers(0, 10**8), min_size=1, max_size=12).map(tuple),
    jitter=st.floats(0, 1),
    random_fraction=st.floats(0, 1, exclude_max=True),
    retry_after_ms=st.none() | st.integers(0, 10**12),
)
def test_every_schedule_ends_and_never_tries_early(
    delays: tuple[int, ...], jitter: float, random_fraction: float, retry_after_ms: int | None
) -> None:
    schedule = RetrySchedule(delays, jitter)
    now_ms, attempts = 1_000, 1
    while True:
        next_ms = schedule.next_attempt_ms(attempts, now_ms, retry_after_ms, random_fraction)
        if next_ms is None:
            break
        assert delays[attempts] <= next_ms - now_ms <= max(2 * delays[attempts], RETRY_AFTER_MS_MAX)
        assert next_ms - now_ms >= min(retry_after_ms or 0, RETRY_AFTER_MS_MAX)
        now_ms, attempts = next_ms, attempts + 1
    assert attempts == len(delays)


@pytest.mark.parametrize("seconds", [[], [Decimal(-1)], [Decimal(0), Decimal("-0.5")]])
def test_a_schedule_needs_delays_that_are_not_negative(seconds: list[Decimal]) -> None:
    with pytest.raises(ValueError, match="A retry schedule needs at least one delay"):
        RetrySchedule.from_seconds(seconds)


def test_a_schedule_from_the_settings_is_in_seconds() -> None:
    assert RetrySchedule.from_seconds([Decimal(0), Decimal("0.25")]).delays_ms == (0, 250)
