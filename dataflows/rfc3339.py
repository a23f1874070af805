"""RFC 3339 timestamps as bytes, compiled: digits at fixed places, and the days of the Gregorian calendar."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dataflows.compiled import inlined

_SECONDS_END = len("2026-02-02T02:40:00")
_LENGTH_MIN = _SECONDS_END + 1
_OFFSET_LENGTH = len("+00:00")
_FRACTION_DIGITS_MAX = 9
_DAYS_IN_MONTH = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_MINUS, _COLON, _DOT, _PLUS, _ZERO, _NINE, _T, _Z = b"-:.+09tz"
_SMALL = 32  # the bit by which a small letter differs from its capital
_NO_OFFSET = 1 << 20


@inlined
def timestamp_ms(text: npt.NDArray[np.uint8], start: int, stop: int) -> int:
    """Epoch milliseconds of the timestamp at `text[start:stop]`; finer fractions are cut off.

    -1 where it could not be read: it may still be a timestamp, which `metering.event` decides. A time
    before 1970 is negative too.
    """
    if stop - start < _LENGTH_MIN:
        return -1
    if text[start + 4] != _MINUS or text[start + 7] != _MINUS or text[start + 10] | _SMALL != _T:
        return -1
    if text[start + 13] != _COLON or text[start + 16] != _COLON:
        return -1
    year = _digits(text, start, start + 4)
    month, day = _digits(text, start + 5, start + 7), _digits(text, start + 8, start + 10)
    hour, minute = _digits(text, start + 11, start + 13), _digits(text, start + 14, start + 16)
    second = _digits(text, start + 17, start + 19)
    if year < 0 or not 1 <= month <= 12 or not 1 <= day <= _days_in_month(year, month):
        return -1
    if not 0 <= hour <= 23 or not 0 <= minute <= 59 or not 0 <= second <= 59:
        return -1
    millis, at = _fraction_ms(text, start + _SECONDS_END, stop)
    offset = _offset_seconds(text, at, stop)
    if millis < 0 or offset == _NO_OFFSET:
        return -1
    seconds = _days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second
    return (seconds - offset) * 1_000 + millis


@inlined
def _digits(text: npt.NDArray[np.uint8], start: int, stop: int) -> int:
    """The number that these digits write; -1 if they are not all digits."""
    value = 0
    for at in range(start, stop):
        if not _ZERO <= text[at] <= _NINE:
            return -1
        value = value * 10 + (text[at] - _ZERO)
    return value


@inlined
def _fraction_ms(text: npt.NDArray[np.uint8], at: int, stop: int) -> tuple[int, int]:
    """The milliseconds of a fraction that may stand here, -1 if it is none, and where it ends."""
    if at >= stop or text[at] != _DOT:
        return 0, at
    first = at + 1
    at = first
    while at < stop and _ZERO <= text[at] <= _NINE:
        at += 1
    if not 1 <= at - first <= _FRACTION_DIGITS_MAX:
        return -1, at
    kept = min(at, first + 3)
    millis = _digits(text, first, kept)
    for _ in range(kept, first + 3):
        millis *= 10
    return millis, at


@inlined
def _offset_seconds(text: npt.NDArray[np.uint8], at: int, stop: int) -> int:
    """Seconds east of UTC of the offset that fills the rest, `Z` or `+HH:MM`; `_NO_OFFSET` if it is none."""
    if stop - at == 1 and text[at] | _SMALL == _Z:
        return 0
    if stop - at != _OFFSET_LENGTH or text[at + 3] != _COLON or (text[at] != _PLUS and text[at] != _MINUS):
        return _NO_OFFSET
    hours, minutes = _digits(text, at + 1, at + 3), _digits(text, at + 4, at + 6)
    if not 0 <= hours <= 23 or not 0 <= minutes <= 59:
        return _NO_OFFSET
    seconds = hours * 3_600 + minutes * 60
    return -seconds if text[at] == _MINUS else seconds


@inlined
def _days_in_month(year: int, month: int) -> int:
    if month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0):
        return 29
    return int(_DAYS_IN_MONTH[month])


@inlined
def _days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar.

    Counts from 1 March, so that the leap day ends its year: 153 days make five months of
    alternating 31 and 30 days, and 400 years have 146,097 days.
    """
    if month <= 2:
        year -= 1
    era, year_of_era = year // 400, year % 400
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468
