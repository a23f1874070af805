"""A disk that forgets: what of some directories would survive a loss of power."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path


class Disk:
    """What of a directory would survive a loss of power. It watches fsync, and knows nothing of the job.

    With a `journal`, a file, it can be asked after the process has died (`remembered`): all of its threads at
    one moment, as a loss of power would have it.
    """

    def __init__(self, *directories: Path, journal: Path | None = None) -> None:
        self._directories = directories
        self._sizes: dict[int, int] = {}
        self._names: dict[int, set[str]] = {}
        self._journal = os.open(journal, os.O_CREAT | os.O_TRUNC | os.O_WRONLY) if journal else None
        for directory in directories:
            for path in directory.rglob("*"):
                self._see(path)
            if directory.exists():
                self._see(directory)

    def _see(self, path: Path) -> None:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            self._keep(found.st_ino, sorted(entry.name for entry in path.iterdir()))
        else:
            self._keep(found.st_ino, found.st_size)

    def _keep(self, inode: int, covered: int | list[str]) -> None:
        """Of a file its size, of a directory its names."""
        if isinstance(covered, int):
            self._sizes[inode] = covered
        else:
            self._names[inode] = set(covered)
        if self._journal is not None:
            os.write(self._journal, json.dumps([inode, covered]).encode() + b"\n")

    @classmethod
    def remembered(cls, journal: Path, *directories: Path) -> Disk:
        """As the process that wrote the journal left it."""
        disk = cls()
        disk._directories = directories
        for line in journal.read_bytes().splitlines():
            disk._keep(*json.loads(line))
        return disk

    def watch(self) -> None:
        """Note every fsync from now on."""
        real = os.fsync

        def fsync(descriptor: int) -> None:
            real(descriptor)
            found = os.fstat(descriptor)
            if stat.S_ISDIR(found.st_mode):
                self._keep(found.st_ino, os.listdir(descriptor))
            else:
                self._keep(found.st_ino, found.st_size)

        os.fsync = fsync  # type: ignore[assignment]

    def lose_power(self) -> None:
        """Take away what no fsync has covered. A new directory survives: what it holds must earn that."""
        for directory in self._directories:
            for path in [path for path in directory.rglob("*") if path.is_file()]:
                with contextlib.suppress(FileNotFoundError):  # another worker deletes its files meanwhile
                    self._forget(path)

    def _forget(self, path: Path) -> None:
        found = path.stat()
        if path.name not in self._names.get(path.parent.stat().st_ino, set()):
            path.unlink()
        elif found.st_size > self._sizes.get(found.st_ino, 0):
            os.truncate(path, self._sizes.get(found.st_ino, 0))
