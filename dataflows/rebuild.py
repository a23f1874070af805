"""State made anew from ClickHouse, for a state directory that was lost or damaged (`run --rebuild-state`).

What the job remembers is rebuilt as of a position of each input below which ClickHouse holds everything:

- Kafka: the published position of the partition, if the rows below it account for every line that was read;
  else the oldest message that the topic still has, from which everything is read again.
- Files: their beginning; they are read again as a whole.

Keys come from the rows of the dedupe window, with the position at which each was first seen: read again there, an
event is itself and no copy. Sums come from the rows below the positions, thresholds from the alerts raised, alerts
that nobody was sent are handed over again. Watermarks are the latest event time of each input.

Nothing is deleted: the old state stands in `before-rebuild-<time>/`. A crash leaves a directory that says so
itself (`REBUILDING`), and the rebuild begins again. The states enter Bytewax's recovery store by a flow of the same
steps that does nothing but hold them.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataflows.batch import Partition
from dataflows.steps import DAY_MS, HOUR_MS

SLICE_MS = HOUR_MS
"""Rows are fetched an hour of event time at a time, which bounds memory."""
UNKNOWN_ORDINAL = 0xFFFF
"""Stands for an input that this state directory does not know: what it brings again is a copy."""
MONTH_MS_MAX = 33 * DAY_MS
"""Longer than a month in any zone."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an input goes on: everything below `next_offset` stands in ClickHouse, `events_read` lines of it."""

    partition: Partition
    next_offset: int
    events_read: int
    again: bool
    """Whether it is read again from the oldest that there is."""
