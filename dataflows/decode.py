"""Lines of JSON to columns of events.

A compiled scanner (`dataflows.scan`) takes the lines that are surely events; whatever it is not sure of
goes the slow road (`metering.event.parse_line`, which is the contract). Both give the same events; what
is refused is refused by the slow road alone, with its reason.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from dataflows.batch import (
    EVENT_SCHEMA,
    QUARANTINE_SCHEMA,
    Decoded,
    Int64s,
    RawBatch,
    no_events,
    no_quarantine,
)
from dataflows.lines import Lines, split_lines
from dataflows.plain_lines import FIELDS_SCHEMA, scan
from metering.event import InvalidEvent, QuarantineReason, parse_line

_REFUSED_SCHEMA = pl.Schema({"row": pl.Int64(), "reason": pl.String(), "detail": pl.String()})


@dataclass(frozen=True, slots=True)
class TimeBounds:
    """How far an event's time may lie from the time of its arrival, in milliseconds."""

    future_ms_max: int
    age_ms_max: int


def decode(batch: RawBatch, bounds: TimeBounds) -> Decoded:
    """Turn one poll into columns; every line that is not blank becomes an event or a quarantined row."""
    unknown: Counter[str] = Counter()
    events, quarantined, read = no_events(), no_quarantine(), 0
    if len(batch.lines):
        lines = _without_returns(batch.lines)
        found = scan(lines)
        read = len(found.blank) - int(found.blank.sum())
        fields = found.events
        raw = _raw_lines(batch.lines)
        unknown.update(found.unknown)
        if len(found.left):
            slow, refused = _read_slowly(lines, found.left, unknown)
            fields = pl.concat([fields, slow]).sort("row") if len(slow) else fields
            quarantined = _quarantine(refused, batch, raw)
        events, implausible = _split_implausible(_placed(fields, batch, raw), batch, bounds)
        quarantined = pl.concat([quarantined, implausible])
    return Decoded(batch.partition, events, quarantined, read, batch.next_offset, batch.live, dict(unknown))


def _read_slowly(lines: Lines, rows: Int64s, unknown: Counter[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    events: list[dict[str, Any]] = []
    refused: list[tuple[int, str, str]] = []
    for row in rows.tolist():
        try:
            event, extra = parse_line(lines[row])
        except InvalidEvent as exc:
            refused.append((row, exc.reason.value, exc.detail))
            continue
        unknown.update(extra)
        attributes = json.dumps(event.attributes, ensure_ascii=False)
        events.append({**dict(event), "attributes": attributes, "row": row})
    return (
        pl.DataFrame(events, schema=FIELDS_SCHEMA),
        pl.DataFrame(refused, schema=_REFUSED_SCHEMA, orient="row"),
    )


def _placed(frame: pl.DataFrame, batch: RawBatch, raw: pl.Series) -> pl.DataFrame:
    """The frame with the position of every row, and its bytes as they arrived, newline included."""
    rows = frame["row"].to_numpy()
    return frame.hstack(
        [
            pl.Series("offset", batch.offset[rows]),
            pl.Series("line", batch.line[rows]),
            raw.gather(rows).alias("raw"),
        ]
    )


def _without_returns(lines: Lines) -> Lines:
    """The lines without a carriage return before their newline; as many."""
    return split_lines(lines.data.replace(b"\r\n", b"\n")) if b"\r" in lines.data else lines


def _raw_lines(lines: Lines) -> pl.Series:
    """Each line's bytes with its newline, as references into the batch's own buffer.

    By way of Arrow, because Polars alone can only copy them, at fifteen times the price.
    """
    offsets = np.append(lines.starts, len(lines.data))
    binary = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(lines), [None, pa.py_buffer(offsets), pa.py_buffer(lines.data)]
    )
    return pl.Series(binary)


def _quarantine(refused: pl.DataFrame, batch: RawBatch, raw: pl.Series) -> pl.DataFrame:
    if not len(refused):
        return no_quarantine()
    placed = _placed(refused, batch, raw).with_columns(tenant_id=pl.lit(""), model=pl.lit(""))
    return _without_newline(placed).select(list(QUARANTINE_SCHEMA))


def _without_newline(frame: pl.DataFrame) -> pl.DataFrame:
    # Copied, so that one bad line does not keep its whole batch in memory.
    return frame.with_columns(raw=pl.Series([raw[:-1] for raw in frame["raw"]], dtype=pl.Binary))


def refuse(events: pl.DataFrame, reason: QuarantineReason, detail: pl.Expr) -> pl.DataFrame:
    """Events that turned out not to be priceable, as quarantine rows: `raw` loses its newline."""
    rows = events.with_columns(reason=pl.lit(reason.value), detail=detail)
    return _without_newline(rows).select(list(QUARANTINE_SCHEMA))


def _split_implausible(
    events: pl.DataFrame, batch: RawBatch, bounds: TimeBounds
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events whose time can be true, and quarantine rows for the others."""
    arrival_ms = batch.arrival_ms[events["row"].to_numpy()]
    ahead_ms = events["timestamp_ms"].to_numpy() - arrival_ms
    future = ahead_ms > bounds.future_ms_max
    old = -ahead_ms > bounds.age_ms_max if batch.age_limited else np.zeros_like(future)
    events = events[list(EVENT_SCHEMA)]
    plausible = ~(future | old)
    if plausible.all():
        return events, no_quarantine()
    minutes = np.abs(ahead_ms) // 60_000
    refused = [
        refuse(
            events.filter(future),
            QuarantineReason.TIMESTAMP_IN_FUTURE,
            pl.format("the event is {} minutes ahead of its arrival", pl.Series(minutes[future])),
        ),
        refuse(
            events.filter(old),
            QuarantineReason.TIMESTAMP_TOO_OLD,
            pl.format("the event is {} minutes older than its arrival", pl.Series(minutes[old])),
        ),
    ]
    return events.filter(plausible), pl.concat(refused)
