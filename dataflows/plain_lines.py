"""The fast road: what the compiled scanner found in lines of JSON, as columns of events."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from dataflows.batch import EVENT_SCHEMA, USD, Bools, Int64s, constant
from dataflows.lines import Lines
from dataflows.scan import BLANK, LEFT, scan_lines
from dataflows.scan_columns import Columns, columns_for
from dataflows.scan_fields import TEXT_FIELDS, WHOLE_FIELDS
from dataflows.scan_text import text_of

FIELDS_SCHEMA = pl.Schema(
    {name: kind for name, kind in EVENT_SCHEMA.items() if name not in ("offset", "line", "raw")}
    | {"row": pl.Int64()}
)
"""Decoded fields, and the line of the batch that they stood in (from 0)."""

TEXT_BYTES_MAX = 2**31 - 1
"""A view says where its text stands in 31 bits; the lines of a longer buffer are all left."""

_ASCII_MAX, _BYTE_MAX = 0x7F, 0xFF


@dataclass(frozen=True, slots=True)
class Scan:
    """Lines that are surely events, as `FIELDS_SCHEMA` has them; which are blank; which are left to judge."""

    events: pl.DataFrame
    blank: Bools
    left: Int64s
    unknown: Counter[str]


def scan(lines: Lines) -> Scan:
    """Decode those of these lines that are surely events, and count their unknown fields."""
    if len(lines.data) > TEXT_BYTES_MAX:
        blank = np.zeros(len(lines.starts), np.bool_)
        return Scan(FIELDS_SCHEMA.to_frame(), blank, np.arange(len(lines.starts)), Counter())
    out = columns_for(len(lines.starts), len(lines.data))
    events, names = scan_lines(text_of(lines.data), lines.starts, lines.ends, _byte_max(lines.data), out)
    unknown: Counter[str] = Counter()
    for (start, stop), count in zip(out.unknown[:names].tolist(), out.unknown_counts.tolist(), strict=False):
        if count:
            unknown[lines.data[start:stop].decode()] = count
    return Scan(
        _events(out, events, lines.data), out.kinds == BLANK, np.flatnonzero(out.kinds == LEFT), unknown
    )


def _byte_max(data: bytes) -> int:
    """The greatest byte that a text of these lines may have: letters beyond ASCII only in sound UTF-8."""
    if data.isascii():
        return _ASCII_MAX
    try:
        data.decode()
    except UnicodeDecodeError:
        return _ASCII_MAX
    return _BYTE_MAX


def _events(out: Columns, events: int, data: bytes) -> pl.DataFrame:
    columns: dict[str, pl.Series] = {}
    for field, name in enumerate(TEXT_FIELDS):
        buffer = out.attributes.byte if name == "attributes" else data
        columns[name] = _texts(out.views[field, :events], buffer)
    for field, name in enumerate(WHOLE_FIELDS):
        columns["timestamp_ms" if name == "timestamp" else name] = pl.Series(out.wholes[field, :events])
    columns["provider_cost"] = _costs(columns["provider_cost"], out.has_cost[:events])
    columns["row"] = pl.Series(out.rows[:events])
    return pl.DataFrame({name: columns[name] for name in FIELDS_SCHEMA})


def _texts(views: np.ndarray[tuple[int, ...], np.dtype[np.uint64]], buffer: object) -> pl.Series:
    return pl.Series(
        pa.Array.from_buffers(pa.string_view(), len(views), [None, pa.py_buffer(views), pa.py_buffer(buffer)])
    )


def _costs(texts: pl.Series, there: Bools) -> pl.Series:
    if not there.any():
        return constant(None, len(texts), USD)
    known = pl.when(pl.Series(there)).then(pl.col("cost")).cast(USD)
    return texts.to_frame("cost").select(known).to_series()
