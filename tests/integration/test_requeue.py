"""The way out of quarantine: what can be priced by now, or was repaired, is priced once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dataflows.connections import CLICKHOUSE_ENV, CONFIG_ENV, SOURCE_ENV, STATE_DIR_ENV, PlanError
from dataflows.report import dropped_report
from dataflows.requeue import requeue, waiting_lines
from dataflows.requeue_file import read_repaired
from dataflows.run import JobFailedError
from dataflows.start import Job, prepare, release
from dataflows.state import LOCK_HELD_ENV
from sinks.clickhouse import connect, parse_address
from tests.auditor import audit, load_config
from tests.auditor_event import lines_of_file
from tests.clickhouse_process import running_clickhouse
from tests.integration.running import QUICK, ROOT, Place, audit_of, until, what_stands

pytestmark = pytest.mark.slow

DAY_MS = 24 * 3_600_000
NOON_MS = 1_773_748_800_000
OLD_CARD = "pricing: {rules: [{model: old, input_rate: 0.001, output_rate: 0}]}\n" + QUICK
NEW_CARD = OLD_CARD.replace("]}", ", {model: new, input_rate: 0.01, output_rate: 0}]}")


def line(key: str, **fields: Any) -> str:
    event = {
        "idempotency_key": key,
        "tenant_id": "acme",
        "model": "new",
        "timestamp": NOON_MS,
        "input_tokens": 1,
    }
    return json.dumps({**event, "output_tokens": 0, **fields})


def place_with(root: Path, *lines: str, served: str = "") -> Place:
    """A place whose card knows `old` has read the lines; its card now knows `new` too."""
    (root / "events.jsonl").write_text("\n".join(lines) + "\n")
    place = Place(root, OLD_CARD, served=served)
    code, stderr = place.run(f"file://{root}/events.jsonl")
    assert code == 0, stderr
    return replace(place, config=NEW_CARD)


def requeued(place: Place, *flags: str) -> tuple[int, str]:
    own = ["--config", f"{place.root}/meterline.yaml", "--source", f"file://{place.root}/events.jsonl"]
    own += ["--clickhouse", place.clickhouse, "--state-dir", f"{place.root}/state"]
    done = subprocess.run(
        [sys.executable, "-m", "dataflows.cli", "requeue", *own, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


RUN_ALONE = """
import os
from dataflows.run import run_job
from dataflows.start import prepare
run_job(prepare(os.environ))
"""


def environment_of(place: Place, source: str) -> dict[str, str]:
    return {
        CONFIG_ENV: f"{place.root}/meterline.yaml",
        SOURCE_ENV: source,
        CLICKHOUSE_ENV: place.clickhouse,
        STATE_DIR_ENV: f"{place.root}/state",
    }


def run_alone(place: Place, source: str, **more: str) -> None:
    """Run the job without the look at what waits that `meterline run` begins with."""
    environment = {**os.environ, **environment_of(place, source), **more}
    subprocess.run([sys.executable, "-c", RUN_ALONE], cwd=ROOT, env=environment, check=True)


def usage(place: Place) -> list[tuple[str, Decimal]]:
    return [
        (row[0], row[1]) for row in place.ask("SELECT idempotency_key, u.price FROM usage AS u ORDER BY ALL")
    ]


def waiting(place: Place) -> list[str]:
    return [
        row[0] for row in place.ask("SELECT reason FROM quarantine WHERE resolved_at IS NULL ORDER BY reason")
    ]


def dropped(place: Place) -> dict[str, int]:
    """The report of what arrived, which must sum up."""
    client = connect(parse_address(place.clickhouse))
    try:
        table = dropped_report(client)
    finally:
        client.close()
    counts = {name: count for name, count, _ in table.rows if not name.startswith(" ")}
    assert sum(counts.values()) == table.totals[1], table
    return counts


def test_what_the_card_knows_by_now_stands_as_if_it_always_had(tmp_path: Path) -> None:
    lines = [line(f"k{number}", model="new" if number % 3 else "old") for number in range(30)]
    place = place_with(tmp_path, *lines, line("k1"), line("other", model="newer"), "no json")
    assert len(usage(place)) == 10
    code, text = requeued(place, "--reason", "unpriced")
    assert code == 0, text
    assert "21 put through the job" in text  # twenty, and a copy
    assert "1 stay in quarantine: unpriced" in text
    assert waiting(place) == ["invalid_json", "unpriced"]
    assert dropped(place) == {
        "priced": 30,
        "duplicates": 1,
        "quarantine: invalid_json": 1,
        "quarantine: unpriced": 1,
    }
    expected = audit(
        lines_of_file(tmp_path / "events.jsonl"), load_config(NEW_CARD), now_ms=time.time_ns() // 10**6
    )
    found = what_stands(place)
    assert {key: row[:2] for key, row in found["priced"].items()} == {
        key: (row.cost, row.price) for key, row in expected.priced.items()
    }
    assert all(expected.spend[key] == amount for key, amount in found["spend"].items())
    code, again = requeued(place, "--reason", "unpriced")
    assert (code, "0 put through" in again) == (0, True)
    assert what_stands(place) == found


def test_an_event_that_its_client_sent_again_is_resolved_and_not_priced_twice(tmp_path: Path) -> None:
    place = place_with(tmp_path, line("k1"), line("k2"))
    later = tmp_path / "later.jsonl"
    # k1 came again with the new card; then so much time passed that the job forgot its key.
    later.write_text(line("k1") + "\n" + line("x", timestamp=NOON_MS + 90 * DAY_MS) + "\n")
    for _ in range(2):
        run_alone(place, f"file://{later}")
    code, text = requeued(place, "--reason", "unpriced")
    assert code == 0, text
    assert "1 resolved: the same key was priced meanwhile" in text
    assert dropped(place) == {"priced": 3, "duplicates": 0, "resolved": 1}
    assert [path.stat().st_size > 0 for path in (tmp_path / "state" / "requeue").iterdir()] == [True]
    code, text = requeued(place, "--reason", "unpriced")
    assert (code, len(list((tmp_path / "state" / "requeue").iterdir()))) == (0, 1), text
    assert (waiting(place), usage(place)) == ([], [(key, Decimal("0.01")) for key in ("k1", "k2", "x")])


def test_an_export_is_repaired_by_hand_and_put_through(tmp_path: Path) -> None:
    place = place_with(
        tmp_path, line("k1", input_tokens=-5), line("k2", model="old"), line("k3", input_tokens=-6)
    )
    export = tmp_path / "export.jsonl"
    code, text = requeued(place, "--reason", "out_of_range", "--export", str(export))
    assert (code, "2 lines written" in text) == (0, True)
    assert requeued(place, "--reason", "out_of_range", "--export", str(export))[0] == 1  # not written over
    rows = [json.loads(row) for row in export.read_text().splitlines()]
    rows[0]["raw"] = rows[0]["raw"].replace("-5", "5").replace(",", ",\n")
    export.write_text("\n".join(map(json.dumps, rows)))
    code, text = requeued(place, "--from", str(export))
    assert code == 0, text
    assert "1 put through" in text
    assert "1 stay in quarantine: out_of_range" in text
    assert usage(place) == [("k1", Decimal("0.05")), ("k2", Decimal("0.001"))]
    code, text = requeued(place, "--from", str(export))
    assert "1 do not wait in quarantine" in text
    assert usage(place) == [("k1", Decimal("0.05")), ("k2", Decimal("0.001"))]


def test_a_conflict_stays_until_it_has_a_key_of_its_own(tmp_path: Path) -> None:
    place = place_with(tmp_path, line("k1", model="old"), line("k1", model="old", input_tokens=2), line("k2"))
    later = tmp_path / "later.jsonl"
    later.write_text(line("k2", model="old") + "\n")  # another event under the key of one that waits
    # With the card of before: a run would price what waits by itself once its card knows it.
    assert Place(tmp_path, OLD_CARD).run(f"file://{later}")[0] == 0
    place = Place(tmp_path, NEW_CARD)
    stood = usage(place)
    assert stood == [("k1", Decimal("0.001")), ("k2", Decimal("0.001"))]
    for reason in ("idempotency_conflict", "unpriced"):
        code, text = requeued(place, "--reason", reason)
        assert code == 0, text
        assert "0 put through" in text
        assert "1 stay in quarantine: idempotency_conflict" in text
    assert (waiting(place), usage(place)) == (["idempotency_conflict", "unpriced"], stood)
    assert list((tmp_path / "state" / "requeue").iterdir()) == []

    export = tmp_path / "export.jsonl"
    assert requeued(place, "--reason", "idempotency_conflict", "--export", str(export))[0] == 0
    export.write_text(export.read_text().replace("k1", "k1-again"))
    code, text = requeued(place, "--from", str(export))
    assert (code, "1 put through" in text, "stay" in text) == (0, True, False), text
    assert waiting(place) == ["unpriced"]
    assert usage(place) == [stood[0], ("k1-again", Decimal("0.002")), stood[1]]


LINE_1 = '{"source":"x","source_partition":0,"source_offset":1,"source_line":0,"raw":"{}"}'
LINE_2 = LINE_1.replace('"source_offset":1', '"source_offset":2')


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"source": "x"}', "line 1 of {path}: source_partition: Field required"),
        ("\nno", "line 2 of {path}: the line: Invalid JSON"),
        (
            '{"source":"x","source_partition":0,"source_offset":1,"source_line":0,"raw_base64":"?"}',
            "line 1 of {path}: raw_base64 is not base64",
        ),
        ('{"source":"x","source_partition":0,"source_offset":1,"source_line":0}', "either raw or raw_base64"),
        (f"{LINE_1}\n{LINE_2}\n{LINE_1}", "event 3 of {path} is the same quarantined line as event 1"),
    ],
)
def test_a_mistake_in_a_repaired_file_stops_all_of_it(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "repaired"
    path.write_text(content)
    with pytest.raises(PlanError) as refused:
        next(read_repaired(path))
    assert sentence.format(path=path) in str(refused.value)


class CrashError(Exception):
    """The process is gone."""


@pytest.mark.parametrize("finisher", [pytest.param("requeue", marks=pytest.mark.long), "run"])
@pytest.mark.parametrize("when", [pytest.param("before the run", marks=pytest.mark.long), "after the run"])
def test_a_requeue_that_crashed_is_finished_by_the_next(tmp_path: Path, when: str, finisher: str) -> None:
    with running_clickhouse(tmp_path / "ch") as server:
        place = place_with(tmp_path, line("k1"), line("k2"), served=server.url())

        def crash(job: Job) -> None:
            if when == "after the run":
                run_alone(place, job.plan.source, **{LOCK_HELD_ENV: str(os.getpid())})
            raise CrashError

        job = prepare(environment_of(place, f"file://{tmp_path}/events.jsonl"))
        client = connect(job.plan.clickhouse)
        with pytest.raises(CrashError):
            requeue(job, client, waiting_lines(client, "unpriced", ""), NOON_MS + DAY_MS, crash)
        client.close()
        release()
        assert waiting(place) == ["unpriced", "unpriced"]
        assert len(usage(place)) == (2 if when == "after the run" else 0)

        if finisher == "requeue":
            code, text = requeued(place, "--reason", "unpriced")
            assert "1 begun earlier and finished now" in text
        else:
            code, text = place.run(f"file://{tmp_path}/events.jsonl")
        assert code == 0, text
        assert (waiting(place), [key for key, _ in usage(place)]) == ([], ["k1", "k2"])
        assert place.ask("SELECT count() FROM duplicates FINAL") == [(0,)]


def test_a_requeue_that_is_stopped_in_the_middle_resolves_nothing(tmp_path: Path) -> None:
    with running_clickhouse(tmp_path / "ch") as server:
        place = place_with(tmp_path, line("k1"), served=server.url())
        environment = {
            **environment_of(place, f"file://{tmp_path}/events.jsonl"),
        }
        job = prepare(environment)
        client = connect(job.plan.clickhouse)
        with pytest.raises(JobFailedError, match="stopped after 0 of 1 lines"):
            requeue(job, client, waiting_lines(client, "unpriced", ""), NOON_MS + DAY_MS, lambda _: None)
        client.close()
        release()
        assert waiting(place) == ["unpriced"]
        assert requeued(place, "--reason", "unpriced")[0] == 0
        assert (waiting(place), [key for key, _ in usage(place)]) == ([], ["k1"])


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param("nothing but the state's word", id="rebuilt", marks=pytest.mark.long),
        pytest.param("rows", id="rebuilt and read again"),
        pytest.param("state", id="begun anew", marks=pytest.mark.long),
    ],
)
def test_a_state_made_anew_after_a_requeue_counts_its_lines_once(tmp_path: Path, lost: str) -> None:
    place = place_with(
        tmp_path, line("k1"), line("k2", model="old"), line("k1"), line("k3"), line("k4", model="old")
    )
    assert requeued(place, "--reason", "unpriced")[0] == 0
    before = usage(place)
    flags = ["--rebuild-state"]
    if lost == "rows":
        place.ask("DELETE FROM priced_events WHERE idempotency_key = 'k4'")
    elif lost == "state":
        shutil.rmtree(tmp_path / "state")
        flags = []
    code, stderr = place.run(f"file://{tmp_path}/events.jsonl", *flags)
    assert code == 0, stderr
    assert usage(place) == before
    assert dropped(place) == {"priced": 4, "duplicates": 1}
    spent = place.ask("SELECT spend FROM spend WHERE window_kind = 'day'")
    assert spent == [(Decimal("0.022"),)]
    code, verdict = audit_of(place)
    # The requeue's own file went with the state.
    told = "as far as they go; not recounted: " if lost == "state" else ""
    assert (code, verdict.startswith(f"the books balance {told}".strip())) == (0, True), verdict


def test_wrong_usage_and_a_running_job_are_sentences(tmp_path: Path) -> None:
    place = place_with(tmp_path, line("k1"))
    assert "give --reason, or --from" in requeued(place)[1]
    assert "give --reason, or --from" in requeued(place, "--reason", "unpriced", "--from", "x")[1]
    assert "cannot be read" in requeued(place, "--from", f"{tmp_path}/none")[1]
    child = place.start(f"file://{tmp_path}/events.jsonl", "--follow")
    until(lambda: (tmp_path / "state" / "lock").exists() and child.poll() is None, "the job is there")
    time.sleep(1.5)
    code, text = requeued(place, "--reason", "unpriced")
    child.terminate()
    child.communicate()
    assert (code, "is in use" in text or "another" in text, "Traceback" in text) == (1, True, False), text
