"""Messages: what is handed to a broker at once, the lines of one tenant. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MESSAGE_LINES_MAX = 100
"""So many events share what a message costs; a consumer's batch stays small enough to be dealt out evenly."""

MESSAGE_BYTES_MAX = 500_000
"""Half of what a Kafka topic takes by default (`max.message.bytes`, 1,048,588)."""


@dataclass(frozen=True, slots=True)
class Message:
    """`events` lines of JSON, joined by newlines. `key` is the tenant in UTF-8, empty if it is not known."""

    key: bytes
    lines: bytes
    events: int

    @property
    def size_bytes(self) -> int:
        """Roughly what it takes in memory and on a disk."""
        return len(self.key) + len(self.lines)


def pack(lines: Iterable[tuple[bytes, bytes]]) -> list[Message]:
    """Messages of (key, line) pairs: of each key in its order, the keys in the order of their first line."""
    by_key: dict[bytes, list[bytes]] = {}
    for key, line in lines:
        by_key.setdefault(key, []).append(line)
    return [
        Message(key, b"\n".join(part), len(part)) for key, own in by_key.items() for part in _portions(own)
    ]


def _portions(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    start, size = 0, 0
    for position, line in enumerate(lines):
        size += len(line) + 1
        if position > start and (size > MESSAGE_BYTES_MAX or position - start == MESSAGE_LINES_MAX):
            yield lines[start:position]
            start, size = position, len(line) + 1
    if start < len(lines):
        yield lines[start:]


def halves(message: Message) -> tuple[Message, Message]:
    """Two messages in place of one of at least two lines, which a broker found too large."""
    lines = message.lines.split(b"\n")
    middle = len(lines) // 2
    first, second = lines[:middle], lines[middle:]
    return (
        Message(message.key, b"\n".join(first), len(first)),
        Message(message.key, b"\n".join(second), len(second)),
    )
