"""Batches of plain lines, and what `decode` owes for any batch: worked out by the contract's own reader."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from dataflows.batch import EVENT_SCHEMA, QUARANTINE_SCHEMA, Decoded, Partition, RawBatch
from dataflows.decode import TimeBounds, decode
from dataflows.lines import split_lines
from metering.event import InvalidEvent, parse_line
from tests.dataflows.lines import CARRIED

NO_BOUNDS = TimeBounds(future_ms_max=10**15, age_ms_max=10**15)
ARRIVAL_MS = 1_772_000_000_000
FIRST_OFFSET = 70_000


def event_line(number: int, **fields: Any) -> bytes:
    """A plain line, compact as producers write it; a field of None is left out."""
    event = {
        "idempotency_key": f"key-{number}",
        "tenant_id": "acme",
        "model": "gpt-4o",
        "timestamp": ARRIVAL_MS - number,
        "input_tokens": 1000 + number,
        "output_tokens": number,
        **fields,
    }
    return json.dumps({k: v for k, v in event.items() if v is not None}, separators=(",", ":")).encode()


def plain_lines(count: int = 96, **fields: Any) -> list[bytes]:
    return [event_line(number, **fields) for number in range(count)]


def envelope_line(number: int, **outside: Any) -> bytes:
    event = json.loads(event_line(number, status="error"))
    outer = {name: event.pop(field) for field, name in CARRIED.items()}
    envelope = {"specversion": "1.0", "source": "/app", "type": "usage", **outer, **outside, "data": event}
    return json.dumps(envelope, separators=(",", ":")).encode()


def raw_batch(lines: list[bytes], *, age_limited: bool = True, arrival_ms: int = ARRIVAL_MS) -> RawBatch:
    """The lines as one poll; positions are such that no two columns hold the same number."""
    rows = np.arange(len(lines), dtype=np.int64)
    return RawBatch(
        partition=Partition(3, "topic", 5),
        lines=split_lines(b"".join(line + b"\n" for line in lines)),
        offset=FIRST_OFFSET + rows // 3,
        line=(rows % 3).astype(np.int32),
        arrival_ms=arrival_ms + rows,
        next_offset=FIRST_OFFSET + len(lines),
        live=True,
        age_limited=age_limited,
    )


@dataclass
class Judged:
    """Events as dictionaries, quarantine rows as (offset, line, reason, detail, raw)."""

    events: list[dict[str, Any]] = field(default_factory=list)
    quarantined: list[tuple[int, int, str, str, bytes]] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)


def judged(batch: RawBatch, bounds: TimeBounds) -> Judged:
    """What stands in the batch, by `parse_line` and the definition of a plausible time."""
    found = Judged()
    lines = batch.lines.data.split(b"\n")[:-1]
    places = zip(lines, batch.offset.tolist(), batch.line.tolist(), batch.arrival_ms.tolist(), strict=True)
    for raw, offset, number, arrival_ms in places:
        line = raw.removesuffix(b"\r")
        if not line.strip(b" \t\r"):
            continue
        try:
            event, unknown = parse_line(line)
        except InvalidEvent as exc:
            found.quarantined.append((offset, number, exc.reason.value, exc.detail, raw))
            continue
        found.unknown.update(unknown)
        ahead_ms = event.timestamp_ms - arrival_ms
        if ahead_ms > bounds.future_ms_max:
            detail = f"the event is {ahead_ms // 60_000} minutes ahead of its arrival"
            found.quarantined.append((offset, number, "timestamp_in_future", detail, raw))
        elif batch.age_limited and -ahead_ms > bounds.age_ms_max:
            detail = f"the event is {-ahead_ms // 60_000} minutes older than its arrival"
            found.quarantined.append((offset, number, "timestamp_too_old", detail, raw))
        else:
            found.events.append({**event.model_dump(), "offset": offset, "line": number, "raw": raw + b"\n"})
    return found


def assert_decodes_as_judged(batch: RawBatch, bounds: TimeBounds = NO_BOUNDS) -> Decoded:
    """`decode` gives the same events, the same refusals in the same places, and the same counts."""
    decoded, owed = decode(batch, bounds), judged(batch, bounds)
    assert decoded.events.schema == EVENT_SCHEMA
    assert decoded.quarantined.schema == QUARANTINE_SCHEMA
    assert decoded.read == len(owed.events) + len(owed.quarantined)
    refusals = decoded.quarantined.select("offset", "line", "reason", "detail", "raw").rows()
    assert sorted(refusals) == sorted(owed.quarantined)
    assert _comparable(decoded.events) == owed.events
    assert decoded.unknown_fields == dict(owed.unknown)
    assert (decoded.partition, decoded.next_offset, decoded.live) == (
        batch.partition,
        batch.next_offset,
        True,
    )
    return decoded


def _comparable(events: pl.DataFrame) -> list[dict[str, Any]]:
    rows = events.to_dicts()
    for row in rows:
        attributes = json.loads(row["attributes"])
        assert row["attributes"] == json.dumps(attributes, ensure_ascii=False)
        row["attributes"] = attributes
    return rows
