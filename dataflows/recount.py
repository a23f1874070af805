"""Reading a source again, to compare its lines with the positions that have rows.

Of some positions it is known which event was priced there: their lines must still be those events, or the
source is not what was read.

Nothing here is shared with the sources of the job, so that a line which those lose is found. One
input at a time: 9 bytes for each of its rows are held, and one block of its lines.

Bounds: `READ_BYTES` of a file at a time; for Kafka `POLL_MESSAGES` a poll, `IDLE_SECONDS_MAX` of
silence, `KAFKA_SECONDS_MAX` for one partition.
"""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from dataflows.batch import Bools, Int64s, UInt64s
from dataflows.dedupe import pack_position
from dataflows.kafka_source import METADATA_TIMEOUT_SECONDS, POLL_MESSAGES, PREFETCH, KafkaTopic
from metering.event import LINE_BYTES_MAX

READ_BYTES = 4 * 1024 * 1024
IDLE_SECONDS_MAX = 30.0
KAFKA_SECONDS_MAX = 3600.0
BEGINNING_BYTES = 80
SAMPLES_MAX = 100
"""Lost lines whose bytes are kept, to say whose events they were."""

LINE_BITS = 20
"""Bits of a packed position that hold the line (see `dataflows.dedupe.pack_position`)."""

_LF, _BLANK = ord("\n"), np.frombuffer(b" \t\r\n", np.uint8)
_WAIT_SECONDS = 0.2

OnLines = Callable[[int], None]
"""Told how far an input has been read again: its next line of a file, its next offset of a topic."""


