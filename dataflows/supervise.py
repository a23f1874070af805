"""Several worker processes as one job: started together, ended together, restarted together.

Bytewax stops every process of a cluster when one dies, so the supervisor waits for all of them, pauses,
and starts all again; each goes on from the last durable epoch. It gives up after `RESTARTS_MAX`
restarts in a row, and at once when a worker refuses: with the same configuration, input and state it would
refuse again.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from dataflows import lifecycle
from dataflows.state import LOCK_HELD_ENV

EXIT_REFUSED = 78
"""A worker's exit code (EX_CONFIG of sysexits.h) for what a restart cannot mend."""

RESTARTS_MAX = 6
"""Restarts in a row before the job is given up: with the pauses below, about a minute of trying."""

STEADY_SECONDS = 120.0
"""Workers that ran this long were well: the count of failures in a row begins anew."""

RESTARTS_ENV = "METERLINE_RESTARTS"
"""Tells a worker how often it was started again, for its metrics."""

_PAUSE_SECONDS = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)
_PEERS_SECONDS = 10.0
_DRAIN_SECONDS = 40.0  # a worker gives up its own drain after 30
_POLL_SECONDS = 0.1
_ORPHAN_POLL_SECONDS = 0.5

_log = logging.getLogger(__name__)


class RestartBudget:
    """How long to pause before the next start, and when to stop trying. Time is passed in."""

    def __init__(self) -> None:
        self._failures = 0

    def pause_seconds(self, codes: Sequence[int], ran_seconds: float) -> float | None:
        """After workers ended with these exit codes: the pause before a restart, or None to give up."""
        if EXIT_REFUSED in codes:
            return None
        self._failures = 1 if ran_seconds >= STEADY_SECONDS else self._failures + 1
        if self._failures > RESTARTS_MAX:
            return None
        return _PAUSE_SECONDS[min(self._failures, len(_PAUSE_SECONDS)) - 1]


class Supervisor:
    """Keeps `count` workers running until all have ended well, or it was asked to stop, or it gives up."""

    def __init__(
        self,
        count: int,
        environment: Mapping[str, str],
        descriptors: Sequence[int],
        is_wanted_again: Callable[[], bool],
    ) -> None:
        """Workers inherit `descriptors`: the state stays locked while any of them lives, even orphaned.

        Once a worker has made `is_wanted_again` true, all are asked to end, as SIGTERM asks them.
        """
        self._count = count
        self._is_wanted_again = is_wanted_again
        self._environment = environment
        self._descriptors = tuple(descriptors)
        self._workers: list[subprocess.Popen[bytes]] = []
        self._stop_at: float | None = None
        self._restarts = 0

    def run(self) -> int:
        """Run to the end; returns 0, or the exit code of the failure that ended the job.

        SIGTERM is passed on: workers publish what they have read and exit 0. Whoever has not done so
        after `_DRAIN_SECONDS` is killed, which loses nothing, and the code is then not 0.
        """
        before = signal.signal(signal.SIGTERM, self._on_sigterm)
        budget = RestartBudget()
        try:
            while True:
                started = time.monotonic()
                self._start()
                codes = self._wait()
                failed = [code for code in codes if code]
                # SIGTERM ends a worker that is not ready to drain yet: a cluster with such a one never began.
                never_began = self._stop_at is not None and -signal.SIGTERM in failed
                if not failed or never_began:
                    return 0
                refused = EXIT_REFUSED in failed
                if self._stop_at is not None and not refused and not lifecycle.asked_to_stop():
                    return 0  # they were to end only to begin again, from what was durable
                code = EXIT_REFUSED if refused else _shell_code(failed[0])
                pause = budget.pause_seconds(codes, time.monotonic() - started)
                if pause is None or self._stop_at is not None:
                    return code
                self._restarts += 1
                _log.warning(
                    "workers ended and are started again",
                    extra={"codes": codes, "pause_seconds": pause, "restarts": self._restarts},
                )
                if self._stopped_within(pause):
                    return 0  # nothing runs and what was durable is kept
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        finally:
            self._end_all()
            signal.signal(signal.SIGTERM, before)

    def _on_sigterm(self, _: int, __: FrameType | None) -> None:
        lifecycle.stop()
        self._end_workers()

    def _end_workers(self) -> None:
        self._stop_at = time.monotonic() + _DRAIN_SECONDS
        for worker in self._workers:
            worker.terminate()

    def _start(self) -> None:
        addresses = ";".join(free_addresses(self._count))
        environment = {
            **self._environment,
            LOCK_HELD_ENV: str(os.getpid()),
            RESTARTS_ENV: str(self._restarts),
        }
        self._workers = []
        for number in range(self._count):
            command = [sys.executable, "-m", "dataflows.cli", "worker", str(number), addresses]
            worker = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                command, env=environment, pass_fds=self._descriptors
            )
            self._workers.append(worker)
        if self._stop_at is not None:  # asked while some of them were not there yet
            self._end_workers()

    def _wait(self) -> list[int]:
        """Until every worker has ended. Once one has failed, its peers get a moment to fall by themselves."""
        kill_at: float | None = None
        while True:
            codes = [worker.poll() for worker in self._workers]
            ended = [code for code in codes if code is not None]
            if len(ended) == self._count:
                return ended
            now = time.monotonic()
            if self._stop_at is None and self._is_wanted_again():
                self._end_workers()
            if kill_at is None and any(ended):
                kill_at = now + _PEERS_SECONDS
            if any(moment is not None and now > moment for moment in (kill_at, self._stop_at)):
                self._end_all()
            time.sleep(_POLL_SECONDS)

    def _stopped_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._stop_at is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return self._stop_at is not None

    def _end_all(self) -> None:
        """Kill what still runs: its last durable epoch is its state, so it has nothing to lose."""
        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()


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


def end_with_parent(parent: int, end: Callable[[], None]) -> None:
    """Watch, in a thread, for the death of the process `parent` that started this one; then call `end`.

    Whoever still lives `_DRAIN_SECONDS` later ends at once: while the engine waits for a peer that will
    never come, it hears no signal.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_POLL_SECONDS)
        _log.error("the supervisor is gone: this worker ends too")
        end()
        time.sleep(_DRAIN_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _shell_code(code: int) -> int:
    """The exit code as a shell tells it: 128 + signal for a process that a signal ended."""
    return code if code > 0 else 128 - code
