"""What an operator looks at: margins, losses, what was dropped and why, alerts. Tables with exact amounts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from clickhouse_connect.driver.client import Client

DIMENSIONS = {
    "model": "model",
    "feature": "feature_id",
    "tenant": "tenant_id",
    "provider": "provider",
    "day": "day",
}
ROWS_MAX = 10_000
_TEXT_MIN = 12
_SHOWN_PLACES = Decimal("0.0001")
_CONTEXT = Context(prec=60, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table as it was read: exact decimals, times in UTC. `totals` has a cell a column, or is empty."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    totals: tuple[Any, ...] = ()


def margin_report(
    client: Client, by: str, since: date | None = None, until: date | None = None, limit: int = 50
) -> ReportTable:
    """Cost, price and margin by a dimension, least margin first; days are `[since, until)`.

    Raises:
        ValueError: no such dimension.
    """
    if by not in DIMENSIONS:
        raise ValueError(f"there is no margin by {by}: choose from {', '.join(DIMENSIONS)}")
    column = DIMENSIONS[by]
    where = "day >= {since:Date} AND day < {until:Date}"
    measures = (
        "sum(requests), sum(billable_requests), sum(m.cost), sum(m.price), sum(m.price) - sum(m.cost),"
        " if(sum(m.price) = 0, NULL, round((sum(m.price) - sum(m.cost)) * 100 / sum(m.price), 2))"
    )
    bounds = {"since": since or date(1970, 1, 1), "until": until or date(2100, 1, 1)}
    rows = client.query(
        f"SELECT {column}, {measures} FROM margin_daily AS m WHERE {where}"  # noqa: S608  # names are from DIMENSIONS
        f" GROUP BY {column} ORDER BY 6, {column} LIMIT {{limit:UInt32}}",
        parameters={**bounds, "limit": min(limit, ROWS_MAX)},
    ).result_rows
    totals = client.query(
        f"SELECT 'all', {measures} FROM margin_daily AS m WHERE {where}",  # noqa: S608  # as above
        parameters=bounds,
    ).result_rows[0]
    columns = (by, "requests", "billable", "cost", "price", "margin", "margin %")
    return ReportTable(f"Margin by {by} (USD)", columns, _tuples(rows), tuple(totals))


def losing_tenants(client: Client, limit: int = 20) -> ReportTable:
    """Tenants that cost more than they are charged, the worst first."""
    rows = client.query(
        "SELECT tenant_id, sum(requests), sum(m.cost), sum(m.price), sum(m.price) - sum(m.cost) AS lost"
        " FROM margin_daily AS m GROUP BY tenant_id HAVING lost < 0 ORDER BY lost, tenant_id"
        " LIMIT {limit:UInt32}",
        parameters={"limit": min(limit, ROWS_MAX)},
    ).result_rows
    return ReportTable(
        "Tenants that lose money (USD)", ("tenant", "requests", "cost", "price", "margin"), _tuples(rows)
    )


def quarantine_report(client: Client) -> ReportTable:
    """What waits in quarantine, by reason, with one example of each."""
    rows = client.query(
        "SELECT reason, count(), any(detail), any(source) FROM quarantine WHERE resolved_at IS NULL"
        " GROUP BY reason ORDER BY count() DESC, reason"
    ).result_rows
    return ReportTable("In quarantine", ("reason", "events", "for example", "where"), _tuples(rows))


def unpriced_report(client: Client, limit: int = 50) -> ReportTable:
    """Models that wait for a rate, the most events first, as far as the lines that arrived tell.

    `why` is that of the line that arrived last: a card may have learnt something meanwhile.
    """
    waiting = (
        "SELECT model, detail, received_at,"
        " if(JSONExtractString(raw, 'specversion') = '1.0', JSONExtractRaw(raw, 'data'), raw) AS event,"
        " JSONExtractString(event, 'provider') AS provider, JSONExtractString(event, 'service_tier') AS tier,"
        " JSONExtract(event, 'input_tokens', 'Nullable(UInt64)') AS tokens_in,"
        " JSONExtract(event, 'output_tokens', 'Nullable(UInt64)') AS tokens_out"
        " FROM quarantine WHERE reason = 'unpriced' AND resolved_at IS NULL"
    )
    measures = "count(), sum(tokens_in), sum(tokens_out), min(received_at), max(received_at)"
    rows = client.query(
        f"SELECT provider, model, tier, {measures}, argMax(detail, (received_at, detail)) FROM ({waiting})"  # noqa: S608  # nothing of it comes from outside
        " GROUP BY provider, model, tier ORDER BY count() DESC, provider, model, tier LIMIT {limit:UInt32}",
        parameters={"limit": min(limit, ROWS_MAX)},
    ).result_rows
    totals = client.query(f"SELECT 'all', '', '', {measures}, '' FROM ({waiting})").result_rows[0]  # noqa: S608  # as above
    counted = ("events", "input_tokens", "output_tokens", "first received", "last received")
    columns = ("provider", "model", "service_tier", *counted, "why")
    return ReportTable("Waiting for a rate", columns, _tuples(rows), tuple(totals) if rows else ())


_READ = """
SELECT sumIf(events_read, NOT again), sumIf(events_read, again) FROM
(
    SELECT events_read, splitByChar('/', source)[-1] IN (SELECT requeue_id || '.jsonl' FROM requeues) AS again
    FROM source_progress FINAL
)
"""
"""Lines read of the job's own inputs, and of requeues: those had been read before."""
_COPIES = """
SELECT count() FROM duplicates FINAL WHERE (source, source_partition, source_offset, source_line) NOT IN
    (SELECT source, source_partition, source_offset, source_line FROM requeues FINAL)
"""
"""Without lines that were requeued and then, their state lost, found where they first stood."""


