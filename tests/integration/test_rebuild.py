"""State made anew from ClickHouse: the job goes on as if nothing had happened."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dataflows.traffic import TrafficShape, generate
from tests.auditor import Audit, audit, load_config
from tests.integration.running import QUICK, ROOT, SEED_RULES, Place, assert_agrees, audit_of, what_stands
from tests.integration.test_files import DAY, write_traffic
from tests.integration.test_kafka import produce
from tests.integration.topics import make_topic, read_back

pytestmark = pytest.mark.slow

# A tenant elsewhere, and a feature with a cap of its own: their windows have to be rebuilt as they were.
OVERRIDES = "{tenants: {tenant-001: {timezone: Asia/Kathmandu, features: {chat: {daily_cap: 1}}}}}"
CONFIG = SEED_RULES.replace("limits:\n", f"limits:\n  overrides: {OVERRIDES}\n") + QUICK


class Topic:
    """A topic, its place, and what should stand."""

    def __init__(self, root: Path, bootstrap: str, name: str) -> None:
        make_topic(bootstrap, name)
        self.bootstrap, self.name = bootstrap, name
        self.place = Place(root, CONFIG)
        self.source = f"kafka://{bootstrap}/{name}"

    def produce(self, seed: int) -> None:
        produce(self.bootstrap, self.name, seed)

    def run(self, *flags: str) -> str:
        code, stderr = self.place.run(self.source, "--to-end", *flags)
        assert code == 0, stderr
        return stderr

    def expected(self) -> Audit:
        return audit(read_back(self.bootstrap, self.name), load_config(self.place.config))


@pytest.fixture
def topic(tmp_path: Path, kafka_bootstrap: str, kafka_topic: str) -> Topic:
    """One that was read once."""
    found = Topic(tmp_path, kafka_bootstrap, kafka_topic)
    found.produce(31)
    found.run()
    return found


def damage(place: Place) -> None:
    min((place.root / "state").glob("dedupe/*/*.segment")).unlink()


def test_a_damaged_state_is_rebuilt_and_copies_are_still_copies(topic: Topic) -> None:
    damage(topic.place)
    code, stderr = topic.place.run(topic.source, "--to-end")
    assert code == 1
    assert "is missing; `meterline run --rebuild-state` makes the state anew" in stderr
    topic.produce(31)  # every event once more
    topic.produce(32)
    stderr = topic.run("--rebuild-state")
    assert stderr.count("goes on at") == 4
    assert "read again" not in stderr
    assert_agrees(topic.place, topic.expected(), by_line=False)
    (aside,) = (topic.place.root / "state").glob("before-rebuild-*")
    assert (aside / "job.json").exists()


@pytest.mark.long
def test_a_lost_state_directory_is_rebuilt(topic: Topic) -> None:
    shutil.rmtree(topic.place.root / "state")
    topic.produce(31)
    topic.run("--rebuild-state")
    assert_agrees(topic.place, topic.expected(), by_line=False)


@pytest.mark.long
def test_a_partition_of_which_rows_are_missing_is_read_again(topic: Topic) -> None:
    topic.place.ask(
        "DELETE FROM priced_events WHERE idempotency_key IN"
        " (SELECT min(idempotency_key) FROM priced_events WHERE source_partition = 2)"
    )
    topic.produce(31)
    stderr = topic.run("--rebuild-state")
    assert (stderr.count("goes on at"), stderr.count("/2 is read again from 0")) == (3, 1)
    expected, found = topic.expected(), what_stands(topic.place)
    assert {key: row[:2] for key, row in found["priced"].items()} == {
        key: (row.cost, row.price) for key, row in expected.priced.items()
    }
    assert all(expected.spend[key] == amount for key, amount in found["spend"].items())
    assert found["alerts"].keys() == expected.alerts.keys()


@pytest.mark.long
def test_a_rebuild_that_was_cut_off_is_said_and_begun_again(topic: Topic) -> None:
    state = topic.place.root / "state"
    (state / "REBUILDING").write_text("1")
    code, stderr = topic.place.run(topic.source, "--to-end")
    assert (code, "was being rebuilt when that job ended" in stderr) == (1, True)
    topic.run("--rebuild-state")
    assert not (state / "REBUILDING").exists()
    assert_agrees(topic.place, topic.expected(), by_line=False)


@dataclass(frozen=True)
class Files:
    """Two files that were read once, of which the second holds copies of the first."""

    place: Place

    @property
    def first(self) -> Path:
        return self.place.root / "events-1.jsonl"

    @property
    def second(self) -> Path:
        return self.place.root / "events-2.jsonl"

    def run(self, *flags: str) -> str:
        code, stderr = self.place.run(f"file://{self.place.root}/events-*.jsonl", *flags)
        assert code == 0, stderr
        return stderr


@pytest.fixture
def files(tmp_path: Path) -> Files:
    found = Files(Place(tmp_path, CONFIG))
    write_traffic(found.first, 2_000, 12)
    write_traffic(found.second, 1_000, 13)
    with found.second.open("ab") as file:
        file.writelines(found.first.read_bytes().splitlines(keepends=True)[:100])
    found.run()
    return found


def append_copies(files: Files) -> None:
    with files.first.open("ab") as file:
        file.writelines(files.second.read_bytes().splitlines(keepends=True)[:50])


def test_files_go_on_where_they_were_and_nothing_changes(files: Files) -> None:
    before = what_stands(files.place)
    stderr = files.run("--rebuild-state")
    assert stderr.count("goes on at") == 2
    assert "read again" not in stderr
    assert what_stands(files.place) == before
    assert audit_of(files.place) == (0, "the books balance")
    append_copies(files)
    files.run()
    after = what_stands(files.place)
    assert (after["priced"], after["spend"]) == (before["priced"], before["spend"])
    assert audit_of(files.place) == (0, "the books balance")


@pytest.mark.long
def test_a_file_that_was_away_goes_on_when_it_comes_back(files: Files) -> None:
    before = what_stands(files.place)
    away = files.first.rename(files.place.root / "away")
    files.run("--rebuild-state")
    away.rename(files.first)
    append_copies(files)
    files.run()
    after = what_stands(files.place)
    assert (after["priced"], after["spend"]) == (before["priced"], before["spend"])
    assert audit_of(files.place) == (0, "the books balance")


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param("spend * 2 AS spend, events * 2 AS events", id="doubled", marks=pytest.mark.long),
        pytest.param("spend + 1 AS spend", id="off by a dollar", marks=pytest.mark.long),
        pytest.param("spend - 1 AS spend, events + 1 AS events", id="less, of more events"),
    ],
)
def test_wrong_sums_are_made_right_by_a_rebuild_and_stay_so(files: Files, wrong: str) -> None:
    before = what_stands(files.place)
    files.place.ask(f"INSERT INTO spend_sums SELECT * REPLACE ({wrong}) FROM spend_sums FINAL")  # noqa: S608  # ours
    assert what_stands(files.place)["spend"] != before["spend"]
    assert audit_of(files.place)[0] == 3
    files.run("--rebuild-state")
    assert what_stands(files.place) == before
    shutil.rmtree(files.place.root / "state")
    files.run()
    assert what_stands(files.place) == before
    assert audit_of(files.place) == (0, "the books balance")


def test_rows_that_are_priced_anew_by_another_card_are_said(files: Files) -> None:
    files.place.ask(
        "DELETE FROM priced_events WHERE source_offset IN"
        " (SELECT min(source_offset) FROM priced_events WHERE source LIKE '%events-1.jsonl')"
        " AND source LIKE '%events-1.jsonl'"
    )
    replace(files.place, config=CONFIG.replace("multiplier: 1.0", "multiplier: 1.5"))
    stderr = files.run("--rebuild-state")
    (told,) = re.findall(
        r"events-1.jsonl/0 has (\d+) rows of another rate card: they are priced anew", stderr
    )
    assert int(told) > 1_000
    assert "events-1.jsonl/0 is read again from 0" in stderr
    assert "events-2.jsonl/0 goes on at" in stderr
    assert "windows (those of what is read again come with the reading)" in stderr


def test_what_stops_a_rebuild_is_found_before_anything_is_touched(files: Files) -> None:
    state = files.place.root / "state"
    (state / "outbox.sqlite3").write_bytes(b"garbage" * 1000)
    code, stderr = files.place.run(f"file://{files.first}", "--rebuild-state")
    assert (code, "outbox.sqlite3 is damaged" in stderr) == (1, True), stderr
    assert ((state / "job.json").exists(), list(state.glob("before-rebuild-*"))) == (True, [])
    assert not (state / "REBUILDING").exists()


DIES_BEFORE_AN_INSERT = """
import os, sys
from dataflows.cli import main
def watch(event, arguments):
    if event == "meterline.step" and arguments[0] == "insert priced_events: before":
        os._exit(9)
