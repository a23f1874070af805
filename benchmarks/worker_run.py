"""One worker of a crew as a measured child: `python -m benchmarks.worker_run NUMBER ADDRESSES rows|no-rows`.

It prints `ready` and waits for a line, so that all begin at once, and in the end one JSON object, a
`WorkerTimes`. With `no-rows`, blocks are staged as ever and then dropped in place of their insert, so that
ClickHouse takes no part in the measurement.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from clickhouse_connect.driver.client import Client

import sinks.publish
from benchmarks.job_run import Clock
from benchmarks.pinned import cpu_seconds
from dataflows.counters import PROCESS
from dataflows.run import log_to_stderr, run_job, run_worker
from dataflows.start import prepare
from sinks.publish import PublishObserver, Send
from sinks.stage import StagedBlock


@dataclass(frozen=True, slots=True)
class WorkerTimes:
    """Readings of the system's monotonic clock, CPU seconds used until the last block, and counts.

    Seconds; a moment that never came is 0.
    """

    first_read: float
    last_read: float
    last_published: float
    cpu_seconds: float
    read: int
    priced: int
    duplicates: int


def drop_block(
    client: Client,  # noqa: ARG001  # the signature of what it replaces
    block: StagedBlock,
    data: bytes,  # noqa: ARG001  # as client
    first: Send,  # noqa: ARG001  # as client
    sleep: Callable[[float], None],  # noqa: ARG001  # as client
    observer: PublishObserver,
) -> None:
    """Stands in for `sinks.publish.insert_block`, in this benchmark alone."""
    observer.published(block.rows, 0.0)


def main(number: str, addresses: str, rows: str) -> None:
    """Be a worker of the job in the environment, or all of it where there is one address."""
    log_to_stderr()
    if rows == "no-rows":
        sinks.publish.insert_block = drop_block
    job = prepare(os.environ)
    print("ready", flush=True)
    sys.stdin.readline()
    clock = Clock()
    cpu_before = cpu_seconds()
    clock.start()
    all_addresses = addresses.split(";")
    if len(all_addresses) == 1:
        run_job(job)
    else:
        run_worker(job, int(number), all_addresses)
    clock.stop()
    times = WorkerTimes(
        first_read=clock.first_read,
        last_read=clock.last_read,
        last_published=clock.last_published,
        cpu_seconds=max(0.0, clock.cpu_at_last_published - cpu_before),
        read=PROCESS.read,
        priced=PROCESS.priced,
        duplicates=PROCESS.duplicates,
    )
    print(json.dumps(asdict(times)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
