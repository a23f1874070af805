"""Who meters inside whom: so that an answer which two of them see is recorded once.

A gateway's middleware, a metered function and an instrumented client may all see one answer of a provider.
The innermost records it, since it knows it best; each that stands around it learns of that through its
`Boundary`, and records only what is no repeat:

- the same response id, or
- where an answer bears another id, or none, the same token counts: a gateway may give out ids of its own. If
  it was cut, and neither knows the counts, the same model. Two whose ids and models both differ are two: a
  guard that said as much as the answer itself.
- While a call inside is still open (a stream not read to its end yet), it will report itself: the same id, or
  the same model.

A model is the same under any form of its name: with a vendor before it, and a date or a version behind.

An answer that is read later, in a meter's thread, is compared there too: where one inside is unread, those
around it wait for their meter.

What is held of a boundary ends with it. It remembers its last `SEEN_MAX` calls.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Protocol

from metering.usage import Usage

SEEN_MAX = 1000
"""Calls inside one request or function that are remembered: an agent's longest run is far below."""

_current: ContextVar[Boundary | None] = ContextVar("metering_boundary", default=None)


class Open(Protocol):
    """A call that is not over."""

    def usages_so_far(self) -> Sequence[Usage]:
        """What it has told; if nothing, one usage with the model that was asked for."""


class Unread(Protocol):
    """An answer that a record inside reads later."""

    @property
    def is_unread(self) -> bool:
        """Whether asking for its usages means to read it."""

    def usages(self) -> Sequence[Usage]:
        """What it says."""


class Boundary:
    """What has been metered inside one request or one function. Safe to share among tasks and threads."""

    __slots__ = ("_open", "_seen", "parent")

    def __init__(self, parent: Boundary | None) -> None:
        self.parent = parent
        # Weakly: a call that is forgotten ends when it is collected.
        self._open: dict[int, weakref.ref[Open]] = {}
        self._seen: list[Sequence[Usage] | Unread] = []

    def covers(self, usages: Sequence[Usage]) -> bool:
        """Whether somebody inside has recorded this answer, or is about to."""
        seen = [usage for told in list(self._seen) for usage in _usages(told)]
        still = [usage for call in list(self._open.values()) for usage in _so_far(call())]
        if not usages:
            return bool(self._seen or still)
        return all(
            any(_is_same(usage, inner) for inner in seen)
            or any(_may_be_same(usage, inner) for inner in still)
            for usage in usages
        )

    def _line(self) -> Iterator[Boundary]:
        at: Boundary | None = self
        while at is not None:
            yield at
            at = at.parent

    def opened(self, call: Open) -> None:
        """A call has begun."""
        for boundary in self._line():
            boundary._open[id(call)] = weakref.ref(call)  # noqa: SLF001  # of its own kind

    @property
    def is_unread(self) -> bool:
        """Whether `covers` would have to read an answer first."""
        return any(not isinstance(told, Sequence) and told.is_unread for told in list(self._seen))

    def ended(self, call: Open, usages: Sequence[Usage] | Unread | None) -> None:
        """The call is over: it was recorded with these usages, or, with None, left to others."""
        for boundary in self._line():
            boundary._open.pop(id(call), None)  # noqa: SLF001  # of its own kind
            if usages is not None:
                boundary._has_seen(usages)  # noqa: SLF001  # of its own kind

    def _has_seen(self, usages: Sequence[Usage] | Unread) -> None:
        self._seen.append(usages)
        if len(self._seen) > SEEN_MAX:
            del self._seen[0]


def _usages(told: Sequence[Usage] | Unread) -> Sequence[Usage]:
    return told if isinstance(told, Sequence) else told.usages()


def _so_far(call: Open | None) -> Sequence[Usage]:
    return () if call is None else call.usages_so_far()


def _may_be_same(outer: Usage, inner: Usage) -> bool:
    """Of an answer that is not over inside: its counts are not known yet."""
    if outer.response_id and outer.response_id == inner.response_id:
        return True
    return _may_be_one(outer.model, inner.model)


def _is_same(outer: Usage, inner: Usage) -> bool:
    if outer.response_id and outer.response_id == inner.response_id:
        return True
    if _counts(outer) != _counts(inner):
        return False
    is_known = outer.input_tokens is not None or outer.output_tokens is not None
    has_other_id = bool(outer.response_id and inner.response_id)
    return (is_known and not has_other_id) or _may_be_one(outer.model, inner.model)


def _may_be_one(outer: str, inner: str) -> bool:
    """Whether two names may be of one model; "" may be of any."""
    return not (outer and inner) or outer == inner or _bare(outer) == _bare(inner)


def _bare(model: str) -> str:
    """`gpt-4o` of `openai/gpt-4o-2024-08-06`, `claude-sonnet-4-5` of Bedrock's and Vertex's names of it."""
    return _VERSION.sub("", _VENDOR.sub("", model.lower()))


_VENDOR = re.compile(r"^.*/|^([a-z-]+\.)+(?=[a-z])")
"""`openai/`, `us.anthropic.`; not the dot in `gpt-3.5`."""

_VERSION = re.compile(r"([-@](20\d\d-?[01]\d-?[0-3]\d|\d{4}|latest))?(-v\d+(:\d+)?)?$")
"""Dates as OpenAI (`-2024-08-06`, `-0613`), Mistral (`-2411`), Anthropic (`-20250929`) and Vertex
(`@20250929`) have them, and Bedrock's `-v1:0`."""


def _counts(usage: Usage) -> tuple[int | None, ...]:
    return (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.reasoning_tokens)


def current() -> Boundary | None:
    """The innermost boundary around the code that asks."""
    return _current.get()


class Inside:
    """`with Inside(boundary):` what runs in here reports to it."""

    __slots__ = ("_boundary",)

    def __init__(self, boundary: Boundary) -> None:
        self._boundary = boundary

    def __enter__(self) -> None:
        _current.set(self._boundary)

    def __exit__(self, *_: object) -> None:
        # Not by a token: a forgotten generator may be closed in a task that never entered this.
        if _current.get() is self._boundary:
            _current.set(self._boundary.parent)
