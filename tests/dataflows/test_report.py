"""Tables as text: aligned, and never with a number cut off."""

from __future__ import annotations

from decimal import Decimal

import pytest

from dataflows.report import ReportTable, render_text

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
