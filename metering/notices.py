"""What the log is told: each kind of trouble at once, and then at most every so often, with a count."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

NOTICE_SECONDS = 60.0
"""A kind of trouble is told again after this: a line a minute wakes somebody up and fills no disk."""

_log = logging.getLogger("meterline")


@dataclass(slots=True)
class _Kind:
    told_at: float
    untold: int = 0


@dataclass(slots=True)
class Notices:
    """Bound: one entry for each kind, of which the code names a few dozen."""

    _kinds: dict[str, _Kind] = field(default_factory=dict)

    def tell(self, kind: str, sentence: str, now: float, count: int = 1) -> None:
        """Log a sentence, unless its kind was told just now; `count` is how many events it is about."""
        known = self._kinds.setdefault(kind, _Kind(float("-inf")))
        known.untold += count
        if now - known.told_at >= NOTICE_SECONDS:
            _log.warning("%s: %s (%d times since the last such line)", kind, sentence, known.untold)
            known.told_at, known.untold = now, 0
