"""The fast road: plain lines of JSON, a whole batch at a time, to columns of events.

Theory of operation. Almost every line of a healthy topic is plain: one flat object, no escapes.
Polars parses all such lines of a batch at once (`_parse`), but it is lenient: it takes a number
for a string, the first of two equal keys, and says nothing of a key it does not know. So each line
is then *weighed* (`_weigh`): the parsed columns say how many keys and how many quotes the line must
have, and the bytes say how many it has. A line whose counts differ in any way, that lacks a
required field, or whose values are out of bounds is not judged here: `metering.event` reads it, one
line at a time, and names the reason if it has to be refused. The fast road can only accept, and
only what the slow road accepts with the same values.

Why the counts are enough, for a line without backslash and control bytes: quotes then strictly
alternate, so a quote followed by a colon ends a key, or begins a text whose first byte is a colon
(which only makes the line look one key too long). A second equal key, an unknown key, a nested
object or a null each add a key that no column accounts for, and nothing can take one away (a blank
between key and colon could: such lines are not weighed). The null of a field is known by its name,
and counts where it stands once and its column is empty. A number or an empty object where a text
belongs takes two quotes away, and nothing can add two: a text where a number or an object belongs
is null to Polars, and its key unaccounted for; arrays of texts and `"attributes":"{}"` are looked
for.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl
from pydantic_core import from_json

from dataflows.batch import EVENT_SCHEMA, INTEGER_FIELDS, STRING_FIELDS, TOKEN_FIELDS, USD, Bools, Int64s
from dataflows.lines import Lines, count_marks, split_lines
from dataflows.rfc3339 import parse_timestamps
from metering.event import ATTRIBUTES_MAX, LABEL_CHARS_MAX, TIMESTAMP_MS_END, TOKENS_MAX

PLAIN_LINES_MIN = 48
"""Below this a batch costs more as columns than line by line."""

UNKNOWN_FIELDS_MAX = 32
"""No more unknown fields than this are learnt from the sampled line; lines that have others are left."""

FIELDS_SCHEMA = pl.Schema(
    {name: kind for name, kind in EVENT_SCHEMA.items() if name not in ("offset", "line", "raw")}
    | {"row": pl.Int64()}
)
"""Decoded fields, and the line of the batch that they stood in (from 0)."""

_NAMES = tuple(FIELDS_SCHEMA)
_REQUIRED = ("idempotency_key", "tenant_id", "model", "timestamp", "input_tokens", "output_tokens")
_DEFAULTS = {"feature_id": "unknown", "cache_status": "miss", "status": "success", "usage_source": "provider"}
_CHOICES = {
    "cache_status": ["miss", "hit"],
    "status": ["success", "error", "validation_failed"],
    "usage_source": ["provider", "tokenizer", "estimate"],
}
_CHARS = {
    "idempotency_key": (1, 256),
    "tenant_id": (1, LABEL_CHARS_MAX),
    "feature_id": (1, LABEL_CHARS_MAX),
    "model": (1, LABEL_CHARS_MAX),
}
_FLAT_STRINGS = r'^\{(?:"[^"]*": "[^"]*"(?:, "[^"]*": "[^"]*")*)?\}$'
_KEY = r'"[^"]*": '
_LONG_KEY = r'"[^"]{129}[^"]*": '
_SHAPES_MAX = 4
_ATTRIBUTES_CHARS_MAX = 1024  # as long as one value may be, so that none of them can be longer
_PLAIN_DECIMAL = r"^[0-9]{1,20}(?:\.[0-9]{1,12})?$"
_PLAIN_KINDS: dict[type, pl.DataType] = {
    str: pl.String(),
    int: pl.Int64(),
    float: pl.Float64(),
    bool: pl.Boolean(),
}
_EVENT_KINDS: dict[str, pl.DataType] = {
    **dict.fromkeys(STRING_FIELDS, pl.String()),
    **dict.fromkeys(INTEGER_FIELDS, pl.Int64()),
    **dict.fromkeys(("timestamp", "provider_cost", "attributes"), pl.String()),
}
_FIELD_NAMES = {name.encode(): name for name in _EVENT_KINDS}
_CARRIED = {"id": "idempotency_key", "subject": "tenant_id", "time": "timestamp"}
_ENVELOPE_STRINGS = ("specversion", "source", "type", "datacontenttype", "dataschema")
_ENVELOPE_KINDS: dict[str, pl.DataType] = dict.fromkeys((*_ENVELOPE_STRINGS, *_CARRIED), pl.String())
_DATA_KINDS = {name: kind for name, kind in _EVENT_KINDS.items() if name not in _CARRIED.values()}
_HAS_DATA = "_has_data"


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the sampled line looks like: the columns to parse, and which of them are unknown fields.

    `data` holds the columns inside an envelope's `data`, and is empty where there is no envelope.
    """

    outer: dict[str, pl.DataType]
    data: dict[str, pl.DataType]
    unknown: dict[str, pl.DataType]

    @property
    def timestamp(self) -> pl.DataType:
        return self.outer["time" if self.data else "timestamp"]


