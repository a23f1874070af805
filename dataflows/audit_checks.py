"""Checks of the audit that ClickHouse alone can answer: amounts, windows, alerts, and events priced twice.

Each check is one or two columnar queries. Both sides of a comparison stand in one query, so that a job
that publishes meanwhile is seen at one moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from sinks.clickhouse import ClickHouseUnavailableError

QUERY_SETTINGS = {
    # Beyond this many bytes a query goes on in ClickHouse's temporary files, whatever the number of rows.
    "max_bytes_before_external_group_by": 1_000_000_000,
    "max_bytes_before_external_sort": 1_000_000_000,
}


class Verdict(str, Enum):
    """What a check came to. What could not be checked is never passed off as checked."""

    HOLDS = "holds"
    BROKEN = "broken"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, what it came to, what it counted, and the first break (or why not) in a sentence."""

    name: str
    verdict: Verdict
    counts: Mapping[str, int]
    finding: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was checked, and holds."""
        return self.verdict is Verdict.HOLDS


def concluded(name: str, counts: Mapping[str, int], finding: str) -> Check:
    """A check that was made: it holds unless it found something."""
    return Check(name, Verdict.BROKEN if finding else Verdict.HOLDS, counts, finding)


def ask(client: Client, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Rows of a query, by column name.

    Raises:
        ClickHouseUnavailableError: it is not answered.
    """
    try:
        found = client.query(sql, parameters=dict(parameters or {}), settings=QUERY_SETTINGS)
    except (ClickHouseError, OSError) as exc:
        first = (str(exc).splitlines() or [type(exc).__name__])[0][:300]
        raise ClickHouseUnavailableError(
            f"ClickHouse did not answer a question of the audit: {first}"
        ) from exc
    return list(found.named_results())


def place(source: str, number: int, offset: int, line: int) -> str:
    """A position as people write it, and as the `quarantine` view does."""
    if "/" in source or source.startswith("stdin:"):
        return f"{source}:{offset}"
    return f"{source}/{number}@{offset}#{line}"


def place_of(row: Mapping[str, Any]) -> str:
    """The position of a row that has the four columns of one."""
    return place(row["source"], row["source_partition"], row["source_offset"], row["source_line"])


# Cost and price are each rounded once from the same exact sum S, so |cost - S| and |price - S x multiplier|
# are at most half of 1e-12: that is all by which a true price can differ from cost x multiplier.
_WRONG_AMOUNT = """
multiIf(
    price < 0 OR cost < 0, 'an amount below zero',
    NOT billable AND price != 0, 'a price though it is not billable',
    billable AND status != 'success', 'billable though its call did not succeed',
    billable AND cache_status != 'hit' AND multiplier = 1 AND price != cost, 'a price that is not its cost',
    billable AND cache_status != 'hit'
        AND abs(toDecimal256(price, 24) - toDecimal256(cost, 12) * toDecimal256(multiplier, 12)) * 2
            > toDecimal256(multiplier + 1, 12) * toDecimal256('0.000000000001', 12),
    'a price that is not cost × multiplier',
    '')
"""


def check_amounts(client: Client) -> Check:
    """price = cost × multiplier on every row, to the last digit that two roundings leave certain."""
    totals = ask(
        client,
        f"SELECT count() AS rows_seen, countIf(billable) AS billable_rows, countIf({_WRONG_AMOUNT} != '') AS wrong"  # noqa: S608  # our own text
        " FROM usage",
    )[0]
    finding = ""
    if totals["wrong"]:
        row = ask(
            client,
            f"SELECT *, {_WRONG_AMOUNT} AS wrong FROM usage WHERE wrong != ''"  # noqa: S608  # our own text
            " ORDER BY source, source_partition, source_offset, source_line LIMIT 1",
        )[0]
        finding = (
            f"{_plural(totals['wrong'], 'row has', 'rows have')} wrong amounts; the first, {place_of(row)} "
            f"({_who(row)}), has {row['wrong']}: cost {row['cost']:f}, multiplier {row['multiplier'].normalize():f}, "
            f"price {row['price']:f}"
        )
    counts = {"rows": totals["rows_seen"], "billable": totals["billable_rows"], "wrong": totals["wrong"]}
    return concluded("amounts", counts, finding)


