"""Files as a source: JSON lines, plain or gzip, by name or glob, or standard input.

One Bytewax partition is one file; one item is one read of about `READ_BYTES` (less of each of many files),
cut at a line's end.

Delivery: the snapshot of a partition is the byte and the line after the last batch that left in the
epoch. A crash before it is durable reads from the older position again; after it, from the new one.
A file that was read to its end is not read again, only what was appended to it since; one that was
replaced or cut meanwhile is refused (see `dataflows.edges`). Standard input cannot go back: pipe the same
data again after a crash, and dedupe drops what was priced before.

A last line without a newline may be one that is still being written. It is read if it is a JSON object,
which no longer line can begin with; any other waits for its newline, and the log says so.
"""

from __future__ import annotations

import glob
import gzip
import json
import logging
import math
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
from dataflows.edges import EDGE_BYTES, Edges
from dataflows.lifecycle import EpochLifecycle, Turn
from dataflows.lines import split_lines
from metering.event import LINE_BYTES_MAX

READ_BYTES = 24 * 1024 * 1024
READ_BYTES_MIN = 1024 * 1024
ALL_READS_BYTES = 192 * 1024 * 1024
"""A read takes `READ_BYTES`. A worker reads each of its files once before it works on any of these reads, so
they share this if an even share of all files is more than eight, down to `READ_BYTES_MIN` each."""
_WAIT = timedelta(milliseconds=20)

FileState = tuple[int, int, int]
"""(bytes read, lines read, CRC-32 of the edges of what was read) of the uncompressed file."""

_log = logging.getLogger(__name__)

BYTES_UNKNOWN = -1
"""Bytes read in a state that was rebuilt: ClickHouse knows lines only, and they are counted once more."""


class InputError(Exception):
    """An input cannot be read as asked. The message is one sentence for the operator."""


class InputUnavailableError(InputError):
    """It cannot be read now; later perhaps it can."""


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
        raise InputUnavailableError(f"the file {path} cannot be read: {exc.strerror}") from None


def _open(source: str) -> BinaryIO:
    if source.startswith("stdin:"):
        if sys.stdin is None:
            raise InputError("standard input is closed")
        return sys.stdin.buffer
    if source.endswith(".gz"):
        return cast(BinaryIO, gzip.open(source, "rb"))
    return Path(source).open("rb")


def _seek(file: BinaryIO, source: str, position: FileState) -> Edges:
    """Go to where the last run stopped; returns the edges of what it read."""
    if not position[0]:
        return Edges()
    try:
        edges = Edges.of(file, position[0])
    except (OSError, EOFError, zlib.error) as exc:
        raise _unreadable(source, exc) from exc
    if edges is None:
        raise InputError(
            f"the file {source} is shorter than what was already read of it ({position[0]} bytes): "
            "it was cut or replaced; give new data a new name"
        )
    if edges.crc32() != position[2]:
        raise InputError(
            f"the file {source} does not begin with the {position[0]} bytes that were already read of it: "
            "it was replaced or rewritten; give new data a new name"
        )
    return edges


def _unreadable(what: str, error: Exception) -> InputError:
    """What is wrong with a file, or with the rest of one. A disk may recover; damaged gzip does not."""
    if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
        return InputUnavailableError(f"{what} cannot be read: {error}")
    return InputError(f"{what} is damaged: {error}")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _skip(file: BinaryIO, source: str, lines: int) -> Edges:
    """Go past so many lines, the last of which may lack its newline; returns the edges of them."""
    edges, left, position = Edges(), lines, 0
    while left:
        try:
            chunk = file.read(READ_BYTES)
        except (OSError, EOFError, zlib.error) as exc:
            raise _unreadable(source, exc) from exc
        if not chunk and left == 1 and edges.inside_line:
            break
        if not chunk:
            raise InputError(
                f"the file {source} is shorter than what was already read of it ({lines} lines): "
                "it was cut or replaced; give new data a new name"
            )
        ended = min(left, chunk.count(b"\n"))
        left -= ended
        if not left:
            end = 0
            for _ in range(ended):
                end = chunk.index(b"\n", end) + 1
            chunk = chunk[:end]
        edges.add(chunk)
        position += len(chunk)
    file.seek(position)
    return edges


