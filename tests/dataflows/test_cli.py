"""The commands other than `run`, as a user types them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from dataflows.check import check_everything
from dataflows.cli import main
from dataflows.connections import SOURCE_ENV, STATE_DIR_ENV
from dataflows.recovery_store import check_store
from dataflows.state import open_state
from dataflows.traffic import TrafficShape, generate
from pricing.money import nearest_cent
from tests.integration.running import ROOT, Place

UNHEARD_OF = "it has no usage, and the configuration does not name it"
WHOLE_MONTH = "must be a whole month such as 2026-11 (nothing is prorated within one)"
JSON = ("--format", "json", "--clickhouse")


def meterline(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dataflows.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("cli"))
    events = b"".join(generate(TrafficShape(events=2_000, seed=41, day=date(2026, 3, 17))))
    (place.root / "events.jsonl").write_bytes(events)
    assert place.run(f"file://{place.root}/events.jsonl")[0] == 0
    return place


def test_margin_in_json_is_exact_and_its_rows_sum_to_its_total(priced: Place) -> None:
    found = meterline(
        "report", "margin", "--by", "model", "--format", "json", "--clickhouse", priced.clickhouse
    )
    assert found.returncode == 0, found.stderr
    table = json.loads(found.stdout)
    assert {row["model"] for row in table["rows"]} == {"gpt-4o", "claude-3-5-sonnet", "fallback-llama-3"}
    for column in ("cost", "price", "margin"):
        assert sum(Decimal(row[column]) for row in table["rows"]) == Decimal(table["totals"][column])
    exact = priced.ask("SELECT sum(u.price) FROM usage AS u")[0][0]
    assert Decimal(table["totals"]["price"]) == exact


@pytest.mark.parametrize("what", ["margin", "losing", "dropped", "quarantine", "spend", "alerts", "unpriced"])
def test_each_report_has_text_and_csv(priced: Place, what: str) -> None:
    text = meterline("report", what, "--clickhouse", priced.clickhouse)
    assert (text.returncode, text.stderr) == (0, "")
    assert len(text.stdout.splitlines()) > 1
    rows = meterline("report", what, "--format", "csv", "--clickhouse", priced.clickhouse)
    assert len({len(row) for row in csv.reader(io.StringIO(rows.stdout))}) == 1


def test_dropped_adds_up_to_what_was_read(priced: Place) -> None:
    found = meterline("report", "dropped", "--format", "json", "--clickhouse", priced.clickhouse)
    table = json.loads(found.stdout)
    assert table["rows"][0].keys() == {"what", "events", "detail"}
    parts = [row["events"] for row in table["rows"] if not row["what"].startswith(" ")]
    assert sum(parts) == table["totals"]["events"] == 2_000


def test_query_answers_and_refuses_in_a_sentence(priced: Place) -> None:
    found = meterline("query", "SELECT count() AS n FROM usage", *JSON, priced.clickhouse)
    assert json.loads(found.stdout)["rows"][0]["n"] == priced.ask("SELECT count() FROM usage")[0][0]
    refused = meterline("query", "SELECT nonsense", "--clickhouse", priced.clickhouse)
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1
    refused = meterline("query", "SELECT 1 format CSV;", "--clickhouse", priced.clickhouse)
    assert refused.stderr == "meterline: leave FORMAT out of the query: --format takes text, json, csv\n"


def test_a_statement_sums_what_a_tenant_was_charged(priced: Place) -> None:
    flags = ("2026-03", "--config", f"{priced.root}/meterline.yaml", "--clickhouse", priced.clickhouse)
    tenants = "SELECT tenant_id, sum(u.price) FROM usage AS u GROUP BY tenant_id ORDER BY 2 DESC LIMIT 1"
    tenant, price = priced.ask(tenants)[0]
    found = meterline("statement", tenant, *flags, "--format", "json")
    assert (found.returncode, found.stderr) == (0, "")
    statement = json.loads(found.stdout)
    usage = [Decimal(line["amount"]) for line in statement["lines"] if line["kind"] == "usage"]
    assert sum(usage) == price
    assert sum(Decimal(line["amount"]) for line in statement["lines"]) == Decimal(statement["total"])
    assert Decimal(statement["total"]) == nearest_cent(price)
    assert statement["status"] == "over"
    rows = csv.DictReader(io.StringIO(meterline("statement", tenant, *flags, "--format", "csv").stdout))
    assert sum(Decimal(row["amount"]) for row in rows) == Decimal(statement["total"])
    text = meterline("statement", tenant, *flags).stdout.splitlines()
    assert text[0] == f"Statement of {tenant} for 2026-03 (UTC): over"
    assert text[-1].split()[0] == "total"


@pytest.mark.parametrize(
    ("tenant", "month", "told"),
    [
        ("nobody", "2026-03", f"there is no tenant 'nobody': {UNHEARD_OF}"),
        ("nobody", "2026-03-17", f"Invalid value for 'MONTH': it {WHOLE_MONTH}, got 2026-03-17"),
        (os.fsdecode(b"\xff"), "2026-03", "Invalid value for 'TENANT': it is not UTF-8 text"),
    ],
)
def test_a_statement_that_cannot_be_made_is_wrong_usage(
    priced: Place, tenant: str, month: str, told: str
) -> None:
    flags = ("--config", f"{priced.root}/meterline.yaml", "--clickhouse", priced.clickhouse)
    found = meterline("statement", tenant, month, *flags)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.splitlines()[-1] == f"Error: {told}"


def test_what_goes_into_a_pipe_is_not_cut(priced: Place) -> None:
    sql = "SELECT repeat('x', 200) AS tenant, toDecimal64(1.5, 2) AS spend"
    found = meterline("query", sql, "--clickhouse", priced.clickhouse)
    assert found.stdout.splitlines()[-1] == f"  {'x' * 200}  1.5000"


def test_check_finds_everything_fine_or_every_problem_in_one_go(priced: Place, tmp_path: Path) -> None:
    fine = meterline(
        "check", "--config", f"{priced.root}/meterline.yaml", "--source", f"file://{priced.root}/events.jsonl",
        "--clickhouse", priced.clickhouse, "--state-dir", f"{priced.root}/state",
    )  # fmt: skip
    assert fine.returncode == 0, fine.stdout
    assert all(line.startswith("ok ") for line in fine.stdout.splitlines())
    (tmp_path / "bad.yaml").write_text("pricing: {currency: EUR, rules: []}\n")
    bad = meterline(
        "check", "--config", f"{tmp_path}/bad.yaml", "--source", "file:///nowhere", "--clickhouse", "x://y",
    )  # fmt: skip
    assert bad.returncode == 1
    told = [line.split(" ")[1] for line in bad.stdout.splitlines() if line.startswith("BAD")]
    assert set(told) == {"config", "source:", "clickhouse:", "state:"}


def test_a_state_directory_below_a_file_is_found_before_a_run_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = meterline("check", "--state-dir", f"{tmp_path}/file/below/state")
    (told,) = [line for line in found.stdout.splitlines() if " state: " in line]
    assert told == f"BAD state: {tmp_path}/file/below/state cannot be made: {tmp_path}/file is a file"


@pytest.mark.parametrize(
    "command", [("report", "margin"), ("query", "SELECT 1"), ("audit",), ("statement", "acme", "2026-03")]
)
def test_looking_makes_nothing(tmp_path: Path, command: tuple[str, ...]) -> None:
    found = meterline(*command, "--clickhouse", f"chdb://{tmp_path}/none")
    assert found.returncode == 1
    assert found.stderr == f"meterline: there is no embedded ClickHouse in {tmp_path}/none\n"
    assert not (tmp_path / "none").exists()


def test_migrate_makes_the_tables_once(tmp_path: Path) -> None:
    first = meterline("migrate", "--clickhouse", f"chdb://{tmp_path}/ch")
    assert "applied 0001 tables" in first.stdout
    again = meterline("migrate", "--clickhouse", f"chdb://{tmp_path}/ch")
    assert again.stdout == "the tables are up to date\n"


def test_a_demo_shows_the_runaway_and_a_second_one_changes_nothing(tmp_path: Path) -> None:
    flags = ("demo", "--events", "5000", "--directory", str(tmp_path / "demo"))
    first, second = meterline(*flags), meterline(*flags)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "tenant-runaway" in first.stdout
    assert "nothing new" in second.stdout
    assert "compile" not in second.stdout, "the first has left the code"
    tables = [re.split(r"\n\n", found.stdout, maxsplit=1)[1] for found in (first, second)]
    assert tables[0] == tables[1]


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = [name for name, command in main.commands.items() if not command.hidden]
    assert [name for name in shown if f"`meterline {name}" not in readme] == []


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda state: shutil.rmtree(state / "recovery"), "recovery is missing beside its segments"),
        (lambda state: (state / "recovery" / "part-1.sqlite3").unlink(), "part-1.sqlite3 is missing"),
        (lambda state: (state / "recovery" / "part-1.sqlite3").write_bytes(b""), "part-1.sqlite3 is damaged"),
        (lambda state: (state / "job.json").write_text("{}"), "job.json is damaged"),
        (lambda state: (state / "REBUILDING").write_text("1"), "was being rebuilt"),
    ],
)
def test_check_names_what_is_damaged_in_a_state_and_leaves_it_as_it_is(
    tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    state = open_state(tmp_path / "state", [("topic", 0)], 1)
    check_store(state.recovery)
    segment = state.directory / "dedupe" / "shard-00" / "x.segment"
    segment.parent.mkdir(parents=True)
    segment.touch()
    (tmp_path / "events.jsonl").touch()
    # Without a source check would wait for Kafka.
    environment = {STATE_DIR_ENV: str(state.directory), SOURCE_ENV: f"file://{tmp_path}/events.jsonl"}
    sound = {finding.what: finding for finding in check_everything(environment)}
    assert sound["state"].ok, sound
    damage(state.directory)
    found = {finding.what: finding for finding in check_everything(environment)}
    assert (found["state"].ok, told in found["state"].lines[0]) == (False, True), found["state"]
    assert "--rebuild-state" in found["state"].lines[0]


def test_check_counts_files_and_waits_for_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").touch()
    os.mkfifo(tmp_path / "pipe")
    told = {
        name: {
            finding.what: finding.lines[0]
            for finding in check_everything({SOURCE_ENV: f"file://{tmp_path}/{name}"})
        }["source"]
        for name in ("one.jsonl", "pipe")
    }
    assert told["one.jsonl"] == "1 file"
    assert "is no regular file" in told["pipe"]
    assert "--source -" in told["pipe"]