# Two events of one key are two events only when they lie further apart than the window. Hashes only choose
# the keys that are looked at; keys themselves decide.
_PRICED_TWICE = """
WITH suspects AS (
    SELECT cityHash64(tenant_id, idempotency_key) AS suspect FROM usage GROUP BY suspect HAVING count() > 1
)
SELECT *, count() OVER () AS found
FROM (
    SELECT
        tenant_id, idempotency_key, timestamp, price, source, source_partition, source_offset, source_line,
        row_number() OVER pair AS nth,
        lagInFrame(timestamp) OVER pair AS earlier,
        lagInFrame(tuple(source, source_partition, source_offset, source_line)) OVER pair AS earlier_place
    FROM usage
    WHERE cityHash64(tenant_id, idempotency_key) IN (SELECT suspect FROM suspects)
    WINDOW pair AS (
        PARTITION BY tenant_id, idempotency_key ORDER BY timestamp
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    )
)
WHERE nth > 1 AND toUnixTimestamp64Milli(timestamp) - toUnixTimestamp64Milli(earlier) <= {window_ms:Int64}
ORDER BY source, source_partition, source_offset, source_line
LIMIT 1
"""


def check_priced_once(client: Client, window_ms: int | None) -> Check:
    """No two rows of one key lie within the idempotency window: copies that fell on two days would be two rows."""
    if window_ms is None:
        reason = "no configuration was given, so that the idempotency window is unknown"
        return Check("priced once", Verdict.NOT_CHECKED, {}, reason)
    found = ask(client, _PRICED_TWICE, {"window_ms": window_ms})
    finding = ""
    if found:
        row = found[0]
        finding = (
            f"{_plural(row['found'], 'event is', 'events are')} priced twice; the first is that of {_who(row)}, "
            f"at {place(*row['earlier_place'])} and at {place_of(row)}, within the idempotency window"
        )
    return concluded("priced once", {"twice": found[0]["found"] if found else 0}, finding)


# Every row goes to the latest window of its tenant that begins at or before it; `astray` counts rows that
# this window does not reach. The windows themselves join as rows of the other side.
_WINDOWS = """
SELECT *, count() OVER () AS compared, countIf(wrong) OVER () AS broken
FROM (
    SELECT
        tenant_id, feature_id, window_kind, window_start,
        sum(row_spend) AS rows_spend, sum(row_count) AS rows_events,
        sum(kept_spend) AS window_spend, sum(kept_events) AS window_events,
        max(is_window) AS kept, min(instant) AS first_instant,
        rows_spend != window_spend OR rows_events != window_events OR NOT kept AS wrong
    FROM (
        SELECT
            u.tenant_id AS tenant_id, {row_feature} AS feature_id, {{kind:String}} AS window_kind,
            if(u.timestamp < w.window_end, w.window_start, toDateTime64(0, 3, 'UTC')) AS window_start,
            u.price AS row_spend, 1 AS row_count, toDecimal128(0, 12) AS kept_spend, 0 AS kept_events,
            0 AS is_window, u.timestamp AS instant
        FROM (SELECT tenant_id, feature_id, timestamp, price FROM usage WHERE NOT late) AS u
        {join} (
            SELECT tenant_id, feature_id, window_start, window_end FROM spend
            WHERE window_kind = {{kind:String}} AND feature_id {scope}
        ) AS w
        ON u.tenant_id = w.tenant_id {on_feature} AND u.timestamp >= w.window_start
        {inside}
        UNION ALL
        SELECT
            tenant_id, feature_id, window_kind, window_start, toDecimal128(0, 12), 0, spend, events,
            1, window_start
        FROM spend WHERE window_kind = {{kind:String}} AND feature_id {scope}
    )
    GROUP BY tenant_id, feature_id, window_kind, window_start
)
ORDER BY wrong DESC, tenant_id, feature_id, window_start
LIMIT 1
"""
_TENANT_WINDOWS = _WINDOWS.format(
    row_feature="''", join="ASOF LEFT JOIN", scope="= ''", on_feature="", inside=""
)
# A feature's spend is kept only where a cap asks for it, so a row outside of every window is no break here.
_FEATURE_WINDOWS = _WINDOWS.format(
    row_feature="u.feature_id",
    join="ASOF INNER JOIN",
    scope="!= ''",
    on_feature="AND u.feature_id = w.feature_id",
    inside="WHERE u.timestamp < w.window_end",
)


def check_windows(client: Client) -> Check:
    """Σ price of the rows that are not late = spend, and their number = events, for every window that is kept."""
    compared = broken = 0
    finding = ""
    for sql in (_TENANT_WINDOWS, _FEATURE_WINDOWS):
        for kind in ("day", "month"):
            found = ask(client, sql, {"kind": kind})
            if not found:
                continue
            compared += found[0]["compared"]
            broken += found[0]["broken"]
            if found[0]["wrong"] and not finding:
                finding = _window_sentence(found[0])
    if broken:
        finding = f"{_plural(broken, 'window does', 'windows do')} not add up; {finding}"
    return concluded("windows", {"windows": compared, "broken": broken}, finding)


