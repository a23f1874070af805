"""What tests of the meter record, wait for and read; programs that record, to be killed, forked and ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metering.counts import MeterStats
from tests.metering.kafka_process import lines_at
from tests.metering.samples import SMALLEST

ROOT = Path(__file__).parents[2]
SECONDS = 60
NOWHERE = "kafka://127.0.0.1:1/events"

PREAMBLE = """
import os, sys, time
from metering.meter import Meter
from tests.metering.samples import SMALLEST

def event(key, tenant="acme"):
    return {**SMALLEST, "idempotency_key": key, "tenant_id": tenant}

meter = Meter.from_environment()
"""


def start(script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A process that runs the script after `PREAMBLE`; METERLINE_… variables are named in lower case."""
    variables = {f"METERLINE_{name.upper()}": value for name, value in environment.items()}
    return subprocess.Popen(
        # Python 3.12 warns of every fork of a process with threads, which is what is tried here.
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore:This process:DeprecationWarning",
            "-c",
            PREAMBLE + script,
            *arguments,
        ],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, **environment: str) -> str:
    """Standard output of a process that ends well."""
    child = start(script, **environment)
    try:
        out, err = child.communicate(timeout=SECONDS)
    finally:
        child.kill()  # only one that is late still lives
    assert child.returncode == 0, err
    return out


def event(number: int, tenant: str = "acme", **fields: Any) -> dict[str, Any]:
    return {**SMALLEST, "idempotency_key": f"k{number}", "tenant_id": tenant, **fields}


def keys_of(lines: list[bytes]) -> list[str]:
    return [json.loads(line)["idempotency_key"] for line in lines]


def keys_in(file: Path) -> list[str]:
    return keys_of(file.read_bytes().splitlines())


def keys_at(bootstrap: str, topic: str) -> list[str]:
    return keys_of([line for _, line in lines_at(bootstrap, topic)])


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ends(stats: MeterStats) -> tuple[int, int, int, int]:
    return (stats.recorded, stats.delivered, stats.spooled, stats.replayed)
