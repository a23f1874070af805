"""Where the inputs of a rebuilt state go on, and how far their event time had come: out of ClickHouse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clickhouse_connect.driver.client import Client

from dataflows.batch import Partition
from dataflows.card_file import compiled
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
    repriced: int = 0
    """Rows that are read again, were priced by another rate card than that of now and not re-rated since."""

    @property
    def of_file(self) -> bool:
        """Whether it is a file: no topic's name has a slash, and every path has."""
        return "/" in self.partition.source


_LINES_BELOW = """
SELECT uniqExact(source_offset, source_line) FROM
(
    SELECT source, source_partition, source_offset, source_line FROM priced_events
    UNION ALL SELECT source, source_partition, source_offset, source_line FROM duplicates
    UNION ALL SELECT source, source_partition, source_offset, source_line FROM quarantine_log
)
WHERE source = {source:String} AND source_partition = {number:UInt32}
    AND source_offset < {below:UInt64}
"""
_ALL = (1 << 64) - 1


def _lines_below(client: Client, one: Partition, offset: int) -> int:
    parameters = {"source": one.source, "number": one.number, "below": offset}
    return int(client.query(_LINES_BELOW, parameters=parameters).result_rows[0][0])


def _published(client: Client) -> dict[tuple[str, int], tuple[int, int]]:
    """How far each input has been published, and how many lines it held up to there."""
    return {
        (source, number): (int(next_offset), int(read))
        for source, number, next_offset, read in client.query(
            "SELECT source, source_partition, next_offset, events_read FROM source_progress FINAL"
        ).result_rows
    }


def settled_inputs(job: Job, client: Client) -> Iterator[tuple[str, int]]:
    """Inputs that are not of this run and of which every line has its row: should one come back, it goes on.

    Without standard inputs, each of which has a name of its own, and requeues, which are read once. Of
    any other input, what it brings again is a copy of what stands in ClickHouse.
    """
    requeues = {row[0] for row in client.query("SELECT DISTINCT requeue_id FROM requeues").result_rows}
    for (source, number), (next_offset, read) in sorted(_published(client).items()):
        one = Partition(0, source, number)
        if one.name in job.chosen or source.startswith("stdin:") or Path(source).stem in requeues:
            continue
        if _lines_below(client, one, next_offset) == read == _lines_below(client, one, _ALL):
            yield source, number


def resumes_of(job: Job, client: Client) -> Iterator[Resume]:
    """The position of each chosen input below which every line that was read has its row.

    Raises:
        InputError: the broker does not say what a partition still has.
    """
    published = _published(client)
    topic = job.plan.kafka
    card = compiled(job.plan.settings.pricing)
    for name in sorted(job.chosen):
        one = job.state.partitions[name]
        next_offset, read = published.get((one.source, one.number), (0, 0))
        oldest = 0 if topic is None else oldest_offset(topic, one.number)
        found = _lines_below(client, one, next_offset)
        if next_offset >= max(oldest, 1) and found == read:
            yield Resume(one, next_offset, read, again=False)
            continue
        yield Resume(
            one,
            oldest,
            _lines_below(client, one, oldest) if oldest else 0,
            again=True,
            expired=max(0, oldest - next_offset),
            missing=read - found,
            repriced=_priced_by_another(client, one, oldest, card.version),
        )


def resumes_of_absent(job: Job, client: Client, absent: Iterable[tuple[str, int]]) -> Iterator[Resume]:
    """Where `settled_inputs`, which the state knows by now, go on."""
    published = _published(client)
    for source, number in absent:
        next_offset, read = published[source, number]
        yield Resume(job.state.partitions[f"{source}/{number}"], next_offset, read, again=False)


def _priced_by_another(client: Client, one: Partition, offset: int, version: str) -> int:
    rows = client.query(
        "SELECT count() FROM usage WHERE source = {source:String} AND source_partition = {number:UInt32}"
        " AND source_offset >= {offset:UInt64} AND rate_card_version != {version:String} AND rating = 0",
        parameters={"source": one.source, "number": one.number, "offset": offset, "version": version},
    ).result_rows
    return int(rows[0][0])


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
    oldest event of its that stands above its position. A partition of a topic further behind than the allowed
    lateness was idle and held nothing; a file never is, it may be all of history.
    """
    newest = {one.partition.ordinal: times for one in resumes if (times := _newest(client, one))}
    lateness_ms = settings.metering.allowed_lateness_hours * HOUR_MS
    files = {one.partition.ordinal for one in resumes if one.of_file}
    latest = max((times[-1] for times in newest.values()), default=0)
    in_step = [
        times[-1]
        for ordinal, times in newest.items()
        if ordinal in files or times[-1] >= latest - lateness_ms
    ]
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
