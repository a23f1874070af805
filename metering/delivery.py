"""Delivery: messages in order to the destination, or to the spool while it takes none. Time is passed in.

Two ways, one at a time:

- direct: nothing in the spool has still to be read. Messages go to the transport and are held until they are
  acknowledged. Once one has waited for `spool_after_seconds`, has failed, or too many wait, all that are in
  memory alone are written to the spool, in order, and the way changes. What does not fit waits in memory.
- spooled: new messages are appended to the spool. From its front messages are handed to the transport, as
  many as may be held; when all have been handed over the way is direct again, though events never pause.
  Messages in memory alone are always behind those that are in the spool too.

What is held when the way changes stays with the transport, and is not sent a second time if its
acknowledgement still comes. A message that failed is handed over again after a pause that doubles from
`RETRY_SECONDS_MIN` to `RETRY_SECONDS_MAX`; there is no last try.

Bounds: `HELD_MESSAGES_MAX` and `HELD_BYTES_MAX` of messages held; `add` is called only while `has_room`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from metering.counts import Counts
from metering.message import Message, halves
from metering.spool import SYNC_SECONDS, Place, Spool
from metering.transport import Busy, Handed, Transport, Unavailable

HELD_MESSAGES_MAX = 5_000
HELD_BYTES_MAX = 16 * 1024 * 1024
"""Some 30,000 events: a tenth of a second at full speed, many seconds of any application's traffic."""

RETRY_SECONDS_MIN = 0.25
RETRY_SECONDS_MAX = 5.0

DISK_RETRY_SECONDS = 1.0
"""How long a disk that took nothing is left alone."""

ADOPT_SECONDS = 30.0
"""How often spools of processes that are gone are looked for. Where messages are under way at each look, they
are written to the spool after so long again, for the others to come after them."""


@dataclass(slots=True)
class _Held:
    """A message with the transport.

    `number` counts what was added. `is_kept`: it is in the spool too. `place` is its end there; None for all
    but the last part of one that was split.
    """

    handed: Handed
    since: float
    number: int
    is_kept: bool = False
    place: Place | None = None
    is_sent: bool = True
    retry_at: float = 0.0
    retry_seconds: float = RETRY_SECONDS_MIN

    @property
    def message(self) -> Message:
        return self.handed.message

    @property
    def is_volatile(self) -> bool:
        """It is in memory alone, and not known to have arrived."""
        return not self.is_kept and self.handed.ending != ""


