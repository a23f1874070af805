"""The way out of quarantine: lines that can be priced by now, or were repaired, go through the job again.

A requeue is one more input of the job, a file in the state directory, read under the job's own lock and with
its own memory. So the rules of dedupe, late events and caps hold for it as for anything else, and it is
exactly-once like anything else. Its steps, each of which may be the last one before a crash:

1. its lines are written to `requeue/<id>.jsonl` and noted in `requeues`: nothing has happened yet;
2. `<id>.open` appears: from here on it is begun, and the next requeue finishes it first;
3. the job reads the file;
4. the lines are marked as resolved in `quarantine_log`, and `<id>.open` goes.

A line whose key was priced in the meantime (a client sent the event again) is not put through: the job may
have forgotten the key, ClickHouse has not. If what was priced has the same content, the line was a copy of
it, and is resolved; if not, it is a conflict, and stays where it is until it is given a key of its own.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from clickhouse_connect.driver.client import Client

from dataflows.batch import EVENT_SCHEMA, Partition, RawBatch
from dataflows.card_file import compiled
from dataflows.decode import TimeBounds, decode
from dataflows.lines import split_lines
from dataflows.rate import refuse_unpriced
from dataflows.run import JobFailedError
from dataflows.segments import fsync_directory
from dataflows.start import Job
from dataflows.state import open_state
from dataflows.steps import CONTENT_FIELDS, DAY_MS, HOUR_MS, content_hashes
from metering.event import QuarantineReason
from pricing.rate_card import RateCard
from pricing.settings import Settings

PAGE_ROWS = 20_000
"""Lines looked at together: it bounds memory for lines of the usual length, not how many are put through."""

POSITION = ("source", "source_partition", "source_offset", "source_line")

_WAITING = """
SELECT source, source_partition, source_offset, source_line, reason, detail, raw FROM quarantine_log FINAL
WHERE resolved_at IS NULL AND reason = {reason:String}
    AND ({tenant:String} = '' OR tenant_id = {tenant:String})
    AND (empty({models:Array(String)}) OR model IN {models:Array(String)})
    AND (source, source_partition, source_offset, source_line)
        > ({source:String}, {partition:UInt32}, {offset:UInt64}, {line:UInt32})
ORDER BY source, source_partition, source_offset, source_line
LIMIT {limit:UInt32}
"""

_STILL_WAITING = """
SELECT r.number
FROM (SELECT * FROM requeues FINAL WHERE requeue_id = {id:String} AND number >= {first:UInt32}) AS r
INNER JOIN (SELECT * FROM quarantine_log FINAL WHERE resolved_at IS NULL) AS q
ON q.source = r.source AND q.source_partition = r.source_partition
    AND q.source_offset = r.source_offset AND q.source_line = r.source_line
"""

_PRICED_MEANWHILE = f"""
SELECT r.number AS number, {", ".join(f"u.{name} AS {name}" for name in CONTENT_FIELDS)}
FROM (SELECT * FROM requeues FINAL WHERE requeue_id = {{id:String}} AND number >= {{first:UInt32}}) AS r
INNER JOIN
(
    SELECT tenant_id, idempotency_key, timestamp, {", ".join(CONTENT_FIELDS)} FROM usage
    WHERE (tenant_id, idempotency_key) IN
    (
        SELECT tenant_id, idempotency_key FROM requeues
        WHERE requeue_id = {{id:String}} AND number >= {{first:UInt32}}
    )
) AS u ON r.tenant_id = u.tenant_id AND r.idempotency_key = u.idempotency_key
WHERE abs(dateDiff('millisecond', r.timestamp, u.timestamp)) <= {{window_ms:Int64}}
"""  # noqa: S608  # constants

_RESOLVE = """
INSERT INTO quarantine_log
SELECT q.source, q.source_partition, q.source_offset, q.source_line, q.reason, q.detail, q.tenant_id, q.model,
    q.raw, q.received_at, now64(3, 'UTC'), q.revision + 1
FROM (SELECT * FROM quarantine_log FINAL WHERE resolved_at IS NULL) AS q
INNER JOIN (SELECT DISTINCT source, source_partition, source_offset, source_line FROM requeues FINAL
    WHERE requeue_id = {id:String}) AS r
