"""Where the inputs of a rebuilt state go on, and how far their event time had come: out of ClickHouse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.client import Client

from dataflows.batch import Partition
from dataflows.kafka_source import oldest_offset
from dataflows.operators import Watermarks
from dataflows.start import Job
from dataflows.steps import HOUR_MS, SETTLED_EVENTS
from pricing.settings import Settings


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an input goes on: all below `next_offset` stands in ClickHouse, `events_read` lines of it."""

    partition: Partition
    next_offset: int
    events_read: int
    again: bool
    """Whether it is read again from the oldest that there is."""
    expired: int = 0
    """Offsets that the topic let go of before they were read: what stood there is lost."""
    missing: int = 0
    """Lines that were read and have no row in ClickHouse."""


def resumes_of(job: Job, client: Client) -> Iterator[Resume]:
    """The position of each chosen input below which every line that was read has its row.

    Raises:
        InputError: the broker does not say what a partition still has.
    """
    counted = """
        SELECT uniqExact(source_offset, source_line) FROM
        (
            SELECT source, source_partition, source_offset, source_line FROM priced_events
            UNION ALL SELECT source, source_partition, source_offset, source_line FROM duplicates
            UNION ALL SELECT source, source_partition, source_offset, source_line FROM quarantine_log
        )
        WHERE source = {source:String} AND source_partition = {number:UInt32}
            AND source_offset < {below:UInt64}
    """
    published = {
        (source, number): (int(next_offset), int(read))
        for source, number, next_offset, read in client.query(
            "SELECT source, source_partition, next_offset, events_read FROM source_progress FINAL"
        ).result_rows
    }
    topic = job.plan.kafka
    for name in sorted(job.chosen):
        one = job.state.partitions[name]
        parameters: dict[str, Any] = {"source": one.source, "number": one.number}

        def lines_below(offset: int, parameters: dict[str, Any] = parameters) -> int:
            return int(client.query(counted, parameters={**parameters, "below": offset}).result_rows[0][0])

        next_offset, read = published.get((one.source, one.number), (0, 0))
        oldest = 0 if topic is None else oldest_offset(topic, one.number)
        if topic is not None and next_offset >= max(oldest, 1) and lines_below(next_offset) == read:
            yield Resume(one, next_offset, read, again=False)
        else:
            found = lines_below(oldest) if oldest else 0
            expired = max(0, oldest - next_offset)
            yield Resume(one, oldest, found, True, expired, read - lines_below(next_offset))  # noqa: FBT003


def _newest(client: Client, one: Resume) -> list[int]:
    """The greatest event times of an input, falling."""
    rows = client.query(
        """
        SELECT toUnixTimestamp64Milli(timestamp) AS t FROM
        (
            SELECT source, source_partition, source_offset, timestamp FROM priced_events
            UNION ALL SELECT source, source_partition, source_offset, timestamp FROM duplicates
        )
        WHERE source = {source:String} AND source_partition = {number:UInt32}
            AND source_offset < {below:UInt64}
        ORDER BY t DESC LIMIT {limit:UInt32}
        """,
        parameters={
            "source": one.partition.source,
            "number": one.partition.number,
            "below": one.next_offset,
            "limit": SETTLED_EVENTS,
        },
    ).result_rows
    return [int(row[0]) for row in rows]


def watermarks_of(client: Client, resumes: tuple[Resume, ...], settings: Settings) -> Watermarks | None:
    """Where the inputs stood; None if nothing of any of them stands in ClickHouse.

    Closed is what all have passed. An input that is read again has passed nothing that it will bring: the
    oldest event of its that stands above its position. One further behind than the allowed lateness was idle
    and held nothing.
    """
    newest = {one.partition.ordinal: times for one in resumes if (times := _newest(client, one))}
    lateness_ms = settings.metering.allowed_lateness_hours * HOUR_MS
    passed = [times[-1] for times in newest.values()]
    in_step = [instant for instant in passed if instant >= max(passed) - lateness_ms]
    coming = [instant for one in resumes if one.again and (instant := _oldest_above(client, one)) is not None]
    if not in_step and not coming:
        return None
    peaks = {ordinal: times[0] for ordinal, times in newest.items()}
    return Watermarks(frozenset(), peaks, min(in_step + coming), newest_ms=newest)


def _oldest_above(client: Client, one: Resume) -> int | None:
    rows = client.query(
        "SELECT toUnixTimestamp64Milli(min(timestamp)), count() FROM priced_events"
        " WHERE source = {source:String} AND source_partition = {number:UInt32}"
        " AND source_offset >= {position:UInt64}",
        parameters={
            "source": one.partition.source,
            "number": one.partition.number,
            "position": one.next_offset,
        },
    ).result_rows
    return int(rows[0][0]) if rows[0][1] else None
