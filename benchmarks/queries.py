"""How long the views take to answer, and what a row costs to store and to insert.

`margin_daily` is exact whatever state its tables are in, but not equally fast, so each query is timed in
three states of the same rows, of which one per cent was inserted twice:

    unmerged    as they were inserted, nothing merged further, nothing rolled up
    merged      one part a day, nothing rolled up
    settled     closed days rolled up; the newest day has new parts, as while the job runs

In each state the sums of the view are compared with those of the numbers that the rows were made from.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
from clickhouse_connect.driver.client import Client

from benchmarks.generated_events import rows_sql, sums_sql
from benchmarks.report import Section, Size, Target, spread
from sinks.clickhouse import connect, parse_address
from sinks.migrate import migrate, migrations
from sinks.publish import INSERT_SETTINGS

THREADS = 2
CHUNK_ROWS = 1_000_000
"""Rows of one generating insert: a gigabyte of memory."""
BLOCK_ROWS = 100_000
SECONDS_MAX = 2.0
FIRST_QUERY = "by day and model"

_STORED = "active AND database = currentDatabase() AND table = 'priced_events'"
_PICO = Decimal(10) ** 12
_REPETITIONS = 5
_REFRESHES_MAX = 40
"""Sixteen days at a time (0006): 90 days take six, the rest is room for merges that are still at work."""

QUERIES = {
    FIRST_QUERY: (
        "SELECT day, model, sum(requests) AS requests, sum(cost) AS cost, sum(price) AS price,"
        " sum(margin) AS margin FROM margin_daily GROUP BY day, model ORDER BY margin"
    ),
    "every row and column": "SELECT * FROM margin_daily",
    "one tenant's month": (
        "SELECT day, feature_id, sum(requests), sum(price), sum(margin) FROM margin_daily"
        " WHERE tenant_id = 'tenant-0003' AND day >= '2026-02-01' AND day < '2026-03-01'"
        " GROUP BY day, feature_id ORDER BY day, feature_id"
    ),
    "ten tenants that lose most": (
        "SELECT tenant_id, sum(margin) AS lost FROM margin_daily GROUP BY tenant_id ORDER BY lost LIMIT 10"
    ),
}
"""The first one is README.md's."""


@dataclass(slots=True)
class Measured:
    """What was seen at one number of rows."""

    rows: int
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """By (state, query)."""
    parts: dict[str, int] = field(default_factory=dict)
    groups: int = 0
    bytes_per_row: float = 0.0
    columns: dict[str, float] = field(default_factory=dict)
    rollup_seconds: float = 0.0


def run(size: Size) -> Section:
    """Time every query in every state; then inserts into this schema beside those into the first one.

    Raises:
        ValueError: a sum is not what it has to be.
    """
    counts = (200_000,) if size is Size.SMOKE else (10_000_000, 100_000_000)
    measured = [_measure(rows) for rows in counts]
    inserted = _inserts(3 if size is Size.SMOKE else 40)
    return _section(measured, inserted)


@contextlib.contextmanager
def database() -> Iterator[Client]:
    """An embedded one of its own, whose rollup waits to be asked."""
    with tempfile.TemporaryDirectory(prefix="meterline-queries-") as directory:
        client = connect(parse_address(f"chdb://{Path(directory).resolve()}/ch"))
        try:
            migrate(client)
            client.command(f"SET max_threads = {THREADS}")
            client.command("SYSTEM STOP VIEW margin_rollup_refresh")
            yield client
        finally:
            client.close()


