"""A few crash trials in every test run; `make crash` does a thousand, and breaks every rule."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def crash(*options: str) -> subprocess.CompletedProcess[str]:
    # A process of its own: it forks, which this one's threads would not survive.
    command = [sys.executable, "-m", "tests.simulation.crash", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


def test_crashes_at_drawn_steps_lose_and_double_nothing() -> None:
    done = crash("--seed", "4711", "--crashes", "4")
    assert done.returncode == 0, done.stderr
    assert "0 days wrong" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("rule", ["publish_at_once"])
def test_a_broken_rule_is_noticed(rule: str) -> None:
    done = crash("--mutations", rule)
    assert done.returncode == 0, done.stderr
    assert f"| {rule} | caught" in done.stdout
