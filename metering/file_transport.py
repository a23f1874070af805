"""Events into a file of JSON lines, for development: `meterline run --source file:///…` reads it.

Delivery: lines are appended whole, under the file's lock, so that several processes may share it. A message
ends well when the operating system has its lines; after `sync` they outlive a loss of power. A crash during
an append may leave the beginning of a line, which the next append ends with a newline: the job then keeps it
in quarantine. When the disk is full nothing of an append stays, and its messages end badly. While another
process holds the lock, messages wait for the next `poll`, and delivery sees to the spool.

Bounds: as many messages wait for a `poll` as delivery holds.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from metering.transport import Handed


class FileTransport:
    """Appends to one file, which is made when the first event comes; its directory has to be there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[Handed] = []
        self._unsynced = False
        self._trouble = ""

    def key_of(self, tenant_id: str) -> bytes:  # noqa: ARG002  # a file keeps the order of all
        """One for all: a file has one order."""
        return b""

    def send(self, handed: Handed) -> None:
        """Keep it for the next `poll`."""
        self._waiting.append(handed)

    def poll(self, timeout_seconds: float) -> bool:  # noqa: ARG002  # a file answers at once
        """Append what waits."""
        if not self._waiting:
            return False
        waiting, self._waiting = self._waiting, []
        try:
            self._append(b"".join(handed.message.lines + b"\n" for handed in waiting))
        except BlockingIOError:
            self._waiting, self._trouble = waiting, f"{self._path} is locked by another process"
            return False
        except OSError as exc:
            for handed in waiting:
                handed.ending = f"{self._path}: {exc.strerror}"
            return True
        for handed in waiting:
            handed.ending = ""
        self._unsynced = True
        self._trouble = ""
        return False

    def sync(self) -> bool:
        """Fsync, if there is something new."""
        if self._unsynced:
            try:
                descriptor = os.open(self._path, os.O_WRONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as exc:
                return exc.errno == errno.EINVAL  # a device, which keeps nothing
            self._unsynced = False
        return True

    def trouble(self) -> str:
        """That the file is locked; the messages say the rest."""
        return self._trouble

    def close(self, timeout_seconds: float) -> None:  # noqa: ARG002  # nothing is waited for
        """Nothing is open between two appends."""
        self._waiting = []

    def abandon(self) -> None:
        """Nothing is open between two appends."""
        self._waiting = []

    def _append(self, data: bytes) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data
            left = memoryview(data)
            try:
                while left:
                    left = left[os.write(descriptor, left) :]
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            # A child forked meanwhile has a copy of the descriptor, which would keep the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
