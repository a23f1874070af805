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


@pytest.mark.parametrize(
    ("sabotage", "broken", "told"),
    [
        ("SELECT 1", set(), ""),
        # one lost row
        (
            "DELETE FROM priced_events WHERE source_offset = (SELECT min(source_offset) FROM priced_events)",
            {"balance", "recount", "spend by day", "spend by month"},
            "1 lost, the first",
        ),
        # one doubled row: another key at the same place
        (
            "INSERT INTO priced_events SELECT * REPLACE ('again' AS idempotency_key) FROM priced_events"
            " WHERE source_offset = (SELECT min(source_offset) FROM priced_events)",
            {"once", "spend by day", "spend by month"},
            "is priced twice",
        ),
        # the same key on the next day, from a place that does not exist
        (
            "INSERT INTO priced_events SELECT * REPLACE (timestamp + INTERVAL 24 HOUR AS timestamp,"
            " 999999 AS source_offset) FROM priced_events"
            " WHERE source_offset = (SELECT min(source_offset) FROM priced_events)",
            {"balance", "keys", "spend by day", "spend by month"},
            "priced twice within 24 hours",
        ),
        # the last digit of one window
        (
            "INSERT INTO spend_windows SELECT * REPLACE (spend + toDecimal128('0.000000000001', 12) AS spend)"
            " FROM spend_windows FINAL WHERE window_kind = 'month' LIMIT 1",
            {"spend by month"},
            "its rows sum to",
        ),
        # a price that does not follow from its cost
        (
            "INSERT INTO priced_events SELECT * REPLACE (cost + 1 AS cost) FROM priced_events"
            " WHERE billable LIMIT 1",
            {"amounts"},
            "contradict each other",
        ),
        ("TRUNCATE TABLE cap_alert_log", {"alerts at 0.8", "alerts at 1"}, "without an alert"),
    ],
)
def test_what_was_planted_is_found(
    priced: Place, tmp_path: Path, sabotage: str, broken: set[str], told: str
) -> None:
    place = (
        Place(tmp_path / "copy") if shutil.copytree(priced.root / "ch", tmp_path / "copy" / "ch") else priced
    )
    client = connect(parse_address(place.clickhouse))
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
