"""What an engine writes on standard output and error by itself, past Python, is kept in a file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2


@contextmanager
def engine_output_to(path: Path, *descriptors: int) -> Iterator[None]:
    """During the block what goes to these descriptors goes into the file, which is begun anew.

    What Python has yet to write there leaves before. Blocks may be nested, but not overlap in two threads.
    """
    _flush()
    own = {number: os.dup(number) for number in descriptors}
    with path.open("wb") as file:
        for number in descriptors:
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        _flush()
        for number, copy in own.items():
            os.dup2(copy, number)
            os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):  # a pipe that nobody reads any more, or closed
                stream.flush()