ON q.source = r.source AND q.source_partition = r.source_partition
    AND q.source_offset = r.source_offset AND q.source_line = r.source_line
"""


@dataclass
class Requeued:
    """What became of the lines that were looked at: `looked_at` is the sum of the others."""

    looked_at: int = 0
    put_through: int = 0
    priced_meanwhile: int = 0
    not_waiting: int = 0
    still_refused: Counter[str] = field(default_factory=Counter)
    """By reason."""


def waiting_lines(
    client: Client, reason: str, tenant: str, models: Sequence[str] = ()
) -> Iterator[pl.DataFrame]:
    """Unresolved lines of a reason by their position, in pages: its four columns, `reason`, `detail`, `raw`.

    Of one tenant, if `tenant` is not empty, and of some models, if there are any; a line that could not be
    read names none.
    """
    last: tuple[str, int, int, int] = ("", 0, 0, 0)
    while True:
        names = ("source", "partition", "offset", "line")
        parameters = {
            "reason": reason,
            "tenant": tenant,
            "models": list(models),
            "limit": PAGE_ROWS,
            **dict(zip(names, last, strict=True)),
        }
        found: pa.Table = client.query_arrow(_WAITING, parameters=parameters, use_strings=False)
        page = pl.DataFrame(pl.from_arrow(found))
        if not len(page):
            return
        texts = [pl.col(name).cast(pl.Binary).cast(pl.String) for name in ("source", "reason", "detail")]
        page = page.with_columns(*texts, pl.col("raw").cast(pl.Binary))
        yield page
        last = page.select(POSITION).row(-1)


def finish_begun(job: Job, client: Client, run: Callable[[Job], None]) -> int:
    """Finish requeues that a crash interrupted; returns how many there were."""
    begun = sorted(_directory(job).glob("*.open"))
    for marker in begun:
        _finish(job, client, marker, run)
    return len(begun)


def requeue(
    job: Job, client: Client, pages: Iterable[pl.DataFrame], now_ms: int, run: Callable[[Job], None]
) -> Requeued:
    """Put lines through the job.

    Args:
        job: prepared on the job's own source, with the state's lock held.
        pages: lines with the four columns of their position, and `raw`, which may have been repaired.
        now_ms: the wall clock; event times are judged against it, as those of a file are.
        run: runs a job to the end of its input.
    """
    directory = _directory(job)
    directory.mkdir(exist_ok=True)
    identity = uuid.uuid4().hex
    path = directory / f"{identity}.jsonl"
    card = compiled(job.plan.settings.pricing)
    done = Requeued()
    number = 0
    with path.open("wb") as file:
        for page in pages:
            done.looked_at += len(page)
            fit, refused = _judge(page, job.plan.settings, card, now_ms)
            done.still_refused += refused
            fit = fit.with_columns(number=pl.int_range(number, number + pl.len(), dtype=pl.UInt32))
            _note(client, identity, fit, now_ms)
            chosen, conflicts = _choose(client, identity, fit, number, job.plan.settings, done)
            _note(client, identity, _taken_back(fit, conflicts), now_ms)
            wanted = fit.filter(pl.col("number").is_in(list(chosen)))
            file.writelines(raw + b"\n" for raw in wanted["raw"])
            number += len(fit)
        file.flush()
        os.fsync(file.fileno())
    if not number:
        path.unlink()
        return done
    marker = path.with_suffix(".open")
    marker.touch()
    fsync_directory(directory)
    _finish(job, client, marker, run)
    return done


def _judge(
    page: pl.DataFrame, settings: Settings, card: RateCard, now_ms: int
) -> tuple[pl.DataFrame, Counter[str]]:
    """The lines that the job would price by now, with key, time and content; the others by reason."""
    metering = settings.metering
    bounds = TimeBounds(metering.max_future_minutes * 60_000, metering.max_age_days * DAY_MS)
    rows = np.arange(len(page), dtype=np.int64)
    batch = RawBatch(
        Partition(0, "requeue", 0),
        split_lines(b"".join(raw + b"\n" for raw in page["raw"])),
        offset=rows,
        line=np.zeros(len(page), np.int32),
        arrival_ms=np.full(len(page), now_ms, np.int64),
        next_offset=0,
        live=False,
        age_limited=False,
    )
    decoded = refuse_unpriced(decode(batch, bounds), card)
    refused = Counter(decoded.quarantined["reason"].to_list())
    refused["blank"] += len(page) - decoded.read
    events = decoded.events
    fit = page.select(*POSITION, "raw")[events["offset"].to_list()]
    keys = events.select(
        "tenant_id",
        "idempotency_key",
        timestamp=pl.from_epoch("timestamp_ms", "ms").dt.replace_time_zone("UTC"),
    )
    keys = keys.with_columns(content=pl.Series(content_hashes(events)))
    return pl.concat([fit, keys], how="horizontal"), +refused


def _note(client: Client, identity: str, lines: pl.DataFrame, now_ms: int) -> None:
    if not len(lines):
        return
    rows = lines.select(
        pl.lit(identity).alias("requeue_id"),
        "number",
        *POSITION,
        "tenant_id",
        "idempotency_key",
        "timestamp",
        pl.lit(now_ms).cast(pl.Datetime("ms", "UTC")).alias("begun_at"),
    )
    client.insert_arrow("requeues", rows.to_arrow())


def _taken_back(lines: pl.DataFrame, numbers: set[int]) -> pl.DataFrame:
    """Notes that replace those of the same numbers and name no line: what they named is not resolved."""
    return lines.filter(pl.col("number").is_in(list(numbers))).with_columns(source=pl.lit(""))


def _choose(
    client: Client, identity: str, lines: pl.DataFrame, first: int, settings: Settings, done: Requeued
) -> tuple[set[int], set[int]]:
    """Of lines noted from `first` on, the numbers of those to put through, and of those in conflict.

    To put through: they still wait, and nothing has priced their keys yet. In conflict: they still wait, and
    what was priced under their keys has other content.
    """
    window_ms = settings.metering.idempotency_window_hours * HOUR_MS
    parameters = {"id": identity, "first": first, "window_ms": window_ms}
    waiting = {int(row[0]) for row in client.query(_STILL_WAITING, parameters=parameters).result_rows}
    found = pl.DataFrame(
        pl.from_arrow(client.query_arrow(_PRICED_MEANWHILE, parameters=parameters, use_strings=True))
    ).cast({name: EVENT_SCHEMA[name] for name in CONTENT_FIELDS})
    found = found.select("number", priced_content=pl.Series(content_hashes(found), dtype=pl.UInt64))
    priced = waiting & set(found["number"].to_list())
    copies = found.join(lines, on="number").filter(pl.col("content") == pl.col("priced_content"))
    conflicts = priced - set(copies["number"].to_list())
    done.not_waiting += len(lines) - len(waiting)
    done.priced_meanwhile += len(priced - conflicts)
    done.put_through += len(waiting - priced)
    if conflicts:
        done.still_refused[QuarantineReason.IDEMPOTENCY_CONFLICT.value] += len(conflicts)
    return waiting - priced, conflicts


def _finish(job: Job, client: Client, marker: Path, run: Callable[[Job], None]) -> None:
    path = marker.with_suffix(".jsonl")
    if path.stat().st_size:
        run(_over(job, path))
        _insist_on_all(client, path)
    client.command(_RESOLVE, parameters={"id": marker.stem})
    if not path.stat().st_size:
        path.unlink()
    marker.unlink()
    fsync_directory(marker.parent)


def _insist_on_all(client: Client, path: Path) -> None:
    """A job that was asked to stop ends well in the middle of its input: then nothing is resolved yet."""
    rows = client.query(
        "SELECT sum(events_read) FROM source_progress FINAL WHERE source = {source:String}",
        parameters={"source": str(path)},
    ).result_rows
    with path.open("rb") as file:
        lines = sum(1 for _ in file)
    if int(rows[0][0]) < lines:
        raise JobFailedError(
            f"the requeue was stopped after {rows[0][0]} of {lines} lines: the next one finishes it"
        )


def _over(job: Job, path: Path) -> Job:
    """The same job, reading one file to its end."""
    source = str(path)
    state = open_state(job.plan.state_dir, [(source, 0)], 1)
    plan = replace(job.plan, source=f"file://{source}", follow=False)
    return replace(job, plan=plan, state=state, chosen=frozenset({f"{source}/0"}))


def _directory(job: Job) -> Path:
    return job.state.directory / "requeue"
