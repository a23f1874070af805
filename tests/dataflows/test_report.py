"""What waits for a rate; and tables as text, aligned, and never with a number cut off."""

from __future__ import annotations

import json
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pytest

from dataflows.report import ReportTable, render_csv, render_json, render_text, unpriced_report
from sinks.clickhouse import connect, parse_address
from sinks.migrate import migrate

TENANT = "tenant-" + "x" * 60
ROW = (TENANT, "chat", Decimal("12345.678901"), 9_000_000, None)
WIDE = ReportTable(
    "Spend", ("tenant", "feature", "spend", "requests", "cap"), (ROW,), ("all", "", ROW[2], 1, None)
)
NUMBERS = "12,345.6789  9,000,000    –"


@pytest.mark.parametrize(
    ("width", "row"),
    [
        pytest.param(0, f"  {TENANT}  chat     {NUMBERS}", id="a pipe has no width"),
        pytest.param(200, f"  {TENANT}  chat     {NUMBERS}", id="wide enough"),
        pytest.param(80, f"  {TENANT[:39]}…  chat     {NUMBERS}", id="the longest text gives way"),
        pytest.param(20, f"  {TENANT[:11]}…  chat     {NUMBERS}", id="too narrow for the numbers"),
    ],
)
def test_numbers_are_whole_however_narrow_the_screen(width: int, row: str) -> None:
    lines = render_text(WIDE, width).splitlines()
    assert lines[3] == row
    assert {len(line) for line in lines[2:]} == {len(row)}
    assert lines[-1].endswith("12,345.6789          1    –")


def test_a_table_without_rows_says_so() -> None:
    assert render_text(ReportTable("Spend", ("tenant",), ())) == "Spend\n  none"


def at(hour: int) -> datetime:
    return datetime(2026, 3, 17, hour, tzinfo=timezone.utc)


def plain(**fields: Any) -> str:
    return json.dumps({"model": "new", "input_tokens": 10, "output_tokens": 1, **fields})


def enveloped(**fields: Any) -> str:
    return json.dumps({"specversion": "1.0", "id": "k", "data": json.loads(plain(**fields))})


# reason, detail, model, raw, received at, resolved at
WAITING = (
    ("unpriced", "no rate", "new", plain(provider="p"), at(9), None),
    ("unpriced", "still no rate", "new", plain(provider="p", data={"provider": "x"}), at(11), None),
    ("unpriced", "no rate", "new", enveloped(provider="p"), at(10), None),
    ("unpriced", "no rate", "new", "\ufeff" + plain(provider="p", input_tokens=2**40), at(10), None),
    ("unpriced", "no such tier", "new", plain(provider="p", service_tier="flex"), at(9), None),
    ("unpriced", "no rate", "other", plain(model="other", output_tokens=0), at(12), None),
    ("unpriced", "no rate", "new", plain(provider="p"), at(8), at(9)),
    ("wrong_type", "input_tokens: is no number", "new", plain(provider="p"), at(8), None),
)


def test_what_waits_for_a_rate_is_counted_by_provider_model_and_tier(clickhouse_url: str) -> None:
    names = ("reason", "detail", "model", "raw", "received_at", "resolved_at")
    with connect(parse_address(clickhouse_url)) as client:
        migrate(client)
        nothing = unpriced_report(client)
        client.insert(
            "quarantine_log",
            [("file", 0, number, 0, "acme", 1, *row) for number, row in enumerate(WAITING)],
            ("source", "source_partition", "source_offset", "source_line", "tenant_id", "revision", *names),
        )
        table, first = unpriced_report(client), unpriced_report(client, limit=1)
    assert (nothing.rows, nothing.totals) == ((), ())
    shown = [tuple(cell.hour if isinstance(cell, datetime) else cell for cell in row) for row in table.rows]
    assert shown == [
        ("p", "new", "", 4, 2**40 + 30, 4, 9, 11, "still no rate"),
        ("", "other", "", 1, 10, 0, 12, 12, "no rate"),
        ("p", "new", "flex", 1, 10, 1, 9, 9, "no such tier"),
    ]
    assert table.totals[3:6] == (6, 2**40 + 50, 5)
    assert (first.rows, first.totals) == (table.rows[:1], table.totals)


def test_a_text_of_several_lines_is_one_cell() -> None:
    table = ReportTable("t", ("card", "n"), (("rules:\n  - one\n", 1),))
    assert render_text(table).splitlines()[-1] == "  rules:   - one  1"
    assert json.loads(render_json(table))["rows"] == [{"card": "rules:\n  - one\n", "n": 1}]


def test_lists_are_shown_in_every_form() -> None:
    table = ReportTable("t", ("closed",), (([date(2026, 3, 1), date(2026, 4, 1)],),))
    assert json.loads(render_json(table))["rows"] == [{"closed": ["2026-03-01", "2026-04-01"]}]
    assert "2026-03-01, 2026-04-01" in render_text(table)
    assert render_csv(table) == 'closed\n"2026-03-01, 2026-04-01"\n'
