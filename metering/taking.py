"""Takes an answer of whatever form a call has it: whole, a stream of chunks, or one that is awaited first."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from metering.mishaps import note
from metering.observe import OngoingCall
from metering.streams import IsHidden, is_stream, nothing_hidden, watched

Around = Callable[[], AbstractContextManager[object]]


def taken(call: OngoingCall, answer: Any, is_hidden: IsHidden = nothing_hidden) -> Any:
    """The answer; a stream is watched until it is over. Never raises."""
    try:
        if is_stream(answer):
            return watched(answer, call, is_hidden)
        call.answered(answer)
    except Exception as error:  # noqa: BLE001  # a caller must not notice
        note("response_unread", "an answer could not be watched", error)
        call.stopped()
    return answer


def taken_later(answer: Any, call: OngoingCall, take: Callable[[Any], Any], around: Around) -> Any:
    """What is awaited in place of an awaitable, which a plain function has returned.

    A task or another future, which has an interface of its own, stays what it is: a stream that it gives is
    not watched, and its usage unknown.

    Args:
        take: What becomes of the answer, as `taken`.
        around: Entered while it is awaited.
    """
    if isinstance(answer, asyncio.Future):
        answer.add_done_callback(lambda done: _done(done, call))
        return answer
    call.has_left = not inspect.iscoroutine(answer)  # one that nobody awaits was no call
    return _awaited(answer, call, take, around)


def _done(done: asyncio.Future[Any], call: OngoingCall) -> None:
    error = asyncio.CancelledError() if done.cancelled() else done.exception()
    if error is not None:
        call.failed(error)
    else:
        call.answered(done.result())


async def _awaited(
    answer: Awaitable[Any], call: OngoingCall, take: Callable[[Any], Any], around: Around
) -> Any:
    if not call.has_left:
        call.leave()
    try:
        with around():
            found = await answer
    except BaseException as error:
        call.failed(error)
        raise
    return take(found)
