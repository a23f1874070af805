"""A disk that forgets: what of some directories would survive a loss of power."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


class Disk:
    """What of a directory would survive a loss of power. It watches fsync, and knows nothing of the job."""

    def __init__(self, *directories: Path) -> None:
        self._directories = directories
        self._sizes: dict[int, int] = {}
        self._names: dict[int, set[str]] = {}
        for directory in directories:
            for path in directory.rglob("*"):
                self._see(path)
            if directory.exists():
                self._see(directory)

    def _see(self, path: Path) -> None:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            self._names[found.st_ino] = {entry.name for entry in path.iterdir()}
        else:
            self._sizes[found.st_ino] = found.st_size

    def watch(self) -> None:
        """Note every fsync from now on."""
        real = os.fsync

        def fsync(descriptor: int) -> None:
            real(descriptor)
            found = os.fstat(descriptor)
            if stat.S_ISDIR(found.st_mode):
                self._names[found.st_ino] = set(os.listdir(descriptor))
            else:
                self._sizes[found.st_ino] = found.st_size

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
