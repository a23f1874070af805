"""What tells a file that was read from another one that has taken its name: its first and its last bytes.

Of what was read, `EDGE_BYTES` at each end are held in memory, and their CRC-32 stands in every snapshot. At
the next start they are read again: 8 KB, however long the file is. A file with other lines, or with lines put
in or taken out anywhere below the position, has another CRC but for one in four billion; bytes changed in
place in the middle are not noticed.
"""

from __future__ import annotations

import zlib
from typing import BinaryIO

EDGE_BYTES = 4096


class Edges:
    """The first and the last bytes of what was read of one file."""

    def __init__(self, first: bytes = b"", last: bytes = b"") -> None:
        self._first = first
        self._last = last

    @classmethod
    def of(cls, file: BinaryIO, position: int) -> Edges | None:
        """Those of the first `position` bytes of a file, which is left there; None if it is shorter."""
        count = min(EDGE_BYTES, position)
        file.seek(0)
        first = file.read(count)
        file.seek(position - count)
        last = file.read(count)
        return cls(first, last) if len(last) == count else None

    def add(self, data: bytes) -> None:
        """Go on over the bytes that were read next."""
        if len(self._first) < EDGE_BYTES:
            self._first += data[: EDGE_BYTES - len(self._first)]
        self._last = data[-EDGE_BYTES:] if len(data) >= EDGE_BYTES else (self._last + data)[-EDGE_BYTES:]

    @property
    def inside_line(self) -> bool:
        """Whether the last line has no newline yet."""
        return bool(self._last) and not self._last.endswith(b"\n")

    def crc32(self) -> int:
        """The CRC-32 of both ends."""
        return zlib.crc32(self._last, zlib.crc32(self._first))
