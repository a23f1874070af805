"""A generated day of an AI product's metering events, as JSON lines in the order of their arrival.

For the demo, for benchmarks and for tests: a few hundred unequal tenants, their rhythm, retries
that repeat an event, late ones, failures, broken lines, a model that the card does not know, one clock
in 2099 and one tenant whose agent calls itself all afternoon. `dataflows.traffic_shape` says how
much of what, and where the numbers come from.

Lines are built by column, one chunk after the other; `dataflows.traffic_events` gives the columns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from dataflows.traffic_events import LATE_MS_MIN, Arrivals, Role, Usage, arrivals_of, day_start_ms, usage_of
from dataflows.traffic_shape import (
    DAY_MS,
    FEATURES,
    MODELS,
    PREVIEW,
    Draw,
    Int64s,
    Tenants,
    TrafficShape,
    below,
    tenants_of,
    words,
)

__all__ = ["TrafficShape", "TrafficSummary", "generate", "write_day"]

CHUNK_LINES = 65_536
"""Lines built at a time: some 25 MB, and as much again while they are joined."""


@dataclass(frozen=True, slots=True)
class TrafficSummary:
    """What stands in a generated day, so that what a job found can be compared with it.

    `originals` are the distinct events, those of a model without a rate included. `unpriced` are the lines
    of such a model, `unpriced_copies` the copies among them, which `duplicates` leaves out. `cache_hits` and
    `failures` count the priced originals, `late_arrivals` all that came 5 minutes or more after their time.
    `quarantine_reasons` counts every line that must be quarantined.
    """

    lines: int
    bytes: int
    originals: int
    duplicates: int
    duplicates_next_day: int
    conflicts: int
    malformed: int
    future: int
    unpriced: int
    unpriced_copies: int
    cache_hits: int
    failures: int
    late_arrivals: int
    quarantine_reasons: dict[str, int]

    @property
    def priced(self) -> int:
        """Rows that must come out of the day."""
        return self.originals - (self.unpriced - self.unpriced_copies)


def generate(shape: TrafficShape) -> Iterator[bytes]:
    """Chunks of whole lines, each line with its end; the same bytes for the same shape, always.

    Takes some 120 bytes of memory a line to put the lines in order, and 150 MB to build a chunk.
    """
    for chunk, _ in _chunks(shape):
        yield chunk


def write_day(shape: TrafficShape, path: Path) -> TrafficSummary:
    """Write the day to a file and say what is in it.

    The file appears under its name when it is complete; a crash leaves only a `.part` file beside it.
    """
    counts: Counter[str] = Counter()
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        for chunk, found in _chunks(shape):
            counts["bytes"] += file.write(chunk)
            counts.update(found)
    part.replace(path)
    reasons = {
        name.removeprefix("reason "): n for name, n in counts.items() if name.startswith("reason ") and n
    }
    return TrafficSummary(
        lines=shape.events,
        bytes=counts["bytes"],
        originals=shape.originals,
        duplicates=shape.duplicates - counts["unpriced_duplicates"],
        duplicates_next_day=counts["duplicates_next_day"],
        conflicts=counts["reason idempotency_conflict"],
        malformed=shape.malformed,
        future=shape.future_events,
        unpriced=counts["reason unpriced"],
        unpriced_copies=counts["unpriced_copies"],
        cache_hits=counts["cache_hits"],
        failures=counts["failures"],
        late_arrivals=counts["late_arrivals"],
        quarantine_reasons=dict(sorted(reasons.items())),
    )


# ---------------------------------------------------------------------------------------------
# Lines. As an SDK would, they leave out most of what says no more than the default.

_STATUSES = ("success", "error", "validation_failed")
_SOURCES = ("", ',"usage_source":"tokenizer"', ',"usage_source":"estimate"')
_REGIONS = ("eu-central-1", "us-east-1", "us-east-1", "eu-west-1")
_TIERS = ("", "", "", ',"service_tier":"priority"')
_OFFSET_HOURS = 2


def _chunks(shape: TrafficShape) -> Iterator[tuple[bytes, Counter[str]]]:
    tenants = tenants_of(shape)
    arrivals = arrivals_of(shape, tenants)
    for start in range(0, shape.events, CHUNK_LINES):
        rows = arrivals.rows(start, start + CHUNK_LINES)
        usage = usage_of(shape, tenants, rows)
        lines = _lines(shape, tenants, rows, usage)
        chunk, reasons = _with_breakages(shape, rows, lines)
        yield chunk, _found(shape, rows, usage) + reasons


def _found(shape: TrafficShape, rows: Arrivals, usage: Usage) -> Counter[str]:
    original = rows.role == Role.ORIGINAL
    duplicate, conflict = rows.role == Role.DUPLICATE, rows.role == Role.CONFLICT
    unpriced = (original | duplicate | conflict) & (usage.model == PREVIEW)
    priced = original & ~unpriced
    counted = {
        "cache_hits": priced & usage.hit,
        "failures": priced & (usage.status > 0),
        "late_arrivals": original & (rows.lag_ms >= LATE_MS_MIN),
        "duplicates_next_day": duplicate & (rows.event_ms >= day_start_ms(shape) + DAY_MS),
        "unpriced_copies": unpriced & ~original,
        "unpriced_duplicates": unpriced & duplicate,
        "reason unpriced": unpriced,
        "reason idempotency_conflict": conflict & ~unpriced,
        "reason timestamp_in_future": rows.role == Role.FUTURE,
    }
    return Counter({name: int(np.count_nonzero(those)) for name, those in counted.items()})


def _keys(shape: TrafficShape, number: Int64s) -> pl.Series:
    """Idempotency keys: 24 hexadecimal digits, of which 16 alone are different for every number."""
    first = words(shape.seed, Draw.KEY, number).astype(">u8")
    second = words(shape.seed, Draw.DETAIL, number).astype(">u8")
    digits = np.stack([first, second], axis=1).tobytes().hex().encode()
    offsets = np.arange(len(number) + 1, dtype=np.int32) * 32
    array = pa.StringArray.from_buffers(len(number), pa.py_buffer(offsets.tobytes()), pa.py_buffer(digits))
    return pl.Series(array).str.slice(0, 24)


def _labels(values: list[str], index: Int64s) -> pl.Series:
    return pl.Series(values, dtype=pl.String).gather(index)


def _lines(shape: TrafficShape, tenants: Tenants, rows: Arrivals, usage: Usage) -> pl.Series:
    """The lines as text, each with its end."""
    details = tenants.details[usage.tenant].astype(np.int64)
    asked = [
        f'"feature_id":"{feature.name}","provider":"{model.provider}","model":"{model.name}"'
        + (f',"model_version":"{model.version}"' if model.version else "")
        for feature in FEATURES
        for model in MODELS
    ]
    served = [f',"region":"{region}"{tier}' for region in _REGIONS for tier in _TIERS]
    fates = [
        cache + f',"status":"{status}"' + source
        for cache in ("", ',"cache_status":"hit"')
        for status in _STATUSES
        for source in _SOURCES
    ]
    fate = (usage.hit * len(_STATUSES) + usage.status) * len(_SOURCES) + usage.usage_source
    frame = pl.DataFrame(
        {
            "key": _keys(shape, rows.number),
            "tenant": _labels([f'","tenant_id":"{name}",' for name in tenants.names], usage.tenant),
            "asked": _labels(asked, usage.feature * len(MODELS) + usage.model),
            "served": _labels(served, details % len(served)),
            "timestamp": _timestamps(rows.event_ms, details),
            "input": usage.input_tokens,
            "output": usage.output_tokens,
            "read": usage.cache_read_tokens,
            "write": usage.cache_write_tokens,
            "write_1h": usage.cache_write_1h_tokens,
            "reasoning": usage.reasoning_tokens,
            "latency": usage.latency_ms,
            "retries": usage.retry_count,
            "fate": _labels(fates, fate),
            "cost": _provider_costs(usage, details),
            "attributes": _attributes(shape, rows.number, usage.tenant, details),
        }
    )
    line = pl.concat_str(
        pl.lit('{"idempotency_key":"req_'),
        "key",
        "tenant",
        "asked",
        "served",
        pl.lit(',"timestamp":'),
        "timestamp",
        pl.lit(',"input_tokens":'),
        "input",
        pl.lit(',"output_tokens":'),
        "output",
        _when_some("read", ',"cache_read_tokens":'),
        _when_some("write", ',"cache_write_tokens":'),
        _when_some("write_1h", ',"cache_write_1h_tokens":'),
        _when_some("reasoning", ',"reasoning_tokens":'),
        pl.lit(',"latency_ms":'),
        "latency",
        _when_some("retries", ',"retry_count":'),
        "fate",
        "cost",
        "attributes",
        pl.lit("}\n"),
    )
    return frame.select(line=line)["line"]


def _when_some(column: str, name: str) -> pl.Expr:
    return pl.when(pl.col(column) > 0).then(pl.concat_str(pl.lit(name), column)).otherwise(pl.lit(""))


def _timestamps(event_ms: Int64s, details: Int64s) -> pl.Series:
    """RFC 3339 in UTC mostly; one SDK in sixteen writes an offset, and one epoch milliseconds."""
    style = details // 16 % 16
    local = np.where(style == 0, event_ms + _OFFSET_HOURS * 3_600_000, event_ms)
    frame = pl.DataFrame({"style": style, "ms": event_ms, "local": local})
    text = pl.col("local").cast(pl.Datetime("ms")).dt.strftime('"%Y-%m-%dT%H:%M:%S%.3f')
    offset = pl.lit(f'+{_OFFSET_HOURS:02d}:00"')
    return frame.select(
        written=pl.when(pl.col("style") == 1)
        .then(pl.col("ms").cast(pl.String))
        .otherwise(pl.concat_str(text, pl.when(pl.col("style") == 0).then(offset).otherwise(pl.lit('Z"'))))
    )["written"]


def _provider_costs(usage: Usage, details: Int64s) -> pl.Series:
    """What the gateway of one tenant in sixteen says the call cost, to the tenth of a micro-USD."""
    rates = np.array([(model.input_rate, model.output_rate) for model in MODELS], np.int64)[usage.model]
    cost = usage.input_tokens * rates[:, 0] + usage.output_tokens * rates[:, 1]
    known = (details // 256 % 16 == 0) & ~usage.hit & (usage.model != PREVIEW)
    frame = pl.DataFrame({"whole": cost // 10**7, "part": cost % 10**7, "known": known})
    digits = pl.col("part").cast(pl.String).str.zfill(7)
    text = pl.concat_str(pl.lit(',"provider_cost":"'), "whole", pl.lit("."), digits, pl.lit('"'))
    return frame.select(cost=pl.when(pl.col("known")).then(text).otherwise(pl.lit("")))["cost"]


def _attributes(shape: TrafficShape, number: Int64s, tenant: Int64s, details: Int64s) -> pl.Series:
    """A session, from three tenants in four."""
    session = below(words(shape.seed, Draw.DETAIL, number) << np.uint64(32), 100_000)
    frame = pl.DataFrame({"tenant": tenant, "session": session, "known": details // 4096 % 4 > 0})
    text = pl.concat_str(
        pl.lit(',"attributes":{"environment":"production","session":"'),
        "tenant",
        pl.lit("-"),
        "session",
        pl.lit('"}'),
    )
    return frame.select(text=pl.when(pl.col("known")).then(text).otherwise(pl.lit("")))["text"]


# ---------------------------------------------------------------------------------------------
# What is no event


def _cut(line: bytes, word: int) -> bytes:
    return line[: len(line) * (30 + word % 60) // 100]


def _changed(pattern: bytes, replacement: bytes) -> Callable[[bytes, int], bytes]:
    compiled = re.compile(pattern)

    def change(line: bytes, _: int) -> bytes:
        broken, count = compiled.subn(replacement, line, count=1)
        if count != 1:
            raise AssertionError(line)
        return broken

    return change


_SUBSETS = rb'(?:,"cache_(?:read|write|write_1h)_tokens":\d+)*(?:,"reasoning_tokens":\d+)?'
_TLS_GREETING = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"

_BREAKAGES: tuple[tuple[str, Callable[[bytes, int], bytes]], ...] = (
    ("invalid_json", _cut),
    ("invalid_utf8", lambda _, word: _TLS_GREETING + word.to_bytes(8, "big").replace(b"\n", b"")),
    ("wrong_type", _changed(rb'"input_tokens":(\d+)', rb'"input_tokens":"\1"')),
    ("out_of_range", _changed(rb'"output_tokens":\d+', rb'"output_tokens":-1')),
    ("missing_field", _changed(rb'"tenant_id":"[^"]*",', b"")),
    ("invalid_json", _changed(rb'"latency_ms":\d+', rb'"latency_ms":NaN')),
    ("invalid_value", _changed(rb'"status":"[a-z_]*"', rb'"status":"ok"')),
    ("invalid_timestamp", _changed(rb'"timestamp":("[^"]*"|\d+)', rb'"timestamp":"12:04:05"')),
    (
        "inconsistent_usage",
        _changed(_SUBSETS + rb',"latency_ms"', rb',"reasoning_tokens":999999,"latency_ms"'),
    ),
    ("not_an_object", lambda line, _: b"[" + line + b"]"),
    ("duplicate_field", _changed(rb"\{", b'{"model":"gpt-4o",')),
)
"""What goes wrong on the way, and the reason under which it must wait in quarantine."""


def _with_breakages(shape: TrafficShape, rows: Arrivals, lines: pl.Series) -> tuple[bytes, Counter[str]]:
    """The bytes of a chunk, malformed lines broken."""
    array = lines.to_arrow().cast(pa.large_string())
    _, starts, data = array.buffers()
    ends = np.frombuffer(starts, np.int64)[array.offset :]
    text = memoryview(data)
    reasons: Counter[str] = Counter()
    pieces: list[bytes | memoryview] = []
    done = int(ends[0])
    malformed = np.flatnonzero(rows.role == Role.MALFORMED)
    random = words(shape.seed, Draw.BREAKAGE, rows.number[malformed])
    for row, word in zip(malformed.tolist(), random.tolist(), strict=True):
        start, end = int(ends[row]), int(ends[row + 1])
        reason, breaks = _BREAKAGES[int(rows.number[row]) % len(_BREAKAGES)]
        pieces += [text[done:start], breaks(bytes(text[start : end - 1]), word), b"\n"]
        reasons[f"reason {reason}"] += 1
        done = end
    pieces.append(text[done : int(ends[len(lines)])])
    return b"".join(pieces), reasons
