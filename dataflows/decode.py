"""Lines of JSON to columns of events.

Theory of operation. Almost every line of a healthy topic is plain: one flat object, no escapes.
Polars parses all such lines of a batch at once (`_parse_plain`), but it is lenient: it takes a
number for a string, the first of two equal keys, and says nothing of a key it does not know. So
each line is then *weighed* (`_weigh`): the parsed columns say how many keys and how many quotes
the line must have, and the bytes say how many it has. A line whose counts differ in any way, that
lacks a required field, or whose values are out of bounds is not judged here: `metering.event`
reads it, one line at a time, and names the reason if it has to be refused. The fast road can only
accept, and only what the slow road accepts with the same values.

Why the counts are enough, for a line without backslash and control bytes: quotes then strictly
alternate, so a quote followed by a colon ends a key, or begins a text whose first byte is a
colon (which only makes the line look one key too long). A second equal key, an unknown key, a
nested object or a null each add a key that no column accounts for, nothing can take one away
(a blank between key and colon could: such lines are not weighed), and a number where a text
belongs takes two quotes away.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from dataflows.batch import (
    EVENT_SCHEMA,
    INTEGER_FIELDS,
    QUARANTINE_SCHEMA,
    STRING_FIELDS,
    TOKEN_FIELDS,
    USD,
    Bools,
    Decoded,
    Int64s,
    RawBatch,
)
from dataflows.rfc3339 import parse_timestamps
from metering.event import (
    LABEL_CHARS_MAX,
    LINE_BYTES_MAX,
    TIMESTAMP_MS_END,
    TOKENS_MAX,
    InvalidEvent,
    QuarantineReason,
    parse_line,
)

PLAIN_LINES_MIN = 48
"""Below this a batch costs more as columns than line by line."""

UNKNOWN_FIELDS_MAX = 32
"""More unknown fields than this in the sampled line, and the batch is read line by line."""

_REQUIRED = ("idempotency_key", "tenant_id", "model", "timestamp", "input_tokens", "output_tokens")
_DEFAULTS = {"feature_id": "unknown", "cache_status": "miss", "status": "success", "usage_source": "provider"}
_CHOICES = {
    "cache_status": ["miss", "hit"],
    "status": ["success", "error", "validation_failed"],
    "usage_source": ["provider", "tokenizer", "estimate"],
}
_CHARS = {name: (0, LABEL_CHARS_MAX) for name in STRING_FIELDS} | {
    "idempotency_key": (1, 256),
    "tenant_id": (1, LABEL_CHARS_MAX),
    "feature_id": (1, LABEL_CHARS_MAX),
    "model": (1, LABEL_CHARS_MAX),
}
_FLAT_STRINGS = r'^\{(?:"[^"]*": "[^"]*"(?:, "[^"]*": "[^"]*")*)?\}$'
_LONG_KEY = r'"[^"]{129}[^"]*": '
_ATTRIBUTES_CHARS_MAX = 1024  # shorter than the longest value allowed, so that no value can exceed it
_PLAIN_DECIMAL = r"^\d{1,20}(?:\.\d{1,12})?$"
_ENVELOPE_STRINGS = ("specversion", "source", "type", "datacontenttype", "dataschema")
_LF, _CR, _QUOTE, _COLON, _SPACE, _BACKSLASH = 10, 13, 34, 58, 32, 92


@dataclass(frozen=True, slots=True)
class TimeBounds:
    """How far an event's time may lie from the time of its arrival, in milliseconds."""

    future_ms_max: int
    age_ms_max: int


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of a buffer: line i is `data[starts[i]:ends[i]]`, its newline excluded."""

    data: bytes
    starts: Int64s
    ends: Int64s


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the sampled line looks like: an envelope or not, a number for a time, which unknown fields."""

    envelope: bool
    timestamp: pl.DataType
    unknown: tuple[tuple[str, pl.DataType], ...]


