"""What was seen of one call, handed to the meter as it is and worked out later, in the sender's thread."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from metering.call import Call, Ending, Fields, events_of
from metering.count import TokenCounter, shared
from metering.fill import Texts, filled
from metering.keys import process_key
from metering.usage import Usage

_KEY_BYTES = 10
_numbers: Iterator[int]


def _begin_numbers() -> None:
    """A start for each process, from which it counts on: it is the only one that comes by these numbers."""
    global _numbers  # noqa: PLW0603  # a fork must not count on as its parent does
    _numbers = itertools.count(int.from_bytes(os.urandom(_KEY_BYTES), "big"))


_begin_numbers()
os.register_at_fork(after_in_child=_begin_numbers)


def key_bytes() -> bytes:
    """Ten bytes that no other call has, of any process.

    Not drawn for each call: `os.urandom` lets other threads run, and a request would wait to go on.
    """
    number = next(_numbers) % (1 << 8 * _KEY_BYTES)
    return number.to_bytes(_KEY_BYTES, "big")


@dataclass(frozen=True, slots=True)
class Observation:
    """One call, its usages as read from the response, and the texts to count where these say nothing.

    Making one costs a few microseconds; `events()` does the work. The texts are held until then, so give none
    where the provider has told everything.

    Attributes:
        input_text: All that was asked in one text, or one for each message, which counts a chat exactly.
        input_chars, output_chars, message_count, uncountable: See `fill.Texts`.
        counter: None for the process's own (`count.shared`).
        key_bytes: What the keys of legs without a response id are made of. Taken once, so that an observation
            that is expanded again gives the same keys.
    """

    call: Call
    usages: Sequence[Usage]
    ending: Ending
    input_text: str | tuple[str, ...] = field(default="", repr=False)
    output_text: str = field(default="", repr=False)
    input_chars: int = 0
    output_chars: int = 0
    message_count: int = 0
    uncountable: tuple[str, ...] = ()
    counter: TokenCounter | None = field(default=None, repr=False)
    key_bytes: bytes = field(default_factory=key_bytes, repr=False)

    def events(self) -> list[Fields]:
        """The events of the call, one for each leg; the same keys each time. No text makes it raise."""
        usages = self.usages
        if not usages or any(use.input_tokens is None or use.output_tokens is None for use in usages):
            counter = self.counter or shared()
            usages = filled(usages, counter, self.call, self._texts(), is_cut=self.ending.is_cut)
        key = process_key(self.call.started_ms, self.key_bytes)
        keys = itertools.chain([key], (f"{key}-{number}" for number in itertools.count(1)))
        return events_of(self.call, usages, self.ending, lambda: next(keys))

    def _texts(self) -> Texts:
        asked = self.input_text
        return Texts(
            input_texts=(asked,) if isinstance(asked, str) else asked,
            output_text=self.output_text,
            input_chars=self.input_chars,
            output_chars=self.output_chars,
            message_count=self.message_count,
            is_joined=isinstance(asked, str) and self.message_count > 0,
            uncountable=self.uncountable,
        )