def decode_plain(lines: Lines, rows: Int64s) -> tuple[list[pl.DataFrame], Int64s, Counter[str]]:
    """Decode those of these rows that are surely events. The rows are plain lines, in order.

    Returns:
        Frames that follow `FIELDS_SCHEMA`, the rows that are left to `metering.event`, and how
        often each unknown field was seen in the frames' lines.
    """
    layout = _sample(lines[int(rows[0])])
    unknown: Counter[str] = Counter()
    frames: list[pl.DataFrame] = []
    left: list[Int64s] = []
    pending, checked = [rows], False
    while pending:
        chosen = pending.pop()
        if len(chosen) < PLAIN_LINES_MIN:
            left.append(chosen)
            continue
        subset = _subset(lines, chosen)
        parsed = _parse(subset.data, layout)
        if parsed is not None and len(parsed) == len(chosen):
            events, good = _weigh(parsed, subset, layout)
            frames.append(events.with_columns(row=pl.Series(chosen)).filter(good).select(_NAMES))
            left.append(chosen[~good])
            for name in layout.unknown:
                unknown[name] += int((parsed[name].is_not_null().to_numpy() & good).sum())
        elif not checked:  # one line that is not JSON fails them all
            checked = True
            sound = np.fromiter((_is_json(lines[row]) for row in chosen.tolist()), np.bool_, len(chosen))
            left.append(chosen[~sound])
            pending.append(chosen[sound])
        else:
            middle = len(chosen) // 2
            pending += [chosen[middle:], chosen[:middle]]
    return frames, np.concatenate(left), +unknown


def _is_json(line: bytes) -> bool:
    try:
        from_json(line, allow_inf_nan=False, cache_strings="none")
    except ValueError:
        return False
    return True


def _subset(lines: Lines, rows: Int64s) -> Lines:
    if len(rows) == len(lines.starts):
        return lines
    breaks = np.flatnonzero(np.diff(rows) != 1)
    firsts = np.concatenate([rows[:1], rows[breaks + 1]])
    lasts = np.concatenate([rows[breaks], rows[-1:]])
    runs = zip(lines.starts[firsts].tolist(), (lines.ends[lasts] + 1).tolist(), strict=True)
    return split_lines(b"".join([lines.data[start:stop] for start, stop in runs]))