def distinct(positions: UInt64s) -> UInt64s:
    """Positions in order, each once. By sorting: NumPy's `unique` hashes, which takes ten times as long."""
    ordered: UInt64s = np.sort(positions)
    first = np.ones(len(ordered), np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


class Event(NamedTuple):
    """Which event a row is."""

    tenant_id: str
    idempotency_key: str


class Ledger:
    """The positions of one input that have rows, packed, and which of them the source was seen to hold.

    `events` are those that were priced at some of the positions.
    """

    def __init__(self, positions: UInt64s, events: Mapping[int, Event] | None = None) -> None:
        self._known = distinct(positions)
        self._seen = np.zeros(len(self._known), np.bool_)
        self._events = events or {}
        self._told = np.array(sorted(self._events), np.uint64)

    def events_in(self, positions: UInt64s) -> Iterator[tuple[int, Event]]:
        """The events that are known at any of these positions, which rise, with the index of each there."""
        at = np.searchsorted(positions, self._told)
        for place, position in zip(at.tolist(), self._told.tolist(), strict=True):
            if place < len(positions) and positions[place] == position:
                yield place, self._events[position]

    def take(self, positions: UInt64s) -> Bools:
        """Tick off lines of the source; true for those that have no row."""
        if not len(self._known):
            return np.ones(len(positions), np.bool_)
        at = np.minimum(np.searchsorted(self._known, positions), len(self._known) - 1)
        found: Bools = self._known[at] == positions
        self._seen[at[found]] = True
        return ~found

    def unseen(self, start: int, stop: int) -> UInt64s:
        """Positions in `[start, stop)` that have a row and were not ticked off."""
        inside = (self._known >= start) & (self._known < stop)
        unseen: UInt64s = self._known[inside & ~self._seen]
        return unseen


class Lines(NamedTuple):
    """Whole lines: their bytes, each ended by a newline, and the offset and line number of each."""

    data: bytes
    offset: Int64s
    line: npt.NDArray[np.int32]


@dataclass(slots=True)
class Recount:
    """What one input holds below its published progress, compared with the rows.

    `lines` counts the lines that are not blank; `lost` are packed positions of lines without a row,
    `invented` those of rows without a line; `altered` are the beginnings of lines that are other events than
    those that were priced there. `refusal` says why nothing, or not everything, was read
    again; it is "" when all of it was.
    """

    lines: int = 0
    lost: UInt64s = field(default_factory=lambda: np.empty(0, np.uint64))
    invented: UInt64s = field(default_factory=lambda: np.empty(0, np.uint64))
    samples: dict[int, bytes] = field(default_factory=dict)
    altered: dict[int, bytes] = field(default_factory=dict)
    refusal: str = ""

    def compare(self, block: Lines, ledger: Ledger) -> None:
        """Count a block of lines, and remember those that have no row."""
        starts, ends, filled = split_filled(block.data)
        positions = pack_position(block.offset[filled], block.line[filled])
        self.lines += len(positions)
        rows = np.flatnonzero(filled)
        for place, event in ledger.events_in(positions):
            line = block.data[starts[rows[place]] : ends[rows[place]]]
            if not _is_event(line, event):
                self.altered[int(positions[place])] = line[:BEGINNING_BYTES]
        missing = np.flatnonzero(ledger.take(positions))
        if len(missing):
            self.lost = np.concatenate([self.lost, positions[missing]])
            kept = rows[missing[: SAMPLES_MAX - len(self.samples)]]
            for row, position in zip(kept.tolist(), positions[missing].tolist(), strict=False):
                self.samples[position] = block.data[starts[row] : ends[row]]


def _is_event(line: bytes, event: Event) -> bool:
    """Whether a line has this tenant and key, as a plain event or in an envelope."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and (
        event.tenant_id in (found.get("tenant_id"), found.get("subject"))
        and event.idempotency_key in (found.get("idempotency_key"), found.get("id"))
    )


def split_filled(data: bytes) -> tuple[Int64s, Int64s, Bools]:
    """Starts and ends of the lines in `data`, which ends with a newline, and which are not blank."""
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == _LF)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])
    filled: Bools = ~np.isin(text[starts], _BLANK)
    unsure = np.flatnonzero(~filled & (ends > starts))
    if len(unsure):
        solid = np.cumsum(~np.isin(text, _BLANK))
        filled[unsure] = solid[ends[unsure]] > solid[starts[unsure]]
    return starts, ends, filled


def recount_file(path: str, next_line: int, ledger: Ledger, on_lines: OnLines) -> Recount:
    """Read a file again, plain or gzip, up to the line before `next_line`."""
    found = Recount()
    read = 0
    try:
        with _open(path) as file:
            for block in _blocks(file, next_line):
                found.compare(block, ledger)
                read = int(block.offset[-1])
                on_lines(read + 1)
    except (OSError, EOFError, zlib.error) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else type(exc).__name__
        return Recount(refusal=f"it cannot be read any more ({reason})")
    if read < next_line - 1:
        return Recount(
            refusal=f"it has {read} lines now, fewer than the {next_line - 1} that were read of it: "
            "it was cut or replaced"
        )
    found.invented = ledger.unseen(0, next_line << LINE_BITS)
    return found


def _open(path: str) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.endswith(".gz") else Path(path).open("rb")


def _blocks(file: IO[bytes], next_line: int) -> Iterator[Lines]:
    """The lines before `next_line`, counted from 1; a last line needs no newline."""
    line, rest = 1, b""
    while line < next_line:
        chunk = file.read(READ_BYTES)
        data = rest + (chunk or b"\n" * bool(rest))
        if not data:
            return
        end = data.rfind(b"\n") + 1
        # Of an endless line only so much is kept as the job looks at.
        data, rest = data[:end], data[end:][: LINE_BYTES_MAX + 1]
        if not data:
            continue
        wanted = min(data.count(b"\n"), next_line - line)
        if wanted < next_line - line:
            whole = data
        else:
            whole = data[: int(np.flatnonzero(np.frombuffer(data, np.uint8) == _LF)[wanted - 1]) + 1]
        yield Lines(whole, np.arange(line, line + wanted, dtype=np.int64), np.zeros(wanted, np.int32))
        line += wanted


def recount_kafka(
    topic: KafkaTopic, number: int, next_offset: int, ledger: Ledger, on_lines: OnLines
) -> Recount:
    """Read one partition of a topic again, from its beginning to the offset before `next_offset`."""
    consumer = Consumer(
        {
            **topic.client_config,
            "group.id": "meterline-audit",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            **PREFETCH,
            "error_cb": lambda _: None,
            "log_level": 0,
        }
    )
    where = TopicPartition(topic.topic, number)
    try:
        low, high = consumer.get_watermark_offsets(where, timeout=METADATA_TIMEOUT_SECONDS)
        if high < next_offset:
            return Recount(
                refusal=f"it ends at offset {high}, before the {next_offset} that were read: "
                "the topic was created anew"
            )
        if low >= next_offset:
            return Recount(refusal="its messages have expired" if low else "")
        consumer.assign([TopicPartition(topic.topic, number, low)])
        found = _read_partition(consumer, low, next_offset, ledger, on_lines)
    except KafkaException as exc:
        error = exc.args[0] if exc.args else exc
        reason = error.str() if isinstance(error, KafkaError) else type(exc).__name__
        return Recount(refusal=f"Kafka at {topic.bootstrap} does not serve it ({reason})")
    finally:
        consumer.close()
    if low > 0 and not found.refusal:
        found.refusal = f"its messages before offset {low} have expired"
    return found


def _read_partition(
    consumer: Consumer, low: int, next_offset: int, ledger: Ledger, on_lines: OnLines
) -> Recount:
    found = Recount()
    at, trouble = low, ""
    started = heard = time.monotonic()
    while at < next_offset:
        messages, reached, trouble = _poll(consumer, at, trouble)
        now = time.monotonic()
        if messages or reached > at:
            heard = now
        values = [message for message in messages if at <= _offset(message) < next_offset]
        if values:
            found.compare(_message_lines(values), ledger)
        at = max(reached, at)
        on_lines(min(at, next_offset))
        if now - heard > IDLE_SECONDS_MAX or now - started > KAFKA_SECONDS_MAX:
            found.refusal = f"it could be read to offset {at} only, in time{trouble and f' ({trouble})'}"
            break
    found.invented = ledger.unseen(low << LINE_BITS, min(at, next_offset) << LINE_BITS)
    return found


def _poll(consumer: Consumer, at: int, trouble: str) -> tuple[list[Message], int, str]:
    """What has been prefetched; the offset that has been reached; the last error."""
    first = consumer.poll(_WAIT_SECONDS)
    polled = [] if first is None else [first, *consumer.consume(POLL_MESSAGES, timeout=0)]
    messages = []
    for message in polled:
        error = message.error()
        if error is None:
            messages.append(message)
            at = max(at, _offset(message) + 1)
        elif error.code() == KafkaError._PARTITION_EOF:
            # What lies between the last message and here are records of Kafka's own.
            at = max(at, _offset(message))
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise KafkaException(error)
        else:
            trouble = error.str()
    return messages, at, trouble


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None
    return offset


def _message_lines(messages: list[Message]) -> Lines:
    values = [message.value() or b"" for message in messages]
    counts = [value.count(b"\n") + 1 for value in values]
    offsets = np.repeat(np.array([_offset(message) for message in messages], np.int64), counts)
    firsts = np.repeat(np.cumsum(counts) - counts, counts)
    lines = (np.arange(len(offsets)) - firsts).astype(np.int32)
    return Lines(b"\n".join(values) + b"\n", offsets, lines)
