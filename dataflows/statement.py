"""Statements: a tenant's usage by month from ClickHouse, and a statement as text, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from clickhouse_connect.driver.client import Client

from pricing.plans import Line, UsageTotal, trimmed
from pricing.settings import Settings, timezone_for
from pricing.statement import (
    Adjustment,
    Statement,
    UsageByMonth,
    is_configured,
    make_statement,
    months_needed,
)
from pricing.windows import month_starting, next_month

AMOUNT_PLACES_MIN = 2
# What a spreadsheet takes for the beginning of a formula, East Asian forms too.
_FORMULA = tuple("=+-@＝＋－＠")  # noqa: RUF001  # these very characters are meant
_TEXT_COLUMNS = ("line", "requests", "input tokens", "output tokens", "quantity", "unit price", "amount")
_USAGE_COLUMNS = ("feature", "model", "requests", "input_tokens", "output_tokens")
_COLUMNS = ("kind", "text", *_USAGE_COLUMNS, "quantity", "unit", "unit_price", "amount")
_NAMES = ("tenant", "plan", "text", "feature", "model")


class UnknownTenantError(Exception):
    """Nobody has heard of the tenant. The message is one sentence for the operator."""


def read_statement(client: Client, settings: Settings, tenant_id: str, month: date, now_ms: int) -> Statement:
    """The statement of a tenant's month, from all events that are priced by now.

    Args:
        month: its first day.
        now_ms: the wall clock's time in epoch milliseconds UTC.

    Raises:
        UnknownTenantError: the tenant has no usage in any month, and the configuration does not name it.
    """
    if not is_configured(settings, tenant_id) and not _has_usage(client, tenant_id):
        raise UnknownTenantError(
            f"there is no tenant {tenant_id!r}: it has no usage, and the configuration does not name it"
        )
    months = months_needed(settings, tenant_id, month)
    zone = timezone_for(settings.limits, tenant_id)
    usage = usage_by_month(client, tenant_id, months, zone)
    return make_statement(
        settings, tenant_id, month, usage, now_ms, booked_adjustments(client, tenant_id, month, zone)
    )


def _has_usage(client: Client, tenant_id: str) -> bool:
    sql = "SELECT 1 FROM usage WHERE tenant_id = {tenant:String} LIMIT 1"
    return bool(client.query(sql, parameters={"tenant": tenant_id}).result_rows)


def usage_by_month(client: Client, tenant_id: str, months: Sequence[date], zone_name: str) -> UsageByMonth:
    """Billable usage by feature and model, in one query and so of one moment.

    Args:
        months: their first days, ascending and without a gap. They are cut as windows of spend are.
    """
    starts = [month_starting(month, zone_name)[0] for month in months]
    end = month_starting(months[-1], zone_name)[1]
    rows = client.query(
        "SELECT arrayCount(one -> one <= toUnixTimestamp64Milli(timestamp), {starts:Array(Int64)}) AS nth,"
        " feature_id, model, count(), sum(u.input_tokens), sum(u.output_tokens), sum(u.credits), sum(u.price)"
        " FROM usage AS u WHERE billable AND tenant_id = {tenant:String}"
        " AND timestamp >= fromUnixTimestamp64Milli({begin:Int64}, 'UTC')"
        " AND timestamp < fromUnixTimestamp64Milli({end:Int64}, 'UTC')"
        " GROUP BY nth, feature_id, model ORDER BY nth, feature_id, model",
        parameters={"tenant": tenant_id, "starts": starts, "begin": starts[0], "end": end},
    ).result_rows
    usage: dict[date, list[UsageTotal]] = {}
    for nth, feature_id, model, requests, input_tokens, output_tokens, credits_used, price in rows:
        usage.setdefault(months[nth - 1], []).append(
            UsageTotal(
                feature_id=feature_id,
                model=model,
                requests=requests,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                credits=credits_used,
                price=price,
            )
        )
    return usage


def booked_adjustments(client: Client, tenant_id: str, month: date, zone_name: str) -> list[Adjustment]:
    """What re-ratings booked in a month, by the months of the events in the tenant's time zone."""
    rows = client.query(
        "SELECT toStartOfMonth(toTimeZone(timestamp, {zone:String})) AS month, rating, feature_id, model,"
        " count(), sum(a.delta_price) FROM adjustments AS a FINAL"
        " WHERE tenant_id = {tenant:String} AND booked_on >= {begin:Date} AND booked_on < {end:Date}"
        " GROUP BY month, rating, feature_id, model ORDER BY month, rating, feature_id, model",
        parameters={"tenant": tenant_id, "zone": zone_name, "begin": month, "end": next_month(month)},
    ).result_rows
    return [
        Adjustment(month=first, rating=rating, feature_id=feature, model=model, events=events, price=price)
        for first, rating, feature, model, events, price in rows
    ]


