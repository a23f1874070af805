"""What a function was called with, which is what it asks a model for where parameters are named so."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from metering.seen import as_it_is_now, text_chars


class Arguments:
    """What a function was called with, as it is now, by the names of its parameters."""

    __slots__ = ("_args", "_function", "_kwargs")

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self._function = function
        self._args = [as_it_is_now(value) for value in args]
        self._kwargs = {name: as_it_is_now(value) for name, value in kwargs.items()}

    def __call__(self) -> Mapping[str, Any]:
        """All of them, those among `**kwargs` too. Raises where the function did."""
        return _named(inspect.signature(self._function).bind(*self._args, **self._kwargs))

    @property
    def size_bytes(self) -> int:
        """About how long their texts are."""
        return text_chars(self._args) + text_chars(self._kwargs)


def _named(bound: inspect.BoundArguments) -> dict[str, Any]:
    """All arguments by their names, those among `**kwargs` too."""
    found = dict(bound.arguments)
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found.update(found.pop(name, {}))
    return found
