"""`meterline audit`: counts again, from the sources and from ClickHouse, and proves that the books balance.

For every input: each line that was read is priced, a copy, or in quarantine, and in one place only.
For every tenant and window: the rows that count for it sum to its spend. And no row's price contradicts
its cost. What cannot be counted again (a deleted file, expired messages) is said, not passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from clickhouse_connect.driver.client import Client

from dataflows.audit_money import (
    Check,
    check_alerts,
    check_amounts,
    check_grounds,
    check_keys,
    check_windows,
)
from dataflows.batch import UInt64s
from dataflows.kafka_source import KafkaTopic
from dataflows.recount import (
    BEGINNING_BYTES,
    LINE_BITS,
    Event,
    Ledger,
    Recount,
    distinct,
    recount_file,
    recount_kafka,
)

OnProgress = Callable[[str], None]

NOTHING_YET = "nothing has been published yet"
EVENTS_MAX = 100
"""Priced events of an input that its lines are compared with: enough to tell another source."""
NAMED_MAX = 5
"""Inputs that a verdict names; it says how many more there are."""

LOOKS_MAX = 4
LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Input:
    """How far one input has been published, as the job said itself."""

    source: str
    number: int
    next_offset: int
    events_read: int

    def place(self, position: int) -> str:
        """A packed position, as a person would look for it."""
        offset, line = position >> LINE_BITS, position & ((1 << LINE_BITS) - 1)
        if "/" in self.source or self.source.startswith("stdin:"):
            return f"{self.source}:{offset}"
        return f"{self.source}/{self.number}@{offset}#{line}"


def audit(
    client: Client,
    topic: KafkaTopic | None,
    thresholds: Sequence[Decimal],
    window_hours: int,
    on_progress: OnProgress,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Check]:
    """All checks, one after the other; the books balance if every one is ok.

    `topic` is the Kafka source, where there is one; `thresholds` and `window_hours` are those that the
    job ran with. Of a job that is running, something may be seen between two of its inserts: while
    its progress moves, what looks broken is looked at again, `LOOKS_MAX` times at most.
    """
    inputs = [Input(*row) for row in client.query(_INPUTS).result_rows]
    if not any(one.events_read for one in inputs) and not client.query(_BEYOND).result_rows:
        yield Check("inputs", ok=True, detail=NOTHING_YET, unproved="what was read")
    replaced = _any_replaced(client)
    # Without FINAL ClickHouse reads the columns of the position alone.
    priced = "usage" if replaced else "priced_events"
    looks: list[Callable[[], Check | Iterator[Check]]] = [
        *(partial(_check_input, client, one, priced, topic, on_progress) for one in inputs),
        partial(_check_progress, client),
        *([partial(_check_identities, client)] if replaced else []),
        partial(check_keys, client, window_hours),
        partial(check_amounts, client),
        *(partial(check_windows, client, kind) for kind in ("day", "month")),
        *(partial(check_alerts, client, threshold) for threshold in thresholds),
        partial(check_grounds, client),
    ]
    moving = cache(lambda: _moves(client, sleep))
    for look in looks:
        found = _as_list(look())
        for _ in range(LOOKS_MAX - 1):
            if all(check.ok for check in found) or not moving():
                break
            sleep(LOOK_AGAIN_SECONDS)
            found = _as_list(look())
        yield from found


def _as_list(found: Check | Iterator[Check]) -> list[Check]:
    return [found] if isinstance(found, Check) else list(found)


def _moves(client: Client, sleep: Callable[[float], None]) -> bool:
    """Whether a job is publishing: its progress is not what it was a moment ago."""
    pulse = "SELECT count(), max(updated_at), sum(next_offset) FROM source_progress FINAL"
    before = client.query(pulse).result_rows
    sleep(LOOK_AGAIN_SECONDS)
    return bool(client.query(pulse).result_rows != before)


_INPUTS = (
    "SELECT source, source_partition, next_offset, events_read FROM source_progress FINAL"
    " ORDER BY source, source_partition"
)


def _any_replaced(client: Client) -> bool:
    """Whether stored rows have been replaced by others, so that `priced_events` is not `usage`."""
    sizes = "SELECT (SELECT count() FROM priced_events), (SELECT count() FROM usage)"
    stored, current = client.query(sizes).result_rows[0]
    return bool(stored != current)


def _check_input(
    client: Client, one: Input, priced_table: str, topic: KafkaTopic | None, on_progress: OnProgress
) -> Iterator[Check]:
    name = f"{one.source}/{one.number}"
    priced = _positions(client, priced_table, one)
    twice = _first_repeated(priced)
    if twice is not None and priced_table != "usage":
        # A job that is running may have replaced rows since.
        priced = _positions(client, "usage", one)
        twice = _first_repeated(priced)
    # A copy, or a quarantined line, whose position has a row now was priced by a later run: it counts there.
    stored_copies = _positions(client, "duplicates FINAL", one)
    stored_quarantined = _positions(client, "quarantine_log FINAL", one)
    rows = Ledger(priced)
    copies = stored_copies[rows.take(stored_copies)]
    quarantined = stored_quarantined[rows.take(stored_quarantined)]
    both_times = len(copies) + len(quarantined) < len(stored_copies) + len(stored_quarantined)
    contradicted = _first(client, _CONTRADICTED, one) if both_times else None
    own = distinct(priced)
    both = np.intersect1d(copies, quarantined)
    unsure = _first(client, _COPY_BEFORE_QUARANTINE, one) if len(both) else None
    told = (
        f"{one.events_read:,} read = {len(own):,} priced + {len(copies):,} duplicates"
        f" + {len(quarantined) - len(both):,} quarantined"
    )
    if twice is not None:
        yield Check(f"{name}: once", ok=False, detail=f"{one.place(twice)} is priced twice")
    elif contradicted is not None:
        detail = f"{one.place(contradicted)} is priced, and was set aside no earlier than that"
        yield Check(f"{name}: once", ok=False, detail=detail)
    elif unsure is not None:
        place = one.place(unsure)
        yield Check(f"{name}: once", ok=False, detail=f"{place} is both a copy and in quarantine")
    else:
        yield Check(f"{name}: once", ok=True, detail="no position stands in two places")
    counted = len(own) + len(copies) + len(quarantined) - len(both)
    returned = min(one.events_read - counted, _returned(client, one)) if counted < one.events_read else 0
    if returned:
        told += f" + {returned:,} that are accounted for where they first stood"
        counted += returned
    if counted == one.events_read:
        yield Check(f"{name}: balance", ok=True, detail=told)
    else:
        yield Check(
            f"{name}: balance", ok=False, detail=f"{told} does not hold: {counted:,} are accounted for"
        )
    ledger = Ledger(np.concatenate([own, copies, quarantined]), _events(client, priced_table, one, own))
    yield _judge_recount(one, _recount(one, topic, ledger, on_progress))


_BEYOND = """
SELECT s.source, s.source_partition, count() AS beyond, min(s.source_offset) AS first
FROM
(
    SELECT source, source_partition, source_offset FROM priced_events
    UNION ALL SELECT source, source_partition, source_offset FROM duplicates
    UNION ALL SELECT source, source_partition, source_offset FROM quarantine_log
) AS s
LEFT JOIN (SELECT source, source_partition, next_offset FROM source_progress FINAL) AS p
ON s.source = p.source AND s.source_partition = p.source_partition
WHERE s.source_offset >= p.next_offset
GROUP BY s.source, s.source_partition
ORDER BY s.source, s.source_partition
SETTINGS join_use_nulls = 0
"""


def _check_progress(client: Client) -> Check:
    """Rows come before the progress of their input, so there may be some beyond it, but not for long."""
    rows = client.query(_BEYOND).result_rows
    if not rows:
        return Check("progress", ok=True, detail="no row stands beyond what its input has published")
    source, number, beyond, first = rows[0]
    place = Input(source, number, 0, 0).place(first << LINE_BITS)
    more = f", and of {len(rows) - 1} more inputs" if len(rows) > 1 else ""
    return Check(
        "progress",
        ok=True,
        detail=f"{beyond:,} rows from {place} on{more} stand beyond what their input has published: of a job "
        "that runs, or was stopped and publishes the rest at its next start; otherwise progress is lost",
        unproved=f"rows beyond the progress of {source}/{number}{more}",
    )


_POSITION = f"bitOr(bitShiftLeft(toUInt64(source_offset), {LINE_BITS}), toUInt64(source_line)) AS position"
# Rows past the published progress are those of a block whose progress is yet to come: they are no break.
_PUBLISHED = (
    "source = {source:String} AND source_partition = {number:UInt32} AND source_offset < {next_offset:UInt64}"
)


def _parameters(one: Input) -> dict[str, Any]:
    return {"source": one.source, "number": one.number, "next_offset": one.next_offset}


def _positions(client: Client, table: str, one: Input) -> UInt64s:
    found = client.query_arrow(
        f"SELECT {_POSITION} FROM {table} WHERE {_PUBLISHED}",  # noqa: S608  # a table of ours
        parameters=_parameters(one),
    )
    return np.asarray(found.column("position").to_numpy(), np.uint64)


def _events(client: Client, table: str, one: Input, priced: UInt64s) -> dict[int, Event]:
    """Some of the priced events, from the first position to the last, but for what is priced twice."""
    if not len(priced):
        return {}
    spread = np.linspace(0, len(priced) - 1, min(EVENTS_MAX, len(priced)), dtype=np.int64)
    positions = set(priced[spread].tolist())
    rows = client.query(
        f"SELECT {_POSITION}, any(tenant_id), any(idempotency_key) FROM {table} WHERE {_PUBLISHED}"  # noqa: S608  # constants
        " AND source_offset IN {offsets:Array(UInt64)} GROUP BY position HAVING count() = 1",
        parameters={**_parameters(one), "offsets": sorted({number >> LINE_BITS for number in positions})},
    ).result_rows
    return {position: Event(tenant, key) for position, tenant, key in rows if position in positions}


# What is priced cannot be taken back. So a copy or a quarantined line gives way to a row that came later,
# but the row of a position that was set aside later, or at the same time, should not be.
_CONTRADICTED = f"""
SELECT min(u.position) FROM
(SELECT {_POSITION}, ingested_at FROM usage WHERE {_PUBLISHED}) AS u
INNER JOIN
(
    SELECT position, max(received_at) AS set_aside_at FROM
    (
        SELECT {_POSITION}, received_at FROM duplicates FINAL WHERE {_PUBLISHED}
        UNION ALL
        SELECT {_POSITION}, received_at FROM quarantine_log FINAL WHERE {_PUBLISHED} AND resolved_at IS NULL
    )
    GROUP BY position
) AS a
ON u.position = a.position
WHERE a.set_aside_at >= u.ingested_at
HAVING count() > 0
"""  # noqa: S608  # constants


# An input that was read again, its state lost, may find a copy where it found what it could not price. So a
# copy that came later than the quarantine of its line counts, and what says otherwise is a break.
_COPY_BEFORE_QUARANTINE = f"""
SELECT min(d.position) FROM
(SELECT {_POSITION}, received_at FROM duplicates FINAL WHERE {_PUBLISHED}) AS d
INNER JOIN (SELECT {_POSITION}, received_at FROM quarantine_log FINAL WHERE {_PUBLISHED}) AS q
ON d.position = q.position
WHERE d.received_at <= q.received_at
    AND d.position NOT IN (SELECT {_POSITION} FROM priced_events WHERE {_PUBLISHED})
