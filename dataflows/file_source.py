"""Files as a source: JSON lines, plain or gzip, by name or glob, or standard input.

One Bytewax partition is one file; one item is one read of about `READ_BYTES`, cut at a line's end.

Delivery: the snapshot of a partition is the byte and the line after the last batch that left in the
epoch. A crash before it is durable reads from the older position again; after it, from the new one.
A file that was read to its end is not read again, only what was appended to it since. Standard input
cannot go back: pipe the same data again after a crash, and dedupe drops what was priced before.
"""

from __future__ import annotations

import glob
import gzip
import io
import sys
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from dataflows.batch import Partition, RawBatch
from dataflows.lifecycle import EpochLifecycle, Turn
from metering.event import LINE_BYTES_MAX

READ_BYTES = 4 * 1024 * 1024
_WAIT = timedelta(milliseconds=20)

FileState = tuple[int, int]
"""(bytes read, lines read) of the uncompressed file."""

BYTES_UNKNOWN = -1
"""Bytes read in a state that was rebuilt: ClickHouse knows lines only, and they are counted once more."""


class InputError(Exception):
    """An input cannot be read as asked. The message is one sentence for the operator."""


def find_files(pattern: str) -> tuple[str, ...]:
    """Absolute paths of the files that a path or glob names; `-` names standard input.

    Raises:
        InputError: nothing matches, or a match is a directory or cannot be read.
    """
    if pattern == "-":
        return (f"stdin:{uuid.uuid4().hex[:12]}",)
    if any(mark in pattern for mark in "*?["):
        # A Path cannot glob an absolute pattern.
        paths = [Path(match).absolute() for match in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
        paths = [path for path in paths if not path.is_dir()]
        if not paths:
            raise InputError(f"no file matches {pattern}")
    else:
        paths = [Path(pattern).absolute()]
    for path in paths:
        _require_readable(path)
    return tuple(str(path) for path in paths)


def _require_readable(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a directory: name its files, for example {path}/*.jsonl")
    if not path.exists():
        raise InputError(f"the file {path} does not exist")
    if not path.is_file():
        raise InputError(f"{path} is no regular file: send what it brings to standard input, with --source -")
    try:
        with path.open("rb"):
            pass
    except OSError as exc:
        raise InputError(f"the file {path} cannot be read: {exc.strerror}") from None


def _open(source: str) -> BinaryIO:
    if source.startswith("stdin:"):
        if sys.stdin is None:
            raise InputError("standard input is closed")
        return sys.stdin.buffer
    if source.endswith(".gz"):
        return cast(BinaryIO, gzip.open(source, "rb"))
    return Path(source).open("rb")


def _seek(file: BinaryIO, source: str, position: int) -> None:
    # A last line without a newline counts one byte more than the file has.
    if file.seek(0, io.SEEK_END) < position - 1:
        raise InputError(
            f"the file {source} is shorter than what was already read of it ({position} bytes): "
            "it was cut or replaced; give new data a new name"
        )
    file.seek(position)


def _skip(file: BinaryIO, source: str, lines: int) -> int:
    """Go past so many lines; returns how many bytes they are, a last line without a newline one more."""
    left, position, open_line = lines, 0, False
    while left:
        try:
            chunk = file.read(READ_BYTES)
        except (OSError, EOFError, zlib.error) as exc:
            raise InputError(f"{source} is damaged or cannot be read: {exc}") from exc
        if not chunk and left == 1 and open_line:
            return position + 1
        if not chunk:
            raise InputError(
                f"the file {source} is shorter than what was already read of it ({lines} lines): "
                "it was cut or replaced; give new data a new name"
            )
        open_line = not chunk.endswith(b"\n")
        ended = min(left, chunk.count(b"\n"))
        left -= ended
        end = len(chunk)
        if not left:
            end = 0
            for _ in range(ended):
                end = chunk.index(b"\n", end) + 1
        position += end
    file.seek(position)
    return position


class FilePartition(StatefulSourcePartition[RawBatch, FileState]):
    """One file. `now_ms` gives the wall clock, which stands in for the time of arrival.

    With `follow` the file may grow: its end is waited at, and a line counts once its newline is there.
    """

    def __init__(
        self,
        partition: Partition,
        file: BinaryIO,
        position: FileState,
        now_ms: Callable[[], int],
        *,
        follow: bool,
    ) -> None:
        self._partition = partition
        self._file = file
        self._bytes, self._lines = position
        self._now_ms = now_ms
        self._follow = follow
        self._rest = b""
        self._lifecycle = EpochLifecycle()
        self._awake_at: datetime | None = None

    def next_batch(self) -> list[RawBatch]:
        """The next lines; at the end of the file a heartbeat, then `StopIteration`."""
        self._awake_at = None
        turn = self._lifecycle.turn()
        if turn is Turn.READ:
            sys.audit("meterline.step", "source: before read")
            data = self._read_lines()
            if data:
                self._lifecycle.sent()
                return [self._batch(data)]
            if self._follow:
                turn = self._lifecycle.idle_turn()
            else:
                self._lifecycle.end_of_input()
                turn = self._lifecycle.turn()
        if turn is Turn.END:
            raise StopIteration
        if turn is Turn.WAIT:
            self._awake_at = datetime.now(timezone.utc) + _WAIT
            return []
        self._lifecycle.sent()
        return [RawBatch.heartbeat(self._partition, self._lines + 1, live=False)]

    def next_awake(self) -> datetime | None:
        """Rest a little while only the end of an epoch is waited for."""
        return self._awake_at

    def snapshot(self) -> FileState:
        """Where the next run goes on."""
        sys.audit("meterline.step", "source: snapshot")
        self._lifecycle.close_epoch()
        return (self._bytes, self._lines)

    def close(self) -> None:
        """Close the file; nothing is kept here."""
        self._file.close()

    def _batch(self, data: bytes) -> RawBatch:
        count = data.count(b"\n")
        first = self._lines + 1
        self._bytes += len(data)
        self._lines += count
        return RawBatch(
            self._partition,
            data,
            np.arange(first, first + count, dtype=np.int64),
            np.zeros(count, np.int32),
            np.full(count, self._now_ms(), np.int64),
            next_offset=self._lines + 1,
            live=True,
            age_limited=False,
        )

    def _read_lines(self) -> bytes:
        """Whole lines; a line without an end ends with the file. Empty at the end of the file."""
        data = self._rest
        while True:
            chunk = self._read()
            if not chunk:
                if self._follow:
                    self._rest = data
                    return b""
                self._rest = b""
                if not data:
                    return b""
                return data if data.endswith(b"\n") else data + b"\n"
            data += chunk
            end = data.rfind(b"\n")
            if end >= 0:
                self._rest = data[end + 1 :]
                return data[: end + 1]
            if len(data) > LINE_BYTES_MAX:
                return self._cut_long_line(data)

    def _read(self) -> bytes:
        try:
            return self._file.read(READ_BYTES)
        except (OSError, EOFError, zlib.error) as exc:
            raise InputError(
                f"{self._partition.source} is damaged or cannot be read after line {self._lines}: {exc}"
            ) from exc

    def _cut_long_line(self, data: bytes) -> bytes:
        """Enough of an endless line for the decoder to refuse it; the rest of the line is passed over."""
        kept = data[: LINE_BYTES_MAX + 1]
        passed = len(data) - len(kept)
        while True:
            chunk = self._read()
            end = chunk.find(b"\n")
            if end >= 0 or not chunk:
                self._rest = chunk[end + 1 :] if end >= 0 else b""
                self._bytes += passed + max(end, 0)
                return kept + b"\n"
            passed += len(chunk)


class AbsentPartition(StatefulSourcePartition[RawBatch, FileState]):
    """An input that an earlier run read and this one does not: it keeps its position and ends at once."""

    def __init__(self, position: FileState | None) -> None:
        self._position = position

    def next_batch(self) -> list[RawBatch]:
        """End."""
        raise StopIteration

    def snapshot(self) -> FileState:
        """The position as it was."""
        return self._position or (0, 0)


@dataclass(frozen=True)
class FileSource(FixedPartitionedSource[RawBatch, FileState]):
    """The files of this run, among all that the state directory has ever known."""

    partitions: Mapping[str, Partition]
    chosen: frozenset[str]
    follow: bool
    now_ms: Callable[[], int]

    def list_parts(self) -> list[str]:
        """Every input ever known: Bytewax cannot resume with fewer than it has state for."""
        return list(self.partitions)

    def build_part(
        self, step_id: str, for_part: str, resume_state: FileState | None
    ) -> StatefulSourcePartition[RawBatch, FileState]:
        """Open the file and go to where the last durable epoch left it."""
        if for_part not in self.chosen:
            return AbsentPartition(resume_state)
        partition = self.partitions[for_part]
        file = _open(partition.source)
        position = resume_state or (0, 0)
        if position[0] == BYTES_UNKNOWN:
            position = (_skip(file, partition.source, position[1]), position[1])
        elif position[0]:
            _seek(file, partition.source, position[0])
        return FilePartition(partition, file, position, self.now_ms, follow=self.follow)
