"""Whose directory of the spool is whose: one for each process, held by a lock, and taken over from the dead.

    SPOOL_DIR / DESTINATION / 4711-9f86d081 / 00000001.seg …       of one process, by its id and a random part
    SPOOL_DIR / DESTINATION / 4711-9f86d081-00000001.corrupt       what was damaged, kept for a person
    SPOOL_DIR / DESTINATION / refused.jsonl                        lines that no broker takes, likewise

The lock is a `flock` of the directory itself. It ends with the process, however that ends; a forked child
closes its copy of the descriptor, which leaves the parent's lock alone. A directory that nobody holds is of
a dead process: whoever gets its lock may move its segments into its own directory, one `rename` each. A crash
between two of them leaves each segment in exactly one of the two places. A network file system without
working locks is no place for a spool.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SEGMENT_SUFFIXES = (".seg", ".damaged")
"""`.damaged` is a segment in which something was found that is no record; its records still count."""

_TRIES = 5  # a name of 32 random bits is taken once in a lifetime, or its directory was taken for a dead one
_SEGMENT = re.compile(r"(\d{8,})(\.seg|\.damaged)")


def destination_directory(spool_dir: Path, destination: str) -> Path:
    """Where the spools of one destination are: what was meant for one broker never goes to another."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", destination)[:100]
    return spool_dir / f"{readable}-{hashlib.sha256(destination.encode()).hexdigest()[:12]}"


def create(destination: Path) -> tuple[Path, int]:
    """A new directory for this process, and the descriptor that holds its lock.

    Raises:
        OSError: it cannot be made.
    """
    destination.mkdir(parents=True, exist_ok=True, mode=0o700)
    for _ in range(_TRIES):
        own = destination / f"{os.getpid()}-{secrets.token_hex(4)}"
        own.mkdir(mode=0o700)
        descriptor = lock(own)
        if descriptor is not None:
            for parent in (destination, destination.parent):
                _sync(parent)
            return own, descriptor
    raise OSError(f"no directory of its own could be made in {destination}")


def _sync(directory: Path) -> None:
    """Make the names in a directory outlive a loss of power; a file system that cannot does not matter."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lock(directory: Path) -> int | None:
    """A descriptor that holds the directory's lock; None where another process has it, or it is gone."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(directory).st_ino == os.fstat(descriptor).st_ino:  # noqa: PTH116  # beside fstat
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def segments(directory: Path) -> list[tuple[int, Path]]:
    """The segments of a process by their number, in order.

    Raises:
        OSError: the directory cannot be read.
    """
    found = []
    for path in directory.iterdir():
        match = _SEGMENT.fullmatch(path.name)
        if match is not None:
            found.append((int(match[1]), path))
    return sorted(found)


@contextmanager
def of_the_dead(destination: Path) -> Iterator[list[Path]]:
    """The directories of processes that are gone, held until the end of the block.

    Those that are empty by then are removed.
    """
    held: dict[Path, int] = {}
    try:
        with suppress(OSError):  # none has been made yet, or none can be read
            for directory in sorted(path for path in destination.iterdir() if path.is_dir()):
                descriptor = lock(directory)
                if descriptor is not None:
                    held[directory] = descriptor
        yield list(held)
    finally:
        for directory, descriptor in held.items():
            with suppress(OSError):  # not empty: its turn comes later
                directory.rmdir()
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child forked meanwhile has a copy, which would keep it
            os.close(descriptor)


def bytes_aside(destination: Path) -> int:
    """What is kept aside for a person, of all processes.

    Raises:
        OSError: the directory cannot be read.
    """
    with os.scandir(destination) as found:
        return sum(entry.stat().st_size for entry in found if entry.is_file())


def append_aside(destination: Path, lines: bytes) -> None:
    """Write lines at the end of `refused.jsonl`, which outlive a loss of power then.

    Raises:
        OSError: the disk does not take them.
    """
    path = destination / "refused.jsonl"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        if os.write(descriptor, lines) < len(lines):
            raise OSError(f"{path} takes no more")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _sync(destination)


def waiting_elsewhere(destination: Path) -> list[Path]:
    """Directories of other destinations in which events of processes that are gone wait."""
    with suppress(OSError):
        others = [path for path in destination.parent.iterdir() if path.is_dir() and path != destination]
        return sorted(path for path in others if any(map(_is_left, _with_segments(path))))
    return []


def _with_segments(destination: Path) -> set[Path]:
    return {found.parent for suffix in SEGMENT_SUFFIXES for found in destination.glob(f"*/*{suffix}")}


def _is_left(directory: Path) -> bool:
    descriptor = lock(directory)
    if descriptor is None:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # as above
    os.close(descriptor)
    return True
