"""OpenAI's background responses: created now, answered later, and told what they used when they are fetched.

Creating one (`background=True`) tells no usage, so it makes no event. Fetching it, once it is over, does, and
so does cancelling it: the key is made of the response's id, and the time is that of its creation, so that
fetching it again, by whomever, is a copy that the job drops. Responses that were not made in the background
are metered when they are created, and fetching them is nothing. One that is fetched as a stream is not
metered, and counted (`endpoint_not_metered`): nobody knows whether it was made in the background.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from metering.contexts import Labels, MissingTenant, Policy
from metering.mishaps import note
from metering.observe import Meter, OngoingCall
from metering.streams import is_stream

_OPEN = ("queued", "in_progress")
_MS = 1000


def answered_later(answer: Any) -> bool:
    """Whether this response has only begun."""
    return getattr(answer, "background", None) is True and getattr(answer, "status", None) in _OPEN


def fetched(answer: Any, options: Any, meter: Meter, policy: Policy, provider: str) -> Any:
    """The answer of a call that is no inference. A background response that is over is metered."""
    try:
        if is_stream(answer):
            note("endpoint_not_metered", "a response was fetched as a stream, which is not metered")
        elif getattr(answer, "background", None) is True and getattr(answer, "status", None) not in _OPEN:
            _meter(answer, options, meter, policy, provider)
    except Exception as error:  # noqa: BLE001  # a caller must not notice
        note("not_recorded", "a background response could not be recorded", error)
    return answer


def _meter(answer: Any, options: Any, meter: Meter, policy: Policy, provider: str) -> None:
    if "/responses/" not in urlsplit(str(options.url)).path:
        return
    created = getattr(answer, "created_at", None)
    if not isinstance(created, (int, float)):
        note("response_unread", "a background response says not when it was created")
        return
    try:
        call = policy.call(Labels(), model="", provider=provider, started_ms=int(created) * _MS)
    except MissingTenant:
        # Fetching costs nothing that could be prevented: too late to reject.
        call = replace(policy, on_missing_tenant="anonymous").call(
            Labels(), model="", provider=provider, started_ms=int(created) * _MS
        )
    if call is not None:
        OngoingCall(meter, call).answered(answer)
