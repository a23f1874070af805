"""`meterline audit`: counts again, from the sources and from ClickHouse, and proves that the books balance.

For every input: each line that was read is priced, a copy, or in quarantine, and in one place only.
For every tenant and window: the rows that count for it sum to its spend. And no row's price contradicts
its cost. What cannot be counted again (a deleted file, expired messages) is said, not passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from clickhouse_connect.driver.client import Client

from dataflows.batch import UInt64s
from dataflows.kafka_source import KafkaTopic
from dataflows.recount import LINE_BITS, Ledger, Recount, recount_file, recount_kafka

OnProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One equation: whether it holds, in a sentence, with the first offender where it does not."""

    name: str
    ok: bool
    detail: str


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
) -> Iterator[Check]:
    """All checks, one after the other; the books balance if every one is ok.

    `topic` is the Kafka source, where there is one; `thresholds` and `window_hours` are those that the
    job ran with.
    """
    inputs = [
        Input(*row)
        for row in client.query(
            "SELECT source, source_partition, next_offset, events_read FROM source_progress FINAL"
            " ORDER BY source, source_partition"
        ).result_rows
    ]
    if not inputs:
        yield Check("inputs", ok=True, detail="nothing has been published yet")
    for one in inputs:
        yield from _check_input(client, one, topic, on_progress)
    yield _check_keys(client, window_hours)
    yield _check_amounts(client)
    for kind in ("day", "month"):
        yield _check_windows(client, kind)
    for threshold in thresholds:
        yield _check_alerts(client, threshold)


def _check_input(
    client: Client, one: Input, topic: KafkaTopic | None, on_progress: OnProgress
) -> Iterator[Check]:
    name = f"{one.source}/{one.number}"
    priced = _positions(client, "usage", one)
    # A copy, or a quarantined line, whose position has a row now was priced by a later run: it counts there.
    copies = np.setdiff1d(_positions(client, "duplicates FINAL", one), priced)
    quarantined = np.setdiff1d(_positions(client, "quarantine_log FINAL", one), priced)
    distinct = np.unique(priced)
    twice = _first_repeated(priced)
    both = np.intersect1d(copies, quarantined)
    told = (
        f"{one.events_read:,} read = {len(distinct):,} priced + {len(copies):,} duplicates"
        f" + {len(quarantined):,} quarantined"
    )
    if twice is not None:
        yield Check(f"{name}: once", ok=False, detail=f"{one.place(twice)} is priced twice")
    elif len(both):
        place = one.place(int(both[0]))
        yield Check(f"{name}: once", ok=False, detail=f"{place} is both a copy and in quarantine")
    else:
        yield Check(f"{name}: once", ok=True, detail="no position stands in two places")
    counted = len(distinct) + len(copies) + len(quarantined) - len(both)
    if counted == one.events_read:
        yield Check(f"{name}: balance", ok=True, detail=told)
    else:
        yield Check(
            f"{name}: balance", ok=False, detail=f"{told} does not hold: {counted:,} are accounted for"
        )
    ledger = Ledger(np.concatenate([distinct, copies, quarantined]))
    yield _judge_recount(one, _recount(one, topic, ledger, on_progress))


def _positions(client: Client, table: str, one: Input) -> UInt64s:
    found = client.query_arrow(
        f"SELECT bitOr(bitShiftLeft(toUInt64(source_offset), {LINE_BITS}),"  # noqa: S608  # a table of ours
        " toUInt64(source_line)) AS position"
        f" FROM {table} WHERE source = {{source:String}} AND source_partition = {{number:UInt32}}",
        parameters={"source": one.source, "number": one.number},
    )
    return np.asarray(found.column("position").to_numpy(), np.uint64)


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
        sample = found.samples.get(first, b"")[:80].decode("utf-8", "replace")
        return Check(
            name, ok=False, detail=f"{len(found.lost):,} lost, the first {one.place(first)}: {sample}"
        )
    if len(found.invented):
        first = int(found.invented.min())
        detail = f"{len(found.invented):,} rows without a line, the first {one.place(first)}"
        return Check(name, ok=False, detail=detail)
    if found.refusal:
        return Check(name, ok=True, detail=f"not recounted: {found.refusal}")
    if found.lines != one.events_read:
        detail = f"the source holds {found.lines:,} lines, {one.events_read:,} were read"
        return Check(name, ok=False, detail=detail)
    return Check(name, ok=True, detail=f"{found.lines:,} lines read again, each of them accounted for")


def _check_keys(client: Client, window_hours: int) -> Check:
    times = "arraySort(groupArray(toUnixTimestamp64Milli(timestamp)))"
    rows = client.query(
        "SELECT tenant_id, idempotency_key FROM usage GROUP BY tenant_id, idempotency_key"  # noqa: S608  # a constant
        f" HAVING count() > 1 AND arrayMin(arrayPopFront(arrayDifference({times}))) <= {{window_ms:Int64}}"
        " ORDER BY tenant_id, idempotency_key LIMIT 1",
        parameters={"window_ms": window_hours * 3_600_000},
    ).result_rows
    if rows:
        tenant, key = rows[0]
        detail = f"tenant {tenant} has the key {key} priced twice within {window_hours} hours"
        return Check("keys", ok=False, detail=detail)
    return Check("keys", ok=True, detail=f"no key is priced twice within {window_hours} hours")


