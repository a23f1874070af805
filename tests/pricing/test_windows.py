"""Days and months in time zones, with the days that clocks and calendars made odd."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.windows import (
    DAY_MS,
    day_window,
    day_windows,
    month_starting,
    month_window,
    months_between,
    next_month,
)

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
HOUR_MS = 3_600_000
END_MS = 4_102_444_800_000  # 2100-01-01: no event has a later timestamp


def ms(utc: str) -> int:
    return (datetime.fromisoformat(utc).replace(tzinfo=timezone.utc) - EPOCH) // timedelta(milliseconds=1)


def local_date(instant_ms: int, zone: str) -> date:
    return (EPOCH + timedelta(milliseconds=instant_ms)).astimezone(ZoneInfo(zone)).date()


# (zone, any instant of the day, its start, its end, hours), all instants UTC
ORDINARY_DAYS = [
    ("UTC", "2026-03-01T00:00:00", "2026-03-01T00:00:00", "2026-03-02T00:00:00", 24),
    ("UTC", "2026-03-01T23:59:59.999", "2026-03-01T00:00:00", "2026-03-02T00:00:00", 24),
    ("UTC", "1970-01-01T00:00:00", "1970-01-01T00:00:00", "1970-01-02T00:00:00", 24),
    ("UTC", "2099-12-31T23:59:59.999", "2099-12-31T00:00:00", "2100-01-01T00:00:00", 24),
    ("Etc/UTC", "2024-02-29T12:00:00", "2024-02-29T00:00:00", "2024-03-01T00:00:00", 24),
    # One millisecond to either side of a local midnight.
    ("Europe/Vienna", "2026-01-14T22:59:59.999", "2026-01-13T23:00:00", "2026-01-14T23:00:00", 24),
    ("Europe/Vienna", "2026-01-14T23:00:00", "2026-01-14T23:00:00", "2026-01-15T23:00:00", 24),
    # West of Greenwich the first instant of all belongs to a day of 1969.
    ("America/Los_Angeles", "1970-01-01T00:00:00", "1969-12-31T08:00:00", "1970-01-01T08:00:00", 24),
    ("Asia/Kolkata", "2026-06-01T18:29:59.999", "2026-05-31T18:30:00", "2026-06-01T18:30:00", 24),
    ("Asia/Kathmandu", "2026-06-01T18:15:00", "2026-06-01T18:15:00", "2026-06-02T18:15:00", 24),
    ("Pacific/Kiritimati", "2026-06-01T10:00:00", "2026-06-01T10:00:00", "2026-06-02T10:00:00", 24),
]
CHANGED_DAYS = [
    # 02:00 to 03:00, and 03:00 back to 02:00
    ("Europe/Vienna", "2026-03-29T12:00:00", "2026-03-28T23:00:00", "2026-03-29T22:00:00", 23),
    ("Europe/Vienna", "2026-10-25T00:30:00", "2026-10-24T22:00:00", "2026-10-25T23:00:00", 25),
    ("Europe/Vienna", "2026-10-25T01:30:00", "2026-10-24T22:00:00", "2026-10-25T23:00:00", 25),
    ("America/New_York", "2026-03-08T12:00:00", "2026-03-08T05:00:00", "2026-03-09T04:00:00", 23),
    ("America/New_York", "2026-11-01T12:00:00", "2026-11-01T04:00:00", "2026-11-02T05:00:00", 25),
    # A change of half an hour.
    ("Australia/Lord_Howe", "2026-10-04T00:00:00", "2026-10-03T13:30:00", "2026-10-04T13:00:00", 23.5),
    ("Australia/Lord_Howe", "2026-04-05T00:00:00", "2026-04-04T13:00:00", "2026-04-05T13:30:00", 24.5),
    # 00:00 to 01:00: the day has no midnight and begins with the change.
    ("America/Sao_Paulo", "2018-11-04T12:00:00", "2018-11-04T03:00:00", "2018-11-05T02:00:00", 23),
    ("Asia/Beirut", "2022-03-27T12:00:00", "2022-03-26T22:00:00", "2022-03-27T21:00:00", 23),
    ("Atlantic/Azores", "2026-03-29T12:00:00", "2026-03-29T01:00:00", "2026-03-30T00:00:00", 23),
    # 24:00 back to 23:00 of the same day, whose last hour comes twice.
    ("America/Sao_Paulo", "2018-02-18T02:30:00", "2018-02-17T02:00:00", "2018-02-18T03:00:00", 25),
    # 01:00 back to 00:00: of two midnights the first begins the day.
    ("America/Havana", "2026-11-01T05:30:00", "2026-11-01T04:00:00", "2026-11-02T05:00:00", 25),
    # 23:30 to 24:00: the day before ends early, and midnight exists.
    ("Asia/Pyongyang", "2018-05-04T14:00:00", "2018-05-03T15:30:00", "2018-05-04T15:00:00", 23.5),
]
ODD_DAYS = [
    # The 30th of December 2011 was skipped.
    ("Pacific/Apia", "2011-12-30T09:59:59.999", "2011-12-29T10:00:00", "2011-12-30T10:00:00", 24),
    ("Pacific/Apia", "2011-12-30T10:00:00", "2011-12-30T10:00:00", "2011-12-31T10:00:00", 24),
    # 00:01 back to 23:01: one minute of Sunday, an hour of Saturday, and then Sunday again.
    ("America/St_Johns", "2010-11-07T02:29:59.999", "2010-11-06T02:30:00", "2010-11-07T02:30:00", 24),
    ("America/St_Johns", "2010-11-07T02:30:30", "2010-11-07T02:30:00", "2010-11-08T03:30:00", 25),
    ("America/St_Johns", "2010-11-07T03:00:00", "2010-11-07T02:30:00", "2010-11-08T03:30:00", 25),
    ("America/St_Johns", "2010-11-08T03:29:59.999", "2010-11-07T02:30:00", "2010-11-08T03:30:00", 25),
    # 02:00 back to 23:00.
    ("Antarctica/Casey", "2010-03-04T15:30:00", "2010-03-04T13:00:00", "2010-03-05T16:00:00", 27),
    # An offset of 44 minutes and 30 seconds, until this day.
    ("Africa/Monrovia", "1972-01-06T00:44:29.999", "1972-01-05T00:44:30", "1972-01-06T00:44:30", 24),
    ("Africa/Monrovia", "1972-01-06T00:44:30", "1972-01-06T00:44:30", "1972-01-07T00:44:30", 24),
    ("Africa/Monrovia", "1972-01-07T12:00:00", "1972-01-07T00:44:30", "1972-01-08T00:00:00", 23.2583),
]


@pytest.mark.parametrize(
    ("zone", "instant", "start", "end", "hours"), [*ORDINARY_DAYS, *CHANGED_DAYS, *ODD_DAYS]
)
def test_a_day_is_a_date_of_the_zone(zone: str, instant: str, start: str, end: str, hours: float) -> None:
    assert day_window(ms(instant), zone) == (ms(start), ms(end))
    assert round((ms(end) - ms(start)) / HOUR_MS, 4) == hours
    starts, ends = day_windows(np.array([ms(instant)], np.int64), zone)
    assert (starts.tolist(), ends.tolist()) == ([ms(start)], [ms(end)])


@pytest.mark.parametrize(
    ("zone", "instant", "start", "end"),
    [
        ("UTC", "2026-03-01T00:00:00", "2026-03-01T00:00:00", "2026-04-01T00:00:00"),
        ("UTC", "2024-02-29T23:59:59.999", "2024-02-01T00:00:00", "2024-03-01T00:00:00"),
        ("UTC", "2025-02-28T23:59:59.999", "2025-02-01T00:00:00", "2025-03-01T00:00:00"),
        ("UTC", "2025-12-31T23:59:59.999", "2025-12-01T00:00:00", "2026-01-01T00:00:00"),
        ("UTC", "2099-12-01T00:00:00", "2099-12-01T00:00:00", "2100-01-01T00:00:00"),
        # A month with an hour less, and one with an hour more.
        ("Europe/Vienna", "2026-03-31T21:59:59.999", "2026-02-28T23:00:00", "2026-03-31T22:00:00"),
        ("Europe/Vienna", "2026-10-01T00:00:00", "2026-09-30T22:00:00", "2026-10-31T23:00:00"),
        ("America/Los_Angeles", "1970-01-01T00:00:00", "1969-12-01T08:00:00", "1970-01-01T08:00:00"),
        # The last day of the year was skipped.
        ("Pacific/Enderbury", "1994-12-31T10:59:59.999", "1994-12-01T11:00:00", "1994-12-31T11:00:00"),
        ("Pacific/Enderbury", "1994-12-31T11:00:00", "1994-12-31T11:00:00", "1995-01-31T11:00:00"),
        # 00:01 of the 1st of November back to 23:01: the month has begun.
        ("America/St_Johns", "2009-11-01T03:00:00", "2009-11-01T02:30:00", "2009-12-01T03:30:00"),
    ],
)
def test_a_month_is_a_month_of_the_zone(zone: str, instant: str, start: str, end: str) -> None:
    assert month_window(ms(instant), zone) == (ms(start), ms(end))


# Where calendars were odd, in (zone, UTC) of a change; drawn instants lie around them.
CHANGES = [
    ("Europe/Vienna", "2026-03-29T01:00:00"),
    ("Europe/Vienna", "2026-10-25T01:00:00"),
    ("America/Sao_Paulo", "2018-11-04T03:00:00"),
    ("America/Sao_Paulo", "2018-02-18T02:00:00"),
    ("America/Havana", "2026-11-01T05:00:00"),
    ("Asia/Beirut", "2022-03-26T22:00:00"),
    ("Asia/Hebron", "2011-03-31T22:01:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00"),
    ("America/St_Johns", "1988-10-30T01:31:00"),
    ("America/St_Johns", "2009-11-01T02:31:00"),
    ("America/Goose_Bay", "2010-11-07T03:01:00"),
    ("Antarctica/Casey", "2010-03-04T15:00:00"),
    ("Pacific/Apia", "2011-12-30T10:00:00"),
    ("Pacific/Kwajalein", "1993-08-21T12:00:00"),
    ("Pacific/Enderbury", "1994-12-31T11:00:00"),
    ("Africa/Monrovia", "1972-01-07T00:44:30"),
    ("Pacific/Kiritimati", "1979-10-01T10:40:00"),
]
ZONES = sorted(available_timezones() - {"localtime", "Factory"})
NEAR_MS = 30 * HOUR_MS


@st.composite
def zones_and_instants(draw: st.DrawFn) -> tuple[str, list[int]]:
    if draw(st.booleans()):
        zone, change = draw(st.sampled_from(CHANGES))
        near = st.integers(ms(change) - NEAR_MS, ms(change) + NEAR_MS)
        return zone, draw(st.lists(near | st.just(ms(change)), min_size=1, max_size=20))
    zone = draw(st.sampled_from(ZONES))
    first = draw(st.integers(0, END_MS - 1))
    # Most batches hold a few days; some hold a century.
    near = st.integers(max(0, first - 3 * DAY_MS), min(END_MS - 1, first + 3 * DAY_MS))
    return zone, draw(st.lists(near | st.integers(0, END_MS - 1), min_size=1, max_size=20))


@given(zones_and_instants())
def test_columns_agree_with_the_single_day(case: tuple[str, list[int]]) -> None:
    zone, instants = case
    starts, ends = day_windows(np.array(instants, np.int64), zone)
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == [
        day_window(one, zone) for one in instants
    ]


@given(zones_and_instants())
def test_a_column_may_hold_nothing_of_a_day_but_its_first_instant(case: tuple[str, list[int]]) -> None:
    zone, (first, *_) = case
    second = day_window(first, zone)[1]
    third = day_window(second, zone)[1]
    starts, ends = day_windows(np.array([third, first, second, second], np.int64), zone)
    assert starts.tolist()[1:] == [day_window(first, zone)[0], second, second]
    assert ends.tolist()[1:] == [second, third, third]
    assert (int(starts[0]), int(ends[0])) == day_window(third, zone)


@given(zones_and_instants())
def test_days_hold_their_instants_and_follow_one_another(case: tuple[str, list[int]]) -> None:
    zone, instants = case
    for instant in instants:
        start, end = day_window(instant, zone)
        assert start <= instant < end
        assert day_window(start, zone) == (start, end)
        assert day_window(end - 1, zone) == (start, end)
        assert day_window(end, zone)[0] == end
        assert day_window(start - 1, zone)[1] == start
        # It begins with the first instant of its date.
        assert local_date(start - 1, zone) < local_date(start, zone)


@given(zones_and_instants())
def test_months_hold_whole_days_and_follow_one_another(case: tuple[str, list[int]]) -> None:
    zone, instants = case
    for instant in instants:
        start, end = month_window(instant, zone)
        assert start <= instant < end
        assert month_window(end - 1, zone) == (start, end)
        assert month_window(end, zone)[0] == end
        assert month_window(start - 1, zone)[1] == start
        day_start, day_end = day_window(instant, zone)
        assert start <= day_start
        assert day_end <= end
        assert month_window(day_start, zone) == (start, end)
        assert local_date(start, zone).month != local_date(start - 1, zone).month
        assert month_starting(local_date(start, zone), zone) == (start, end)


@pytest.mark.parametrize(
    ("first", "following", "since_2026"),
    [
        ("2026-01-01", "2026-02-01", 0),
        ("2026-02-01", "2026-03-01", 1),
        ("2024-02-01", "2024-03-01", -23),
        ("2026-12-01", "2027-01-01", 11),
        ("2027-01-01", "2027-02-01", 12),
        ("2099-12-01", "2100-01-01", 887),
    ],
)
def test_months_are_counted(first: str, following: str, since_2026: int) -> None:
    month = date.fromisoformat(first)
    assert next_month(month) == date.fromisoformat(following)
    assert months_between(date(2026, 1, 1), month) == since_2026


@pytest.mark.parametrize("zone", ["UTC", "Europe/Vienna"])
def test_no_instants_have_no_windows(zone: str) -> None:
    starts, ends = day_windows(np.array([], np.int64), zone)
    assert (starts.tolist(), ends.tolist()) == ([], [])
    assert starts.dtype == ends.dtype == np.int64


@pytest.mark.parametrize("zone", ["UTC", "Europe/Vienna"])
def test_the_windows_of_a_column_are_the_callers_to_change(zone: str) -> None:
    instants = np.array([ms("2026-01-14T12:00:00")] * 2, np.int64)
    starts, ends = day_windows(instants, zone)
    starts[0] = ends[0] = 0
    assert instants.tolist() == [ms("2026-01-14T12:00:00")] * 2
    assert (int(starts[1]), int(ends[1])) == day_window(int(instants[1]), zone)
