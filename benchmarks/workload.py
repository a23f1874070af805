"""The events that every competitor reads: the same bytes, packed into Kafka messages, and what must come out.

A seeded day of an AI product (`dataflows.traffic`), some 380 bytes an event. Of its troubles only copies are
left in: the peers have no quarantine, and a benchmark of broken lines would be another one. A
message goes to its tenant's partition, so that an event and its copies keep their order.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

from dataflows.demo import CONFIG
from dataflows.traffic import TrafficShape, generate

SEED = 11
DAY = date(2026, 3, 17)
ARRIVAL_MS = int((datetime(2026, 3, 17, tzinfo=timezone.utc) + timedelta(hours=26)).timestamp() * 1000)
"""The timestamp of every message, after the last event: so a fixed day is neither too old nor early."""

DUPLICATE_FRACTION = 0.05
PARTITIONS = 4
JOB_CONFIG = f"{CONFIG}alerts:\n  drain_seconds: 0\n"
"""What Meterline prices with: the configuration of the demo. The mock cluster cannot make the topic that
alerts go to, and nobody is to wait for it once the rows are there."""

PICO = 10**12
_RATES_PICO = {
    "gpt-4o": (5_000_000, 15_000_000, 2_500_000, 5_000_000, 5_000_000, 120),
    "claude-3-5-sonnet": (3_000_000, 15_000_000, 300_000, 3_750_000, 3_000_000, 115),
    "fallback-llama-3": (500_000, 2_000_000, 500_000, 500_000, 500_000, 80),
}
"""The same rates in picodollars a token: input, output, cache read, cache write, cache write for an hour (the
demo names none: it costs what input does); then the multiplier in hundredths."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a competitor must have written when it has read the events."""

    rows: int
    duplicates: int
    cost: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True)
class Message:
    """One Kafka message: events of one partition, one a line."""

    partition: int
    key: bytes
    value: bytes


def make_lines(events: int, hot_fraction: float = 0.03) -> list[bytes]:
    """Events in the order of their arrival, without line ends; `hot_fraction` of them are one tenant's.

    Takes 4 s and 430 MB a million.
    """
    shape = TrafficShape(
        events,
        SEED,
        DAY,
        runaway_fraction=hot_fraction,
        duplicate_fraction=DUPLICATE_FRACTION,
        conflict_fraction=0,
        malformed_fraction=0,
        future_events=0,
        unpriced_fraction=0,
    )
    return [line for chunk in generate(shape) for line in chunk.splitlines()]


def expect(lines: Sequence[bytes]) -> Expected:
    """Count and price the lines plainly, in whole picodollars."""
    seen: set[tuple[str, str]] = set()
    cost_pico = price_hundredths = 0
    for line in lines:
        event = json.loads(line)
        identity = (event["tenant_id"], event["idempotency_key"])
        if identity in seen:
            continue
        seen.add(identity)
        if event.get("cache_status") == "hit":
            continue
        cost, multiplier = _cost_pico(event)
        cost_pico += cost
        if event["status"] == "success":
            price_hundredths += cost * multiplier
    return Expected(
        rows=len(seen),
        duplicates=len(lines) - len(seen),
        cost=Decimal(cost_pico) / PICO,
        price=Decimal(price_hundredths) / (100 * PICO),
    )


def _cost_pico(event: dict[str, int | str]) -> tuple[int, int]:
    *rates, multiplier = _RATES_PICO[str(event["model"])]
    read, write = int(event.get("cache_read_tokens", 0)), int(event.get("cache_write_tokens", 0))
    write_1h = int(event.get("cache_write_1h_tokens", 0))
    plain = int(event["input_tokens"]) - read - write
    tokens = (plain, int(event["output_tokens"]), read, write - write_1h, write_1h)
    return sum(count * rate for count, rate in zip(tokens, rates, strict=True)), multiplier


def pack(lines: Sequence[bytes], events_per_message: int) -> Iterator[Message]:
    """The lines as messages, in an order that keeps that of each partition."""
    waiting: dict[int, list[bytes]] = {number: [] for number in range(PARTITIONS)}
    for line in lines:
        tenant = line.split(b'"tenant_id":"', 1)[1].split(b'"', 1)[0]
        number = zlib.crc32(tenant) % PARTITIONS
        batch = waiting[number]
        batch.append(line)
        if len(batch) == events_per_message:
            yield Message(number, tenant, b"\n".join(batch))
            batch.clear()
    for number, batch in waiting.items():
        if batch:
            yield Message(number, b"", b"\n".join(batch))
