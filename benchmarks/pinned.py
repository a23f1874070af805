"""Processes of a benchmark, each on a core of its own choosing, and what they say of themselves.

A measured program is a child: it prints one JSON object, a `Measured`, as its last line. Children inherit
the cores of the thread that starts them, and all their threads do too (a JVM's, librdkafka's).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHILD_SECONDS_MAX = 900
"""Far more than any of them takes: one that hangs must not hang the run."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one program. `seconds` of wall time and `cpu_seconds`, user and system, for `events`."""

    events: int
    seconds: float
    cpu_seconds: float
    detail: str = ""
    reading_seconds: float = 0.0
    """From the first event read to the last, where the program tells; then epochs have to close."""

    @property
    def per_second(self) -> float:
        """Events a second of wall time."""
        return self.events / self.seconds

    @property
    def cpu_per_million(self) -> float:
        """CPU seconds a million events."""
        return self.cpu_seconds * 1e6 / self.events

    def __str__(self) -> str:
        return f"{self.per_second:,.0f} events/s, {self.cpu_per_million:.2f} CPU s per million"

    def say(self) -> None:
        """Print it for the parent."""
        print(json.dumps(asdict(self)), flush=True)


def cpu_seconds() -> float:
    """User and system time of this process so far, all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cores() -> tuple[int, int]:
    """The core of what is measured, and that of all else. The same one where there is no second."""
    if not hasattr(os, "sched_getaffinity"):
        return -1, -1
    found = sorted(os.sched_getaffinity(0))
    return found[0], found[-1]


@contextmanager
def on_any_core(allowed: Sequence[int]) -> Iterator[None]:
    """What this thread starts meanwhile runs on whichever of these cores has room."""
    if min(allowed) < 0:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, allowed)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What this thread starts meanwhile runs on that core; -1 leaves it to the system (macOS has no way)."""
    with on_any_core((core,)):
        yield


def run_child(
    module: str,
    arguments: Sequence[str],
    core: int,
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> Measured:
    """Run `python -m module` on a core until it ends.

    Raises:
        ChildFailed: it ended with an error; what it said is in the message.
    """
    with on_core(core):
        child = subprocess.Popen(
            [python, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        said, complaints = child.communicate(timeout=CHILD_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        child.kill()
        said, complaints = child.communicate()
    if child.returncode != 0 or not said.strip():
        raise ChildFailed(f"{module} ended with {child.returncode}: {complaints[-3000:]}")
    return Measured(**json.loads(said.splitlines()[-1]))


class ChildFailed(Exception):
    """A measured program did not end well."""
