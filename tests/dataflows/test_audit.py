"""The audit finds what was planted: each break turns its own check, and names the place."""

from __future__ import annotations

import shutil
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from dataflows.audit import audit
from dataflows.traffic import TrafficShape, generate
from sinks.clickhouse import connect, parse_address
from tests.integration.running import Place

THRESHOLDS = (Decimal("0.8"), Decimal(1))


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("priced"))
    events = b"".join(generate(TrafficShape(events=4_000, seed=31, day=date(2026, 3, 17))))
    (place.root / "events.jsonl").write_bytes(events)
    code, stderr = place.run(f"file://{place.root}/events.jsonl")
    assert code == 0, stderr
    return place


AGAIN = "INSERT INTO priced_events SELECT * REPLACE ({}) FROM priced_events WHERE {}"
FIRST = "source_offset = (SELECT min(source_offset) FROM priced_events)"
SMALLEST_KEY = "idempotency_key = (SELECT min(idempotency_key) FROM priced_events)"
WINDOW = "INSERT INTO spend_windows SELECT * REPLACE ({}) FROM spend_windows FINAL WHERE {}"
SPENDS = {"spend by day", "spend by month"}


@pytest.mark.parametrize(
    ("sabotage", "broken", "told"),
    [
        pytest.param("SELECT 1", set(), "", id="nothing"),
        pytest.param(
            "DELETE FROM priced_events WHERE " + FIRST,  # noqa: S608  # our own constant
            {"balance", "recount"} | SPENDS,
            "1 lost, the first",
            id="one row lost",
        ),
        pytest.param(
            AGAIN.format("'again' AS idempotency_key", FIRST),
            {"once"} | SPENDS,
            "is priced twice",
            id="one row doubled under another key",
        ),
        pytest.param(
            AGAIN.format("timestamp + INTERVAL 24 HOUR AS timestamp, 999999 AS source_offset", SMALLEST_KEY),
            {"balance", "keys"} | SPENDS,
            "priced twice within 24 hours",
            id="one key doubled on the next day, from nowhere",
        ),
        pytest.param(
            WINDOW.format(
                "spend + toDecimal128('0.000000000001', 12) AS spend", "window_kind = 'month' LIMIT 1"
            ),
            {"spend by month"},
            "its rows sum to",
            id="the last digit of one window",
        ),
        pytest.param(
            AGAIN.format("cost + 1 AS cost", "billable AND cache_status = 'miss' LIMIT 1"),
            {"amounts"},
            "contradict each other",
            id="a cost that does not give its price",
        ),
        pytest.param(
            "TRUNCATE TABLE cap_alert_log",
            {"alerts at 0.8", "alerts at 1"},
            "without an alert",
            id="alerts lost",
        ),
    ],
)
def test_what_was_planted_is_found(
    priced: Place, tmp_path: Path, sabotage: str, broken: set[str], told: str
) -> None:
    shutil.copytree(priced.root / "ch", tmp_path / "ch", symlinks=True)
    client = connect(parse_address(f"chdb://{tmp_path}/ch"))
    try:
        client.command(sabotage)
        found = list(audit(client, None, THRESHOLDS, 24, lambda _: None))
    finally:
        client.close()
    failed = [check for check in found if not check.ok]
    assert {check.name.split(": ")[-1] for check in failed} == broken
    assert not told or any(told in check.detail for check in failed)
    assert any("lines read again" in check.detail for check in found) or "recount" in broken


def test_a_source_that_is_gone_is_said_to_be_not_recounted(priced: Place) -> None:
    path = priced.root / "events.jsonl"
    path.rename(priced.root / "moved")
    client = connect(parse_address(priced.clickhouse))
    try:
        details = [check.detail for check in audit(client, None, THRESHOLDS, 24, lambda _: None)]
    finally:
        client.close()
        (priced.root / "moved").rename(path)
    assert any(detail.startswith("not recounted") for detail in details)
