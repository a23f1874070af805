"""The audit finds what was planted: each break turns its own check, and names the place."""

from __future__ import annotations

import shutil
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from dataflows.audit import audit, verdict
from dataflows.audit_money import Check
from dataflows.traffic import TrafficShape, generate
from sinks.clickhouse import connect, parse_address
from sinks.migrate import migrate
from tests.integration.running import EVERY_TIER_RULES, QUICK, Place

THRESHOLDS = (Decimal("0.8"), Decimal(1))


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("priced"), EVERY_TIER_RULES + QUICK)
    events = b"".join(generate(TrafficShape(events=4_000, seed=31, day=date(2026, 3, 17))))
    (place.root / "events.jsonl").write_bytes(events)
    code, stderr = place.run(f"file://{place.root}/events.jsonl")
    assert code == 0, stderr
    return place


AGAIN = "INSERT INTO priced_events SELECT * REPLACE ({}) FROM priced_events WHERE {}"
FIRST = "source_offset = (SELECT min(source_offset) FROM priced_events)"
SMALLEST_KEY = "idempotency_key = (SELECT min(idempotency_key) FROM priced_events)"
WINDOW = "INSERT INTO spend_sums SELECT * REPLACE ({}) FROM spend_sums FINAL WHERE {}"
COPY = (
    "INSERT INTO {} (source, source_partition, source_offset, source_line, received_at)"  # noqa: S608  # ours
    " SELECT source, source_partition, source_offset, source_line, {} FROM priced_events"
    f" WHERE {FIRST}"
)
PRICED_AT = "billable AND cache_status = 'miss' AND multiplier = {} LIMIT 1"
ALERT = (
    "INSERT INTO cap_alert_log SELECT * REPLACE ({}) FROM cap_alert_log FINAL"
    " WHERE threshold < 1 ORDER BY alert_id LIMIT 1"
)
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
            AGAIN.format("timestamp + INTERVAL 24 HOUR AS timestamp, 1 AS source_line", SMALLEST_KEY),
            {"balance", "recount", "keys"} | SPENDS,
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
            AGAIN.format(
                "'ahead' AS idempotency_key, true AS late, 999999 AS source_offset", "status != '' LIMIT 1"
            ),
            set(),
            "",
            id="a row whose progress is not published yet is no break",
        ),
        pytest.param(
            COPY.format("duplicates", "ingested_at - INTERVAL 1 SECOND"),
            set(),
            "",
            id="a copy of an earlier run that is priced now is no break",
        ),
        pytest.param(
            COPY.format("duplicates", "ingested_at + INTERVAL 1 SECOND"),
            {"once"},
            "is priced, and was set aside",
            id="a row that was taken for a copy later",
        ),
        pytest.param(
            COPY.format("quarantine_log", "ingested_at"),
            {"once"},
            "is priced, and was set aside",
            id="a row that was quarantined in the same run",
        ),
        pytest.param(
            AGAIN.format("price + toDecimal128('0.000000000001', 12) AS price", PRICED_AT.format(1)),
            {"amounts"} | SPENDS,
            "contradict each other",
            id="the last digit of one price",
        ),
        pytest.param(
            AGAIN.format("price + toDecimal128('0.000000000002', 12) AS price", PRICED_AT.format("0.8")),
            {"amounts"} | SPENDS,
            "contradict each other",
            id="a price off by more than two roundings",
        ),
        pytest.param(
            AGAIN.format(
                "true AS billable, cost AS price",
                "status != 'success' AND multiplier = 1 AND cost > 0 LIMIT 1",
            ),
            {"amounts"} | SPENDS,
            "contradict each other",
            id="a failed call that is billable",
        ),
        pytest.param(
            ALERT.format("concat(alert_id, '2') AS alert_id"),
            {"grounds of alerts"},
            "was raised twice",
            id="an alert doubled under another id",
        ),
        pytest.param(
            ALERT.format("alert_id AS alert_id, window_start - INTERVAL 24 HOUR AS window_start"),
            {"alerts at 0.8", "grounds of alerts"},
            "a window that there is not",
            id="an alert of another window",
        ),
        pytest.param(
            ALERT.format("alert_id AS alert_id, cap * 1000 AS cap"),
            {"grounds of alerts"},
            "the spend is below its threshold",
            id="an alert below its threshold",
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
        found = list(audit(client, None, THRESHOLDS, 24, lambda _: None, sleep=lambda _: None))
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
        found = list(audit(client, None, THRESHOLDS, 24, lambda _: None))
    finally:
        client.close()
        (priced.root / "moved").rename(path)
    assert [(check.name, check.unproved) for check in found if check.detail.startswith("not recounted")] == [
        (f"{path}/0: recount", f"{path}/0")
    ]
    assert verdict(found) == f"the books balance as far as they go; not recounted: {path}/0"


def test_a_source_that_was_replaced_since_is_no_proof(priced: Place) -> None:
    path = priced.root / "events.jsonl"
    lines = path.read_bytes()
    replaced = lines.replace(b'"idempotency_key":', b'"idempotency_key":"other","was":')
    assert replaced != lines
    path.write_bytes(replaced)
    client = connect(parse_address(priced.clickhouse))
    try:
        found = list(audit(client, None, THRESHOLDS, 24, lambda _: None, sleep=lambda _: None))
    finally:
        client.close()
        path.write_bytes(lines)
    broken = [check for check in found if not check.ok]
    assert [check.name for check in broken] == [f"{path}/0: recount"]
    assert "is not the event that was priced: {" in broken[0].detail


def test_rows_whose_progress_is_lost_are_open(priced: Place, tmp_path: Path) -> None:
    shutil.copytree(priced.root / "ch", tmp_path / "ch", symlinks=True)
    client = connect(parse_address(f"chdb://{tmp_path}/ch"))
    try:
        client.command("TRUNCATE TABLE source_progress")
        found = list(audit(client, None, THRESHOLDS, 24, lambda _: None, sleep=lambda _: None))
    finally:
        client.close()
    (progress,) = [check for check in found if check.name == "progress"]
    assert "stand beyond what their input has published" in progress.detail
    assert verdict(found) == (
        f"the books balance as far as they go; not recounted: rows beyond the progress of"
        f" {priced.root}/events.jsonl/0"
    )


def test_before_anything_is_published_the_audit_says_that_there_is_nothing_to_balance(tmp_path: Path) -> None:
    client = connect(parse_address(f"chdb://{tmp_path}/ch"))
    try:
        migrate(client)
        found = list(audit(client, None, THRESHOLDS, 24, lambda _: None))
    finally:
        client.close()
    assert verdict(found) == "nothing has been published yet: there is nothing to balance"


PROVED = Check("a", ok=True, detail="")
BROKEN = Check("b", ok=False, detail="")
OPEN = [Check(name, ok=True, detail="", unproved=name) for name in "cdefghi"]


@pytest.mark.parametrize(
    ("checks", "sentence"),
    [
        ([PROVED], "the books balance"),
        ([PROVED, BROKEN], "1 checks are broken"),
        ([OPEN[0], BROKEN, BROKEN], "2 checks are broken"),
        ([PROVED, OPEN[0]], "the books balance as far as they go; not recounted: c"),
        (
            [*OPEN, PROVED],
            "the books balance as far as they go; not recounted: c, d, e, f, g and 2 more",
        ),
    ],
)
def test_the_verdict_claims_no_more_than_was_counted(checks: list[Check], sentence: str) -> None:
    assert verdict(checks) == sentence


def test_a_position_must_not_have_stood_for_two_events_even_if_rows_were_replaced(
    priced: Place, tmp_path: Path
) -> None:
    shutil.copytree(priced.root / "ch", tmp_path / "ch", symlinks=True)
    client = connect(parse_address(f"chdb://{tmp_path}/ch"))
    try:
        client.command(AGAIN.format("'other' AS idempotency_key, true AS late", FIRST))
        client.command(AGAIN.format("999999 AS source_offset", "idempotency_key = 'other'"))
        found = list(audit(client, None, THRESHOLDS, 24, lambda _: None, sleep=lambda _: None))
    finally:
        client.close()
    assert {check.name: check.detail for check in found if not check.ok} == {
        "identities": f"{priced.root}/events.jsonl:1 has been priced as two different events"
    }


PROGRESS = "INSERT INTO source_progress SELECT * REPLACE (now64(3) AS updated_at) FROM source_progress FINAL"


@pytest.mark.parametrize(
    ("meanwhile", "broken"),
    [
        pytest.param((), True, id="a job that has ended is taken at its word"),
        pytest.param((PROGRESS,), True, id="a running job that never publishes the row has lost it"),
        pytest.param((PROGRESS, "INSERT INTO priced_events SELECT * FROM kept"), False, id="published since"),
    ],
)
def test_what_a_running_job_is_about_to_publish_is_looked_at_again(
    priced: Place, tmp_path: Path, meanwhile: tuple[str, ...], broken: bool
) -> None:
    shutil.copytree(priced.root / "ch", tmp_path / "ch", symlinks=True)
    client = connect(parse_address(f"chdb://{tmp_path}/ch"))
    try:
        row = f"SELECT * FROM priced_events WHERE {FIRST}"  # noqa: S608  # our own constant
        client.command(f"CREATE TABLE kept ENGINE = Memory AS {row}")
        client.command(f"DELETE FROM priced_events WHERE {FIRST}")  # noqa: S608  # as above

        pauses: list[float] = []

        def job_goes_on(pause: float) -> None:
            pauses.append(pause)
            for statement in meanwhile:
                client.command(statement)

        found = list(audit(client, None, THRESHOLDS, 24, lambda _: None, sleep=job_goes_on))
    finally:
        client.close()
    assert any(not check.ok for check in found) == broken
    assert (len(pauses) > 1) == bool(meanwhile), "only a job that is running is worth waiting for"
