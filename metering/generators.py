"""Run each step of a generator inside a context manager, so that what it sets is seen by the generator alone.

A `with` around a `yield` would leak: the code that the generator yields to runs inside it too. So the context
is entered for each step and left before the item is handed on. `send`, `throw` and `close` reach the
generator as if nobody stood between.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

Around = Callable[[], AbstractContextManager[object]]


def stepped(source: Generator[Any, Any, Any], around: Around) -> Generator[Any, Any, Any]:
    """The same items; each is fetched inside `around()`."""
    step: Callable[[Any], Any] = source.send
    value: Any = None
    while True:
        with around():
            try:
                item = step(value)
            except StopIteration as end:
                return end.value
        try:
            value = yield item
            step = source.send
        except BaseException as error:  # noqa: BLE001  # thrown in, or `close`: handed on
            step, value = source.throw, error


async def stepped_async(source: AsyncGenerator[Any, Any], around: Around) -> AsyncGenerator[Any, Any]:
    """As `stepped`, for asynchronous generators."""
    step: Callable[[Any], Any] = source.asend
    value: Any = None
    while True:
        with around():
            try:
                item = await step(value)
            except StopAsyncIteration:
                return
        try:
            value = yield item
            step = source.asend
        except BaseException as error:  # noqa: BLE001  # thrown in, or `close`: handed on
            step, value = source.athrow, error