def statement_text(statement: Statement) -> str:
    """A table in which amounts stand right-aligned, with as many places as the longest of them needs."""
    month = f"{statement.month:%Y-%m}"
    state = "open, so every line is provisional" if statement.is_open else "over"
    head = [
        f"Statement of {_visible(statement.tenant_id)} for {month} ({statement.timezone}): {state}",
        f"Plan: {_visible(statement.plan)}. Amounts are USD.",
        "",
    ]
    amounts = [*(line.amount for line in statement.lines), statement.total]
    places = max(AMOUNT_PLACES_MIN, *(len(trimmed(amount).partition(".")[2]) for amount in amounts))
    rows = [[*_text_cells(line), f"{line.amount:,.{places}f}"] for line in statement.lines]
    foot = ["total", "", "", "", "", "", f"{statement.total:,.{places}f}"]
    tail = []
    if statement.credits_left is not None:
        tail = ["", f"Prepaid credits left: {_amount(statement.credits_left)}"]
    return "\n".join([*head, *_aligned(rows, foot), *tail])


def _text_cells(line: Line) -> list[str]:
    text = _visible(line.text)
    counts = ["", "", ""]
    if line.usage is not None:
        text = f"{_visible(line.usage.feature_id)} with {_visible(line.usage.model)}: {text}"
        counts = [
            f"{count:,}" for count in (line.usage.requests, line.usage.input_tokens, line.usage.output_tokens)
        ]
    quantity = "" if line.quantity is None else f"{Decimal(trimmed(line.quantity)):,f} {line.unit}"
    return [text, *counts, quantity, "" if line.unit_price is None else trimmed(line.unit_price)]


def _aligned(rows: list[list[str]], foot: list[str]) -> Iterator[str]:
    """Columns that no line fills are left out."""
    kept = [
        column
        for column, name in enumerate(_TEXT_COLUMNS)
        if name in ("line", "amount") or any(row[column] for row in rows)
    ]
    cells = [list(_TEXT_COLUMNS), *rows, foot]
    widths = [max(len(row[column]) for row in cells) for column in kept]
    rule = "  " + "─" * (sum(widths) + 2 * (len(widths) - 1))
    for index, row in enumerate(cells):
        if index in (1, len(cells) - 1) and rows:
            yield rule
        text, *numbers = (row[column] for column in kept)
        flush = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
        yield "  " + "  ".join([text.ljust(widths[0]), *flush])


def statement_json(statement: Statement) -> str:
    """The statement as an object; amounts, quantities and prices are exact decimal strings."""
    document = {
        "tenant": statement.tenant_id,
        "month": f"{statement.month:%Y-%m}",
        "timezone": statement.timezone,
        "status": _status(statement),
        "plan": statement.plan,
        "currency": "USD",
        "lines": [_cells(line) for line in statement.lines],
        "rounding": statement.rounding,
        "rounding_remainder": _amount(statement.remainder),
        "total": _amount(statement.total),
        "prepaid_credits_left": None if statement.credits_left is None else _amount(statement.credits_left),
    }
    return json.dumps(document, indent=2)


def statement_csv(statement: Statement) -> str:
    """A header and the lines, whose amounts sum to the total; each row says whose they are and of when.

    Text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    whose: dict[str, Any] = {
        "tenant": statement.tenant_id,
        "month": f"{statement.month:%Y-%m}",
        "status": _status(statement),
        "plan": statement.plan,
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*whose, *_COLUMNS])
    for line in statement.lines:
        cells = {**whose, **_cells(line)}
        cells |= {name: _harmless(cells[name]) for name in _NAMES}
        writer.writerow(cells.values())
    return text.getvalue()


def _cells(line: Line) -> dict[str, Any]:
    usage = line.usage
    cells = (
        line.kind.value,
        line.text,
        None if usage is None else usage.feature_id,
        None if usage is None else usage.model,
        None if usage is None else usage.requests,
        None if usage is None else usage.input_tokens,
        None if usage is None else usage.output_tokens,
        None if line.quantity is None else trimmed(line.quantity),
        line.unit or None,
        None if line.unit_price is None else trimmed(line.unit_price),
        _amount(line.amount),
    )
    return dict(zip(_COLUMNS, cells, strict=True))


def _status(statement: Statement) -> str:
    return "open" if statement.is_open else "over"


def _amount(value: Decimal) -> str:
    """All its digits, and two places at least."""
    whole, _, places = trimmed(value).partition(".")
    return f"{whole}.{places.ljust(AMOUNT_PLACES_MIN, '0')}"


def _harmless(text: str | None) -> str | None:
    if text is None:
        return None
    shown = _visible(text)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


def _visible(text: str) -> str:
    """The text with what would move a cursor or end a line written out."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
