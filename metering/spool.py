"""The spool: messages on disk while no broker takes them, in segments that are replayed in order.

    append → sync → read → acknowledge → (segment deleted)

What a crash does (`kill -9` unless said otherwise):

- before or during an append: the messages were in memory alone, and are gone, unless `flush` had said True.
  A record that was half written is found damaged at the next replay and kept aside.
- after an append: they stand in the page cache, which outlives the process. After `sync` they also outlive
  the machine's loss of power. `sync` is called for each `flush`, when a segment is full, and every
  `SYNC_SECONDS` while there is something new.
- between the broker's acknowledgement and `save`: what was acknowledged since the last `save` is sent again.
  The job drops it, because the key is the same.
- before or during the deletion of a segment: its head says that it was replayed, or some of it comes again.

Damage in the middle of a segment costs the records that it touches. The segment is renamed to `.damaged` when
that is found, and to `.corrupt`, beside the directories, when the rest of it has been replayed.

Bounds: `bytes_max` on disk for this process, and as much again of what is kept aside, for all processes of
the destination together: what no longer fits there is deleted, counted and told. In memory, one segment while
it is read, which is `SEGMENT_BYTES` and what the last append added to it. One thread uses it at a time.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from metering import spool_directory, spool_records
from metering.message import Message

SEGMENT_BYTES = 4 * 1024 * 1024
"""A segment is closed once it is longer: small enough to be read whole, and to give back its room soon."""

SYNC_SECONDS = 1.0
"""What a loss of power may cost of the events that no `flush` covers."""


class SpoolFull(OSError):
    """The spool holds as much as it may."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message ends: the number of its segment, and the offset there."""

    segment: int
    end: int


@dataclass(slots=True)
class _Segment:
    number: int
    path: Path
    size: int
    read_to: int = spool_records.HEAD_BYTES
    last_end: int = spool_records.HEAD_BYTES
    acknowledged_to: int = spool_records.HEAD_BYTES
    saved_to: int = spool_records.HEAD_BYTES

    @property
    def is_finished(self) -> bool:
        return self.read_to >= self.size and self.acknowledged_to >= self.last_end


