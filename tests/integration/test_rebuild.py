"""State made anew from ClickHouse: the job goes on as if nothing had happened."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.auditor import Audit, audit, load_config
from tests.integration.running import QUICK, SEED_RULES, Place, assert_agrees, what_stands
from tests.integration.test_files import expected_of, write_traffic
from tests.integration.test_kafka import produce
from tests.integration.topics import make_topic, read_back

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


def test_files_are_read_again_and_change_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path, CONFIG)
    write_traffic(tmp_path / "events.jsonl", 5_000, 12)
    source = f"file://{tmp_path}/events.jsonl"
    assert place.run(source)[0] == 0
    before = what_stands(place)
    code, stderr = place.run(source, "--rebuild-state")
    assert code == 0, stderr
    assert "is read again from 0" in stderr
    assert what_stands(place) == before
    assert before["priced"].keys() == expected_of(CONFIG, tmp_path / "events.jsonl").priced.keys()


@pytest.mark.long
def test_a_source_that_is_not_there_leaves_the_state_alone(topic: Topic) -> None:
    absent = replace(topic.place)
    code, stderr = absent.run("kafka://127.0.0.1:1/none", "--rebuild-state")
    assert (code, "no Kafka broker answers" in stderr) == (1, True)
    assert (topic.place.root / "state" / "job.json").exists()
    assert not (topic.place.root / "state" / "REBUILDING").exists()
