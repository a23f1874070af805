"""The Azure LLM inference trace as metering events, where somebody has it.

The trace (Azure/AzurePublicDataset, CC-BY-4.0; Patel et al., Splitwise, ISCA 2024) is real in its
times and token counts. It names no tenants, models or keys: those are made up here, and so are the
retries. It is not part of this repository; tests that want it skip when it is absent.
"""

from __future__ import annotations

import csv
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

TRACE_NAME = "AzureLLMInferenceTrace_code.csv"
DUPLICATE_FRACTION = 0.05
TENANTS = 20
RETRY_MS_MAX = 600_000


@dataclass(frozen=True, slots=True)
class Trace:
    """Event lines (without line ends) in the order of arrival, and what stands in them."""

    lines: tuple[bytes, ...]
    originals: int
    duplicates: int
    input_tokens: int
    output_tokens: int


def trace_path() -> Path | None:
    """The trace in the directory that METERLINE_TRACE_DIR names, else in `../shared/data` of the checkout."""
    named = os.environ.get("METERLINE_TRACE_DIR")
    directory = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    path = directory / TRACE_NAME
    return path if path.is_file() else None


def read_trace(path: Path, seed: int) -> Trace:
    """The trace's requests as events of `gpt-4o`, and a repetition of every twentieth.

    A repetition has the time of the retry, up to ten minutes later, and arrives then. Totals count
    each event once.
    """
    chance = random.Random(seed)
    arrivals: list[tuple[int, int, bytes]] = []
    input_tokens = output_tokens = 0
    with path.open(newline="") as file:
        requests = list(csv.DictReader(file))
    repeated = set(chance.sample(range(len(requests)), round(len(requests) * DUPLICATE_FRACTION)))
    for number, request in enumerate(requests):
        asked_ms = _ms_of_day(request["TIMESTAMP"])
        day = request["TIMESTAMP"][:10]
        event: dict[str, str | int] = {
            "idempotency_key": f"azure-{number:06d}",
            "tenant_id": f"tenant-{chance.randrange(TENANTS):03d}",
            "feature_id": "complete",
            "provider": "openai",
            "model": "gpt-4o",
            "timestamp": _rfc3339(day, asked_ms),
            "input_tokens": int(request["ContextTokens"]),
            "output_tokens": int(request["GeneratedTokens"]),
        }
        input_tokens += int(request["ContextTokens"])
        output_tokens += int(request["GeneratedTokens"])
        arrivals.append((asked_ms, number, _line(event)))
        if number in repeated:
            retried_ms = asked_ms + chance.randrange(1, RETRY_MS_MAX)
            event |= {"timestamp": _rfc3339(day, retried_ms), "retry_count": 1, "latency_ms": 250}
            arrivals.append((retried_ms, number, _line(event)))
    arrivals.sort()
    return Trace(
        lines=tuple(line for _, _, line in arrivals),
        originals=len(requests),
        duplicates=len(repeated),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
    )


def _ms_of_day(timestamp: str) -> int:
    """Of "2023-11-16 18:17:03.9799600", whose fraction has seven digits; the finer ones are cut off."""
    hours, minutes, seconds = timestamp[11:].split(":")
    whole, _, fraction = seconds.partition(".")
    return (int(hours) * 60 + int(minutes)) * 60_000 + int(whole) * 1000 + int((fraction + "000")[:3])


def _rfc3339(day: str, ms_of_day: int) -> str:
    minutes, millis = divmod(ms_of_day, 60_000)
    return f"{day}T{minutes // 60:02d}:{minutes % 60:02d}:{millis // 1000:02d}.{millis % 1000:03d}Z"


def _line(event: dict[str, str | int]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()