def _measure(rows: int) -> Measured:
    found = Measured(rows)
    with database() as client:
        client.command("SYSTEM STOP MERGES priced_events")
        _fill(client, rows)
        expected = client.query(sums_sql(rows)).result_rows[0]
        _time_queries(client, "unmerged", found, expected, 2)
        client.command("SYSTEM START MERGES priced_events")
        merge(client)
        _time_queries(client, "merged", found, expected, 2)
        found.bytes_per_row, found.columns = _stored(client)
        started = time.monotonic()
        client.command("SYSTEM START VIEW margin_rollup_refresh")
        _roll_up(client)
        found.rollup_seconds = time.monotonic() - started
        newest = max(0, rows - rows // 180)
        for begin in range(newest, rows, max(1, (rows - newest) // 8)):
            insert_rows(client, rows, begin, min(rows, begin + (rows - newest) // 8))
        _time_queries(client, "settled", found, expected, _REPETITIONS)
        found.groups = client.query("SELECT count() FROM margin_daily").result_rows[0][0]
    return found


def _fill(client: Client, rows: int) -> None:
    """All rows in order of arrival, and each hundredth stretch of them once more."""
    for begin in range(0, rows, CHUNK_ROWS):
        insert_rows(client, rows, begin, min(rows, begin + CHUNK_ROWS))
    stretch = max(1, rows // 1_000)
    for begin in range(0, rows, rows // 10):
        insert_rows(client, rows, begin, begin + stretch)


def insert_rows(client: Client, total: int, begin: int, end: int) -> None:
    """The events `[begin, end)` of `total`."""
    client.command(
        f"INSERT INTO priced_events (* EXCEPT (rating)) {rows_sql(total, begin, end)}"
        " SETTINGS max_insert_threads = 1, max_partitions_per_insert_block = 0"
    )


def _time_queries(
    client: Client, state: str, found: Measured, expected: Sequence[int], repetitions: int
) -> None:
    found.parts[state] = _parts(client)
    _check(client, state, expected)
    for name, query in QUERIES.items():
        seconds = found.seconds.setdefault((state, name), [])
        for _ in range(repetitions):
            started = time.monotonic()
            client.raw_query(f"{query} FORMAT Null")
            seconds.append(time.monotonic() - started)


def _check(client: Client, state: str, expected: Sequence[int]) -> None:
    sums = client.query(
        "SELECT sum(requests), sum(input_tokens), sum(cost), sum(price) FROM margin_daily"
    ).result_rows[0]
    seen = (sums[0], sums[1], int(sums[2] * _PICO), int(sums[3] * _PICO))
    if seen != tuple(expected):
        raise ValueError(f"margin_daily, {state}, has the sums {seen}, and the events have {expected}")


def _parts(client: Client) -> int:
    count: int = client.query(
        f"SELECT count() FROM system.parts WHERE {_STORED}"  # noqa: S608  # a constant
    ).result_rows[0][0]
    return count


def merge(client: Client) -> None:
    """One part a day; a merge that is under way makes OPTIMIZE pass over its day, hence the repetition."""
    for _ in range(_REFRESHES_MAX):
        client.command("OPTIMIZE TABLE priced_events FINAL")
        if _parts(client) == client.query("SELECT count() FROM margin_days_whole").result_rows[0][0]:
            return
        time.sleep(1)
    raise ValueError("the days of priced_events were not merged into one part each")


def _roll_up(client: Client) -> None:
    """Build the rollup of every day, as the background does at sixteen days a minute."""
    for _ in range(_REFRESHES_MAX):
        open_days = client.query(
            "SELECT (SELECT count() FROM margin_days_whole) - (SELECT count() FROM margin_days_rolled)"
        ).result_rows[0][0]
        if open_days == 0:
            return
        client.command("SYSTEM REFRESH VIEW margin_rollup_refresh")
        client.command("SYSTEM WAIT VIEW margin_rollup_refresh")
    raise ValueError(f"{open_days} days were not rolled up")


def _stored(client: Client) -> tuple[float, dict[str, float]]:
    """Compressed bytes a row: of everything on disk, and by column, the largest first."""
    whole = client.query(
        f"SELECT sum(bytes_on_disk) / sum(rows) FROM system.parts WHERE {_STORED}"  # noqa: S608  # as above
    ).result_rows[0][0]
    columns = client.query(
        "SELECT column, sum(column_data_compressed_bytes) / sum(rows) AS bytes"  # noqa: S608  # as above
        f" FROM system.parts_columns WHERE {_STORED} GROUP BY column ORDER BY bytes DESC"
    ).result_rows
    return whole, {name: size for name, size in columns}  # noqa: C416  # rows are sequences, not pairs, to mypy


def _inserts(blocks: int) -> dict[str, list[float]]:
    """Seconds of each insert of one Arrow block, in turns into this schema and into that of 0001."""
    first = migrations()[0].statements[0].replace("priced_events", "first_schema", 1)
    seconds: dict[str, list[float]] = {"priced_events": [], "first_schema": []}
    total = 100_000_000
    with database() as client:
        client.command(first)
        for table in seconds:  # which merges fall into whose inserts would be chance
            client.command(f"SYSTEM STOP MERGES {table}")
        for number in range(blocks):
            begin = number * (total // blocks)
            data = _arrow(client, rows_sql(total, begin, begin + BLOCK_ROWS))
            for table in sorted(seconds, reverse=number % 2 == 0):
                started = time.monotonic()
                client.raw_insert(table, insert_block=data, fmt="ArrowStream", settings=INSERT_SETTINGS)
                seconds[table].append(time.monotonic() - started)
        sums = {
            client.query(f"SELECT count(), sum(price) FROM {table} FINAL").result_rows[0]  # noqa: S608  # a constant
            for table in seconds
        }
    if len(sums) != 1:
        raise ValueError(f"the two schemas hold different rows: {sums}")
    return seconds


def _arrow(client: Client, sql: str) -> bytes:
    table = client.query_arrow(sql).combine_chunks()
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def _section(measured: list[Measured], inserted: dict[str, list[float]]) -> Section:
    rows = tuple(
        (f"{one.rows:,}", state, f"{one.parts[state]:,}", query, spread(seconds, 2))
        for one in measured
        for (state, query), seconds in one.seconds.items()
    )
    largest = measured[-1]
    settled = statistics.median(largest.seconds["settled", FIRST_QUERY])
    target = Target.at_most(
        f"margin query over {largest.rows:,} rows, settled, seconds", settled, SECONDS_MAX
    )
    return Section(
        "queries",
        "Queries",
        ("rows", "state", "parts", "query over margin_daily", "seconds"),
        rows,
        targets=(target,),
        notes=_notes(largest, inserted),
        figures={
            "measured": [
                {
                    "rows": one.rows,
                    "seconds": {f"{state}: {query}": value for (state, query), value in one.seconds.items()},
                    "parts": one.parts,
                    "groups": one.groups,
                    "bytes_per_row": one.bytes_per_row,
                    "bytes_by_column": one.columns,
                    "rollup_seconds": one.rollup_seconds,
                }
                for one in measured
            ],
            "insert_seconds": inserted,
        },
    )


def _notes(largest: Measured, inserted: dict[str, list[float]]) -> tuple[str, ...]:
    speed = {name: spread([BLOCK_ROWS / one for one in seconds]) for name, seconds in inserted.items()}
    columns = ", ".join(f"{name} {size:.1f}" for name, size in list(largest.columns.items())[:8])
    states = (
        f"Embedded engine, max_threads = {THREADS}. Unmerged: as inserted, one per cent of the rows twice. "
        "Merged: one part a day. Settled: closed days rolled up, and half of the newest day inserted once "
        f"more in small parts. {largest.groups:,} rows of margin_daily at {largest.rows:,} events; all days "
        f"rolled up in {largest.rollup_seconds:,.1f} s. The sums agree with the generator's in every state."
    )
    # Small parts keep their columns in one file, of which ClickHouse tells no sizes.
    of_which = f", of which {columns}" if any(largest.columns.values()) else ""
    stored = f"Stored, merged: {largest.bytes_per_row:.1f} bytes a row{of_which}."
    inserts = (
        f"Inserts of {BLOCK_ROWS:,} rows, rows/s, merges held: {speed['priced_events']}; in turns into "
        f"the schema of 0001, by month and without codecs: {speed['first_schema']}."
    )
    return states, stored, inserts
