"""The job on files, end to end, against the independent auditor."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest

from dataflows.traffic import TrafficShape, generate
from tests.auditor import Audit, audit, load_config
from tests.auditor_event import lines_of_file
from tests.azure_trace import read_trace, trace_path
from tests.integration.running import QUICK, ROOT, SEED_RULES, Place, assert_agrees, what_stands

DAY = date(2026, 3, 17)


def expected_of(config: str, *paths: Path) -> Audit:
    lines = [line for path in paths for line in lines_of_file(path)]
    return audit(lines, load_config(config), now_ms=time.time_ns() // 1_000_000)


def write_traffic(path: Path, events: int, seed: int) -> None:
    path.write_bytes(
        b"".join(generate(TrafficShape(events=events, seed=seed, day=DAY, malformed_fraction=0.01)))
    )


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A generated day, run once."""
    place = Place(tmp_path_factory.mktemp("day"))
    write_traffic(place.root / "events.jsonl", 20_000, 11)
    code, stderr = place.run(f"file://{place.root}/events.jsonl")
    assert code == 0, stderr
    return place


def test_a_generated_day_agrees_with_the_auditor_to_the_last_digit(day: Place) -> None:
    assert_agrees(day, expected_of(day.config, day.root / "events.jsonl"))


def test_the_audit_command_says_that_the_books_balance(day: Place) -> None:
    flags = ["--config", f"{day.root}/meterline.yaml", "--clickhouse", day.clickhouse]
    command = [sys.executable, "-m", "dataflows.cli", "audit", *flags]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "the books balance" in found.stdout


def test_running_again_changes_nothing_with_the_state_or_without_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    write_traffic(tmp_path / "events.jsonl", 5_000, 16)
    source = f"file://{tmp_path}/events.jsonl"
    assert place.run(source)[0] == 0
    before = what_stands(place)
    assert place.run(source)[0] == 0
    assert place.ask("SELECT count() FROM priced_events") == [(len(before["rows"]),)]
    shutil.rmtree(tmp_path / "state")
    assert place.run(source)[0] == 0
    assert what_stands(place) == before
    # The second reading did write: without the views' identity everything would stand twice.
    assert place.ask("SELECT count() FROM priced_events") == [(2 * len(before["rows"]),)]


TIERED_RULES = """\
pricing:
  rules:
    - model: gpt-4o
      per: 1_000_000
      input_rate: 5
      output_rate: 15
      cache_read_rate: 2.5
      context_tiers: [{above: 1_000, input_rate: 10, output_rate: 22.5, cache_read_rate: 5}]
      units: {web_searches: {rate: 10, per: 1_000}}
    - {model: gpt-4o, service_tier: priority, input_rate: 8.5e-6, output_rate: 3e-5, multiplier: 1.1}
    - {model_prefix: claude-, input_rate: 0.000003, output_rate: 0.000015, request_fee: 0.0001}
    - {model_prefix: claude-, region: us-east-1, input_rate: 0.0000033, output_rate: 0.0000165}
    - {model_prefix: claude-, service_tier: "*", input_rate: 0.000006, output_rate: 0.00003}
    - {model: fallback-llama-3, effective_until: "2026-03-17T12:00:00Z", input_rate: 5e-7, output_rate: 2e-6}
    - {model: fallback-llama-3, effective_from: "2026-03-17T12:00:00Z", input_rate: 4e-7, output_rate: 1e-6,
       minimum_charge: 0.0001}
limits:
  tenant: {daily_cap: 50.00}
"""


