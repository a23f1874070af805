"""Append-only, checksummed segment files: state whose snapshot costs what an epoch added.

Theory of operation. A log is a directory of files; each file is a run of blocks, each block a header
(magic, length, CRC-32) and its bytes. A snapshot appends one block, fsyncs file and directory, and
returns a *manifest*: the names of the live files and how many bytes of each count. The manifest goes
into the Bytewax snapshot; the files are only as true as a manifest that names them.

Delivery. A crash before the fsync leaves the last manifest, whose files are untouched. A crash after
it and before the snapshot is durable leaves bytes behind that no manifest counts: they are not read,
and their file is never appended to again, because a new run begins a new file under a new name. A
file that a manifest no longer names is deleted two snapshots later, when no resume can ask for it;
what a crash left behind is deleted when the log is opened.

Each step at which a crash matters is an audit event of Python, `meterline.step`, with its name: what
watches them (`sys.addaudithook`) can stop the process there, and costs nothing where nobody does.

Bounds: a file is closed at `SEGMENT_BYTES_MAX` or when its newest block is `span_ms` of event time
younger than its first; it is dropped whole once all it holds has expired.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

SEGMENT_BYTES_MAX = 64 * 1024 * 1024

_HEADER = struct.Struct("<4sQI")
_MAGIC = b"MTRL"


class CorruptStateError(Exception):
    """A file of the state directory is missing, cut short or altered. The message names it."""

    def __str__(self) -> str:
        return f"{super().__str__()}; `meterline run --rebuild-state` makes the state anew from ClickHouse"


@dataclass(frozen=True, slots=True)
class Segment:
    """One file as a manifest sees it. Its first `size_bytes` bytes count; it expires after `newest_ms`."""

    name: str
    size_bytes: int
    oldest_ms: int
    newest_ms: int


Manifest = tuple[Segment, ...]


def manifest_to_json(manifest: Manifest) -> str:
    """The manifest as text for a snapshot: immutable, and readable by a person."""
    return json.dumps([asdict(segment) for segment in manifest])


def manifest_from_json(text: str) -> Manifest:
    """Inverse of `manifest_to_json`."""
    return tuple(Segment(**segment) for segment in json.loads(text))


def fsync_directory(path: Path) -> None:
    """Make names created or removed in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SegmentLog:
    """The segment files of one shard. `open` reads; nothing is created before the first append."""

    def __init__(self, directory: Path, manifest: Manifest, span_ms: int) -> None:
        self._directory = directory
        self._live: list[Segment] = list(manifest)
        self._span_ms = span_ms
        self._writable: str | None = None
        self._doomed: list[list[str]] = [[], []]

    @classmethod
    def open(cls, directory: Path, manifest: Manifest, span_ms: int) -> SegmentLog:
        """Open a log at a manifest; segments in the directory that it does not name are removed.

        Raises:
            CorruptStateError: a named file is missing or shorter than the manifest says.
        """
        directory.mkdir(parents=True, exist_ok=True)
        named = {segment.name for segment in manifest}
        for segment in manifest:
            path = directory / segment.name
            if not path.exists():
                raise CorruptStateError(f"the state file {path} is missing")
            if path.stat().st_size < segment.size_bytes:
                raise CorruptStateError(
                    f"the state file {path} has {path.stat().st_size} bytes; "
                    f"{segment.size_bytes} were written"
                )
        for path in directory.glob("*.segment"):
            if path.name not in named and path.is_file():  # what is not ours stays where it is
                path.unlink()
        fsync_directory(directory)
        return cls(directory, manifest, span_ms)

    def blocks(self) -> Iterator[bytes]:
        """Every block that the manifest counts, in the order in which they were appended.

        Raises:
            CorruptStateError: a block fails its checksum.
        """
        for segment in self._live:
            yield from _read_blocks(self._directory / segment.name, segment.size_bytes)

    def append(self, block: bytes, oldest_ms: int, newest_ms: int) -> None:
        """Write one block durably; `oldest_ms` and `newest_ms` bound the event times in it."""
        segment = self._open_segment(oldest_ms, newest_ms)
        path = self._directory / segment.name
        sys.audit("meterline.step", "segment: before write")
        with path.open("ab") as file:
            file.write(_HEADER.pack(_MAGIC, len(block), zlib.crc32(block)))
            file.write(block)
            file.flush()
            sys.audit("meterline.step", "segment: written")
            os.fsync(file.fileno())
        sys.audit("meterline.step", "segment: synced")
        if segment.size_bytes == 0:
            fsync_directory(self._directory)
        self._live[-1] = Segment(
            segment.name,
            segment.size_bytes + _HEADER.size + len(block),
            min(segment.oldest_ms, oldest_ms),
            max(segment.newest_ms, newest_ms),
        )

    def drop_before(self, before_ms: int) -> None:
        """Take whole files out of the manifest in which everything is older than an instant."""
        self._retire([segment for segment in self._live if segment.newest_ms < before_ms])

    def replace_all(self) -> None:
        """Take every file out of the manifest: the caller is about to append all that is still true."""
        self._retire(list(self._live))

    def snapshot(self) -> Manifest:
        """The manifest as it is now. Deletes what was taken out of the manifest two calls ago."""
        for name in self._doomed.pop(0):
            sys.audit("meterline.step", "segment: before delete")
            (self._directory / name).unlink(missing_ok=True)
        self._doomed.append([])
        return tuple(self._live)

    @property
    def size_bytes(self) -> int:
        """Bytes that the manifest counts."""
        return sum(segment.size_bytes for segment in self._live)

    def _retire(self, segments: list[Segment]) -> None:
        gone = {segment.name for segment in segments}
        self._live = [segment for segment in self._live if segment.name not in gone]
        self._doomed[-1] += sorted(gone)
        if self._writable in gone:
            self._writable = None

    def _open_segment(self, oldest_ms: int, newest_ms: int) -> Segment:
        if self._writable is not None:
            current = self._live[-1]
            spanned = max(current.newest_ms, newest_ms) - min(current.oldest_ms, oldest_ms)
            if current.size_bytes < SEGMENT_BYTES_MAX and spanned <= self._span_ms:
                return current
        self._writable = f"{uuid.uuid4().hex}.segment"
        self._live.append(Segment(self._writable, 0, oldest_ms, newest_ms))
        return self._live[-1]


def _read_blocks(path: Path, size_bytes: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        position = 0
        while position < size_bytes:
            header = file.read(_HEADER.size)
            magic, length, checksum = _HEADER.unpack(header) if len(header) == _HEADER.size else (b"", 0, 0)
            if magic != _MAGIC or position + _HEADER.size + length > size_bytes:
                raise CorruptStateError(
                    f"the state file {path} is damaged at byte {position}: no block begins there"
                )
            block = file.read(length)
            if len(block) != length or zlib.crc32(block) != checksum:
                raise CorruptStateError(
                    f"the state file {path} is damaged at byte {position}: its checksum is wrong"
                )
            yield block
            position += _HEADER.size + length