def decode(batch: RawBatch, bounds: TimeBounds) -> Decoded:
    """Turn one poll into columns; every line that is not blank becomes an event or a quarantined row."""
    if not batch.data:
        return _decoded(batch, EVENT_SCHEMA.to_frame(), QUARANTINE_SCHEMA.to_frame(), 0, Counter())
    data = batch.data.replace(b"\r\n", b"\n") if b"\r" in batch.data else batch.data
    lines = _split(data)
    plain, blank = _classify(lines)
    unknown: Counter[str] = Counter()
    frames: list[pl.DataFrame] = []
    slow = ~(plain | blank)
    rows = np.flatnonzero(plain)
    if len(rows) >= PLAIN_LINES_MIN:
        accepted, refused = _decode_plain(lines, rows, unknown)
        frames.append(accepted)
        slow[refused] = True
    else:
        slow |= plain
    quarantined: list[dict[str, Any]] = []
    slow_events = _decode_slowly(lines, np.flatnonzero(slow), quarantined, unknown)
    frames.append(slow_events)
    events = _in_arrival_order(frames, batch)
    refused_rows = pl.DataFrame(
        quarantined, schema={"row": pl.Int64(), **{k: QUARANTINE_SCHEMA[k] for k in ("reason", "detail", "raw")}}
    )
    events, implausible = _split_implausible(events, batch, bounds)
    quarantine = pl.concat([_quarantine_frame(refused_rows, batch), implausible])
    return _decoded(batch, events, quarantine, int((~blank).sum()), unknown)


def _decoded(
    batch: RawBatch, events: pl.DataFrame, quarantined: pl.DataFrame, read: int, unknown: Counter[str]
) -> Decoded:
    return Decoded(
        batch.partition, events, quarantined, read, batch.next_offset, batch.live, dict(unknown)
    )


def _split(data: bytes) -> _Lines:
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _LF)
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    return _Lines(data, starts, ends)


def _classify(lines: _Lines) -> tuple[Bools, Bools]:
    """Which lines are plain (`{…}` without escapes and control bytes), and which are blank."""
    text = np.frombuffer(lines.data, np.uint8)
    length = lines.ends - lines.starts
    plain = (length >= 2) & (length <= LINE_BYTES_MAX)
    plain &= text[np.minimum(lines.starts, len(text) - 1)] == ord("{")
    plain &= text[np.maximum(lines.ends - 1, 0)] == ord("}")
    odd = np.flatnonzero((text < _SPACE) & (text != _LF))
    if b"\\" in lines.data:
        odd = np.concatenate([odd, np.flatnonzero(text == _BACKSLASH)])
    if len(odd):
        plain[np.searchsorted(lines.ends, odd)] = False
    blank = length == 0
    for row in np.flatnonzero(~plain & ~blank):
        blank[row] = not lines.data[lines.starts[row] : min(lines.ends[row], lines.starts[row] + 4096)].strip(
            b" \t\r"
        ) and not lines.data[lines.starts[row] : lines.ends[row]].strip(b" \t\r")
    return plain, blank


def _decode_plain(lines: _Lines, rows: Int64s, unknown: Counter[str]) -> tuple[pl.DataFrame, Int64s]:
    """The events among these plain lines (with a column `row`), and the rows left to the slow road."""
    layout = _sample(lines.data[lines.starts[rows[0]] : lines.ends[rows[0]]])
    if layout is None:
        return _no_events(), rows
    frames, left = [], []
    stack = [rows]
    while stack:
        chosen = stack.pop()
        if len(chosen) < PLAIN_LINES_MIN:
            left.append(chosen)
            continue
        subset = _subset(lines, chosen)
        parsed = _parse_plain(subset.data, layout)
        if parsed is None or len(parsed) != len(chosen):
            middle = len(chosen) // 2
            stack += [chosen[middle:], chosen[:middle]]
            continue
        frame, good = _weigh(parsed, subset, layout)
        frames.append(frame.with_columns(row=pl.Series(chosen)).filter(good))
        left.append(chosen[~good])
        for name, _ in layout.unknown:
            unknown[name] += int((parsed[name].is_not_null().to_numpy() & good).sum())
    refused = np.concatenate(left) if left else np.empty(0, np.int64)
    return (pl.concat(frames) if frames else _no_events()), refused


def _no_events() -> pl.DataFrame:
    return pl.DataFrame(schema=_FRAME_SCHEMA | {"row": pl.Int64()})


