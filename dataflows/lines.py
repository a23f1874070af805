"""The lines of a buffer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataflows.compiled import compiled

Int64s = npt.NDArray[np.int64]
UInt8s = npt.NDArray[np.uint8]

_LF = ord("\n")
_LINE_BYTES = 256
"""Room is made for lines of such a length; where they are shorter, they are looked for twice."""


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a buffer: line i is `data[starts[i]:ends[i]]`, its newline excluded."""

    data: bytes
    starts: Int64s
    ends: Int64s

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> bytes:
        return self.data[self.starts[row] : self.ends[row]]


def split_lines(data: bytes) -> Lines:
    """The lines of `data`, each of which is ended by a newline."""
    text = np.frombuffer(data, np.uint8)
    ends = np.empty(len(data) // _LINE_BYTES + 1, np.int64)
    count = _newlines(text, ends)
    if count > len(ends):
        ends = np.empty(count, np.int64)
        _newlines(text, ends)
    ends = ends[:count]
    starts = np.empty_like(ends)
    starts[:1] = 0
    starts[1:] = ends[:-1] + 1
    return Lines(data, starts, ends)


@compiled
def _newlines(text: UInt8s, positions: Int64s) -> int:
    """Note where newlines stand, as far as there is room; how many there are."""
    found = 0
    for at in range(len(text)):
        if text[at] == _LF:
            if found < len(positions):
                positions[found] = at
            found += 1
    return found
