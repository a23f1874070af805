"""Messages for a spool, and what is done with one: opened, read, replayed, killed."""

from __future__ import annotations

from pathlib import Path

from metering.message import Message
from metering.spool import Place, Spool

ROOM = 2**30


def message(number: int, size: int = 20) -> Message:
    return Message(b"acme", b"%d " % number + b"x" * size, 1)


def messages(count: int, first: int = 0) -> list[Message]:
    return [message(number) for number in range(first, first + count)]


class Watched:
    """A spool, and the damage that it reported."""

    def __init__(self, directory: Path, bytes_max: int = ROOM) -> None:
        self.damages: list[int] = []
        self.spool = Spool(directory, bytes_max, lambda _, length: self.damages.append(length))


def opened(directory: Path, bytes_max: int = ROOM) -> Spool:
    return Spool(directory, bytes_max, lambda *_: None)


def crash(spool: Spool) -> None:
    """What `kill -9` leaves: nothing is closed in order, and the lock is gone."""
    spool.abandon()


def read_all(spool: Spool) -> list[tuple[Place, Message]]:
    return list(iter(spool.read, None))


def replay(spool: Spool) -> list[Message]:
    found = read_all(spool)
    for place, _ in found:
        spool.acknowledge(place)
    spool.save()
    return [one for _, one in found]


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file())