def dropped_report(client: Client) -> ReportTable:
    """Where everything that arrived has gone: priced, copies, and quarantine by reason.

    A line that was requeued arrived once, and is counted by what came of it: the counts sum to what was read
    once the requeue has ended. (Only a line that was resolved because its copy was priced, and was then read
    again because all state was lost, may be counted twice.)
    """
    rows: list[tuple[Any, ...]] = [
        ("priced", *_one(client, "SELECT count() FROM usage"), "rows of usage"),
        ("  of these late", *_one(client, "SELECT countIf(late) FROM usage"), "priced, but outside spend"),
        ("duplicates", *_one(client, _COPIES), "copies: counted, not priced"),
    ]
    rows += [
        (f"quarantine: {reason}", count, f"for example: {detail[:60]}")
        for reason, count, detail, _ in quarantine_report(client).rows
    ]
    read, again = _one(client, _READ)
    resolved = _one(client, "SELECT count() FROM quarantine WHERE resolved_at IS NOT NULL")[0]
    if resolved > again:
        rows.append(("resolved", resolved - again, "priced meanwhile as another line: not requeued"))
    columns = ("what", "events", "detail")
    return ReportTable("What arrived, and where it went", columns, tuple(rows), ("read", read, ""))


def alerts_report(client: Client, limit: int = 50) -> ReportTable:
    """Alerts, the newest first."""
    rows = client.query(
        "SELECT tenant_id, feature_id, window_kind, window_start, a.cap, a.threshold, a.spend, crossing_key,"
        " raised_at, delivered_at FROM cap_alerts AS a ORDER BY raised_at DESC, alert_id"
        " LIMIT {limit:UInt32}",
        parameters={"limit": min(limit, ROWS_MAX)},
    ).result_rows
    capped = ("tenant", "feature", "window", "start", "cap", "threshold", "spend")
    columns = (*capped, "crossing event", "raised", "delivered")
    return ReportTable("Cap alerts (USD)", columns, _tuples(rows))


