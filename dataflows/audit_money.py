"""The audit's questions about money, which ClickHouse alone can answer: keys, amounts, windows and alerts.

Both sides of a comparison stand in one query, so that a job that publishes meanwhile is seen at one moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from clickhouse_connect.driver.client import Client

from dataflows.rerate_log import unfinished


@dataclass(frozen=True, slots=True)
class Check:
    """One equation: whether it holds, in a sentence, with the first offender where it does not.

    `unproved` says of what: an input that could not be counted again, say. Then nothing contradicts
    the equation, and nothing proves it.
    """

    name: str
    ok: bool
    detail: str
    unproved: str = ""


def check_keys(client: Client, window_hours: int) -> Check:
    """No tenant has two rows of one key within the window: copies on two days would be two rows."""
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


# Cost and price are each rounded once, from one exact sum: off by at most half of the last place each.
_WRONG_AMOUNTS = """
SELECT tenant_id, idempotency_key, toString(u.cost), toString(u.price) FROM usage AS u
WHERE u.price < 0 OR u.cost < 0
    OR (NOT billable AND u.price != 0)
    OR (billable AND status != 'success')
    OR (billable AND cache_status = 'miss' AND multiplier = 1 AND u.price != u.cost)
    OR (billable AND cache_status = 'miss' AND
        abs(toDecimal256(u.price, 24) - toDecimal256(u.cost, 12) * toDecimal256(multiplier, 12)) * 2
        > toDecimal256(multiplier + 1, 12) * toDecimal256('0.000000000001', 12))
ORDER BY tenant_id, idempotency_key LIMIT 1
"""


def check_amounts(client: Client) -> Check:
    """Price is cost x multiplier, as far as the rounding of each leaves it certain; 0 where not billable."""
    rows = client.query(_WRONG_AMOUNTS).result_rows
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
        any(w.events) AS told_events, sum(u.events) AS events
    FROM (SELECT * FROM spend_sums FINAL WHERE window_kind = {kind:String}) AS w
    LEFT JOIN
    (
        SELECT tenant_id, scope, window_start, price, events FROM
        (
            SELECT r.tenant_id AS tenant_id, r.scope AS scope, s.window_start AS window_start,
                r.price AS price, r.events AS events, r.timestamp < s.window_end AS inside
            FROM
            (
                SELECT tenant_id, arrayJoin(['', feature_id]) AS scope, timestamp, price, events FROM charges
            ) AS r
            ASOF JOIN (SELECT * FROM spend_sums FINAL WHERE window_kind = {kind:String}) AS s
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
    (SELECT * FROM spend_sums FINAL WHERE window_kind = {kind:String} AND feature_id = '') AS s
ON r.tenant_id = s.tenant_id AND r.timestamp >= s.window_start
WHERE s.tenant_id = '' OR r.timestamp >= s.window_end
ORDER BY r.tenant_id, r.idempotency_key LIMIT 1
"""


def check_windows(client: Client, kind: str) -> Check:
    """A window's spend and events are those of its rows that are not late, and each such row has a window.

    With the prices that the job charged: re-ratings change no window. Amid one that is not finished they
    cannot be told.
    """
    begun = unfinished(client)
    if begun is not None:
        detail = f"{begun}, is not finished: not compared until `meterline rerate --apply` finishes it"
        return Check(
            f"spend by {kind}", ok=True, detail=detail, unproved=f"spend by {kind}, amid a re-rating"
        )
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
        "SELECT count() FROM spend_sums FINAL WHERE window_kind = {kind:String}", parameters={"kind": kind}
    ).result_rows[0][0]
    return Check(f"spend by {kind}", ok=True, detail=f"the rows of {windows:,} windows sum to their spend")


def check_alerts(client: Client, threshold: Decimal) -> Check:
    """Each window that reached the threshold of its cap has an alert that says so."""
    rows = client.query(
        "SELECT s.tenant_id, s.feature_id, s.window_start FROM spend_sums AS s FINAL"
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


# An alert is held against its own cap: the configured one may have changed since.
_GROUNDLESS = """
SELECT a.alert_id, a.tenant_id, multiIf(
        a.same > 1, 'was raised twice',
        s.known = 0, 'names a window that there is not',
        toDecimal256(s.spend, 24) < a.limit, 'was raised though the spend is below its threshold',
        toDecimal256(a.spend, 24) < a.limit, 'names a spend below its threshold',
        '') AS wrong
FROM
(
    SELECT *, toDecimal256(cap, 12) * toDecimal256(threshold, 12) AS limit,
        count() OVER (PARTITION BY tenant_id, feature_id, window_kind, window_start, threshold) AS same
    FROM cap_alert_log FINAL
) AS a
LEFT JOIN
(
    SELECT tenant_id, feature_id, window_kind, window_start, spend, 1 AS known FROM spend_sums FINAL
) AS s
ON a.tenant_id = s.tenant_id AND a.feature_id = s.feature_id AND a.window_kind = s.window_kind
    AND a.window_start = s.window_start
WHERE wrong != ''
ORDER BY a.alert_id LIMIT 1
"""


def check_grounds(client: Client) -> Check:
    """No alert without a window that reached its threshold, and none twice."""
    rows = client.query(_GROUNDLESS).result_rows
    if rows:
        alert, tenant, wrong = rows[0]
        return Check("grounds of alerts", ok=False, detail=f"{alert} of tenant {tenant} {wrong}")
    return Check("grounds of alerts", ok=True, detail="each alert has a window that reached its threshold")
