"""Spend windows: the calendar day and month of an instant, in a tenant's time zone.

All windows are `[start, end)` in epoch milliseconds UTC. A day has 23, 24 or 25 hours where clocks
change; it begins at the first instant of its date.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

DAY_MS = 86_400_000
_QUARTER_HOUR_MS = 900_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)

Int64s = npt.NDArray[np.int64]


def _midnight_ms(day: date, zone: ZoneInfo) -> int:
    # In a gap at midnight, fold=0 reads the old offset: that is the instant of the change itself.
    return (datetime(day.year, day.month, day.day, tzinfo=zone) - _EPOCH) // _MILLISECOND


@lru_cache(maxsize=65_536)
def day_window(instant_ms: int, zone_name: str) -> tuple[int, int]:
    """Start and end of the local day that holds an instant."""
    zone = ZoneInfo(zone_name)
    day = (_EPOCH + timedelta(milliseconds=instant_ms)).astimezone(zone).date()
    return _midnight_ms(day, zone), _midnight_ms(day + timedelta(days=1), zone)


@lru_cache(maxsize=65_536)
def month_window(instant_ms: int, zone_name: str) -> tuple[int, int]:
    """Start and end of the local calendar month that holds an instant."""
    zone = ZoneInfo(zone_name)
    day = (_EPOCH + timedelta(milliseconds=instant_ms)).astimezone(zone).date()
    first = day.replace(day=1)
    following = (first + timedelta(days=31)).replace(day=1)
    return _midnight_ms(first, zone), _midnight_ms(following, zone)


def day_windows(instants_ms: Int64s, zone_name: str) -> tuple[Int64s, Int64s]:
    """Starts and ends of the local days that hold each instant; the same as `day_window`, by column.

    No zone has changed its offset within a quarter of an hour of UTC since 1970 (the IANA time zone
    database), so each distinct quarter is asked once.
    """
    if zone_name == "UTC":
        starts = instants_ms // DAY_MS * DAY_MS
        return starts, starts + DAY_MS
    quarters, inverse = np.unique(instants_ms // _QUARTER_HOUR_MS, return_inverse=True)
    bounds = [day_window(quarter * _QUARTER_HOUR_MS, zone_name) for quarter in quarters.tolist()]
    table = np.array(bounds, np.int64).reshape(-1, 2)
    return table[inverse, 0], table[inverse, 1]
