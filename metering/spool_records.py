r"""How messages stand in a file of the spool, and how they are found again in one that is damaged. Pure.

A segment is a head of `HEAD_BYTES`, which says how far it has been replayed, and then records:

    head     mark F5 4D 4C 01 · offset (4 bytes) · CRC-32 of these 8 bytes
    record   mark F5 4D 4C FA · payload bytes (4) · CRC-32 of that length and the payload
    payload  key bytes (2) · events (4) · key · lines

All numbers are big-endian. The bytes F5 and FA stand in no UTF-8 text (RFC 3629), so a mark is found in no
key and no line: after damage the next mark whose record has its checksum is the next record.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from metering.message import Message

HEAD_BYTES = 12

_HEAD_MARK = b"\xf5ML\x01"
_MARK = b"\xf5ML\xfa"
_HEAD = struct.Struct(">4sII")
_RECORD = struct.Struct(">4sII")
_PAYLOAD = struct.Struct(">HI")
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Found:
    """What a piece of a segment holds: messages, each with the offset after it in the segment.

    `damages` are the stretches between them that are no records, as (start, end) in the segment.
    """

    messages: tuple[tuple[int, Message], ...]
    damages: tuple[tuple[int, int], ...]


def head(offset: int) -> bytes:
    """The head of a segment that has been replayed up to `offset`."""
    body = _HEAD_MARK + _LENGTH.pack(offset)
    return body + _LENGTH.pack(zlib.crc32(body))


def replayed_to(data: bytes) -> int:
    """The offset in a head; where it is damaged the first record's, so that records come twice, never not."""
    if len(data) >= HEAD_BYTES:
        mark, offset, checksum = _HEAD.unpack_from(data)
        if mark == _HEAD_MARK and checksum == zlib.crc32(data[:8]) and offset >= HEAD_BYTES:
            return int(offset)
    return HEAD_BYTES


def frame(message: Message) -> bytes:
    """The record of a message."""
    payload = _PAYLOAD.pack(len(message.key), message.events) + message.key + message.lines
    length = _LENGTH.pack(len(payload))
    return _RECORD.pack(_MARK, len(payload), zlib.crc32(payload, zlib.crc32(length))) + payload


def find(data: bytes, offset: int) -> Found:
    """Every intact record of `data`, which stands at `offset` of its segment, in order."""
    messages: list[tuple[int, Message]] = []
    damages: list[tuple[int, int]] = []
    at = 0
    while at < len(data):
        read = _record_at(data, at)
        if read is not None:
            at, message = read
            messages.append((offset + at, message))
            continue
        start = at
        while True:
            at = data.find(_MARK, at + 1)
            if at < 0:
                at = len(data)
            if at == len(data) or _record_at(data, at) is not None:
                break
        damages.append((offset + start, offset + at))
    return Found(tuple(messages), tuple(damages))


def _record_at(data: bytes, at: int) -> tuple[int, Message] | None:
    """The record that begins there, with the position after it."""
    if len(data) - at < _RECORD.size:
        return None
    mark, length, checksum = _RECORD.unpack_from(data, at)
    start = at + _RECORD.size
    if mark != _MARK or length < _PAYLOAD.size or length > len(data) - start:
        return None
    payload = data[start : start + length]
    if zlib.crc32(payload, zlib.crc32(_LENGTH.pack(length))) != checksum:
        return None
    key_length, events = _PAYLOAD.unpack_from(payload)
    lines = _PAYLOAD.size + key_length
    return start + length, Message(payload[_PAYLOAD.size : lines], payload[lines:], events)


def frames(messages: Iterable[Message]) -> tuple[bytes, list[int]]:
    """The records of several messages as one piece, and the offset in it after each."""
    parts = [frame(message) for message in messages]
    ends, end = [], 0
    for part in parts:
        end += len(part)
        ends.append(end)
    return b"".join(parts), ends
