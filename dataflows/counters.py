"""What this process has done since it started, for the progress line, the log and `/metrics`.

Not for billing: the exact counts are in ClickHouse, and `meterline audit` proves them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from prometheus_client import Histogram

_EPOCH_BUCKETS = (0.1, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0)
_PUBLISH_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0)


def _histogram(what: str, buckets: tuple[float, ...]) -> Histogram:
    texts = {
        "epoch": "from one durable epoch to the next",
        "publish": "to insert one block, retries included",
    }
    return Histogram(f"meterline_{what}_seconds", f"Seconds {texts[what]}.", buckets=buckets, registry=None)


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
    sink_retries: int = 0
    snapshot_bytes: int = 0
    rate_card_version: str = ""
    """Of the card in force; empty before a job begins."""
    rate_cards_refused: int = 0
    rate_card_is_refused: bool = False
    """Whether the card on the disk is one that was refused."""
    event_time_ms: int = -1
    """The latest event time read; -1 before the first event."""
    partitions: int = 0
    """Input partitions that this process reads; a worker may have none."""
    lag: dict[tuple[str, int], int] = field(default_factory=dict)
    """Messages of each Kafka partition that are there and not read yet, as last heard from the broker."""
    epoch_closed_at: float = field(default_factory=time.monotonic)
    epoch_seconds: Histogram = field(default_factory=lambda: _histogram("epoch", _EPOCH_BUCKETS))
    publish_seconds: Histogram = field(default_factory=lambda: _histogram("publish", _PUBLISH_BUCKETS))
    _epoch: int = 0
    _unpriced_before: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begin_run(self) -> None:
        """A run begins, whose epochs are numbered from 1; a process may have several, one after the other."""
        with self._lock:
            self._epoch = 0
            self._unpriced_before = self.quarantined["unpriced"]
            self.epoch_closed_at = time.monotonic()

    def unpriced_in_run(self) -> int:
        """Events of this run that no card could price."""
        return self.quarantined["unpriced"] - self._unpriced_before

    def add(self, **amounts: int) -> None:
        """Add to plain counts by name."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def close_epoch(self, number: int) -> None:
        """One of the partitions closes its epoch `number`; the first to do so closes it for all."""
        with self._lock:
            if number <= self._epoch:
                return
            self._epoch = number
            self.epochs += 1
            now = time.monotonic()
            seconds, self.epoch_closed_at = now - self.epoch_closed_at, now
        self.epoch_seconds.observe(seconds)

    def saw_event_time(self, newest_ms: int) -> None:
        """An event of that time was read."""
        with self._lock:
            self.event_time_ms = max(self.event_time_ms, newest_ms)

    def published(self, rows: int, seconds: float) -> None:
        """A block stands in ClickHouse, `seconds` after it was first sent."""
        self.add(published_rows=rows)
        self.publish_seconds.observe(seconds)

    def retried(self) -> None:
        """A block was refused, or nobody answered, and it is sent again."""
        self.add(sink_retries=1)

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
