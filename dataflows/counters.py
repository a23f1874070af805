"""What this process has done since it started, for the progress line and the log.

Not for billing: the exact counts are in ClickHouse, and `meterline audit` proves them.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Counts of lines and events; a replay after a crash counts again what it reads again."""

    read: int = 0
    priced: int = 0
    duplicates: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    unknown_fields: Counter[str] = field(default_factory=Counter)
    late: int = 0
    alerts: int = 0
    epochs: int = 0
    published_rows: int = 0
    event_time_ms: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **amounts: int) -> None:
        """Add to plain counts by name."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def quarantine(self, reasons: dict[str, int]) -> None:
        """Add quarantined lines by reason."""
        with self._lock:
            self.quarantined.update(reasons)

    def unknown(self, fields: dict[str, int]) -> None:
        """Add fields that the contract does not know, by name; at most a thousand names are kept."""
        with self._lock:
            for name, count in fields.items():
                known = name in self.unknown_fields or len(self.unknown_fields) < 1_000
                self.unknown_fields[name if known else "(others)"] += count


PROCESS = Counters()
"""The counters of this process."""
