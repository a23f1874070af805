"""Several worker processes as one job: started together, ended together.

Bytewax stops every process of a cluster when one dies. A worker that fails therefore ends the run; what
was durable is kept, and the next run goes on from there.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from types import FrameType

from dataflows.state import LOCK_HELD_ENV

STOP_SECONDS = 10.0
_POLL_SECONDS = 0.1


def free_addresses(count: int) -> list[str]:
    """Loopback addresses on which nothing listens now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    finally:
        for one in sockets:
            one.close()


def run_workers(count: int, environment: Mapping[str, str]) -> int:
    """Run `count` workers until all have ended; returns 0, or the exit code of the first that failed."""
    addresses = ";".join(free_addresses(count))
    child_environment = {**environment, LOCK_HELD_ENV: str(os.getpid())}
    workers = [
        subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-m", "dataflows.cli", "worker", str(number), addresses], env=child_environment
        )
        for number in range(count)
    ]
    try:
        return _wait(workers)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        _stop(workers)


def _wait(workers: list[subprocess.Popen[bytes]]) -> int:
    def pass_on(_: int, __: FrameType | None) -> None:
        for worker in workers:
            worker.terminate()

    # A worker that is asked to stop publishes what it has read; it bounds that by itself.
    signal.signal(signal.SIGTERM, pass_on)
    while True:
        codes = [worker.poll() for worker in workers]
        failed = [code for code in codes if code]
        if failed:
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        if all(code == 0 for code in codes):
            return 0
        time.sleep(_POLL_SECONDS)


def _stop(workers: list[subprocess.Popen[bytes]]) -> None:
    """End what still runs: it has nothing to lose, its last durable epoch is its state."""
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
