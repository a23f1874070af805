"""Programs that record, run as processes of their own, so that they can be killed, forked and ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 60

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
        [sys.executable, "-W", "error", "-c", PREAMBLE + script, *arguments],
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
