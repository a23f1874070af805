"""Staged blocks: rows on their way to ClickHouse, as files that survive whatever happens to the job.

A block is an Arrow IPC stream. It carries its size and a CRC-32, which are held against its file before each
insert. A file is written as rows come, and synced before a snapshot names it, under a name that is never used
twice; it goes two snapshots at the earliest after the first one that no longer names it.
"""

from __future__ import annotations

import os
import sys
import uuid
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import polars as pl
import pyarrow as pa


class DamagedBlockError(Exception):
    """The file of a staged block is missing or altered. The message names it."""

    def __str__(self) -> str:
        return f"{super().__str__()}; `meterline run --rebuild-state` makes the state anew from ClickHouse"


@dataclass(frozen=True, slots=True)
class StagedBlock:
    """One block on its way: a file of Arrow IPC under `staged/`, the table and the insert's token."""

    table: str
    file: str
    token: str
    rows: int
    size_bytes: int
    crc32: int


_IPC_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
"""LZ4 leaves a third of the bytes: less to write, to read back and to send, worth more than it costs."""


def _arrow_table(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())  # ClickHouse reads no string views


def arrow_stream(frame: pl.DataFrame) -> pa.Buffer:
    """The frame as Arrow IPC. By way of pyarrow, which takes three quarters of the time that Polars does."""
    table = _arrow_table(frame)
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema, options=_IPC_OPTIONS) as stream:
        stream.write_table(table)
    return out.getvalue()


class _Checked:
    """What pyarrow writes a stream to: a file, the size and the checksum of what it was given."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = 0
        self.crc32 = 0

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self._file.write(data)
        self.size_bytes += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)


class OpenBlock:
    """A block that is being written: `append` rows, then `seal` it."""

    def __init__(self, path: Path, table: str) -> None:
        sys.audit("meterline.step", "block: before write")
        self._path = path
        self._table = table
        self._file = path.open("xb")
        self._checked = _Checked(self._file)
        self._stream: pa.ipc.RecordBatchStreamWriter | None = None
        self.rows = 0

    def append(self, frame: pl.DataFrame) -> None:
        """Write rows; the columns are those of the first call."""
        table = _arrow_table(frame)
        if self._stream is None:
            sink = pa.PythonFile(self._checked, mode="w")
            self._stream = pa.ipc.new_stream(sink, table.schema, options=_IPC_OPTIONS)
        self._stream.write_table(table)
        self.rows += len(frame)

    def seal(self) -> StagedBlock:
        """End the block and sync its file; its name is durable once `BlockStage.seal` was called."""
        if self._stream is not None:
            self._stream.close()
        self._file.flush()
        sys.audit("meterline.step", "block: written")
        os.fsync(self._file.fileno())
        self._file.close()
        sys.audit("meterline.step", "block: synced")
        name, checked = self._path.name, self._checked
        return StagedBlock(
            self._table, name, f"meterline/{name}", self.rows, checked.size_bytes, checked.crc32
        )

    def abandon(self) -> None:
        """Let go of the file, which no snapshot will name; it may not take what was still to be written."""
        with suppress(OSError):
            self._file.close()


class BlockStage:
    """Files of staged blocks of one sink partition, under names that are never used twice."""

    def __init__(self, directory: Path, owner: str) -> None:
        self._directory = directory
        self._owner = owner
        self._doomed: list[list[str]] = [[], []]

    def open(self, pending: tuple[StagedBlock, ...]) -> None:
        """Make the directory, and remove what a crash left of epochs that never became durable."""
        self._directory.mkdir(parents=True, exist_ok=True)
        wanted = {block.file for block in pending}
        for path in self._directory.glob(f"{self._owner}-*.arrow"):
            if path.name not in wanted:
                path.unlink()

    def begin(self, table: str) -> OpenBlock:
        """Begin a block of rows for a table."""
        return OpenBlock(self._directory / f"{self._owner}-{uuid.uuid4().hex}.arrow", table)

    def seal(self) -> None:
        """Make the names of the blocks written so far durable, before a snapshot names them."""
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self, block: StagedBlock) -> bytes:
        """The bytes of a block.

        Raises:
            DamagedBlockError: they are gone, or not what was written.
        """
        path = self._directory / block.file
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise DamagedBlockError(f"the staged block {path} cannot be read: {exc.strerror}") from exc
        if len(data) != block.size_bytes:
            raise DamagedBlockError(
                f"the staged block {path} has {len(data)} bytes; {block.size_bytes} were written"
            )
        if zlib.crc32(data) != block.crc32:
            raise DamagedBlockError(f"the staged block {path} is damaged: its checksum is wrong")
        return data

    def discard(self, blocks: tuple[StagedBlock, ...]) -> None:
        """These are published; their files go two snapshots later, when no resume can name them."""
        self._doomed[-1] += [block.file for block in blocks]

    def collect(self) -> None:
        """Call once a snapshot: delete what was discarded two snapshots ago."""
        for name in self._doomed.pop(0):
            sys.audit("meterline.step", "block: before delete")
            (self._directory / name).unlink(missing_ok=True)
        self._doomed.append([])
