"""What every source partition shares: a heartbeat an epoch, and an end that waits for its last block.

A block is inserted once the epoch that brought it is durable (see `sinks.publish`), so a partition that has
nothing more to read stays for `EPOCHS_TO_PUBLISH`: in each it sends a heartbeat, which reaches the sinks
only once the epoch before is durable. The last epoch brings nothing else, so its snapshot waits for all
inserts: when the job exits 0, everything is published.
"""

from __future__ import annotations

import threading
from enum import Enum

from dataflows.counters import PROCESS

EPOCHS_TO_PUBLISH = 1

STOPPING = threading.Event()
"""While it is set, every input of this process ends where it is."""

_ASKED_TO_STOP = threading.Event()


def stop() -> None:
    """Stop this process for good: its inputs end where they are."""
    _ASKED_TO_STOP.set()
    STOPPING.set()


def asked_to_stop() -> bool:
    """Whether the process was asked to stop, and not merely to begin again."""
    return _ASKED_TO_STOP.is_set()


class Turn(Enum):
    """What a partition does when it is asked for its next batch."""

    READ = "read"
    HEARTBEAT = "heartbeat"
    WAIT = "wait"
    END = "end"


class EpochLifecycle:
    """Counts the epochs of one partition, from its own snapshots."""

    def __init__(self) -> None:
        self._epoch = 0
        self._awake = False
        self._ended_in: int | None = None
        PROCESS.add(partitions=1)

    def close_epoch(self) -> None:
        """Call from `snapshot`."""
        self._epoch += 1
        self._awake = False
        PROCESS.close_epoch(self._epoch)

    def sent(self) -> None:
        """Call when a batch leaves: it wakes every step of this epoch, as a heartbeat would."""
        self._awake = True

    def end_of_input(self) -> None:
        """Call once when there is nothing more to read, ever."""
        if self._ended_in is None:
            self._ended_in = self._epoch

    def turn(self) -> Turn:
        """What to do now; after `READ` found nothing, ask `idle_turn`."""
        if self._ended_in is None and STOPPING.is_set():
            self.end_of_input()
        if self._ended_in is None:
            return Turn.READ
        if self._epoch == self._ended_in:
            return Turn.WAIT
        if not self._awake:
            return Turn.HEARTBEAT
        return Turn.END if self._epoch >= self._ended_in + EPOCHS_TO_PUBLISH else Turn.WAIT

    def idle_turn(self) -> Turn:
        """Nothing to read for now: one heartbeat an epoch, so that yesterday's block gets published."""
        return Turn.WAIT if self._awake else Turn.HEARTBEAT