def _sample(line: bytes) -> _Layout:
    """The layout of one line; that of an event without unknown fields where it is not one."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        document = {}
    if not isinstance(document, dict):
        document = {}
    data = document.get("data") if "specversion" in document else None
    if not isinstance(data, dict):
        time = _plain_kind(document, "timestamp")
        unknown = _unknown(document, {**_EVENT_KINDS, "specversion": pl.Null()})  # which no event has
        return _Layout(_EVENT_KINDS | {"timestamp": time} | unknown, {}, unknown)
    # One name in the envelope and in its data would be one column for two fields.
    taken = {**_EVENT_KINDS, **_ENVELOPE_KINDS, "data": pl.Null(), _HAS_DATA: pl.Null()}
    outside = _unknown(document, taken)
    inside = _unknown(data, taken | outside)
    outer = _ENVELOPE_KINDS | {"time": _plain_kind(document, "time")} | outside
    return _Layout(outer, _DATA_KINDS | inside, outside | inside)


def _unknown(document: dict[str, object], known: dict[str, pl.DataType]) -> dict[str, pl.DataType]:
    names = [name for name, value in document.items() if name not in known and type(value) in _PLAIN_KINDS]
    return {name: _PLAIN_KINDS[type(document[name])] for name in names[:UNKNOWN_FIELDS_MAX]}


def _plain_kind(document: dict[str, object], name: str) -> pl.DataType:
    return pl.Int64() if type(document.get(name)) is int else pl.String()


def _parse(data: bytes, layout: _Layout) -> pl.DataFrame | None:
    """One row a line, null where a column found nothing of its type; None where a line is not JSON."""
    schema = layout.outer | ({"data": pl.Struct(layout.data)} if layout.data else {})
    try:
        parsed = pl.read_ndjson(io.BytesIO(data), schema=schema, ignore_errors=True)
    except pl.exceptions.PolarsError:
        return None
    if not layout.data:
        return parsed
    has_data = pl.when(pl.col("data").is_not_null()).then(statement=True)
    return parsed.with_columns(has_data.alias(_HAS_DATA)).unnest("data").rename(_CARRIED)


def _weigh(parsed: pl.DataFrame, lines: Lines, layout: _Layout) -> tuple[pl.DataFrame, Bools]:
    """The event columns of every line, and which lines are surely what the contract means by them."""
    seen = {column.name: column.null_count() for column in parsed if column.null_count() < len(parsed)}
    keys, texts = _expected_marks(parsed, seen)
    fit = np.ones(len(parsed), np.bool_)
    checks = [pl.col(name).is_not_null() for name in _REQUIRED]
    if layout.data:
        checks.append(pl.col("specversion") == "1.0")
    checks += _string_checks(parsed, lines, seen)
    if "attributes" in seen:
        pairs = parsed["attributes"].str.count_matches('": ', literal=True).fill_null(0).to_numpy()
        keys += pairs
        texts += pairs
        fit &= _attributes_fit(parsed["attributes"], lines)
    events = parsed.select(
        *(pl.col(name).fill_null(_DEFAULTS.get(name, "")) for name in STRING_FIELDS),
        *(pl.col(name).fill_null(0) for name in INTEGER_FIELDS),
        provider_cost=pl.col("provider_cost").cast(USD, strict=False),
        attributes=pl.col("attributes").fill_null("{}"),
        good=pl.all_horizontal(checks).fill_null(value=False),
    )
    marks = count_marks(lines)
    if not layout.data:  # where the same names mean different things outside and inside
        for name in marks.nulls.keys() & _FIELD_NAMES.keys():
            once = np.bincount(marks.nulls[name], minlength=len(parsed)) == 1
            keys += once & parsed[_FIELD_NAMES[name]].is_null().to_numpy()
    good = fit & events["good"].to_numpy() & ~marks.spaced
    good &= (marks.keys == keys) & (marks.quotes == 2 * (keys + texts))
    if layout.timestamp == pl.String():
        millis, readable = parse_timestamps(parsed["timestamp"])
        good &= readable
    else:
        millis = parsed["timestamp"].fill_null(-1).to_numpy()
        good &= (millis >= 0) & (millis < TIMESTAMP_MS_END)
    events = events.with_columns(timestamp_ms=pl.Series(millis))
    return events, good & _lengths_fit(events) & _integers_fit(events)


def _expected_marks(parsed: pl.DataFrame, seen: dict[str, int]) -> tuple[Int64s, Int64s]:
    """For each line, how many keys and how many texts its columns stand for (`attributes` as one key)."""
    strings = {name for name in seen if parsed.schema[name] == pl.String and name != "attributes"}
    marks = []
    for names in (set(seen), strings):
        partly = [pl.col(name).is_not_null() for name in names if seen[name]]
        mark = np.full(len(parsed), len(names) - len(partly), np.int64)
        if partly:
            mark += parsed.select(pl.sum_horizontal(partly)).to_series().to_numpy()
        marks.append(mark)
    return marks[0], marks[1]


def _string_checks(parsed: pl.DataFrame, lines: Lines, seen: dict[str, int]) -> list[pl.Expr]:
    checks = [
        pl.any_horizontal(pl.col(name).is_null(), *(pl.col(name) == choice for choice in choices))
        for name, choices in _CHOICES.items()
        if name in seen
    ]
    if "provider_cost" in seen:
        cost = pl.col("provider_cost")
        checks.append(cost.is_null() | cost.str.contains(_PLAIN_DECIMAL))
    if b"[" in lines.data:
        # An array arrives as its JSON text; of one text, it has the quotes that a text has.
        checks += [
            ~pl.col(name).str.starts_with("[").fill_null(value=False)
            for name in seen
            if parsed.schema[name] == pl.String and name != "attributes"
        ]
    return checks


def _attributes_fit(column: pl.Series, lines: Lines) -> Bools:
    """Where `attributes` is absent, or surely a flat object of bounded texts without a second key."""
    fit = column.is_null().to_numpy(writable=True)
    rest = np.flatnonzero(~fit)
    for _ in range(_SHAPES_MAX):  # the attributes of one producer mostly have the same keys
        if not len(rest) or not _texts_fit(column.slice(int(rest[0]), 1))[0]:
            break
        shape = ", ".join(f'"{pl.escape_regex(key)}": "[^"]*"' for key in json.loads(column[int(rest[0])]))
        chosen = column if len(rest) == len(column) else column.gather(rest)
        short = chosen.str.len_bytes() <= _ATTRIBUTES_CHARS_MAX
        alike = (short & chosen.str.contains(rf"^\{{{shape}\}}$")).to_numpy()
        fit[rest[alike]] = True
        rest = rest[~alike]
    if len(rest):
        fit[rest] = _texts_fit(column.gather(rest))
    if b'"{}"' in lines.data:  # an empty object, or a text that looks like one?
        fit &= ~(column == "{}").fill_null(value=False).to_numpy()
    return fit


def _texts_fit(column: pl.Series) -> Bools:
    fine = (
        column.str.contains(_FLAT_STRINGS)
        & (column.str.len_chars() <= _ATTRIBUTES_CHARS_MAX)
        & ~column.str.contains('"": ', literal=True)
        & ~column.str.contains(_LONG_KEY)
    )
    keys = column.str.extract_all(_KEY)
    fine &= (keys.list.len() <= ATTRIBUTES_MAX) & (keys.list.n_unique() == keys.list.len())
    return fine.to_numpy()


def _lengths_fit(events: pl.DataFrame) -> Bools:
    bounds = events.select(
        *(pl.col(name).str.len_bytes().min().alias(f"{name} min") for name in STRING_FIELDS),
        *(pl.col(name).str.len_bytes().max().alias(f"{name} max") for name in STRING_FIELDS),
    ).row(0, named=True)
    fit = np.ones(len(events), np.bool_)
    for name in STRING_FIELDS:
        shortest, longest = _CHARS.get(name, (0, LABEL_CHARS_MAX))
        if bounds[f"{name} min"] < shortest or bounds[f"{name} max"] > longest:
            fit &= events[name].str.len_chars().is_between(shortest, longest).to_numpy()
    return fit


def _integers_fit(events: pl.DataFrame) -> Bools:
    numbers = {name: events[name].to_numpy() for name in INTEGER_FIELDS}
    fit = np.ones(len(events), np.bool_)
    for values in numbers.values():
        fit &= (values >= 0) & (values <= TOKENS_MAX)
    tokens = {name: np.where(fit, numbers[name], 0) for name in TOKEN_FIELDS}  # so that no sum overflows
    fit &= tokens["cache_read_tokens"] + tokens["cache_write_tokens"] <= tokens["input_tokens"]
    fit &= tokens["cache_write_1h_tokens"] <= tokens["cache_write_tokens"]
    return fit & (tokens["reasoning_tokens"] <= tokens["output_tokens"])