def _window_sentence(row: Mapping[str, Any]) -> str:
    scope = f" for feature {row['feature_id']!r}" if row["feature_id"] else ""
    whose = f"tenant {row['tenant_id']!r}{scope}"
    if not row["kept"]:
        return (
            f"{_plural(row['rows_events'], 'row', 'rows')} of {whose} worth {row['rows_spend']:f}, the first of "
            f"{row['first_instant']}, fall in no {row['window_kind']} window"
        )
    return (
        f"the {row['window_kind']} of {whose} that begins at {row['window_start']} says {row['window_spend']:f} "
        f"in {row['window_events']:,} events, and its rows say {row['rows_spend']:f} in {row['rows_events']:,}"
    )


_MISSING_ALERT = """
SELECT s.*, count() OVER () AS found
FROM (
    SELECT tenant_id, feature_id, window_kind, window_start, spend, cap FROM spend
    WHERE cap IS NOT NULL
        AND toDecimal256(spend, 24) >= toDecimal256(assumeNotNull(cap), 12) * toDecimal256({threshold:String}, 12)
) AS s
LEFT ANTI JOIN (
    SELECT tenant_id, feature_id, window_kind, window_start FROM cap_alert_log
    WHERE threshold = toDecimal128({threshold:String}, 12)
) AS a
ON s.tenant_id = a.tenant_id AND s.feature_id = a.feature_id AND s.window_kind = a.window_kind
    AND s.window_start = a.window_start
ORDER BY s.window_start, s.tenant_id, s.feature_id
LIMIT 1
"""
# An alert is held against its own cap: the cap may have been changed since.
_UNFOUNDED_ALERT = """
SELECT *, countIf(wrong != '') OVER () AS unfounded, count() OVER () AS alerts
FROM (
    SELECT
        a.alert_id AS alert_id, a.tenant_id AS tenant_id, a.feature_id AS feature_id,
        a.window_kind AS window_kind, a.window_start AS window_start, a.threshold AS threshold, a.cap AS cap,
        count() OVER (PARTITION BY a.tenant_id, a.feature_id, a.window_kind, a.window_start, a.threshold) AS same,
        toDecimal256(a.cap, 12) * toDecimal256(a.threshold, 12) AS limit_spend,
        multiIf(
            same > 1, 'was raised twice',
            s.kept = 0, 'names a window that there is not',
            toDecimal256(s.spend, 24) < limit_spend, 'was raised below its threshold',
            toDecimal256(a.spend, 24) < limit_spend, 'names a spend below its threshold',
            '') AS wrong
    FROM (SELECT * FROM cap_alert_log FINAL) AS a
    LEFT JOIN (SELECT tenant_id, feature_id, window_kind, window_start, spend, 1 AS kept FROM spend) AS s
    ON s.tenant_id = a.tenant_id AND s.feature_id = a.feature_id AND s.window_kind = a.window_kind
        AND s.window_start = a.window_start
)
ORDER BY wrong = '', window_start, tenant_id, feature_id, alert_id
LIMIT 1
"""


def check_alerts(client: Client, thresholds: Sequence[Decimal]) -> Check:
    """An alert for every window that reached a threshold of its cap, and no alert for any other.

    Without thresholds only the second half can be checked.
    """
    rows = ask(client, _UNFOUNDED_ALERT)
    counts = {"alerts": rows[0]["alerts"] if rows else 0, "unfounded": rows[0]["unfounded"] if rows else 0}
    findings = []
    if counts["unfounded"]:
        row = rows[0]
        findings.append(
            f"{counts['unfounded']:,} should not be; {row['alert_id']}, {_crossing(row)}, {row['wrong']}"
        )
    missing = 0
    for threshold in thresholds:
        found = ask(client, _MISSING_ALERT, {"threshold": f"{threshold:f}"})
        if found:
            missing += found[0]["found"]
            findings.append(
                f"{found[0]['found']:,} are missing at {threshold.normalize():f} of the cap; the first is that of "
                f"{_crossing(found[0])}, whose spend is {found[0]['spend']:f} of {found[0]['cap']:f}"
            )
    counts["missing"] = missing
    if not findings and not thresholds:
        reason = "no configuration was given, so that missing alerts were not looked for"
        return Check("alerts", Verdict.NOT_CHECKED, counts, reason)
    return concluded("alerts", counts, f"of the alerts, {'; '.join(findings)}" if findings else "")


def _crossing(row: Mapping[str, Any]) -> str:
    feature = f", feature {row['feature_id']!r}" if row["feature_id"] else ""
    return f"tenant {row['tenant_id']!r}{feature}, {row['window_kind']} from {row['window_start']}"


def _who(row: Mapping[str, Any]) -> str:
    return f"tenant {row['tenant_id']!r}, key {row['idempotency_key']!r}"


def _plural(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
