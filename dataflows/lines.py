"""The lines of a buffer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataflows.batch import Int64s

_LF = ord("\n")


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a buffer: line i is `data[starts[i]:ends[i]]`, its newline excluded."""

    data: bytes
    starts: Int64s
    ends: Int64s

    def __getitem__(self, row: int) -> bytes:
        return self.data[self.starts[row] : self.ends[row]]


def split_lines(data: bytes) -> Lines:
    """The lines of `data`, which is not empty and ends with a newline."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _LF)
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    return Lines(data, starts, ends)
