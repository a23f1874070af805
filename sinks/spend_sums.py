"""The sums of spend that stand in ClickHouse: their generation, and how a rebuild makes them right.

A window's row is replaced by one of a greater generation, and within a generation by one of more events
(migration 7). So a state that begins anew catches up without setting anything back, and a rebuild, which
knows the right sums, prevails over wrong ones that hold more events.
"""

from __future__ import annotations

from clickhouse_connect.driver.client import Client

from sinks.publish import INSERT_SETTINGS

_SUM_AGAIN = """
INSERT INTO spend_sums
    (tenant_id, feature_id, window_kind, window_start, window_end, spend, events, cap, updated_at, generation)
SELECT w.tenant_id, w.feature_id, w.window_kind, w.window_start, w.window_end, u.spend, u.events, w.cap,
    now64(3, 'UTC'), {generation:UInt32}
FROM (SELECT * FROM spend_sums FINAL) AS w
LEFT JOIN
(
    SELECT s.tenant_id AS tenant_id, s.feature_id AS feature_id, s.window_kind AS window_kind,
        s.window_start AS window_start, sum(r.price) AS spend, sum(r.events) AS events
    FROM
    (
        SELECT tenant_id, arrayJoin(['', feature_id]) AS scope, arrayJoin(['day', 'month']) AS kind,
            timestamp, price, events
        FROM charges
    ) AS r
    ASOF JOIN (SELECT * FROM spend_sums FINAL) AS s
    ON r.tenant_id = s.tenant_id AND r.scope = s.feature_id AND r.kind = s.window_kind
        AND r.timestamp >= s.window_start
    WHERE r.timestamp < s.window_end
    GROUP BY tenant_id, feature_id, window_kind, window_start
) AS u
ON u.tenant_id = w.tenant_id AND u.feature_id = w.feature_id AND u.window_kind = w.window_kind
    AND u.window_start = w.window_start
SETTINGS join_use_nulls = 0
"""


def newest_generation(client: Client) -> int:
    """The greatest generation of the sums; 0 where there are none."""
    return int(client.query("SELECT max(generation) FROM spend_sums").result_rows[0][0])


def sum_again(client: Client, generation: int) -> None:
    """Sum what was charged into each window that there is, as a new generation. Caps stay as they were.

    Memory: a row for each window, in ClickHouse.
    """
    client.command(_SUM_AGAIN, parameters={"generation": generation}, settings=INSERT_SETTINGS)
