"""What the scanner fills: columns of events, and where the names of unknown fields stand."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dataflows.batch import Bools, Int64s
from dataflows.scan_fields import TEXT_FIELDS, WHOLE_FIELDS
from dataflows.scan_text import Text, UInt8s, UInt64s, empty_text

UNKNOWN_FIELDS_MAX = 32
"""As many names of unknown fields are counted in a scan, and taken in one line; other lines are left."""

SCANNED_ATTRIBUTES_MAX = 16
"""A line with more attributes is left: their keys are compared in pairs."""

MEMBERS_REMEMBERED = 64

PRESENT, ATTRIBUTES_END, LINE_UNKNOWN, NAMES, _STATES = range(5)
"""Places in `Columns.state`: the line's fields that are not null, as bits; how many bytes `attributes` holds;
how many unknown fields the line has; how many names `unknown` holds."""


class Columns(NamedTuple):
    """What a scan fills.

    `kinds` has a place for each line; `rows`, `wholes`, `views` and `has_cost` have one for each event found.
    `views` (field, event, two numbers) are 16 bytes for each text. `member_codes` has the code of each member
    of the line before, as far as there is room: most lines have the same names in the same order.
    `unknown` holds where the name of each unknown field stands, `unknown_counts` how often it was seen.
    `attributes` holds those that were written anew. `line_unknown`, `keys` and the first and third place of
    `state` are scratch for the line at hand.
    """

    kinds: UInt8s
    rows: Int64s
    wholes: Int64s
    views: UInt64s
    has_cost: Bools
    attributes: Text
    unknown: Int64s
    unknown_counts: Int64s
    line_unknown: Int64s
    keys: Int64s
    member_codes: Int64s
    state: Int64s


def columns_for(lines: int, text_bytes: int) -> Columns:
    """Room for a scan of so many lines, of so many bytes together."""
    return Columns(
        kinds=np.empty(lines, np.uint8),
        rows=np.empty(lines, np.int64),
        wholes=np.empty((len(WHOLE_FIELDS), lines), np.int64),
        views=np.empty((len(TEXT_FIELDS), lines, 2), np.uint64),
        has_cost=np.empty(lines, np.bool_),
        # Each member has six bytes at least, and gets two blanks more.
        attributes=empty_text(text_bytes + text_bytes // 3 + 64),
        unknown=np.empty((UNKNOWN_FIELDS_MAX, 2), np.int64),
        unknown_counts=np.zeros(UNKNOWN_FIELDS_MAX, np.int64),
        line_unknown=np.empty((UNKNOWN_FIELDS_MAX, 3), np.int64),
        keys=np.empty((SCANNED_ATTRIBUTES_MAX, 2), np.int64),
        member_codes=np.full(MEMBERS_REMEMBERED, -1, np.int64),
        state=np.zeros(_STATES, np.int64),
    )
