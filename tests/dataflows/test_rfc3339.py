"""Timestamps as bytes, compiled, against the contract's reader."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataflows.rfc3339 import timestamp_ms as read_bytes
from metering.event import TIMESTAMP_MS_END, timestamp_ms
from tests.dataflows.odd_values import DATES, FRACTIONS, OFFSETS, TIMES


def one_by_one(text: str) -> int | None:
    """What the contract reads; None where the text is no timestamp of an event."""
    try:
        millis = timestamp_ms(text)
    except (ValueError, OverflowError):
        return None
    return millis if 0 <= millis < TIMESTAMP_MS_END else None


def as_bytes(texts: list[str]) -> list[int | None]:
    """What is read where each text stands among others."""
    whole = np.frombuffer("|".join(texts).encode(), np.uint8)
    read: list[int | None] = []
    start = 0
    for text in texts:
        stop = start + len(text.encode())
        millis = read_bytes(whole, start, stop)
        read.append(millis if 0 <= millis < TIMESTAMP_MS_END else None)
        start = stop + 1
    return read


dates = st.sampled_from(DATES) | st.dates().map(str)
times = st.sampled_from(TIMES) | st.times().map(lambda time: time.strftime("%H:%M:%S"))
timestamps = st.builds(
    lambda date, mark, time, fraction, offset: f"{date}{mark}{time}{fraction}{offset}",
    dates,
    st.sampled_from("TTTTt "),
    times,
    st.sampled_from(FRACTIONS),
    st.sampled_from(OFFSETS),
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    text = draw(timestamps)
    place = draw(st.integers(0, len(text)))
    return text[:place] + draw(st.text(max_size=2)) + text[place + draw(st.integers(0, 2)) :]


@given(st.lists(timestamps | damaged() | st.text(min_size=18, max_size=36), max_size=40))
@example(["2026-02-02T02:40:00.1234Z", "2026-02-02T02:40:00+00:00", "2026-02-02T02:40:00.12é"])
@example([])
def test_bytes_are_read_as_their_text_is(texts: list[str]) -> None:
    assert as_bytes(texts) == [one_by_one(text) for text in texts]


def test_every_odd_date_time_fraction_and_offset_beside_every_other_kind() -> None:
    texts: list[str] = [
        *(f"{date}T{time}Z" for date in DATES for time in TIMES),
        *(f"2026-02-02T02:40:00{fraction}{offset}" for fraction in FRACTIONS for offset in OFFSETS),
    ]
    read = as_bytes(texts)
    assert read == [one_by_one(text) for text in texts]
    assert sum(millis is not None for millis in read) > 100


@pytest.mark.parametrize("year", [1970, 1999, 2000, 2024, 2025, 2099])
def test_every_day_of_a_year_and_the_days_that_it_has_not(year: int) -> None:
    days: list[str] = [f"{year}-{month:02}-{day:02}T00:00:00Z" for month in range(14) for day in range(33)]
    assert as_bytes(days) == [one_by_one(day) for day in days]
