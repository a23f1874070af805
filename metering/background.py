"""OpenAI's background responses: created now, answered later, and told what they used when they are fetched.

Creating one (`background=True`) tells no usage, so it makes no event. Fetching it, once it is over, does, and
so does cancelling it: the key is made of the response's id, and the time is that of its creation, so that
fetching it again is a copy that the job drops. It is for whom it was created, wherever in this process it is
fetched; of one that another process has created, the code that fetches it has to say whose it is: where it
does not, nothing is metered, and that is counted (`missing_tenant`), since whoever created it may have.

Responses that were not made in the background are metered when they are created, and fetching them is
nothing. One that is fetched as a stream is not metered, and counted (`endpoint_not_metered`): nobody knows
whether it was made in the background.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from metering.call import Call
from metering.contexts import Labels, Policy
from metering.mishaps import note
from metering.observe import OngoingCall
from metering.recorder import Recorder
from metering.streams import is_stream

CREATED_MAX = 10_000
"""So many of those created last are remembered, of some hundred bytes each: a response is kept by OpenAI for
ten minutes or so unless it is stored, and then mostly fetched within the hour."""

_OPEN = ("queued", "in_progress")
_MS = 1000


def answered_later(answer: Any) -> bool:
    """Whether this response has only begun."""
    return getattr(answer, "background", None) is True and getattr(answer, "status", None) in _OPEN


_created: dict[str, Call] = {}


def created(answer: Any, call: Call) -> None:
    """Remember for whom a response was created."""
    _created[str(answer.id)] = call
    if len(_created) > CREATED_MAX:
        with suppress(RuntimeError, StopIteration):  # another thread does the same
            _created.pop(next(iter(_created)), None)


def fetched(answer: Any, options: Any, meter: Recorder, policy: Policy, provider: Callable[[], str]) -> Any:
    """The answer of a call that is no inference. A background response that is over is metered.

    Args:
        provider: Tells who was called.
    """
    try:
        if is_stream(answer):
            note("endpoint_not_metered", "a response was fetched as a stream, which is not metered")
        elif getattr(answer, "background", None) is True and getattr(answer, "status", None) not in _OPEN:
            _meter(answer, options, meter, policy, provider)
    except Exception as error:  # noqa: BLE001  # a caller must not notice
        note("not_recorded", "a background response could not be recorded", error)
    return answer


def _meter(answer: Any, options: Any, meter: Recorder, policy: Policy, provider: Callable[[], str]) -> None:
    if "/responses/" not in urlsplit(str(options.url)).path:
        return
    created_at = getattr(answer, "created_at", None)
    if not isinstance(created_at, (int, float)):
        note("response_unread", "a background response says not when it was created")
        return
    started_ms = int(created_at) * _MS
    known = _created.get(str(answer.id))
    if known is not None:
        call: Call | None = replace(known, started_ms=started_ms)
    else:
        call = replace(policy, on_missing_tenant="skip").call(
            Labels(), model="", provider=provider(), started_ms=started_ms
        )
    if call is not None:
        OngoingCall(meter, call).answered(answer)
