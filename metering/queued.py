"""What stands in a meter's queue beside plain events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Mark:
    """A place in the queue: `answer` is told once, whether all before it was secure by `deadline`.

    `is_last` ends the sender after it.
    """

    answer: Callable[[bool], None]
    deadline: float
    is_last: bool = False
    added: int | None = None


@dataclass(frozen=True, slots=True)
class Weighed:
    """An observation, and the bytes that it said it holds when it was recorded."""

    observed: Any
    size_bytes: int