HAVING count() > 0
"""  # noqa: S608  # constants

# Without the state that a requeue was put through, its lines are read again where they first stood, and are
# priced there: the row, which replaces the requeue's, has that position. Their own inputs account for them.
_RETURNED = """
SELECT uniqExact(source, source_partition, source_offset, source_line) FROM
(
    SELECT source, source_partition, source_offset, source_line FROM usage
    UNION ALL SELECT source, source_partition, source_offset, source_line FROM duplicates
)
WHERE (source, source_partition, source_offset, source_line) IN
(
    SELECT source, source_partition, source_offset, source_line FROM requeues
    WHERE requeue_id = {id:String}
)
"""


def _returned(client: Client, one: Input) -> int:
    """Of a requeue, the lines that have been priced, or found to be copies, where they first stood."""
    return int(client.query(_RETURNED, parameters={"id": Path(one.source).stem}).result_rows[0][0])


def _first(client: Client, sql: str, one: Input) -> int | None:
    rows = client.query(sql, parameters=_parameters(one)).result_rows
    return int(rows[0][0]) if rows else None


def _first_repeated(positions: UInt64s) -> int | None:
    ordered = np.sort(positions)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    return int(repeated[0]) if len(repeated) else None


def _recount(one: Input, topic: KafkaTopic | None, ledger: Ledger, on_progress: OnProgress) -> Recount:
    def tell(reached: int) -> None:
        on_progress(f"{one.source}/{one.number}: {reached:,} of {one.next_offset:,}")

    if one.source.startswith("stdin:"):
        return Recount(refusal="standard input cannot be read again")
    if "/" in one.source:
        return recount_file(one.source, one.next_offset, ledger, tell)
    if topic is None or topic.topic != one.source:
        return Recount(refusal="it is not the Kafka topic that this audit was given as its source")
    return recount_kafka(topic, one.number, one.next_offset, ledger, tell)


def _judge_recount(one: Input, found: Recount) -> Check:
    name = f"{one.source}/{one.number}: recount"
    if len(found.lost):
        first = int(found.lost.min())
        sample = found.samples.get(first, b"")[:BEGINNING_BYTES].decode("utf-8", "replace")
        return Check(
            name, ok=False, detail=f"{len(found.lost):,} lost, the first {one.place(first)}: {sample}"
        )
    if len(found.invented):
        first = int(found.invented.min())
        detail = f"{len(found.invented):,} rows without a line, the first {one.place(first)}"
        return Check(name, ok=False, detail=detail)
    if found.altered:
        first = min(found.altered)
        line = found.altered[first].decode("utf-8", "replace")
        return Check(name, ok=False, detail=f"{one.place(first)} is not the event that was priced: {line}")
    if found.refusal:
        return Check(
            name, ok=True, detail=f"not recounted: {found.refusal}", unproved=f"{one.source}/{one.number}"
        )
    if found.lines != one.events_read:
        detail = f"the source holds {found.lines:,} lines, {one.events_read:,} were read"
        return Check(name, ok=False, detail=detail)
    return Check(name, ok=True, detail=f"{found.lines:,} lines read again, each of them accounted for")


_TWO_EVENTS = """
SELECT source, source_partition, source_offset, source_line FROM priced_events
GROUP BY source, source_partition, source_offset, source_line
HAVING count() > 1
    AND min(sipHash128(tenant_id, toDate(timestamp), idempotency_key))
        != max(sipHash128(tenant_id, toDate(timestamp), idempotency_key))
ORDER BY source, source_partition, source_offset, source_line LIMIT 1
SETTINGS max_bytes_before_external_group_by = 1000000000
"""


def _check_identities(client: Client) -> Check:
    """No position has stood for two events, not even in rows that were replaced since."""
    rows = client.query(_TWO_EVENTS).result_rows
    if rows:
        source, number, offset, line = rows[0]
        place = Input(source, number, 0, 0).place(offset << LINE_BITS | line)
        return Check("identities", ok=False, detail=f"{place} has been priced as two different events")
    return Check("identities", ok=True, detail="rows that were replaced were rows of the same events")


def verdict(checks: Sequence[Check]) -> str:
    """What all checks come to, in a sentence."""
    broken = sum(not check.ok for check in checks)
    if broken:
        return f"{broken} checks are broken"
    if any(check.detail == NOTHING_YET for check in checks):
        return f"{NOTHING_YET}: there is nothing to balance"
    unproved = [check.unproved for check in checks if check.unproved]
    if not unproved:
        return "the books balance"
    names = ", ".join(unproved[:NAMED_MAX])
    more = f" and {len(unproved) - NAMED_MAX} more" if len(unproved) > NAMED_MAX else ""
    return f"the books balance as far as they go; not recounted: {names}{more}"