class Delivery:
    """One destination's. `spool` is None where there is none: then events wait in memory alone."""

    def __init__(
        self, transport: Transport, spool: Spool | None, counts: Counts, spool_after_seconds: float
    ) -> None:
        self._transport = transport
        self._spool = spool
        self._counts = counts
        self._spool_after_seconds = spool_after_seconds
        self._held: deque[_Held] = deque()
        self._held_bytes = 0
        self._unsent = 0
        self._trouble = ""
        self._new: deque[Message] = deque()
        self._added = 0
        self.waiting_events = 0
        self._spool_again_at = 0.0
        self._save_again_at = 0.0
        self._synced_at = 0.0
        self._adopted_at = float("-inf")

    @property
    def has_room(self) -> bool:
        """Whether `add` may be called: nothing waits for a place."""
        return not self._new

    @property
    def is_idle(self) -> bool:
        """There is nothing left to do."""
        return not self._held and not self._new and (self._spool is None or self._spool.is_empty)

    @property
    def volatile_events(self) -> int:
        """Events that are in memory alone."""
        return sum(held.message.events for held in self._held if held.is_volatile) + sum(
            message.events for message in self._new
        )

    @property
    def spool_bytes(self) -> int:
        """Of this process's spool."""
        return 0 if self._spool is None else self._spool.size_bytes

    def add(self, messages: Sequence[Message]) -> None:
        """Take messages, which go out or to the spool with the next turns."""
        self._new.extend(messages)
        self._added += len(messages)
        self.waiting_events += sum(message.events for message in messages)

    def key_of(self, tenant_id: str) -> bytes:
        """The key under which a tenant's lines are put together."""
        return self._transport.key_of(tenant_id)

    @property
    def added(self) -> int:
        """How many messages were added so far: a position for `secure`."""
        return self._added

    def turn(self, now: float) -> bool:
        """Do what can be done without waiting; whether anything moved. `now` is monotonic, in seconds."""
        failed = self._transport.poll(0)
        moved = self._settle(now)
        if failed:
            self._plan_retries(now)
        self._save(now)  # a spool that is done with is empty before more is added to it
        self._adopt(now)
        if self._must_spool(now):
            moved |= self._spool_all(now)
        self._retry(now)
        return moved | (self._send_new(now) if self._is_direct else self._replay(now))

    def secure(self, added: int, now: float) -> bool:
        """Whether the first `added` messages are acknowledged or in the spool, beyond a loss of power."""
        oldest = next((held.number for held in self._held if held.is_volatile), self._added + 1)
        if oldest <= added or self._added - len(self._new) < added:
            return False
        self._synced_at = now
        return self._transport.sync() and (self._spool is None or self._spool.sync())

    def give_up(self, now: float) -> None:
        """Write what is in memory to the spool at once; what it does not take is counted as dropped."""
        self._transport.poll(0)
        self._settle(now)
        self._spool_again_at = now
        while self.volatile_events and self._spool_all(now):
            pass
        if lost := self.volatile_events:
            self._counts.dropped["undelivered"] += lost
            self.waiting_events -= lost

    def close(self, timeout_seconds: float) -> None:
        """Close transport and spool."""
        self._transport.close(timeout_seconds)
        if self._spool is not None:
            self._spool.close()

    def abandon(self) -> None:
        """In a forked child: leave alone what is the parent's."""
        self._transport.abandon()
        if self._spool is not None:
            self._spool.abandon()

    @property
    def _is_direct(self) -> bool:
        return self._spool is None or self._spool.is_read

    @property
    def _has_volatile(self) -> bool:
        return any(held.is_volatile for held in self._held)

    @property
    def _is_full(self) -> bool:
        return len(self._held) >= HELD_MESSAGES_MAX or self._held_bytes >= HELD_BYTES_MAX

    def _is_stuck(self, now: float) -> bool:
        """The oldest message has waited for too long: the destination is away, or wants it no more."""
        return bool(self._held) and (
            now - self._held[0].since >= self._spool_after_seconds or self._unsent > 0
        )

    def _settle(self, now: float) -> bool:
        """Take the messages that ended well off the front."""
        moved = False
        while self._held and self._held[0].is_sent and self._held[0].handed.ending == "":
            held = self._held.popleft()
            self._held_bytes -= held.message.size_bytes
            if held.is_kept:
                self._counts.replayed += held.message.events
            else:
                self._counts.delivered += held.message.events
                self.waiting_events -= held.message.events
            if held.place is not None and self._spool is not None:
                self._spool.acknowledge(held.place)
            moved = True
        if moved and self._held and self._held[0].is_kept:
            self._held[0].since = now  # the destination is back: what follows has not been tried for long
        trouble, self._trouble = self._trouble, self._transport.trouble()
        if self._trouble and self._trouble != trouble:  # what is said every time hides what else went wrong
            self._counts.last_error = self._trouble
        return moved

    def _plan_retries(self, now: float) -> None:
        for held in list(self._held):
            if not held.is_sent or not held.handed.ending:
                continue
            self._counts.last_error = held.handed.ending
            if held.handed.is_too_large:
                self._split(held)
                continue
            held.handed = Handed(held.message)
            held.is_sent = False
            held.retry_at = now + held.retry_seconds
            held.retry_seconds = min(2 * held.retry_seconds, RETRY_SECONDS_MAX)
            self._unsent += 1
        if self._spool is None and self._unsent:  # otherwise they go to the spool, which is told
            self._counts.to_tell.append(("events wait in memory", self._counts.last_error, 1))

    def _split(self, held: _Held) -> None:
        """Put two halves in the place of a message that the broker found too large; refuse a single line."""
        if held.message.events > 1:
            first, second = halves(held.message)
            parts = [
                _Held(Handed(first), held.since, held.number, held.is_kept, is_sent=False),
                _Held(Handed(second), held.since, held.number, held.is_kept, held.place, is_sent=False),
            ]
            self._unsent += 2
        else:
            is_lost = self._spool is not None and not self._spool.set_aside(held.message.lines)
            reason = "refused_unkept" if is_lost else "refused"
            self._counts.dropped[reason] += 1
            self._counts.to_tell.append((f"event dropped, {reason}", held.handed.ending or "", 1))
            self.waiting_events -= not held.is_kept
            nothing = Handed(Message(held.message.key, b"", 0), ending="")
            parts = [_Held(nothing, held.since, held.number, held.is_kept, held.place)]
        position = self._held.index(held)
        self._held.remove(held)
        self._held_bytes -= held.message.size_bytes
        for part in reversed(parts):
            self._held.insert(position, part)
            self._held_bytes += part.message.size_bytes

    def _retry(self, now: float) -> None:
        if not self._unsent:
            return
        for held in self._held:
            if not held.is_sent and held.retry_at <= now:
                if not self._try(held, now):
                    break
                self._unsent -= 1

    def _try(self, held: _Held, now: float) -> bool:
        """Hand it to the transport; if that takes nothing now, it is tried again after its pause."""
        try:
            self._transport.send(held.handed)
        except Busy:
            held.retry_at = now
        except Unavailable as exc:
            self._counts.last_error = str(exc)
            held.retry_at = now + held.retry_seconds
            held.retry_seconds = min(2 * held.retry_seconds, RETRY_SECONDS_MAX)
        else:
            held.is_sent = True
            return True
        held.is_sent = False
        return False

    def _hold(self, message: Message, now: float, place: Place | None) -> None:
        number = self._added - len(self._new)
        held = _Held(Handed(message), now, number, is_kept=place is not None, place=place, is_sent=False)
        self._held.append(held)  # before anything can go wrong with it
        self._held_bytes += message.size_bytes
        self._unsent += 1
        if self._try(held, now):
            self._unsent -= 1

    def _send_new(self, now: float) -> bool:
        moved = False
        while self._new and not self._is_full and not self._unsent:
            self._hold(self._new.popleft(), now, None)
            moved = True
        return moved

    def _replay(self, now: float) -> bool:
        moved = self._spool_all(now) if self._new else False
        assert self._spool is not None
        try:
            while not self._is_full and not self._is_stuck(now):
                read = self._spool.read()
                if read is None:
                    break
                moved = True
                self._hold(read[1], now, read[0])
        except OSError as exc:
            self._note_disk(exc)
        return moved

    def _must_spool(self, now: float) -> bool:
        if self._spool is None or not self._is_direct:
            return False
        return self._is_stuck(now) or (self._is_full and bool(self._new))

    def _spool_all(self, now: float) -> bool:
        """Write what is in memory alone to the spool, in order, as far as it fits; whether any of it did."""
        if self._spool is None or now < self._spool_again_at:
            return False
        volatile = [held for held in self._held if held.is_volatile]
        messages = [held.message for held in volatile] + list(self._new)
        if not messages:
            return False
        try:
            places = self._spool.append(messages)
        except OSError as exc:
            self._note_disk(exc, "events wait in memory")
            self._spool_again_at = now + DISK_RETRY_SECONDS
            return False
        for held, place in zip(volatile, places, strict=False):
            held.is_kept, held.place = True, place
        self._spool.skip(places[: len(volatile)])
        count = sum(message.events for message in messages[: len(places)])
        self._counts.spooled += count
        self.waiting_events -= count
        for _ in range(len(places) - len(volatile)):
            self._new.popleft()
        return True

    def _save(self, now: float) -> None:
        if self._spool is None or self._spool.is_empty or now < self._save_again_at:
            return
        try:
            self._spool.save()
        except OSError as exc:
            self._note_disk(exc)
            self._save_again_at = now + DISK_RETRY_SECONDS
        if now - self._synced_at >= SYNC_SECONDS:
            self._synced_at = now
            self._spool.sync()

    def _adopt(self, now: float) -> None:
        # Never among messages that are in memory alone: their places in the spool would come after. New ones
        # stand in no order with them yet, and go behind.
        waited = now - self._adopted_at
        if self._spool is None or waited < ADOPT_SECONDS:
            return
        if waited >= 2 * ADOPT_SECONDS and self._has_volatile:
            self._spool_all(now)
        if self._has_volatile:
            return
        self._adopted_at = now
        try:
            self._spool.adopt()
        except OSError as exc:
            self._note_disk(exc)

    def _note_disk(self, exc: OSError, kind: str = "events wait") -> None:
        self._counts.last_error = f"the spool: {exc.strerror or exc}"
        self._counts.to_tell.append((kind, self._counts.last_error, 1))
