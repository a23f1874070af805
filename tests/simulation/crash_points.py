"""Where and how a run is ended: the steps that the job names, and moments after them that have no name."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

STEP = "meterline.step"
FAULTS = ("error", "kill", "power")
CRASHED, FAILED = 137, 9

COMMIT = "engine: commit"
"""After the last snapshot of an epoch the engine writes all of them, its frontier and the commit, unseen by
Python. So the kernel ends the process there, by a timer, some milliseconds after that snapshot."""

LAST_STEP_BEFORE_COMMIT = "sink: after snapshot"
BEFORE_INSERT = ": before"
WITHIN_INSERT = ": within"
"""An insert is likewise ended by a timer, while ClickHouse is at it."""

COMMIT_MS_MAX, INSERT_MS_MAX = 12.0, 60.0
"""A commit takes less, and so do the inserts of these epochs, but for some of three days."""

READ_PAUSE_SECONDS = 0.02


class SimulatedError(Exception):
    """The job is told to fail here."""


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """End the run with `fault` at the `nth` occurrence of `step`, or `delay_ms` after the step it follows."""

    step: str
    nth: int
    fault: str
    follows: str = ""
    delay_ms: float = 0.0


def timed_steps(steps: Iterable[str]) -> dict[str, str]:
    """Moments that no step names, each with the step that they follow."""
    inserts = [step for step in steps if step.startswith("insert ") and step.endswith(BEFORE_INSERT)]
    return {
        COMMIT: LAST_STEP_BEFORE_COMMIT,
        **{step.removesuffix(BEFORE_INSERT) + WITHIN_INSERT: step for step in inserts},
    }


def draw(steps: Mapping[str, int], chance: random.Random) -> CrashPoint:
    """A point to crash at; `steps` says how often a run without a crash passes each step."""
    timed = timed_steps(steps)
    step = chance.choice(sorted({*steps, *timed}))
    passed = steps[timed.get(step, step)]
    nth = chance.randint(1, max(1, passed // 3))
    if step in timed:
        delay_ms_max = COMMIT_MS_MAX if step == COMMIT else INSERT_MS_MAX
        return CrashPoint(step, nth, "kill", timed[step], chance.uniform(0.1, delay_ms_max))
    return CrashPoint(step, nth, chance.choice(FAULTS))


def arm(point: CrashPoint | None) -> Counter[str]:
    """Have this process end at the point; returns how often each step has been passed, as it goes on.

    What a loss of power takes away is taken afterwards: here, other threads would go on meanwhile.
    """
    passed: Counter[str] = Counter()
    watched = None if point is None else point.follows or point.step

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if event != STEP:
            return
        (step,) = details
        passed[step] += 1
        if step == "source: before read":
            time.sleep(READ_PAUSE_SECONDS)
        if point is None or step != watched or passed[step] != point.nth:
            return
        if point.delay_ms:
            # SIGALRM is not handled: it ends the process as kill -9 does, whatever runs then.
            signal.setitimer(signal.ITIMER_REAL, point.delay_ms / 1000)
            return
        if point.fault == "error":
            raise SimulatedError(step)
        os._exit(CRASHED)

    sys.addaudithook(hook)
    return passed