def test_a_card_of_many_dimensions_agrees_with_the_auditor(tmp_path: Path) -> None:
    place = Place(tmp_path, TIERED_RULES + QUICK)
    path = tmp_path / "events.jsonl"
    write_traffic(path, 6_000, 17)
    searched = [
        {
            "idempotency_key": f"s-{number}",
            "tenant_id": "acme",
            "model": "gpt-4o",
            "timestamp": "2026-03-17T12:00:00Z",
            "input_tokens": 1_500,
            "output_tokens": 10,
            "attributes": attributes,
        }
        for number, attributes in enumerate(
            [
                {"unit.web_searches": "3"},
                {"unit.web_searches": "0", "unit.pages": "0"},
                {"unit.pages": "1"},
                {"unit.web_searches": "three"},
                {"unit.input_audio_tokens": "1501"},
                {"unit.input_audio_tokens": "1"},
            ]
        )
    ]
    with path.open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in searched)
    code, stderr = place.run(f"file://{path}")
    assert code == 0, stderr
    expected = expected_of(place.config, path)
    assert_agrees(place, expected)
    reasons = "SELECT reason FROM quarantine WHERE raw LIKE '%unit.%'"
    found = sorted(reason for (reason,) in place.ask(reasons))
    assert found == ["inconsistent_usage", "invalid_value", "unpriced", "unpriced"]
    assert len({row.multiplier for row in expected.priced.values()}) == 2
    details = {detail for (detail,) in place.ask("SELECT detail FROM quarantine WHERE reason = 'unpriced'")}
    assert "the rate card has no rate for unit pages of model gpt-4o" in details
    tier = "the rate card has no rate for service_tier 'priority' of model fallback-llama-3 of provider "
    assert any(detail.startswith(tier) for detail in details), details


@pytest.mark.long
def test_killed_at_random_moments_it_loses_and_doubles_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    write_traffic(tmp_path / "events.jsonl", 60_000, 12)
    source = f"file://{tmp_path}/events.jsonl"
    chance = random.Random(3)
    kills = 0
    for _ in range(3):
        child = place.start(source)
        time.sleep(chance.uniform(1.0, 2.5))
        kills += child.poll() is None
        child.kill()
        child.communicate()
    code, stderr = place.run(source)
    assert code == 0, stderr
    assert kills > 0
    assert_agrees(place, expected_of(place.config, tmp_path / "events.jsonl"))


def test_sigterm_publishes_what_was_read_and_exits_0(tmp_path: Path) -> None:
    place = Place(tmp_path)
    path = tmp_path / "events.jsonl"
    write_traffic(path, 3_000, 17)
    child = place.start(f"file://{path}", "--follow")
    ready = time.monotonic() + 60
    while time.monotonic() < ready and not any((tmp_path / "state" / "dedupe").glob("*/*.segment")):
        time.sleep(0.1)
    child.terminate()
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 0, stderr.decode()
    assert_agrees(place, expected_of(place.config, path))


def test_ctrl_c_is_said_and_exits_130(tmp_path: Path) -> None:
    place = Place(tmp_path)
    path = tmp_path / "events.jsonl"
    write_traffic(path, 2_000, 19)
    child = place.start(f"file://{path}", "--follow")
    ready = time.monotonic() + 60
    while time.monotonic() < ready and not any((tmp_path / "state" / "dedupe").glob("*/*.segment")):
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 130, stderr.decode()
    assert "meterline: interrupted" in stderr.decode()
    assert place.run(f"file://{path}")[0] == 0
    assert_agrees(place, expected_of(place.config, path))


