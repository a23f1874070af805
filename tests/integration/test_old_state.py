"""A state directory that was begun before the keys of shards were chosen: its shards are found again."""

from __future__ import annotations

import json
import shutil
import time
from datetime import date
from pathlib import Path

from dataflows.state import _write_json, open_state
from dataflows.traffic import TrafficShape, generate
from tests.auditor import audit, load_config
from tests.auditor_event import lines_of_file
from tests.integration.running import Place, assert_agrees


def begin_as_before(directory: Path) -> None:
    """A state as it was begun then: the number of shards, whose keys are "00" to "07"."""
    open_state(directory, [], 1)
    content = json.loads((directory / "job.json").read_text())
    del content["checksum"], content["format"], content["shard_keys"]
    _write_json(directory / "job.json", {**content, "shards": 8})


def test_an_old_state_goes_on_under_its_keys(tmp_path: Path) -> None:
    place = Place(tmp_path)
    begin_as_before(tmp_path / "state")
    first, second = tmp_path / "events-1.jsonl", tmp_path / "events-2.jsonl"
    source = f"file://{tmp_path}/events-*.jsonl"
    first.write_bytes(b"".join(generate(TrafficShape(events=3_000, seed=31, day=date(2026, 3, 17)))))
    assert place.run(source)[0] == 0
    priced = place.ask("SELECT count() FROM priced_events")
    shutil.copy(first, second)
    code, stderr = place.run(source)
    assert code == 0, stderr
    assert place.ask("SELECT count() FROM priced_events") == priced, "all of them are copies of what is known"
    lines = [line for path in (first, second) for line in lines_of_file(path)]
    now_ms = time.time_ns() // 1_000_000
    assert_agrees(place, audit(lines, load_config(place.config), now_ms=now_ms))
