"""The real job as a measured child: `meterline run --to-end` with its clock read.

The clock starts when the job is prepared, before it connects to read, and stops when ClickHouse has
accepted the last block of rows. So waiting for the last epochs to close counts; starting Python,
importing and migrating the tables do not. The connections and the state directory are in the environment.
"""

from __future__ import annotations

import os
import threading
import time

from benchmarks.pinned import Measured, cpu_seconds
from dataflows.counters import PROCESS
from dataflows.run import log_to_stderr, run_job
from dataflows.start import prepare

SAMPLE_SECONDS = 0.02


class Clock:
    """Notes when the job's counters last moved, fifty times a second."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._read = self._published = 0
        self.first_read = self.last_read = self.last_published = 0.0
        self.cpu_at_last_published = 0.0

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Look a last time, and end."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._look()
        self._look()

    def _look(self) -> None:
        now = time.monotonic()
        if PROCESS.read != self._read:
            self.first_read = self.first_read or now
            self._read, self.last_read = PROCESS.read, now
        if PROCESS.published_rows != self._published:
            self._published, self.last_published = PROCESS.published_rows, now
            self.cpu_at_last_published = cpu_seconds()


def main() -> None:
    """Run the job of the environment to the end of its input."""
    log_to_stderr()
    job = prepare(os.environ)
    clock = Clock()
    cpu_before, started = cpu_seconds(), time.monotonic()
    clock.start()
    run_job(job)
    clock.stop()
    Measured(
        events=PROCESS.read,
        seconds=clock.last_published - started,
        cpu_seconds=clock.cpu_at_last_published - cpu_before,
        # What is read between two looks took no longer than that: a smoke run's few events may be.
        reading_seconds=max(SAMPLE_SECONDS, clock.last_read - clock.first_read),
        detail=f"{PROCESS.epochs} epochs, {PROCESS.sink_retries} retries",
    ).say()


if __name__ == "__main__":
    main()
