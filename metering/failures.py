"""What a call that failed has used: nothing, where the provider refused it; otherwise nobody knows yet.

Read off the exception by duck typing: `status_code`, or `response.status_code`, as the SDKs of OpenAI and
Anthropic have it (openai 3.57, anthropic 2.14), httpx's errors, and those of most others.

| what came of the call | tokens |
|---|---|
| answered with an error status, such as 401, 404, 429, 500, 529 | none: providers bill no refused request |
| 408, 499, 504, 524: somebody stopped waiting, and the model may have gone on | unknown |
| 400 of Azure: a prompt that its filter stops is billed | unknown |
| no connection came about | none: nothing was sent |
| the connection broke, or the answer took too long | unknown |
| anything else, such as an answer that could not be parsed | unknown |

Azure: "Manage costs for Azure OpenAI", on status codes 400 (content filter) and 408.
"""

from __future__ import annotations

STATUS_OF_TIMEOUTS = frozenset({408, 499, 504, 524})

_NEVER_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"})
"""httpx's and httpx2's names for failures before a request has left."""

_CAUSES_MAX = 8
"""Links of a chain of causes that are followed."""


def status_code(error: BaseException) -> int | None:
    """The HTTP status that the provider answered with, where the exception tells it."""
    for holder in (error, getattr(error, "response", None)):
        code = getattr(holder, "status_code", None)
        if isinstance(code, int) and not isinstance(code, bool):
            return code
    return None


def is_refusal(code: int, provider: str) -> bool:
    """Whether an answer with this status is known to have cost nothing."""
    if code < 400 or code in STATUS_OF_TIMEOUTS:
        return False
    return not (provider == "azure" and code == 400)


def used_nothing(error: BaseException, provider: str) -> bool:
    """Whether the call that raised this is known to have used no tokens."""
    code = status_code(error)
    if code is not None:
        return is_refusal(code, provider)
    at: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if at is None:
            return False
        if type(at).__name__ in _NEVER_SENT:
            return True
        at = at.__cause__ or at.__context__
    return False