def spend_report(client: Client, limit: int = 50) -> ReportTable:
    """Windows that have come closest to their caps, or passed them."""
    rows = client.query(
        "SELECT tenant_id, feature_id, window_kind, window_start, spend, s.cap, ratio, remaining"
        " FROM spend AS s"
        " WHERE s.cap IS NOT NULL ORDER BY ratio DESC, tenant_id LIMIT {limit:UInt32}",
        parameters={"limit": min(limit, ROWS_MAX)},
    ).result_rows
    columns = ("tenant", "feature", "window", "start", "spend", "cap", "ratio", "remaining")
    return ReportTable("Spend against caps (USD)", columns, _tuples(rows))


REPORTS: Mapping[str, Callable[[Client, int], ReportTable]] = {
    "losing": losing_tenants,
    "dropped": lambda client, _: dropped_report(client),
    "quarantine": lambda client, _: quarantine_report(client),
    "unpriced": unpriced_report,
    "spend": spend_report,
    "alerts": alerts_report,
}
"""Reports other than margin, each of at most so many rows where that may be many."""


def _one(client: Client, sql: str) -> tuple[Any, ...]:
    return tuple(client.query(sql).result_rows[0])


def _tuples(rows: Sequence[Sequence[Any]]) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(row) for row in rows)


def render_text(table: ReportTable, width: int = 0) -> str:
    """Aligned text; only here amounts are rounded, for the eye.

    Lines have `width` characters at most, where it is given: for that texts are cut, the longest first, down
    to `_TEXT_MIN`. Numbers never are: a line with many of them may be longer.
    """
    body = [[_shown(cell) for cell in row] for row in table.rows]
    foot = [[_shown(cell) for cell in table.totals]] if table.totals else []
    if not body:
        return f"{table.title}\n  none"
    cells = [list(table.columns), *body, *foot]
    right = [
        all(isinstance(row[column], (int, Decimal)) or row[column] is None for row in table.rows)
        for column in range(len(table.columns))
    ]
    widths = _widths(cells, right, width)

    def line(row: list[str]) -> str:
        parts = [
            cell.rjust(size) if flush else _cut(cell, size).ljust(size)
            for cell, size, flush in zip(row, widths, right, strict=True)
        ]
        return ("  " + "  ".join(parts)).rstrip()

    rule = "  " + "─" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [table.title, line(list(table.columns)), rule, *(line(row) for row in body)]
    return "\n".join([*lines, *([rule, *(line(row) for row in foot)] if foot else [])])


def _widths(cells: list[list[str]], right: list[bool], width: int) -> list[int]:
    """Of each column; `right` tells the numbers."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(right))]
    texts = [column for column, flush in enumerate(right) if not flush]
    while width and texts and sum(widths) + 2 * len(widths) > width:
        longest = max(texts, key=lambda column: widths[column])
        if widths[longest] <= _TEXT_MIN:
            break
        widths[longest] -= 1
    return widths


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"


def _shown(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, Decimal):
        return f"{_CONTEXT.quantize(cell, _SHOWN_PLACES):,f}"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, datetime):
        return cell.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(cell, (list, tuple)):
        return ", ".join(_shown(item) for item in cell)
    return " ".join(str(cell).splitlines())


def render_json(table: ReportTable) -> str:
    """Rows as objects; amounts as exact decimal strings."""
    rows = [dict(zip(table.columns, map(_exact, row), strict=True)) for row in table.rows]
    totals = dict(zip(table.columns, map(_exact, table.totals), strict=True)) if table.totals else None
    return json.dumps({"title": table.title, "rows": rows, "totals": totals}, indent=2)


def render_csv(table: ReportTable) -> str:
    """Header and rows; amounts as exact decimal strings, no totals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([_csv_cell(cell) for cell in row] for row in table.rows)
    return text.getvalue()


def _csv_cell(cell: Any) -> Any:
    if isinstance(cell, (list, tuple)):
        return ", ".join(str(_exact(item)) for item in cell)
    return "" if cell is None else _exact(cell)


def _exact(cell: Any) -> Any:
    if isinstance(cell, Decimal):
        return format(cell, "f")
    if isinstance(cell, (list, tuple)):
        return [_exact(item) for item in cell]
    return cell.isoformat() if isinstance(cell, (date, datetime)) else cell
