"""Spend windows: the calendar day and month of an instant, in a tenant's time zone.

All windows are `[start, end)` in epoch milliseconds UTC, and one begins where the other ends. A day has
23, 24 or 25 hours where clocks change; it begins at the first instant of its date. Where clocks go back
over midnight, the end of the evening that comes a second time belongs to the day that has begun. A date
that a zone has skipped has no window.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

DAY_MS = 86_400_000
_ONE_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)

Int64s = npt.NDArray[np.int64]


def _date_of(instant_ms: int, zone: ZoneInfo) -> date:
    return (_EPOCH + instant_ms * _MILLISECOND).astimezone(zone).date()


def _midnight_ms(day: date, zone: ZoneInfo) -> int:
    # fold=0 reads the first of two midnights. In a gap it reads the old offset, and that is the instant of
    # the change itself: no zone has skipped a midnight otherwise than from midnight on since 1970.
    return (datetime(day.year, day.month, day.day, tzinfo=zone) - _EPOCH) // _MILLISECOND


@lru_cache(maxsize=65_536)
def day_window(instant_ms: int, zone_name: str) -> tuple[int, int]:
    """Start and end of the local day that holds an instant."""
    zone = ZoneInfo(zone_name)
    day = _date_of(instant_ms, zone)
    end = _midnight_ms(day + _ONE_DAY, zone)
    if instant_ms >= end:  # clocks went back over midnight: the date is yesterday's once more
        return end, _midnight_ms(day + 2 * _ONE_DAY, zone)
    return _midnight_ms(day, zone), end


@lru_cache(maxsize=65_536)
def month_window(instant_ms: int, zone_name: str) -> tuple[int, int]:
    """Start and end of the local calendar month that holds an instant."""
    zone = ZoneInfo(zone_name)
    first = _date_of(instant_ms, zone).replace(day=1)
    following = next_month(first)
    end = _midnight_ms(following, zone)
    if instant_ms >= end:  # as in day_window, on the last day of a month
        return end, _midnight_ms(next_month(following), zone)
    return _midnight_ms(first, zone), end


def month_starting(first: date, zone_name: str) -> tuple[int, int]:
    """Start and end of the local calendar month whose first day is `first`, as `month_window` has them."""
    zone = ZoneInfo(zone_name)
    return _midnight_ms(first, zone), _midnight_ms(next_month(first), zone)


def next_month(first: date) -> date:
    """The first day of the month after the one whose first day is `first`."""
    return (first + 31 * _ONE_DAY).replace(day=1)


def months_between(first: date, last: date) -> int:
    """How many months lie between two months, each given by its first day."""
    return (last.year - first.year) * 12 + last.month - first.month


def day_windows(instants_ms: Int64s, zone_name: str) -> tuple[Int64s, Int64s]:
    """Starts and ends of the local days that hold each instant; the same as `day_window`, by column.

    The calendar is asked once for each day that occurs. Both arrays are the caller's to change.
    """
    if zone_name == "UTC":
        starts = instants_ms // DAY_MS * DAY_MS
        return starts, starts + DAY_MS
    ordered = np.sort(instants_ms)
    bounds: list[tuple[int, int]] = []
    position = 0
    while position < len(ordered):
        bounds.append(day_window(int(ordered[position]), zone_name))
        position = int(np.searchsorted(ordered, bounds[-1][1]))
    table = np.array(bounds, np.int64).reshape(-1, 2)
    day = np.searchsorted(table[:, 0], instants_ms, side="right") - 1
    return table[day, 0], table[day, 1]
