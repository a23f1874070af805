"""Whole columns of RFC 3339 timestamps at once: digits are read as bytes, a fixed layout at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from dataflows.batch import Bools, Int64s
from metering.event import TIMESTAMP_MS_END

_LENGTHS = (len("2026-02-02T02:40:00Z"), len("2026-02-02T02:40:00.123456789+00:00"))
_OFFSET_LENGTH = len("+00:00")
_DIGIT_COLUMNS = (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18)
_SEPARATORS = ((4, "-"), (7, "-"), (13, ":"), (16, ":"))
_FRACTION = 20  # where its first digit stands
_FRACTION_DIGITS_MAX = 9
_DAYS_IN_MONTH = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int64)

_Texts = npt.NDArray[np.uint8]
"""One row a text of ASCII, one column a character."""


def parse_timestamps(column: pl.Series) -> tuple[Int64s, Bools]:
    """Epoch milliseconds for each text of a column, and which of them could be read.

    Where the second array is false the text may still be a timestamp (`metering.event` decides);
    where it is true, both give the same number. Fractions finer than a millisecond are cut off.
    """
    millis = np.zeros(len(column), np.int64)
    good = np.zeros(len(column), np.bool_)
    lengths = column.str.len_bytes().fill_null(0).to_numpy()
    for length in np.unique(lengths):
        if not _LENGTHS[0] <= length <= _LENGTHS[1]:
            continue
        rows = np.flatnonzero(lengths == length)
        chosen = column if len(rows) == len(column) else column.gather(rows)
        texts = np.frombuffer(chosen.str.join("").item().encode(), np.uint8).reshape(len(rows), int(length))
        zulu = (texts[:, -1] == ord("Z")) | (texts[:, -1] == ord("z"))
        for alike, offset_length in ((zulu, 1), (~zulu, _OFFSET_LENGTH)):
            if alike.any():
                of_one = texts if alike.all() else texts[alike]
                millis[rows[alike]], good[rows[alike]] = _parse_layout(of_one, int(length) - offset_length)
    return millis, good


def _parse_layout(texts: _Texts, fraction_end: int) -> tuple[Int64s, Bools]:
    """Texts of one length whose offset, `Z` or `+HH:MM`, begins at the column `fraction_end`."""
    size = len(texts)
    if not (fraction_end == _FRACTION - 1 or 0 < fraction_end - _FRACTION <= _FRACTION_DIGITS_MAX):
        return np.zeros(size, np.int64), np.zeros(size, np.bool_)
    good = (texts[:, 10] == ord("T")) | (texts[:, 10] == ord("t"))
    for column, separator in _SEPARATORS:
        good &= texts[:, column] == ord(separator)
    digits = [*_DIGIT_COLUMNS, *range(_FRACTION, fraction_end)]
    good &= ((texts[:, digits] - np.uint8(48)) <= 9).all(axis=1)
    year, month, day = _number(texts, 0, 4), _number(texts, 5, 7), _number(texts, 8, 10)
    hour, minute, second = _number(texts, 11, 13), _number(texts, 14, 16), _number(texts, 17, 19)
    month_is_real = (month >= 1) & (month <= 12)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    month_days = _DAYS_IN_MONTH[np.where(month_is_real, month, 0)] + (leap & (month == 2))
    good &= month_is_real & (day >= 1) & (day <= month_days)
    good &= (hour <= 23) & (minute <= 59) & (second <= 59)
    seconds = _days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second
    millis = seconds * 1_000
    if fraction_end > _FRACTION:
        good &= texts[:, _FRACTION - 1] == ord(".")
        kept = min(fraction_end, _FRACTION + 3)
        millis += _number(texts, _FRACTION, kept) * 10 ** (_FRACTION + 3 - kept)
    if texts.shape[1] - fraction_end == _OFFSET_LENGTH:
        offset_ms, offset_good = _parse_offset(texts[:, fraction_end:])
        millis -= offset_ms
        good &= offset_good
    return millis, good & (millis >= 0) & (millis < TIMESTAMP_MS_END)


def _number(texts: _Texts, start: int, stop: int) -> Int64s:
    value = np.zeros(len(texts), np.int64)
    for column in range(start, stop):
        value = value * 10 + (texts[:, column] - np.uint8(48))
    return value


def _parse_offset(texts: _Texts) -> tuple[Int64s, Bools]:
    """`+HH:MM` or `-HH:MM` as milliseconds east of UTC."""
    positive, negative = texts[:, 0] == ord("+"), texts[:, 0] == ord("-")
    good = (positive | negative) & (texts[:, 3] == ord(":"))
    good &= ((texts[:, [1, 2, 4, 5]] - np.uint8(48)) <= 9).all(axis=1)
    hours, minutes = _number(texts, 1, 3), _number(texts, 4, 6)
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
