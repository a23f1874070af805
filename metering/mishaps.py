"""What went wrong, or was left out, while metering: counted always, logged now and then, raised never.

An application must not notice that it is metered. So whatever fails in here is caught where it happens and
told to `note`, which counts it by kind, for the whole process, and logs the 1st, 10th, 100th … of a kind: at
most a dozen or so lines for each in the life of a process. `counts` is for dashboards and tests.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from typing import Literal, get_args

Kind = Literal[
    "missing_tenant",  # a call was not metered, or took place as `anonymous`, for want of a tenant
    "ambiguous_label",  # two values where one was looked for, such as a header sent twice
    "label_too_long",  # longer than the contract's 128 characters: its SHA-256 stands for it
    "label_unreadable",  # no string, integer or UUID: as if it were absent
    "attribute_left_out",  # more attributes than the contract has room for, or one that is no text
    "resolver_failed",  # an application's own function for a tenant, a feature or a usage raised
    "response_unread",  # reading an answer failed, or a body was compressed or too large to read
    "payload_unread",  # a part of what a provider said, or was asked, is not as it should be
    "request_unread",  # reading what was asked failed
    "not_recorded",  # the meter raised, or an event could not be made
    "span_not_annotated",  # telling OpenTelemetry failed
    "already_metered",  # the same answer, seen by two who meter; recorded once
    "second_answer",  # a block of `meter_call`, which is one call, was told of another one, or told too late
    "endpoint_not_metered",  # an instrumented client called something that nobody reads usage from
    "answered_later",  # a background response: its usage comes when it is fetched
    "refused",  # an answer with an error status at an inference boundary that names no model
]

LOG = logging.getLogger("meterline")

# Reentrant: the garbage collector may end a forgotten stream while this very thread holds it.
_lock = threading.RLock()
_counts: dict[str, int] = dict.fromkeys(get_args(Kind), 0)


def _begin_in_a_child() -> None:
    global _lock  # noqa: PLW0603  # a thread that is not in the child may hold the parent's
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_begin_in_a_child)


def note(kind: Kind, detail: str, error: BaseException | None = None) -> None:
    """Count one mishap, and perhaps log it.

    Args:
        detail: A sentence for a person, without payloads or credentials.
        error: Only its type is told: messages of others may quote what must not be logged.
    """
    with _lock:
        _counts[kind] += 1
        count = _counts[kind]
    if str(count).strip("0") == "1":
        cause = f" ({type(error).__name__})" if error is not None else ""
        with suppress(Exception):  # an application's own handlers
            LOG.warning("%s, %d in all: %s%s", kind, count, detail, cause)


def counts() -> dict[str, int]:
    """How often each kind has happened since the process began."""
    with _lock:
        return dict(_counts)