_FRAME_SCHEMA = {name: kind for name, kind in EVENT_SCHEMA.items() if name not in ("offset", "line", "raw")}


def _subset(lines: _Lines, rows: Int64s) -> _Lines:
    if len(rows) == len(lines.starts):
        return lines
    breaks = np.flatnonzero(np.diff(rows) != 1)
    firsts = np.concatenate([rows[:1], rows[breaks + 1]])
    lasts = np.concatenate([rows[breaks], rows[-1:]])
    runs = zip(lines.starts[firsts].tolist(), (lines.ends[lasts] + 1).tolist(), strict=True)
    return _split(b"".join([lines.data[start:stop] for start, stop in runs]))


def _sample(line: bytes) -> _Layout | None:
    """The layout of one line, or None where the columnar road has none for it."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return _Layout(False, pl.String(), ())
    if not isinstance(document, dict):
        return _Layout(False, pl.String(), ())
    envelope = "specversion" in document
    inner = document.get("data") if envelope else document
    if not isinstance(inner, dict):
        return None
    known = {*STRING_FIELDS, *INTEGER_FIELDS, "timestamp", "provider_cost", "attributes"}
    if envelope:
        known -= {"idempotency_key", "tenant_id", "timestamp"}
    time = document.get("time") if envelope else document.get("timestamp")
    kinds: dict[type, pl.DataType] = {str: pl.String(), int: pl.Int64(), float: pl.Float64()}
    extra = [(name, kinds[type(value)]) for name, value in inner.items() if name not in known and type(value) in kinds]
    if len(extra) > UNKNOWN_FIELDS_MAX or (envelope and extra) or any(name == "row" for name, _ in extra):
        return None if not envelope else _Layout(True, _time_type(time), ())
    return _Layout(envelope, _time_type(time), tuple(extra))


def _time_type(value: object) -> pl.DataType:
    return pl.Int64() if type(value) is int else pl.String()


def _parse_plain(data: bytes, layout: _Layout) -> pl.DataFrame | None:
    """One row a line, null where a column found nothing of its type; None where the text is not JSON."""
    fields: dict[str, pl.DataType] = dict.fromkeys(STRING_FIELDS, pl.String())
    fields |= dict.fromkeys(INTEGER_FIELDS, pl.Int64())
    fields |= {"provider_cost": pl.String(), "attributes": pl.String()}
    schema: dict[str, pl.DataType] = fields | {"timestamp": layout.timestamp} | dict(layout.unknown)
    if layout.envelope:
        inner = {name: kind for name, kind in fields.items() if name not in ("idempotency_key", "tenant_id")}
        schema = dict.fromkeys((*_ENVELOPE_STRINGS, "id", "subject"), pl.String())
        schema |= {"time": layout.timestamp, "data": pl.Struct(inner)}
    try:
        parsed = pl.read_ndjson(io.BytesIO(data), schema=schema, ignore_errors=True)
    except pl.exceptions.PolarsError:
        return None
    if layout.envelope:
        parsed = parsed.with_columns(_has_data=pl.col("data").is_not_null()).unnest("data")
        parsed = parsed.rename({"id": "idempotency_key", "subject": "tenant_id", "time": "timestamp"})
    return parsed


def _weigh(parsed: pl.DataFrame, lines: _Lines, layout: _Layout) -> tuple[pl.DataFrame, Bools]:
    """The event columns of every line, and which lines are surely what the contract means by them."""
    size = len(parsed)
    good = np.ones(size, np.bool_)
    keys = np.zeros(size, np.int64)
    texts = np.zeros(size, np.int64)
    strings = [*STRING_FIELDS, "provider_cost", *(n for n, kind in layout.unknown if kind == pl.String())]
    numbers = [*INTEGER_FIELDS, *(n for n, kind in layout.unknown if kind != pl.String())]
    (strings if layout.timestamp == pl.String() else numbers).append("timestamp")
    if layout.envelope:
        strings += _ENVELOPE_STRINGS
        keys += parsed["_has_data"].to_numpy()
        good &= _true(parsed["specversion"] == "1.0")
    for name in (*strings, *numbers):
        column = parsed[name]
        present = 1 if column.null_count() == 0 else column.is_not_null().to_numpy()
        keys += present
        if name in strings:
            texts += present
    for name in strings:
        if parsed[name].null_count() < size:
            # A nested value arrives as its JSON text.
            good &= ~_true(parsed[name].str.starts_with("[") | parsed[name].str.starts_with("{"))
    attributes = parsed["attributes"]
    if attributes.null_count() < size:
        pairs = attributes.str.count_matches('": ', literal=True).fill_null(0).to_numpy().astype(np.int64)
        keys += attributes.is_not_null().to_numpy() + pairs
        texts += pairs
        good &= _attributes_are_plain(attributes)
    found_keys, found_quotes, spaced = _count_marks(lines)
    good &= (found_keys == keys) & (found_quotes == 2 * (keys + texts)) & ~spaced
    events, valid = _to_events(parsed, layout)
    return events, good & valid


def _true(mask: pl.Series) -> Bools:
    return mask.fill_null(value=False).to_numpy()


def _attributes_are_plain(column: pl.Series) -> Bools:
    fine = column.is_null() | (
        column.str.contains(_FLAT_STRINGS)
        & (column.str.len_chars() <= _ATTRIBUTES_CHARS_MAX)
        & (column.str.count_matches('": ', literal=True) <= 64)
        & ~column.str.contains('"": ', literal=True)
        & ~column.str.contains(_LONG_KEY)
    )
    return _true(fine)


def _count_marks(lines: _Lines) -> tuple[Int64s, Int64s, Bools]:
    """For each line: quotes followed by a colon, quotes, and whether a blank follows a quote."""
    text = np.frombuffer(lines.data, np.uint8)
    quotes = np.flatnonzero(text == _QUOTE)
    after = text[np.minimum(quotes + 1, len(text) - 1)]
    found_quotes = np.diff(np.searchsorted(quotes, lines.ends), prepend=0)
    found_keys = np.diff(np.searchsorted(quotes[after == _COLON], lines.ends), prepend=0)
    spaced = np.zeros(len(lines.ends), np.bool_)
    blanks = quotes[after == _SPACE]
    if len(blanks):
        spaced[np.searchsorted(lines.ends, blanks)] = True
    return found_keys, found_quotes, spaced


def _to_events(parsed: pl.DataFrame, layout: _Layout) -> tuple[pl.DataFrame, Bools]:
    """Defaults filled in, types final; and which rows keep every bound of the contract."""
    valid = np.ones(len(parsed), np.bool_)
    for name in _REQUIRED:
        if parsed[name].null_count():
            valid &= parsed[name].is_not_null().to_numpy()
    if layout.timestamp == pl.String():
        millis, readable = parse_timestamps(parsed["timestamp"])
        valid &= readable
    else:
        millis = parsed["timestamp"].fill_null(-1).to_numpy()
        valid &= (millis >= 0) & (millis < TIMESTAMP_MS_END)
    cost = parsed["provider_cost"]
    if cost.null_count() < len(parsed):
        valid &= _true(cost.is_null() | cost.str.contains(_PLAIN_DECIMAL))
    events = parsed.select(
        *(pl.col(name).fill_null(_DEFAULTS.get(name, "")) for name in STRING_FIELDS),
        *(pl.col(name).fill_null(0) for name in INTEGER_FIELDS),
        timestamp_ms=pl.Series(millis),
        provider_cost=pl.col("provider_cost").cast(USD, strict=False),
        attributes=pl.col("attributes").fill_null("{}"),
    ).select(list(_FRAME_SCHEMA))
    for name, (shortest, longest) in _CHARS.items():
        column = events[name]
        if name in _CHOICES:
            valid &= _true(column.is_in(_CHOICES[name]))
        elif column.str.len_bytes().max() > longest:  # type: ignore[operator]  # lengths are integers
            valid &= _true(column.str.len_chars() <= longest)
        if shortest:
            valid &= _true(column.str.len_bytes() >= shortest)
    numbers = {name: events[name].to_numpy() for name in INTEGER_FIELDS}
    for values in numbers.values():
        valid &= (values >= 0) & (values <= TOKENS_MAX)
    tokens = {name: np.where(valid, numbers[name], 0) for name in TOKEN_FIELDS}
    valid &= tokens["cache_read_tokens"] + tokens["cache_write_tokens"] <= tokens["input_tokens"]
    valid &= tokens["cache_write_1h_tokens"] <= tokens["cache_write_tokens"]
    valid &= tokens["reasoning_tokens"] <= tokens["output_tokens"]
    return events, valid


def _decode_slowly(
    lines: _Lines, rows: Int64s, quarantined: list[dict[str, Any]], unknown: Counter[str]
) -> pl.DataFrame:
    events = []
    for row in rows.tolist():
        raw = lines.data[lines.starts[row] : lines.ends[row]]
        try:
            event, extra = parse_line(raw)
        except InvalidEvent as exc:
            quarantined.append({"row": row, "reason": exc.reason.value, "detail": exc.detail, "raw": raw})
            continue
        unknown.update(extra)
        record = event.model_dump()
        record["attributes"] = json.dumps(event.attributes, ensure_ascii=False)
        record["row"] = row
        events.append(record)
    return pl.DataFrame(events, schema=_FRAME_SCHEMA | {"row": pl.Int64()})


def _in_arrival_order(frames: list[pl.DataFrame], batch: RawBatch) -> pl.DataFrame:
    """All events of the batch by their row, with their positions and their bytes."""
    filled = [frame for frame in frames if len(frame)]
    events = filled[0] if len(filled) == 1 else pl.concat(filled or frames)
    rows = events["row"].to_numpy()
    if len(rows) > 1 and (np.diff(rows) < 0).any():
        events = events.sort("row")
        rows = events["row"].to_numpy()
    return events.with_columns(
        offset=pl.Series(batch.offset[rows]),
        line=pl.Series(batch.line[rows]),
        raw=_raw_lines(batch.data).gather(rows),
    )


def _raw_lines(data: bytes) -> pl.Series:
    """Each line's bytes with its newline, as references into the batch's own buffer."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _LF) + 1
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    lines = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    return pl.Series(lines)