def test_globs_of_gzip_and_plain_files_share_one_dedupe(tmp_path: Path) -> None:
    place = Place(tmp_path)
    write_traffic(tmp_path / "whole.jsonl", 6_000, 13)
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "part-1.jsonl").write_bytes(b"".join(lines[:3_000]))
    assert place.run(f"file://{tmp_path}/part-*")[0] == 0
    # A file that appears later is read by the next run, and its copies of older events are found.
    (tmp_path / "part-2.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[3_000:])))
    assert place.run(f"file://{tmp_path}/part-*")[0] == 0
    assert_agrees_in_sum(place, expected_of(place.config, tmp_path / "whole.jsonl"))


def assert_agrees_in_sum(place: Place, expected: Audit) -> None:
    found = what_stands(place)
    assert len(found["priced"]) == len(expected.priced)
    assert sum(row[1] for row in found["priced"].values()) == sum(r.price for r in expected.priced.values())
    assert len(found["duplicates"]) == len(expected.duplicates)


def meterline(place: Place, command: str) -> tuple[int, str]:
    flags = ["--config", f"{place.root}/meterline.yaml", "--clickhouse", place.clickhouse]
    done = subprocess.run(
        [sys.executable, "-m", "dataflows.cli", command, *flags],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    return done.returncode, done.stdout


def test_a_half_written_line_waits_and_the_books_balance_before_and_after(tmp_path: Path) -> None:
    place = Place(tmp_path)
    path = tmp_path / "events.jsonl"
    write_traffic(path, 1_000, 20)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    code, stderr = place.run(f"file://{path}")
    assert (code, stderr.count(f"1 unfinished line of {path} waits")) == (0, 1), stderr
    code, told = meterline(place, "audit")
    assert (code, "the books balance" in told.splitlines()) == (0, True), told
    path.write_bytes(whole.rstrip())  # its last line is whole, but for the newline
    code, stderr = place.run(f"file://{path}")
    assert (code, "unfinished" in stderr) == (0, False), stderr
    assert_agrees(place, expected_of(place.config, path))
    assert meterline(place, "audit")[1].splitlines()[-1] == "the books balance"


def test_a_file_that_was_replaced_is_refused_and_nothing_of_it_is_read(tmp_path: Path) -> None:
    place = Place(tmp_path)
    path = tmp_path / "events.jsonl"
    write_traffic(path, 1_000, 21)
    assert place.run(f"file://{path}")[0] == 0
    before = what_stands(place)
    write_traffic(path, 2_000, 22)
    code, stderr = place.run(f"file://{path}")
    assert (code, "it was replaced or rewritten" in stderr, "Traceback" in stderr) == (1, True, False), stderr
    assert what_stands(place) == before


def test_time_zones_feature_caps_and_late_events(tmp_path: Path) -> None:
    config = (
        SEED_RULES.replace(
            "  feature: {exclude_cache_from_billing: true}",
            """\
  feature: {exclude_cache_from_billing: false}
  overrides:
    tenants:
      tenant-runaway: {daily_cap: 30, monthly_cap: 40, timezone: America/New_York,
        features: {agent: {daily_cap: 5}}}
      tenant-001: {timezone: Asia/Kolkata}
    features: {chat: {daily_cap: 0.5}}""",
        )
        + "metering: {epoch_interval_seconds: 0.1, window_retention_hours: 1, allowed_lateness_hours: 48}\n"
    )
    place = Place(tmp_path, config)
    path = tmp_path / "events.jsonl"
    write_traffic(path, 8_000, 14)
    late = {
        "idempotency_key": "l1",
        "tenant_id": "tenant-001",
        "model": "gpt-4o",
        "input_tokens": 7,
        "output_tokens": 1,
    }
    with path.open("a") as file:
        file.write(json.dumps({**late, "timestamp": "2026-03-14T12:00:00Z"}) + "\n")
    code, stderr = place.run(f"file://{path}")
    assert code == 0, stderr
    expected = expected_of(config, path)
    assert any(row.late for row in expected.priced.values())
    assert any(key[1] for key in expected.alerts)
    assert_agrees(place, expected)


def test_the_azure_trace_agrees_with_the_auditor(tmp_path: Path) -> None:
    trace = trace_path()
    if trace is None:
        pytest.skip("the public trace is not at hand (METERLINE_TRACE_DIR)")
    place = Place(tmp_path)
    (tmp_path / "azure.jsonl").write_bytes(b"".join(line + b"\n" for line in read_trace(trace, 5).lines))
    code, stderr = place.run(f"file://{tmp_path}/azure.jsonl")
    assert code == 0, stderr
    expected = expected_of(place.config, tmp_path / "azure.jsonl")
    assert len(expected.priced) == 8_819
    assert_agrees(place, expected)


def test_standard_input_and_a_file_of_garbage_end_well(tmp_path: Path) -> None:
    place = Place(tmp_path)
    garbage = random.Random(4).randbytes(50_000)
    (tmp_path / "garbage").write_bytes(garbage)
    with (tmp_path / "garbage").open("rb") as stdin:
        code, stderr = place.run("-", stdin=stdin)
    assert code == 0, stderr
    lines = sum(1 for line in garbage.split(b"\n") if line.strip(b" \t\r"))
    assert place.ask("SELECT count() FROM quarantine") == [(lines,)]
    assert place.ask("SELECT count() FROM usage") == [(0,)]


FIVE_MISTAKES = """\
pricing:
  currency: EUR
  rules:
    - {model: a, input_rate: -1, output_rate: 0}
    - {model: b, input_rate: 1e-6}
limits: {tenant: {daily_cap: lots}}
metring: {}
"""


@pytest.mark.parametrize(
    ("source", "config", "sentence"),
    [
        ("file:///nowhere/events.jsonl", QUICK, "the file /nowhere/events.jsonl does not exist"),
        ("file:///usr", QUICK, "/usr is a directory"),
        ("file:///nowhere/*.jsonl", QUICK, "no file matches /nowhere/*.jsonl"),
        pytest.param(
            "kafka://127.0.0.1:9/events",
            QUICK,
            "no Kafka broker answers at 127.0.0.1:9",
            marks=pytest.mark.long,  # it waits for the timeout
        ),
        ("ftp://host/x", QUICK, "the source begins with ftp://"),
        ("file://events.jsonl", QUICK, "the source begins with file:// and a name, which would be a host"),
        ("file://[ab].jsonl", QUICK, "use file:///absolute/path"),
        ("-", None, "pricing.rules[0].input_rate: must be positive"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_1(
    tmp_path: Path, source: str, config: str | None, sentence: str
) -> None:
    place = Place(tmp_path, SEED_RULES + config if config else FIVE_MISTAKES)
    code, stderr = place.run(source, stdin=subprocess.DEVNULL)
    assert code == 1
    assert sentence in stderr
    assert "Traceback" not in stderr
    assert "panicked" not in stderr
    if config is None:
        assert len(stderr.splitlines()) == 5, stderr


def test_a_state_directory_that_is_held_or_damaged_is_said_in_a_sentence(tmp_path: Path) -> None:
    place = Place(tmp_path)
    path = tmp_path / "events.jsonl"
    write_traffic(path, 2_000, 18)
    holder = place.start(f"file://{path}", "--follow")
    ready = time.monotonic() + 60
    while time.monotonic() < ready and not any((tmp_path / "state" / "dedupe").glob("*/*.segment")):
        time.sleep(0.1)
    code, stderr = place.run(f"file://{path}")
    assert code == 1
    assert f"in use by another Meterline job (process {holder.pid})" in stderr
    holder.terminate()
    holder.communicate(timeout=60)
    segment = next((tmp_path / "state" / "dedupe").glob("*/*.segment"))
    content = bytearray(segment.read_bytes())
    content[-1] ^= 1
    segment.write_bytes(content)
    with path.open("ab") as file:
        file.write(b"{}\n")
    code, stderr = place.run(f"file://{path}")
    assert code == 1
    assert segment.name in stderr
    assert ('"message": "done"' in stderr, '"message": "failed"' in stderr) == (False, True)
    assert "Traceback" not in stderr
    assert "panicked" not in stderr
    code, stderr = Place(tmp_path).run(f"file://{path}", "--state-dir", "/proc/nowhere")
    assert code == 1
    assert "the state directory /proc/nowhere cannot be used" in stderr


def test_an_empty_file_ends_well(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    assert place.run(f"file://{tmp_path}/empty.jsonl")[0] == 0
    assert place.ask("SELECT count() FROM usage") == [(0,)]
