"""What stands between delivery and the outside: takes messages, and says of each how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from metering.message import Message


class Busy(Exception):
    """The transport takes no more just now; the message is still the caller's."""


class Unavailable(Exception):
    """The transport cannot work at all just now. The message is one sentence for the operator."""


@dataclass(slots=True)
class Handed:
    """A message that was handed over: `ending` is None until it is known, then "" or what went wrong.

    `is_too_large` says that no broker will ever take it as it is.
    """

    message: Message
    ending: str | None = None
    is_too_large: bool = False


class Transport(Protocol):
    """One thread uses it at a time."""

    def key_of(self, tenant_id: str) -> bytes:
        """The key by which lines are put together into messages; one for all where no order depends on it."""
        ...

    def send(self, handed: Handed) -> None:
        """Take a message; its `ending` is set during a later `poll`.

        Raises:
            Busy: try again after a `poll`.
            Unavailable: try again later.
        """
        ...

    def poll(self, timeout_seconds: float) -> bool:
        """Note endings; wait so long for one at most. Whether a message ended badly."""
        ...

    def sync(self) -> bool:
        """Whether all that ended well is where it outlives a loss of power."""
        ...

    def trouble(self) -> str:
        """What stands in its way as it knows, in one sentence; "" for nothing."""
        ...

    def close(self, timeout_seconds: float) -> None:
        """Let go of everything; what has not ended by then never will."""
        ...

    def abandon(self) -> None:
        """In a forked child: forget what is the parent's without touching it."""
        ...
