"""Whole columns of RFC 3339 timestamps at once: digits are read as bytes, a fixed layout at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from dataflows.batch import Bools, Int64s
from metering.event import TIMESTAMP_MS_END

_DIGIT_COLUMNS = (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18)
_SEPARATORS = ((4, "-"), (7, "-"), (13, ":"), (16, ":"))
_DAYS_IN_MONTH = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int64)


def parse_timestamps(column: pl.Series) -> tuple[Int64s, Bools]:
    """Epoch milliseconds for each text of a column, and which of them could be read.

    Where the second array is false the text may still be a timestamp (`metering.event` decides);
    where it is true, both give the same number. Fractions finer than a millisecond are cut off.
    """
    millis = np.zeros(len(column), np.int64)
    good = np.zeros(len(column), np.bool_)
    lengths = column.str.len_bytes().fill_null(0).to_numpy()
    for length in np.unique(lengths):
        if not 20 <= length <= 35:
            continue
        rows = np.flatnonzero(lengths == length)
        chosen = column if len(rows) == len(column) else column.gather(rows)
        text = chosen.str.join("").item().encode()
        table = np.frombuffer(text, np.uint8).reshape(len(rows), int(length))
        millis[rows], good[rows] = _parse_layout(table)
    return millis, good


def _number(table: npt.NDArray[np.uint8], start: int, stop: int) -> Int64s:
    value = np.zeros(len(table), np.int64)
    for column in range(start, stop):
        value = value * 10 + (table[:, column] - np.uint8(48))
    return value


def _parse_layout(table: npt.NDArray[np.uint8]) -> tuple[Int64s, Bools]:
    length = table.shape[1]
    good = (table[:, 10] == ord("T")) | (table[:, 10] == ord("t"))
    for column, separator in _SEPARATORS:
        good &= table[:, column] == ord(separator)
    zulu = (table[:, -1] == ord("Z")) | (table[:, -1] == ord("z"))
    if zulu.all():
        fraction_end, offset_ms = length - 1, np.int64(0)
    elif length >= 25 and not zulu.any():
        fraction_end = length - 6
        offset_ms, offset_good = _parse_offset(table[:, fraction_end:])
        good &= offset_good
    else:  # both forms at one length: leave the few to the slow reader
        return np.zeros(len(table), np.int64), np.zeros(len(table), np.bool_)
    digits = [*_DIGIT_COLUMNS, *range(20, fraction_end)]
    if fraction_end == 20 or fraction_end > 29:
        good[:] = False
    elif fraction_end > 20:
        good &= table[:, 19] == ord(".")
    good &= ((table[:, digits] - np.uint8(48)) <= 9).all(axis=1)
    year, month, day = _number(table, 0, 4), _number(table, 5, 7), _number(table, 8, 10)
    hour, minute, second = _number(table, 11, 13), _number(table, 14, 16), _number(table, 17, 19)
    month_is_real = (month >= 1) & (month <= 12)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    month_days = _DAYS_IN_MONTH[np.where(month_is_real, month, 0)] + (leap & (month == 2))
    good &= month_is_real & (day >= 1) & (day <= month_days) & (year >= 1)
    good &= (hour <= 23) & (minute <= 59) & (second <= 59)
    fraction = _number(table, 20, min(fraction_end, 23)) if fraction_end > 20 else np.int64(0)
    fraction = fraction * 10 ** (3 - min(max(fraction_end - 20, 0), 3))
    seconds = _days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second
    millis = seconds * 1_000 + fraction - offset_ms
    return millis, good & (millis >= 0) & (millis < TIMESTAMP_MS_END)


def _parse_offset(table: npt.NDArray[np.uint8]) -> tuple[Int64s, Bools]:
    """`+HH:MM` or `-HH:MM` as milliseconds east of UTC."""
    positive, negative = table[:, 0] == ord("+"), table[:, 0] == ord("-")
    good = (positive | negative) & (table[:, 3] == ord(":"))
    good &= ((table[:, [1, 2, 4, 5]] - np.uint8(48)) <= 9).all(axis=1)
    hours, minutes = _number(table, 1, 3), _number(table, 4, 6)
    good &= (hours <= 23) & (minutes <= 59)
    return np.where(negative, -1, 1) * (hours * 3_600_000 + minutes * 60_000), good


def _days_from_civil(year: Int64s, month: Int64s, day: Int64s) -> Int64s:
    """Days since 1970-01-01 in the proleptic Gregorian calendar.

    Counts from 1 March, so that the leap day ends its year: 153 days make five months
    of alternating 31 and 30 days, and 400 years have 146,097 days.
    """
    shifted = np.where(month <= 2, year - 1, year)
    era, year_of_era = np.divmod(shifted, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return np.asarray(era * 146_097 + day_of_era - 719_468, np.int64)
