"""The lines of a buffer, and the marks by which a plain line is weighed: its quotes and what follows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataflows.batch import Bools, Int64s

_LF, _QUOTE, _COLON, _SPACE, _N = b'\n": n'


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a buffer: line i is `data[starts[i]:ends[i]]`, its newline excluded."""

    data: bytes
    starts: Int64s
    ends: Int64s

    def __getitem__(self, row: int) -> bytes:
        return self.data[self.starts[row] : self.ends[row]]


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands in each of some plain lines, all of them JSON.

    `keys` counts quotes that a colon follows at once, `quotes` all of them; `spaced` is true where a
    blank follows a quote. `nulls` has, for each key whose value is null, the rows of its lines; a row
    stands there as often as the key does in its line.
    """

    keys: Int64s
    quotes: Int64s
    spaced: Bools
    nulls: dict[bytes, list[int]]


def split_lines(data: bytes) -> Lines:
    """The lines of `data`, which is not empty and ends with a newline."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _LF)
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    return Lines(data, starts, ends)


def count_marks(lines: Lines) -> Marks:
    """Weigh lines that are JSON objects without backslashes and control bytes."""
    text = np.frombuffer(lines.data, np.uint8)
    quotes = np.flatnonzero(text == _QUOTE)
    after = text[1:].take(quotes)
    before_end = np.searchsorted(quotes, lines.ends)
    keys = np.flatnonzero(after == _COLON)
    spaced = np.zeros(len(lines.ends), np.bool_)
    spaced[np.searchsorted(before_end, np.flatnonzero(after == _SPACE), side="right")] = True
    return Marks(
        keys=np.diff(np.searchsorted(keys, before_end), prepend=0),
        quotes=np.diff(before_end, prepend=0),
        spaced=spaced,
        nulls=_null_keys(lines, text, quotes, keys),
    )


def _null_keys(
    lines: Lines, text: npt.NDArray[np.uint8], quotes: Int64s, keys: Int64s
) -> dict[bytes, list[int]]:
    ends = quotes.take(keys)
    value = text[2:].take(ends)
    if (value == _SPACE).any():
        value = np.where(value == _SPACE, text.take(ends + 3, mode="clip"), value)
    null = np.flatnonzero(value == _N)
    starts = quotes.take(keys[null] - 1) + 1
    rows = np.searchsorted(lines.ends, starts)
    found: dict[bytes, list[int]] = {}
    for start, end, row in zip(starts.tolist(), ends[null].tolist(), rows.tolist(), strict=True):
        found.setdefault(lines.data[start:end], []).append(row)
    return found
