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

_STATUS_OF_NAMES = {
    "BadRequestError": 400,
    "AuthenticationError": 401,
    "PaymentRequiredError": 402,
    "PermissionDeniedError": 403,
    "NotFoundError": 404,
    "ConflictError": 409,
    "ContentTooLargeError": 413,
    "UnprocessableEntityError": 422,
    "RateLimitError": 429,
    "ServiceUnavailableError": 503,
    "OverloadedError": 529,
}
"""Errors of the SDKs of OpenAI and Anthropic that stand for one status; `InternalServerError` has several."""

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


def is_told_to_have_used_nothing(error: str, provider: str) -> bool:
    """As `used_nothing`, of an error that others tell of by its status or its type's name alone.

    Args:
        error: Such as `429`, `RateLimitError` or `openai.RateLimitError`, as `error.type` of a span is.
    """
    name = error.rpartition(".")[2]
    if name in _NEVER_SENT:
        return True
    code = int(name) if len(name) == 3 and name.isascii() and name.isdigit() else _STATUS_OF_NAMES.get(name)
    return code is not None and is_refusal(code, provider)
