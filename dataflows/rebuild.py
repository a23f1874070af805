"""State made anew from ClickHouse, for a state directory that was lost or damaged (`run --rebuild-state`).

What the job remembers is rebuilt as of a position of each input below which ClickHouse holds everything: the
published one, if the rows below it account for every line that was read. Otherwise the input is read again,
from the oldest message that the topic still has, or from the beginning of the file, and priced by the rate
card of now. A file that is away goes on where it was, should it come back.

Keys come from the rows of the dedupe window, with the position at which each was first seen: read again
there, an event is itself and no copy. Sums come from the rows below the positions, at the prices that were
charged before any re-rating, thresholds from the alerts raised; alerts that nobody was sent are handed over
again. Watermarks are the latest event time of each input.

Sums are published as a new generation (`sinks.spend_sums`): those that stood in ClickHouse may have been
wrong, and the last ones of the old state may never have come there.

Nothing is deleted: `set_aside` moves the old state to `before-rebuild-<time>/`. Until the new one is whole,
a marker says so, and after a crash the job does not start but with another rebuild.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
from clickhouse_connect.driver.client import Client

from dataflows.alerts import wall_clock_ms
from dataflows.batch import EVENT_SCHEMA, INTEGER_FIELDS, Decoded, Partition
from dataflows.dedupe import UInt64s, entries_of, times_of
from dataflows.file_source import BYTES_UNKNOWN, FileState
from dataflows.operators import ShardLog, Watermarks, versions_of, windows_to_bytes
from dataflows.rebuild_positions import Resume, resumes_of, resumes_of_absent, settled_inputs, watermarks_of
from dataflows.rerate_log import refuse_while_another_runs
from dataflows.seeding import States, seed
from dataflows.segments import fsync_directory
from dataflows.start import Job, begin, make_ready
from dataflows.state import MARKER_OF_REBUILD, REBUILD_TOKEN, open_state
from dataflows.steps import DAY_MS, HOUR_MS, partition_by_tenant, split_by_key
from pricing.cap import CapAlert
from pricing.settings import thresholds, timezone_for
from pricing.spend import SpendBook
from pricing.windows import day_window
from sinks.clickhouse import connect
from sinks.metering_sink import alert_to_json, partition_names
from sinks.publish import PublisherState
from sinks.rows import window_rows
from sinks.spend_sums import sum_again

SLICE_MS = HOUR_MS
"""Rows are fetched an hour of event time at a time, which bounds memory."""
UNKNOWN_ORDINAL = 0xFFFF
"""Stands for an input that this state directory does not know: what it brings again is a copy."""
MONTH_MS_MAX = 33 * DAY_MS
"""Longer than a month in any time zone."""
_STATE = ("job.json", "recovery", "dedupe", "spend", "staged")
"""What is set aside. Not `requeue/`: the next requeue finishes one that was begun, and nothing else has its
lines as they were repaired. Nor the outbox, whose alerts have yet to leave."""


def set_aside(directory: Path, stamp: str) -> Path | None:
    """Move the state away, but for the outbox and what waits to be requeued; returns where to, if any was.

    Call it with the lock held. `stamp` names the place, and must be new.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARKER_OF_REBUILD).write_text(REBUILD_TOKEN)
    fsync_directory(directory)
    found = [directory / name for name in _STATE if (directory / name).exists()]
    if not found:
        return None
    aside = directory / f"before-rebuild-{stamp}"
    aside.mkdir()
    for path in found:
        path.rename(aside / path.name)
    fsync_directory(directory)
    return aside


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild found."""

    resumes: tuple[Resume, ...]
    keys: int
    windows: int
    alerts: int
    unraised: int
    """Thresholds that have been reached and of which there is no alert: the next event raises each."""


def rebuild(job: Job, client: Client, now_ms: int, on_progress: Callable[[str], None]) -> tuple[Job, Rebuilt]:
    """Build the state of a job that has none; its directory has been set aside. Returns the job with it.

    `now_ms` is the wall clock.

    Raises:
        ClickHouseError: a query failed; the marker stays.
    """
    absent = tuple(settled_inputs(job, client))
    job = replace(job, state=open_state(job.plan.state_dir, absent, job.state.sink_partitions))
    resumes = tuple(resumes_of(job, client))
    positions = (*resumes, *resumes_of_absent(job, client, absent))
    settings, state = job.plan.settings, job.state
    marks = watermarks_of(client, resumes, settings) or Watermarks(frozenset())
    logs = [ShardLog(state.directory / "dedupe", None) for _ in range(state.shards)]
    keys = 0
    for shard, entries in _entries(job, client, marks, on_progress):
        logs[shard].know(shard)
        clock = times_of(entries)
        logs[shard].segments.append(entries.tobytes(), int(clock.min()), int(clock.max()))
        keys += len(entries)
    on_progress("summing spend")
    sum_again(client, state.generation)
    books = _books(job, client, positions, marks)
    _publish_windows(client, books, state.generation, now_ms)
    alerts = _unsent_alerts(client)
    states = States(
        inputs={one.partition.name: _position(one) for one in positions},
        dedupe=dict(_states(job, logs, marks)),
        spend=dict(_states(job, [_spend_log(job, shard, book) for shard, book in enumerate(books)], marks)),
        sinks=_sink_states(job, positions, alerts),
    )
    seed(state.recovery, states)
    (state.directory / MARKER_OF_REBUILD).unlink()
    fsync_directory(state.directory)
    return job, Rebuilt(
        resumes,
        keys,
        windows=sum(len(book.windows) for book in books),
        alerts=len(alerts),
        unraised=sum(len(book.unraised()) for book in books),
    )


def prepare_rebuilt(environment: Mapping[str, str], say: Callable[[str], None]) -> Job:
    """As `start.prepare`, with a state that is made anew; the old one, if there is any, is set aside.

    Raises:
        OPERATOR_ERRORS: as `start.prepare`, before anything is touched where that is possible.
    """
    ready = make_ready(environment)
    plan = ready.plan
    client = connect(plan.clickhouse)
    try:
        refuse_while_another_runs(client)  # what was charged cannot be told amid it
    finally:
        client.close()
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
    aside = set_aside(plan.state_dir, stamp)
    if aside is not None:
        say(f"the state before stands in {aside}")
    job = begin(ready, ready.generation + 1)
    client = connect(plan.clickhouse)
    try:
        job, found = rebuild(job, client, wall_clock_ms(), say)
    finally:
        client.close()
    for one in found.resumes:
        where = f"is read again from {one.next_offset}" if one.again else f"goes on at {one.next_offset}"
        say(f"{one.partition.name} {where}")
        if one.repriced:
            say(
                f"{one.partition.name} has {one.repriced} rows of another rate card: they are priced anew, "
                "by the one of now"
            )
        if one.expired:
            say(f"{one.partition.name} had {one.expired} offsets below it that expired unread: they are LOST")
        if one.missing and one.next_offset:
            say(
                f"{one.partition.name} lacks rows for {one.missing} lines: those that stood below "
                f"{one.next_offset} are LOST, unless they are among the staged blocks of the state before"
            )
    coming = " (those of what is read again come with the reading)"
    windows = f"{found.windows:,} windows{coming if any(one.again for one in found.resumes) else ''}"
    say(f"rebuilt: {found.keys:,} keys, {windows}, {found.alerts} alerts to hand over")
    if found.unraised:
        say(f"{found.unraised} thresholds are reached without an alert: each is raised by its next event")
    return job


def _position(one: Resume) -> FileState:
    if not one.of_file:
        return (one.next_offset, 0, 0)
    return (BYTES_UNKNOWN, max(0, one.next_offset - 1), 0)


def _entries(
    job: Job, client: Client, marks: Watermarks, on_progress: Callable[[str], None]
) -> Iterator[tuple[int, UInt64s]]:
    """Index entries of the rows that a copy may still refer to, by shard, an hour of event time at a time.

    Lines of a requeue that is not finished are no rows yet: they are put through once more.
    """
    metering, state = job.plan.settings.metering, job.state
    begun = [str(path) for path in _requeues_begun(job)]
    keep_ms = (metering.idempotency_window_hours + metering.allowed_lateness_hours) * HOUR_MS
    if marks.closed_ms < 0:
        return
    oldest, newest, count = client.query(
        "SELECT toUnixTimestamp64Milli(min(timestamp)), toUnixTimestamp64Milli(max(timestamp)), count()"
        " FROM priced_events WHERE timestamp >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')",
        parameters={"since": max(0, marks.closed_ms - keep_ms)},
    ).result_rows[0]
    if not count:
        return
    done = 0
    for start in range(int(oldest), int(newest) + 1, SLICE_MS):
        events = _events(client, start, min(start + SLICE_MS, int(newest) + 1))
        events = events.filter(~pl.col("source").is_in(begun))
        for (source, number), part in events.partition_by("source", "source_partition", as_dict=True).items():
            known = state.partitions.get(f"{source}/{number}")
            partition = known or Partition(UNKNOWN_ORDINAL, str(source), int(str(number)))
            decoded = Decoded(partition, part, part.clear(), len(part), 0, live=False)
            _, slices = split_by_key(decoded, state.shards, state.hash_seed)
            for sliced in slices:
                if len(sliced.sightings):
                    yield sliced.shard, entries_of(sliced.sightings)
        done += len(events)
        on_progress(f"{done:,} keys")


def _events(client: Client, since_ms: int, until_ms: int) -> pl.DataFrame:
    """The columns of priced rows that dedupe compares, as they were decoded."""
    texts = [name for name, kind in EVENT_SCHEMA.items() if kind == pl.String and name != "attributes"]
    columns = ", ".join([*texts, *INTEGER_FIELDS, "provider_cost", "source", "source_partition"])
    found = client.query_arrow(
        f"SELECT {columns}, toUnixTimestamp64Milli(u.timestamp) AS timestamp_ms, source_offset, source_line"  # noqa: S608  # constants
        " FROM usage AS u WHERE u.timestamp >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')"
        " AND u.timestamp < fromUnixTimestamp64Milli({until:Int64}, 'UTC')",
        parameters={"since": since_ms, "until": until_ms},
        use_strings=True,
    )
    return pl.DataFrame(pl.from_arrow(found)).with_columns(
        *(pl.col(name).cast(pl.String) for name in (*texts, "source")),
        *(pl.col(name).cast(pl.Int64) for name in (*INTEGER_FIELDS, "source_partition")),
        pl.col("provider_cost").cast(EVENT_SCHEMA["provider_cost"]),
        offset=pl.col("source_offset").cast(pl.Int64),
        line=pl.col("source_line").cast(pl.Int32),
    )


def _books(job: Job, client: Client, resumes: tuple[Resume, ...], marks: Watermarks) -> list[SpendBook]:
    """Spend by shard of tenants, of the rows below the positions, in windows that still count."""
    settings, shards = job.plan.settings, job.state.shards
    kept_ms = marks.closed_ms - settings.metering.window_retention_hours * HOUR_MS
    books = [SpendBook(settings.limits, thresholds(settings)) for _ in range(shards)]
    inputs = {**{(str(path), 0): 0 for path in _requeues_begun(job)}}
    inputs |= {(one.partition.source, one.partition.number): one.next_offset for one in resumes}
    found = client.query_arrow(
        """
        SELECT u.tenant_id AS tenant_id, u.feature_id AS feature_id, sum(u.price) AS price,
            sum(u.events) AS events,
            toUnixTimestamp(toStartOfInterval(u.timestamp, INTERVAL 15 MINUTE)) AS quarter
        FROM charges AS u
        WHERE u.timestamp >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')
            AND source_offset < transform(concat(source, '/', toString(source_partition)),
                {names:Array(String)}, {offsets:Array(UInt64)}, toUInt64(18446744073709551615))
        GROUP BY tenant_id, feature_id, quarter
        """,
        parameters={
            "since": max(0, kept_ms - MONTH_MS_MAX),
            "names": [f"{source}/{number}" for source, number in inputs],
            "offsets": list(inputs.values()),
        },
        use_strings=True,
    )
    sums = pl.DataFrame(pl.from_arrow(found)).with_columns(
        pl.col("tenant_id", "feature_id").cast(pl.String), pl.col("events").cast(pl.Int64)
    )
    if not len(sums):
        return books
    # Quarters of an hour: every offset from UTC in use since 1972 is a multiple of one.
    starts = [
        day_window(int(quarter) * 1000, timezone_for(settings.limits, tenant))[0]
        for tenant, quarter in sums.select("tenant_id", "quarter").iter_rows()
    ]
    by_day = (
        sums.with_columns(day_start_ms=pl.Series(starts, dtype=pl.Int64))
        .group_by("tenant_id", "feature_id", "day_start_ms", maintain_order=True)
        .agg(pl.col("price", "events").sum())
    )
    by_tenant = partition_by_tenant(by_day, shards)
    for shard, part in by_tenant.items():
        books[shard].restore(part)
        books[shard].forget(kept_ms)
    for key, threshold in _raised(client):
        for book in books:
            if key in book.windows:
                book.windows[key].raised.append(threshold)
    return books


def _publish_windows(client: Client, books: list[SpendBook], generation: int, now_ms: int) -> None:
    """Windows that have never been published; where one is there, the sum of all its rows prevails."""
    versions = versions_of([pair for book in books for pair in book.windows.items()])
    rows = window_rows(versions.versions, generation, now_ms)
    if len(rows):
        client.insert_arrow("spend_sums", rows.to_arrow())


def _requeues_begun(job: Job) -> list[Path]:
    # Their files are read again from the beginning.
    return [marker.with_suffix(".jsonl") for marker in (job.state.directory / "requeue").glob("*.open")]


def _raised(client: Client) -> Iterator[tuple[tuple[str, str, str, int], Decimal]]:
    rows = client.query(
        "SELECT tenant_id, feature_id, window_kind, toUnixTimestamp64Milli(window_start), threshold"
        " FROM cap_alert_log FINAL ORDER BY threshold"
    ).result_rows
    for tenant, feature, kind, start, threshold in rows:
        yield (tenant, feature, kind, int(start)), Decimal(threshold).normalize()


def _unsent_alerts(client: Client) -> list[CapAlert]:
    """Alerts without a delivery: the outbox tells those that it has already from those that it never got."""
    rows = client.query(
        """
        SELECT alert_id, tenant_id, feature_id, window_kind, toUnixTimestamp64Milli(window_start),
            toUnixTimestamp64Milli(window_end), cap, threshold, spend, crossing_key,
            toUnixTimestamp64Milli(raised_at)
        FROM cap_alert_log FINAL WHERE alert_id NOT IN (SELECT alert_id FROM cap_alert_deliveries)
        """
    ).result_rows
    return [CapAlert(*row) for row in rows]


def _spend_log(job: Job, shard: int, book: SpendBook) -> ShardLog:
    log = ShardLog(job.state.directory / "spend", None)
    log.know(shard)
    if book.windows:
        log.segments.append(windows_to_bytes(list(book.windows.items())), 0, 0)
    return log


def _states(job: Job, logs: list[ShardLog], marks: Watermarks) -> Iterator[tuple[str, str]]:
    for shard, (key, log) in enumerate(zip(job.state.shard_keys, logs, strict=True)):
        log.know(shard)
        yield key, log.state(marks).to_json()


def _sink_states(job: Job, resumes: tuple[Resume, ...], alerts: list[CapAlert]) -> dict[str, str]:
    sinks = job.state.sink_partitions
    keepers = job.state.progress_partitions
    progress: list[dict[str, list[int]]] = [{} for _ in range(sinks)]
    for one in resumes:
        name = json.dumps([one.partition.source, one.partition.number])
        progress[one.partition.ordinal % keepers][name] = [one.next_offset, one.events_read]
    handed_over: list[list[dict[str, Any]]] = [[] for _ in range(sinks)]
    handed_over[0] = [alert_to_json(one) for one in alerts]
    memories = [
        {"progress": counts, "alerts": those} for counts, those in zip(progress, handed_over, strict=True)
    ]
    return {
        name: PublisherState((), memory).to_json()
        for name, memory in zip(partition_names(sinks), memories, strict=True)
    }
