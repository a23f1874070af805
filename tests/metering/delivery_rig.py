"""A delivery with a destination that does as it is told, and a clock that is passed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from metering.counts import Counts
from metering.delivery import Delivery
from metering.message import Message
from metering.spool import Spool
from metering.transport import Busy, Handed

SPOOL_AFTER = 1.0


@dataclass
class Destination:
    """A transport. `away`: takes messages and says nothing of them; `arrived` is what it acknowledged.

    `late`: so many of the latest are still under way.
    """

    away: bool = False
    refusal: type[Exception] | None = None
    late: int = 0
    lines_max: int = 10**9
    arrived: list[bytes] = field(default_factory=list)
    handed: list[Handed] = field(default_factory=list)
    sent: int = 0
    has_failed: bool = False
    refuse_next: int = 0
    is_synced: bool = True

    def key_of(self, tenant_id: str) -> bytes:
        return tenant_id.encode()

    def send(self, handed: Handed) -> None:
        if self.refusal is not None or self.refuse_next:
            self.refuse_next = max(self.refuse_next - 1, 0)
            raise (self.refusal or Busy)("it takes nothing")
        self.sent += 1
        self.handed.append(handed)

    def poll(self, timeout_seconds: float) -> bool:
        assert timeout_seconds == 0
        failed, self.has_failed = self.has_failed, False
        while len(self.handed) > self.late and not self.away:
            handed = self.handed.pop(0)
            handed.is_too_large = handed.message.events > self.lines_max
            handed.ending = "too large" if handed.is_too_large else ""
            failed |= handed.is_too_large
            self.arrived += [] if handed.is_too_large else handed.message.lines.split(b"\n")
        return failed

    def fail(self, count: int = 10**9) -> None:
        """Give back what waits."""
        for handed in self.handed[:count]:
            handed.ending, self.has_failed = "timed out", True
        del self.handed[:count]

    def take(self, position: int) -> None:
        """Acknowledge one that others were handed over before."""
        self.handed.pop(position).ending = ""

    def sync(self) -> bool:
        return self.is_synced

    def trouble(self) -> str:
        return "it is away" if self.away else ""

    def close(self, timeout_seconds: float) -> None:
        pass

    def abandon(self) -> None:
        pass


class Rig:
    """A delivery, its destination, its spool and its clock."""

    def __init__(self, directory: Path | None, bytes_max: int = 2**30) -> None:
        self.destination = Destination()
        self.counts = Counts()
        self.spool = None if directory is None else Spool(directory, bytes_max, lambda *_: None)
        self.delivery = Delivery(self.destination, self.spool, self.counts, SPOOL_AFTER)
        self.now = 1_000.0
        self.recorded: list[bytes] = []

    def record(self, count: int = 1, lines: int = 1) -> None:
        for _ in range(count):
            new = [b"%d" % (len(self.recorded) + number) for number in range(lines)]
            self.recorded += new
            self.delivery.add([Message(b"acme", b"\n".join(new), lines)])

    def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.delivery.turn(self.now)

    def until_idle(self) -> None:
        for _ in range(200):
            if self.delivery.is_idle:
                return
            self.turn(1.0)
        raise AssertionError("it does not come to rest")

    def secure(self) -> bool:
        return self.delivery.secure(self.delivery.added, self.now)

    @property
    def counted(self) -> tuple[int, int, int, int]:
        found = self.counts
        return (found.delivered, found.spooled, found.replayed, self.delivery.waiting_events)
