"""Payloads that could not be read: each kind counted, and told once.

Nothing of a payload is ever told, only where reading failed and the type of the error: a payload holds what
users wrote.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter

KINDS_MAX = 64
"""So many kinds are told apart; what comes after them is counted as `other`."""

_log = logging.getLogger("meterline")
_lock = threading.Lock()
_counts: Counter[str] = Counter()


def note(where: str, error: Exception) -> None:
    """Count what could not be read, and log it if it is the first of its kind in this process.

    Args:
        where: What was being read, one of a few fixed phrases.
    """
    kind = f"{where}: {type(error).__name__}"
    with _lock:
        if kind not in _counts and len(_counts) >= KINDS_MAX:
            kind = "other"
        _counts[kind] += 1
        is_first = _counts[kind] == 1
    if is_first:
        _log.warning("meterline could not read %s; its usage may be counted instead", kind)


def counts() -> dict[str, int]:
    """How often each kind of payload could not be read, in this process."""
    with _lock:
        return dict(_counts)
