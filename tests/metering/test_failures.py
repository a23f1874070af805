"""What a failed call has used: nothing only where that is known."""

from __future__ import annotations

import pytest

from metering.failures import is_told_to_have_used_nothing, status_code, used_nothing


class Answered(Exception):
    """As the SDKs have it."""

    def __init__(self, code: object) -> None:
        self.status_code = code


class Around(Exception):
    """As httpx has it."""

    def __init__(self, code: int) -> None:
        self.response = Answered(code)


class ConnectError(Exception): ...


class ReadTimeout(Exception): ...


def caused(by: Exception) -> Exception:
    error = Exception("connection error")
    error.__cause__ = by
    return error


def endless() -> Exception:
    error = Exception("a cause of itself")
    error.__cause__ = error
    return error


@pytest.mark.parametrize(
    ("error", "provider", "code", "nothing"),
    [
        (Answered(401), "openai", 401, True),
        (Answered(404), "openai", 404, True),
        (Answered(429), "openai", 429, True),
        (Answered(500), "openai", 500, True),
        (Answered(529), "anthropic", 529, True),
        (Around(503), "", 503, True),
        (Answered(400), "openai", 400, True),
        (Answered(400), "azure", 400, False),
        (Answered(408), "openai", 408, False),
        (Answered(504), "openai", 504, False),
        (Answered(524), "openai", 524, False),
        (Answered(200), "anthropic", 200, False),  # an error in the middle of a stream
        (Answered("429"), "openai", None, False),
        (Answered(True), "openai", None, False),
        (caused(ConnectError()), "openai", None, True),
        (caused(caused(ConnectError())), "openai", None, True),
        (caused(ReadTimeout()), "openai", None, False),
        (ValueError(), "openai", None, False),
        (endless(), "openai", None, False),
    ],
)
def test_nothing_was_used_only_where_that_is_known(
    error: Exception, provider: str, code: int | None, nothing: bool
) -> None:
    assert (status_code(error), used_nothing(error, provider)) == (code, nothing)


@pytest.mark.parametrize(
    ("error", "provider", "nothing"),
    [
        ("429", "openai", True),
        ("500", "openai", True),
        ("RateLimitError", "openai", True),
        ("openai.RateLimitError", "openai", True),
        ("anthropic.OverloadedError", "anthropic", True),
        ("httpx.ConnectTimeout", "", True),
        ("BadRequestError", "openai", True),
        ("BadRequestError", "azure", False),
        ("504", "openai", False),
        ("httpx.ReadTimeout", "openai", False),
        ("openai.APITimeoutError", "openai", False),
        ("openai.InternalServerError", "openai", False),  # 504 is one too
        ("ValueError", "openai", False),
        ("200", "anthropic", False),
        ("²²²", "openai", False),
        ("", "openai", False),
    ],
)
def test_an_error_known_by_name_alone_used_nothing_only_where_that_is_known(
    error: str, provider: str, nothing: bool
) -> None:
    assert is_told_to_have_used_nothing(error, provider) is nothing