class Spool:
    """The spool of this process for one destination. The constructor touches no disk.

    Args:
        destination: The directory of all spools of the destination.
        bytes_max: Bound of the segments of this process.
        on_damage: Told of each stretch that is no record: a sentence, and its length in bytes.
    """

    def __init__(self, destination: Path, bytes_max: int, on_damage: Callable[[str, int], None]) -> None:
        self._destination = destination
        self._bytes_max = bytes_max
        self._on_damage = on_damage
        self._own: Path | None = None
        self._lock = -1
        self._segments: dict[int, _Segment] = {}
        self._active = -1
        self._active_number = 0
        self._last_number = 0
        self._ready: deque[tuple[Place, Message]] = deque()
        self._unsynced = False
        self._doubtful = False
        self.size_bytes = 0

    @property
    def is_empty(self) -> bool:
        """Nothing waits in it: all that was appended or taken over has been acknowledged."""
        return not self._segments

    @property
    def is_read(self) -> bool:
        """All that stands in it has been read since the start."""
        return not self._ready and all(found.read_to >= found.size for found in self._segments.values())

    def append(self, messages: Sequence[Message]) -> list[Place]:
        """Write messages at the end, from the first one on as many as `bytes_max` allows.

        Returns:
            The places of those that it took.

        Raises:
            SpoolFull: not even the first one fits.
            OSError: the disk takes no more, or cannot be written. None was taken.
        """
        data, ends = spool_records.frames(messages)
        room = self._bytes_max - self.size_bytes - spool_records.HEAD_BYTES
        ends = ends[: bisect_right(ends, room)]
        if not ends:
            raise SpoolFull(f"it holds {self.size_bytes} bytes and may hold {self._bytes_max}")
        if self._active < 0:
            self._begin_segment()
        segment = self._segments[self._active_number]
        start = segment.size
        self._write(segment, data[: ends[-1]])
        self._unsynced = True
        places = [Place(segment.number, start + end) for end in ends]
        if segment.size > SEGMENT_BYTES:
            self._end_segment()
        return places

    def sync(self) -> bool:
        """Make what was appended outlive a loss of power; False where the disk failed to.

        After a failure nothing of this spool counts as safe until it has been replayed: the system may have
        forgotten pages that it could not write, and a second try would not tell.
        """
        if self._unsynced:
            try:
                if self._active >= 0:
                    os.fsync(self._active)
                os.fsync(self._lock)
            except OSError:
                self._doubtful = True
            self._unsynced = False
        return not self._doubtful

    def read(self) -> tuple[Place, Message] | None:
        """The next message that has not been read since the start; None where there is none now.

        Raises:
            OSError: the disk cannot be read.
        """
        if not self._ready:
            for segment in self._segments.values():
                if segment.read_to < segment.size:
                    self._read_segment(segment)
                    break
        return self._ready.popleft() if self._ready else None

    def skip(self, places: Sequence[Place]) -> None:
        """Count messages as read that were just appended, behind what was read, and that the caller holds."""
        for place in places:
            segment = self._segments.get(place.segment)
            if segment is not None:
                segment.read_to = segment.last_end = place.end

    def acknowledge(self, place: Place) -> None:
        """A message, and all before it, has been delivered."""
        segment = self._segments.get(place.segment)
        if segment is not None:
            segment.acknowledged_to = max(segment.acknowledged_to, place.end)

    def save(self) -> None:
        """Make what was acknowledged outlive this process, and delete what is done with.

        Raises:
            OSError: the disk does not let it. It costs copies at most.
        """
        for segment in list(self._segments.values()):
            if segment.is_finished:
                self._remove(segment)
            elif segment.acknowledged_to > segment.saved_to:
                self._save_head(segment)
        if not self._segments:
            self._doubtful = self._unsynced = False

    def adopt(self) -> int:
        """Take over segments of processes that are gone, as far as `bytes_max` allows; how many.

        Raises:
            SpoolFull: a segment does not fit. Those before it were taken over.
            OSError: the disk does not let it; what was not moved stays where it is.
        """
        adopted = 0
        with spool_directory.of_the_dead(self._destination) as directories:
            for directory in directories:
                for _, path in spool_directory.segments(directory):
                    size = path.stat().st_size
                    if self.size_bytes + size > self._bytes_max:
                        raise SpoolFull(
                            f"{path} is left by another process and does not fit: {self.size_bytes} bytes of "
                            f"{self._bytes_max} are taken, and it has {size}"
                        )
                    self._adopt(path, size)
                    adopted += 1
        return adopted

    def set_aside(self, lines: bytes) -> bool:
        """Keep lines that will never be delivered in `refused.jsonl`; whether they are there now."""
        try:
            self._directory()
            if spool_directory.bytes_aside(self._destination) + len(lines) > self._bytes_max:
                return False
            spool_directory.append_aside(self._destination, lines + b"\n")
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the directory; what is left in it waits for another process, or the next start."""
        with suppress(OSError):
            self.save()
        self.sync()
        self.abandon()
        if self._own is not None:
            with suppress(OSError):  # not empty
                self._own.rmdir()

    def abandon(self) -> None:
        """Close the descriptors and nothing else: in a forked child the directory is the parent's."""
        self._close_active()
        descriptor, self._lock = self._lock, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _directory(self) -> Path:
        if self._own is not None and not self._segments and not self._own.exists():
            os.close(self._lock)  # somebody has cleaned up
            self._own, self._lock = None, -1
        if self._own is None:
            self._own, self._lock = spool_directory.create(self._destination)
        return self._own

    def _begin_segment(self) -> None:
        number = self._last_number + 1
        path = self._directory() / f"{number:08}.seg"
        self._active = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._last_number = self._active_number = number
        segment = self._segments[number] = _Segment(number, path, 0)
        try:
            self._write(segment, spool_records.head(spool_records.HEAD_BYTES))
        except OSError:
            self._remove(segment)
            raise

    def _write(self, segment: _Segment, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._active, left) :]
        finally:
            if left and not self._cut(segment.size):
                # It stays as damage in the middle, to be found and kept aside.
                self._grow(segment, len(data) - len(left))
        self._grow(segment, len(data))

    def _cut(self, size: int) -> bool:
        try:
            os.ftruncate(self._active, size)
            os.lseek(self._active, size, os.SEEK_SET)
        except OSError:
            return False
        return True

    def _grow(self, segment: _Segment, count: int) -> None:
        segment.size += count
        self.size_bytes += count

    def _end_segment(self) -> None:
        self.sync()
        self._close_active()

    def _close_active(self) -> None:
        # Forgotten before it is closed: a child that is forked in between must not close what has its number.
        descriptor, self._active = self._active, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _read_segment(self, segment: _Segment) -> None:
        try:
            with segment.path.open("rb") as file:
                file.seek(segment.read_to)
                data = file.read(segment.size - segment.read_to)
        except FileNotFoundError:
            self._on_damage(f"{segment.path} is gone", segment.size - segment.read_to)
            segment.read_to = segment.size
            return
        found = spool_records.find(data, segment.read_to)
        if found.damages and segment.path.suffix != ".damaged":
            segment.path = segment.path.rename(segment.path.with_suffix(".damaged"))
        for start, end in found.damages:
            self._on_damage(f"{end - start} bytes of {segment.path} are no records", end - start)
        self._ready.extend((Place(segment.number, end), message) for end, message in found.messages)
        if len(data) < segment.size - segment.read_to:
            self._on_damage(f"{segment.path} has become shorter", segment.size - segment.read_to - len(data))
        segment.read_to = segment.size
        if found.messages:
            segment.last_end = found.messages[-1][0]

    def _save_head(self, segment: _Segment) -> None:
        try:
            descriptor = os.open(segment.path, os.O_WRONLY)
        except FileNotFoundError:
            return
        try:
            os.pwrite(descriptor, spool_records.head(segment.acknowledged_to), 0)
        finally:
            os.close(descriptor)
        segment.saved_to = segment.acknowledged_to

    def _remove(self, segment: _Segment) -> None:
        if segment.number == self._active_number:
            self._close_active()
        if segment.path.suffix == ".damaged":
            kept = f"{segment.path.parent.name}-{segment.path.stem}.corrupt"
            with suppress(FileNotFoundError):
                if spool_directory.bytes_aside(self._destination) + segment.size > self._bytes_max:
                    segment.path.unlink()
                    self._on_damage(f"{segment.path} is deleted: too much is kept aside already", 0)
                else:
                    segment.path.rename(self._destination / kept)
        else:
            segment.path.unlink(missing_ok=True)
        del self._segments[segment.number]
        self.size_bytes -= segment.size

    def _adopt(self, path: Path, size: int) -> None:
        directory = self._directory()
        with path.open("rb") as file:
            start = spool_records.replayed_to(file.read(spool_records.HEAD_BYTES))
        if self._active >= 0:
            self._end_segment()  # what is appended from now on comes after
        self._last_number += 1
        moved = path.rename(directory / f"{self._last_number:08}{path.suffix}")
        self._segments[self._last_number] = _Segment(
            self._last_number, moved, size, start, start, start, start
        )
        self.size_bytes += size
