"""What a meter counts, and how it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MeterStats:
    """The counts of a meter, in events, since this process started.

    recorded = delivered + spooled + dropped + without_event + waiting, at any moment at which the sender
    rests; but an event that was spooled first and `refused` later counts in both.

    Attributes:
        recorded: Calls of `record`, and what observations came to beyond one event each. It never goes down.
        delivered: Acknowledged by the destination straight from memory.
        spooled: Written to the spool.
        replayed: Acknowledged from the spool; events of processes that are gone, taken over, among them.
        without_event: Observations that came to none: a client inside had recorded the same answer, or there
            was nothing to bill. `metering.mishaps.counts` says which.
        waiting: In memory: in the queue, or handed over and not acknowledged. A moment's figure.
        queue_depth: In the queue alone.
        spool_bytes: On disk, not yet replayed. A moment's figure.
        damaged_bytes: Of spools, found to be no records and kept aside.
        invalid: By the contract's reason: sent all the same, and quarantined by the job.
        dropped: By reason, never to arrive. `queue_full`: neither the destination nor the spool took events
            for long, or they were recorded faster than the sender works; `closed`: recorded after `close`;
            `undelivered`: still in memory when the meter was closed; `not_serialisable`, `too_large`: see
            `metering.encode`; `refused`: larger than the broker takes; `refused_unkept`: likewise, and
            `refused.jsonl` took it not.
        failures: Of the sender itself, which went on.
        last_error: The latest thing that went wrong, in one sentence; "" if nothing has.
    """

    recorded: int
    delivered: int
    spooled: int
    replayed: int
    without_event: int
    waiting: int
    queue_depth: int
    spool_bytes: int
    damaged_bytes: int
    invalid: Mapping[str, int]
    dropped: Mapping[str, int]
    failures: int
    last_error: str


@dataclass(slots=True)
class Counts:
    """As they grow. The sender's thread alone writes them.

    `to_tell` is what the log has to hear of: the kind of trouble, a sentence, and how often, or of how many
    events. The sender empties it after each turn of delivery.
    """

    taken: int = 0
    delivered: int = 0
    spooled: int = 0
    replayed: int = 0
    without_event: int = 0
    damaged_bytes: int = 0
    invalid: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    last_error: str = ""
    to_tell: list[tuple[str, str, int]] = field(default_factory=list)