def _quarantine_frame(rows: pl.DataFrame, batch: RawBatch) -> pl.DataFrame:
    index = rows["row"].to_numpy()
    return rows.with_columns(
        tenant_id=pl.lit(""),
        model=pl.lit(""),
        offset=pl.Series(batch.offset[index]),
        line=pl.Series(batch.line[index]),
    ).select(list(QUARANTINE_SCHEMA))


def refuse(events: pl.DataFrame, reason: QuarantineReason, detail: pl.Expr) -> pl.DataFrame:
    """Events that turned out not to be priceable, as quarantine rows."""
    return events.select(
        reason=pl.lit(reason.value),
        detail=detail,
        tenant_id="tenant_id",
        model="model",
        offset="offset",
        line="line",
        raw=pl.col("raw"),
    )


def _split_implausible(
    events: pl.DataFrame, batch: RawBatch, bounds: TimeBounds
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events whose time can be true, and quarantine rows for the others."""
    arrival = pl.Series("arrival_ms", batch.arrival_ms[events["row"].to_numpy()])
    ahead = events["timestamp_ms"] - arrival
    future = ahead > bounds.future_ms_max
    old = (ahead < -bounds.age_ms_max) if batch.age_limited else (ahead < ahead - 1)
    plausible = events.drop("row")
    if not (future.any() or old.any()):
        return plausible.select(list(EVENT_SCHEMA)), QUARANTINE_SCHEMA.to_frame()
    minutes = ((pl.lit(ahead).abs()) // 60_000).cast(pl.String)
    told = plausible.with_columns(_detail=minutes)
    refused = pl.concat(
        [
            refuse(
                told.filter(future),
                QuarantineReason.TIMESTAMP_IN_FUTURE,
                pl.concat_str(pl.lit("the event is "), "_detail", pl.lit(" minutes ahead of its arrival")),
            ),
            refuse(
                told.filter(old),
                QuarantineReason.TIMESTAMP_TOO_OLD,
                pl.concat_str(pl.lit("the event is "), "_detail", pl.lit(" minutes older than its arrival")),
            ),
        ]
    )
    return plausible.filter(~(future | old)).select(list(EVENT_SCHEMA)), refused