def read_bytes(files: int) -> int:
    """How much a worker that has so many files reads of each at a time."""
    return min(READ_BYTES, max(READ_BYTES_MIN, ALL_READS_BYTES // files))


class FilePartition(StatefulSourcePartition[RawBatch, FileState]):
    """One file. `now_ms` gives the wall clock, which stands in for the time of arrival.

    With `follow` the file may grow: its end is waited at, and a line counts once its newline is there.
    """

    def __init__(
        self,
        partition: Partition,
        file: BinaryIO,
        position: FileState,
        edges: Edges,
        now_ms: Callable[[], int],
        read_bytes: int,
        *,
        follow: bool,
    ) -> None:
        self._partition = partition
        self._file = file
        self._bytes, self._lines = position[:2]
        self._edges = edges
        self._now_ms = now_ms
        self._read_bytes = read_bytes
        self._follow = follow
        self._rest = b""
        self._passed = 0
        self._passed_end = b""
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
                self._tell_unfinished()
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
        return (self._bytes, self._lines, self._edges.crc32())

    def close(self) -> None:
        """Close the file; nothing is kept here."""
        self._file.close()

    def _batch(self, data: bytes) -> RawBatch:
        self._count(data)
        lines = split_lines(data if data.endswith(b"\n") else data + b"\n")
        count = len(lines)
        first = self._lines + 1
        self._lines += count
        return RawBatch(
            self._partition,
            lines,
            np.arange(first, first + count, dtype=np.int64),
            np.zeros(count, np.int32),
            np.full(count, self._now_ms(), np.int64),
            next_offset=self._lines + 1,
            live=True,
            age_limited=False,
        )

    def _count(self, data: bytes) -> None:
        """Move the position past `data`, and past what was left out of its first line."""
        self._bytes += len(data) + self._passed
        if self._passed:
            self._edges.add(data[: LINE_BYTES_MAX + 1])
            self._edges.add(self._passed_end)
            data = data[LINE_BYTES_MAX + 1 :]
            self._passed, self._passed_end = 0, b""
        self._edges.add(data)

    def _read_lines(self) -> bytes:
        """Whole lines, or a last one that needs no newline. Empty where the file ends for now."""
        data, self._rest = self._rest, b""
        while chunk := self._read():
            if self._edges.inside_line:
                chunk = self._end_of_counted_line(chunk)  # the rest of it
            elif self._passed:
                newline = chunk.find(b"\n")
                passed = chunk if newline < 0 else chunk[:newline]
                self._pass_over(passed)
                chunk = chunk[len(passed) :]  # the rest of it
            data += chunk
            end = data.rfind(b"\n") + 1
            if end:
                self._rest = data[end:]
                return data[:end]
            # Enough of an endless line for the decoder to refuse it.
            self._pass_over(data[LINE_BYTES_MAX + 1 :])
            data = data[: LINE_BYTES_MAX + 1]
        if data and not self._follow and (self._partition.source.startswith("stdin:") or _is_object(data)):
            return data
        self._rest = data
        return b""

    def _pass_over(self, data: bytes) -> None:
        self._passed += len(data)
        self._passed_end = (self._passed_end + data[-EDGE_BYTES:])[-EDGE_BYTES:]

    def _end_of_counted_line(self, chunk: bytes) -> bytes:
        """What follows a line that was read before its newline was there; returns what is beyond that."""
        rest = chunk.lstrip(b" \t\r")
        if rest and not rest.startswith(b"\n"):
            raise InputError(
                f"line {self._lines} of {self._partition.source} was a whole JSON object when it was read, "
                "and goes on now: end it with a newline"
            )
        rest = rest[1:]
        self._count(chunk[: len(chunk) - len(rest)])
        return rest

    def _tell_unfinished(self) -> None:
        if self._rest.strip():
            _log.warning(
                "1 unfinished line of %s waits: a later run reads it, once it has its newline",
                self._partition.source,
            )

    def _read(self) -> bytes:
        try:
            return self._file.read(self._read_bytes)
        except (OSError, EOFError, zlib.error) as exc:
            raise _unreadable(f"{self._partition.source}, after line {self._lines},", exc) from exc


class AbsentPartition(StatefulSourcePartition[RawBatch, FileState]):
    """An input that an earlier run read and this one does not: it keeps its position and ends at once."""

    def __init__(self, position: FileState | None) -> None:
        self._position = position

    def next_batch(self) -> list[RawBatch]:
        """End."""
        raise StopIteration

    def snapshot(self) -> FileState:
        """The position as it was."""
        return self._position or (0, 0, 0)


@dataclass(frozen=True)
class FileSource(FixedPartitionedSource[RawBatch, FileState]):
    """The files of this run, among all that the state directory has ever known.

    `workers` share them (workers that Bytewax starts by itself count as one: together they read no more).
    """

    partitions: Mapping[str, Partition]
    chosen: frozenset[str]
    follow: bool
    now_ms: Callable[[], int]
    workers: int = 1

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
        position = resume_state or (0, 0, 0)
        try:
            if position[0] == BYTES_UNKNOWN:
                edges = _skip(file, partition.source, position[1])
                position = (file.tell(), position[1], edges.crc32())
            else:
                edges = _seek(file, partition.source, position)
        except InputError:
            file.close()
            raise
        size = read_bytes(math.ceil(len(self.chosen) / self.workers))
        return FilePartition(partition, file, position, edges, self.now_ms, size, follow=self.follow)
