"""The record of one call, as instrumentation leaves it: expanded into events where nobody waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from metering.call import Call, Ending, Fields
from metering.mishaps import note
from metering.nesting import Boundary
from metering.observation import Observation, key_bytes
from metering.requests import RequestInput, asked_model, read_input
from metering.usage import Usage

Asked = Callable[[], Mapping[str, Any]]
"""Gives what was asked, as the provider's API has it: model, messages and so on. May raise."""


class AsItIsNow:
    """What a request asks for, as it is now. Gives it as an `Asked`."""

    __slots__ = ("_asked",)

    def __init__(self, asked: object) -> None:
        self._asked = {}
        if isinstance(asked, Mapping):
            self._asked = {name: as_it_is_now(value) for name, value in asked.items()}

    def __call__(self) -> Mapping[str, Any]:
        """What was asked."""
        return self._asked

    @property
    def size_bytes(self) -> int:
        """About how long its texts are."""
        return text_chars(self._asked)


_DEPTH = 5
"""A text in a part of a content of a message of a request is so deep; what is deeper, as in tools, is
small."""


def text_chars(value: object, depth: int = _DEPTH) -> int:
    """About how much text there is in what was asked."""
    if isinstance(value, str):
        return len(value)
    if not depth:
        return 0
    if type(value) is dict:
        return sum(text_chars(part, depth - 1) for part in value.values())
    return sum(text_chars(part, depth - 1) for part in value) if type(value) is list else 0


def as_it_is_now(value: Any) -> Any:
    """A list of messages, safe from an application that goes on with it: that appends, or changes a message.

    Only the parts of a message's content are its own still.
    """
    return [_message(item) for item in value] if isinstance(value, list) else value


def _message(item: Any) -> Any:
    if type(item) is not dict:
        return item
    return {name: part.copy() if type(part) is list else part for name, part in item.items()}


Told = Callable[[], "tuple[Sequence[Usage], str, bool] | None"]
"""Reads an answer that is over: what it used, what could be seen of it, and whether it came to its end. None
where it turns out to be no call of a model."""


def is_told(usages: Sequence[Usage], model: str) -> bool:
    """Whether nothing of what was asked is needed: no tokens have to be counted, and the model is known."""
    return all(
        usage.input_tokens is not None and usage.output_tokens is not None and (usage.model or model)
        for usage in usages
    )


def _shortened(found: tuple[Sequence[Usage], str, bool] | None) -> tuple[Sequence[Usage], str, bool] | None:
    """Without the text, where nothing has to be counted."""
    if found is None:
        return None
    usages, text, is_complete = found
    return usages, "" if usages and is_told(usages, "any") else text, is_complete


class Later:
    """An answer that is read when somebody asks for it first, and held no longer.

    Its record asks, and one around it, whether it is a repeat: each in its meter's thread.
    """

    __slots__ = ("_found", "_once", "_told")

    def __init__(self, told: Told) -> None:
        self._once = Lock()
        self._told: Told | None = told
        self._found: tuple[Sequence[Usage], str, bool] | None = ((), "", False)

    def __call__(self) -> tuple[Sequence[Usage], str, bool] | None:
        """What it says. Never raises."""
        with self._once:
            told, self._told = self._told, None
            if told is not None:
                try:
                    self._found = _shortened(told())
                except Exception as error:  # noqa: BLE001  # whatever a provider has answered
                    note("response_unread", "an answer could not be read", error)
            return self._found

    @property
    def is_unread(self) -> bool:
        """Whether asking means to read."""
        return self._told is not None

    def usages(self) -> Sequence[Usage]:
        """What was used; of an answer that says nothing one usage, without counts."""
        found = self()
        return () if found is None else found[0] or (Usage(),)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one call. The meter asks for its events in its sender thread.

    Args:
        usages: Of a call of which nothing is known there is one, without counts.
        asked: None where nothing has to be counted.
        later: In place of usages, where an answer is still to be read.
        inside: Those who may have recorded that answer already.
        size_bytes: About how much of an answer and of a request it holds: a meter's queue has a bound.
        key_bytes: What the keys of legs without a response id are made of: a record that is expanded twice
            gives the same keys.
    """

    call: Call
    usages: tuple[Usage, ...]
    ending: Ending
    asked: Asked | None
    output_text: str = field(repr=False)
    later: Later | None = None
    inside: Boundary | None = None
    size_bytes: int = 0
    key_bytes: bytes = field(default_factory=key_bytes, repr=False)

    def events(self) -> list[Fields]:
        """The events of the call, with tokens counted where the provider said nothing; [] for a repeat."""
        usages, output_text, ending = self.usages, self.output_text, self.ending
        if self.later is not None:
            found = self.later()
            if found is None:
                return []
            read, output_text, is_complete = found
            ending = ending if is_complete else replace(ending, is_cut=True)
            if self.inside is not None and self.inside.covers(read):
                note("already_metered", "an answer was metered by a client inside; it is recorded once")
                return []
            usages = tuple(self.later.usages())
        call, asked = self.call, RequestInput()
        if self.asked is not None and not is_told(usages, call.model):
            try:
                request = self.asked()
                asked = read_input(request)
                call = replace(call, model=call.model or asked_model(request))
            except Exception as error:  # noqa: BLE001  # an application's own objects
                note("request_unread", "what was asked could not be read, so it is not counted", error)
        return Observation(
            call,
            usages,
            ending,
            input_text=asked.text,
            output_text=output_text,
            input_chars=asked.chars,
            message_count=asked.messages,
            uncountable=asked.uncountable,
            key_bytes=self.key_bytes,
        ).events()