def _check_amounts(client: Client) -> Check:
    """Price is cost x multiplier, each rounded once from one exact cost: they differ by roundings at most."""
    rows = client.query(
        "SELECT tenant_id, idempotency_key, toString(u.cost), toString(u.price) FROM usage AS u"
        " WHERE (NOT billable AND u.price != 0) OR (billable AND cache_status = 'miss' AND"
        " abs(toDecimal256(u.price, 12) - toDecimal256(u.cost, 12) * toDecimal256(multiplier, 12))"
        " > (toDecimal256(multiplier, 12) + 1) * toDecimal256('0.000000000001', 12))"
        " ORDER BY tenant_id, idempotency_key LIMIT 1"
    ).result_rows
    if rows:
        tenant, key, cost, price = rows[0]
        detail = f"tenant {tenant}, key {key}: a cost of {cost} and a price of {price} contradict each other"
        return Check("amounts", ok=False, detail=detail)
    return Check("amounts", ok=True, detail="each price follows from its cost and multiplier")


_WINDOWS = """
SELECT tenant_id, feature_id, window_start, told, counted FROM
(
    SELECT w.tenant_id AS tenant_id, w.feature_id AS feature_id, w.window_start AS window_start,
        any(w.spend) AS told, sum(u.price) AS counted,
        any(w.events) AS told_events, countIf(u.found) AS events
    FROM (SELECT * FROM spend_windows FINAL WHERE window_kind = {kind:String}) AS w
    LEFT JOIN
    (
        SELECT tenant_id, scope, window_start, price, true AS found FROM
        (
            SELECT r.tenant_id AS tenant_id, r.scope AS scope, s.window_start AS window_start,
                r.price AS price, r.timestamp < s.window_end AS inside
            FROM
            (
                SELECT tenant_id, arrayJoin(['', feature_id]) AS scope, timestamp, price
                FROM usage WHERE NOT late
            ) AS r
            ASOF JOIN (SELECT * FROM spend_windows FINAL WHERE window_kind = {kind:String}) AS s
            ON r.tenant_id = s.tenant_id AND r.scope = s.feature_id AND r.timestamp >= s.window_start
        )
        WHERE inside
    ) AS u
    ON w.tenant_id = u.tenant_id AND w.feature_id = u.scope AND w.window_start = u.window_start
    GROUP BY tenant_id, feature_id, window_start
)
WHERE told != counted OR told_events != events
ORDER BY tenant_id, feature_id, window_start LIMIT 1
"""

_OUTSIDE = """
SELECT r.tenant_id, r.idempotency_key
FROM (SELECT tenant_id, idempotency_key, timestamp FROM usage WHERE NOT late) AS r
ASOF LEFT JOIN
    (SELECT * FROM spend_windows FINAL WHERE window_kind = {kind:String} AND feature_id = '') AS s
ON r.tenant_id = s.tenant_id AND r.timestamp >= s.window_start
WHERE s.tenant_id = '' OR r.timestamp >= s.window_end
ORDER BY r.tenant_id, r.idempotency_key LIMIT 1
"""


def _check_windows(client: Client, kind: str) -> Check:
    rows: list[Any] = list(client.query(_WINDOWS, parameters={"kind": kind}).result_rows)
    if rows:
        tenant, feature, start, told, counted = rows[0]
        scope = f"feature {feature} of tenant {tenant}" if feature else f"tenant {tenant}"
        detail = f"{scope}, {kind} from {start}: the window says {told}, its rows sum to {counted}"
        return Check(f"spend by {kind}", ok=False, detail=detail)
    rows = list(client.query(_OUTSIDE, parameters={"kind": kind}).result_rows)
    if rows:
        detail = f"the event {rows[0][1]} of tenant {rows[0][0]} is in no {kind}'s window"
        return Check(f"spend by {kind}", ok=False, detail=detail)
    windows = client.query(
        "SELECT count() FROM spend_windows FINAL WHERE window_kind = {kind:String}", parameters={"kind": kind}
    ).result_rows[0][0]
    return Check(f"spend by {kind}", ok=True, detail=f"the rows of {windows:,} windows sum to their spend")


def _check_alerts(client: Client, threshold: Decimal) -> Check:
    rows = client.query(
        "SELECT s.tenant_id, s.feature_id, s.window_start FROM spend_windows AS s FINAL"
        " WHERE s.cap IS NOT NULL"
        " AND toDecimal256(s.spend, 24) >="
        " toDecimal256(assumeNotNull(s.cap), 12) * toDecimal256({threshold:String}, 12)"
        " AND (s.tenant_id, s.feature_id, s.window_kind, s.window_start) NOT IN"
        " (SELECT tenant_id, feature_id, window_kind, window_start FROM cap_alert_log FINAL"
        " WHERE threshold = toDecimal128({threshold:String}, 12))"
        " ORDER BY s.tenant_id, s.feature_id, s.window_start LIMIT 1",
        parameters={"threshold": format(threshold, "f")},
    ).result_rows
    name = f"alerts at {threshold}"
    if rows:
        tenant, feature, start = rows[0]
        scope = f"feature {feature} of tenant {tenant}" if feature else f"tenant {tenant}"
        return Check(
            name, ok=False, detail=f"{scope} reached it in the window from {start}, without an alert"
        )
    return Check(name, ok=True, detail="every window that reached it has its alert")