sys.addaudithook(watch)
main()
"""


@pytest.mark.parametrize("how", ["altered", pytest.param("missing", marks=pytest.mark.long)])
def test_a_damaged_staged_block_stops_the_start_and_is_named(files: Files, how: str) -> None:
    with files.first.open("ab") as file:
        file.writelines(generate(TrafficShape(events=1_000, seed=14, day=DAY)))
    flags = ["--config", f"{files.place.root}/meterline.yaml", "--source", f"file://{files.first}"]
    flags += ["--clickhouse", files.place.clickhouse, "--state-dir", f"{files.place.root}/state"]
    command = [sys.executable, "-c", DIES_BEFORE_AN_INSERT, "run", *flags]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 9
    for path in (files.place.root / "state" / "staged").glob("*.arrow"):
        if how == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, stderr = files.place.run(f"file://{files.first}")
    assert (code, "the staged block" in stderr, "--rebuild-state" in stderr) == (1, True, True), stderr
    files.run("--rebuild-state")
    assert audit_of(files.place) == (0, "the books balance")


@pytest.mark.long
def test_a_source_that_is_not_there_leaves_the_state_alone(topic: Topic) -> None:
    absent = replace(topic.place)
    code, stderr = absent.run("kafka://127.0.0.1:1/none", "--rebuild-state")
    assert (code, "no Kafka broker answers" in stderr) == (1, True)
    assert (topic.place.root / "state" / "job.json").exists()
    assert not (topic.place.root / "state" / "REBUILDING").exists()
