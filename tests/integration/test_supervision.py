"""Several workers over HTTP: restarted together, ended together, and exact whatever dies."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import httpx
import pytest

from dataflows.supervise import EXIT_REFUSED, STEADY_SECONDS, RestartBudget, Supervisor, free_addresses
from dataflows.traffic import TrafficShape, generate
from tests.auditor import Audit, audit, load_config
from tests.auditor_event import lines_of_file
from tests.clickhouse_process import ClickHouseProcess, running_clickhouse
from tests.integration.running import (
    JOB_SECONDS,
    QUICK,
    ROOT,
    SEED_RULES,
    Place,
    assert_agrees,
    audit_of,
    children_of,
    published,
    until,
)

pytestmark = pytest.mark.slow

FILES = 4
LOW_CAPS = SEED_RULES.replace("daily_cap: 50.00", "daily_cap: 0.50, monthly_cap: 1.00") + QUICK
"""A hundred alerts a day of traffic."""
_TENANT = re.compile(rb'"tenant_id": ?"[^"]*"')
KILLED = -signal.SIGKILL


@pytest.mark.parametrize(
    ("ends", "pauses"),
    [
        ([([1, 0], 5.0)] * 8, [0.5, 1.0, 2.0, 5.0, 15.0, 30.0, None, None]),
        ([([KILLED, 1], 5.0), ([1, 1], STEADY_SECONDS), ([1, 1], 5.0)], [0.5, 0.5, 1.0]),
        ([([EXIT_REFUSED, 1], 5.0)], [None]),
        ([([1, EXIT_REFUSED], STEADY_SECONDS)], [None]),
    ],
)
def test_restarts_have_pauses_and_a_limit(
    ends: list[tuple[list[int], float]], pauses: list[float | None]
) -> None:
    budget = RestartBudget()
    assert [budget.pause_seconds(codes, seconds) for codes, seconds in ends] == pauses


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseProcess]:
    with running_clickhouse(tmp_path_factory.mktemp("served") / "ch") as process:
        yield process


def place_with_traffic(root: Path, server: ClickHouseProcess, seed: int, events: int = 16_000) -> Place:
    """A place whose tables are a database of their own, with a day of traffic in four files.

    A tenant's events stand in one file: which copy of a retry counts, and which event crosses a threshold, is
    then settled by their order there, however the workers share the files.
    """
    root.mkdir(exist_ok=True)
    shape = TrafficShape(events=events, seed=seed, day=date(2026, 3, 17), malformed_fraction=0.01)
    files: list[list[bytes]] = [[] for _ in range(FILES)]
    for line in b"".join(generate(shape)).splitlines(keepends=True):
        tenant = _TENANT.search(line)
        files[zlib.crc32(tenant.group() if tenant else line) % FILES].append(line)
    for number, lines in enumerate(files):
        (root / f"events-{number}.jsonl").write_bytes(b"".join(lines))
    return Place(root, LOW_CAPS, served=server.url().replace("/meterline", f"/run_{seed}"))


def source_of(place: Place) -> str:
    return f"file://{place.root}/events-*.jsonl"


def expected_of(place: Place) -> Audit:
    lines = [line for path in sorted(place.root.glob("events-*")) for line in lines_of_file(path)]
    return audit(lines, load_config(place.config), now_ms=time.time_ns() // 1_000_000)


def logged(stderr: str, message: str) -> list[dict[str, object]]:
    entries = [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]
    return [entry for entry in entries if entry.get("message") == message]


def is_ours(line: str) -> bool:
    """A JSON log line, or a sentence."""
    return line.startswith(("{", "meterline: "))


RESTARTED = "workers ended and are started again"


def test_a_killed_worker_is_restarted_with_its_peer_and_the_totals_are_exact(
    tmp_path: Path, server: ClickHouseProcess
) -> None:
    place = place_with_traffic(tmp_path / "kill", server, 701)
    child = place.start(source_of(place), "--workers", "2")
    until(lambda: published(place) > 0, "something is published")
    os.kill(random.Random(7).choice(children_of(child.pid)), signal.SIGKILL)
    stdout, stderr = child.communicate(timeout=JOB_SECONDS)
    assert child.returncode == 0, stderr.decode()
    assert len(logged(stderr.decode(), RESTARTED)) == 1
    assert {entry["worker"] for entry in logged(stderr.decode(), "done")} == {0, 1}
    assert (stdout, [line for line in stderr.decode().splitlines() if not is_ours(line)]) == (b"", [])
    assert list((place.root / "state").glob("crash-*.log")) == []
    assert_agrees(place, expected_of(place))


@pytest.mark.long
def test_sigterm_to_the_supervisor_drains_the_workers(tmp_path: Path, server: ClickHouseProcess) -> None:
    place = place_with_traffic(tmp_path / "term", server, 702)
    child = place.start(source_of(place), "--workers", "2")
    until(lambda: published(place) > 0, "something is published")
    child.terminate()
    _, stderr = child.communicate(timeout=JOB_SECONDS)
    assert (child.returncode, logged(stderr.decode(), RESTARTED)) == (0, [])
    assert {entry["worker"] for entry in logged(stderr.decode(), "stopped")} == {0, 1}
    assert place.run(source_of(place), "--workers", "3")[0] == 0
    assert_agrees(place, expected_of(place))


@pytest.mark.long
def test_without_a_supervisor_the_workers_end_and_the_state_stays_locked_until_then(
    tmp_path: Path, server: ClickHouseProcess
) -> None:
    place = place_with_traffic(tmp_path / "orphans", server, 703)
    child = place.start(source_of(place), "--workers", "2", "--follow")
    until(lambda: published(place) > 0, "something is published")
    workers = children_of(child.pid)
    child.kill()
    code, stderr = place.run(source_of(place))
    assert code == 0 or "is in use" in stderr, stderr
    until(lambda: not any(alive(pid) for pid in workers), "orphans end by themselves")
    child.communicate()
    code, stderr = place.run(source_of(place))
    assert code == 0, stderr
    assert_agrees(place, expected_of(place))


LATE_WORKER = """
import os, sys, time
from dataflows.supervise import end_with_parent
time.sleep(0.5)
end_with_parent(int(sys.argv[1]), lambda: os._exit(0))
time.sleep(600)
"""
SHORT_SUPERVISOR = """
import os, subprocess, sys
command = [sys.executable, "-c", sys.argv[1], str(os.getpid())]
print(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)
"""


def test_a_worker_whose_supervisor_died_before_it_was_up_ends_too() -> None:
    command = [sys.executable, "-c", SHORT_SUPERVISOR, LATE_WORKER]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    until(lambda: not alive(int(done.stdout)), "the orphan ends")


def test_workers_that_die_while_they_end_to_begin_again_do_not_end_the_job() -> None:
    killed: list[str] = []

    def wanted_again_and_killed() -> bool:
        for pid in children_of(os.getpid()):
            command = ["ps", "-o", "command=", "-p", str(pid)]
            shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            if " worker " in shown:
                os.kill(pid, signal.SIGKILL)
                killed.append(shown)
        return True

    assert Supervisor(2, os.environ, (), wanted_again_and_killed).run() == 0
    assert len(killed) == 2


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_a_restart_cannot_mend_is_said_once(tmp_path: Path, server: ClickHouseProcess) -> None:
    place = place_with_traffic(tmp_path / "refused", server, 704, events=1_000)
    code, stderr = place.run(f"file://{tmp_path}/none-*.jsonl", "--workers", "2")
    assert (code, logged(stderr, RESTARTED), "Traceback" in stderr) == (1, [], False), stderr
    assert stderr.count("meterline: ") == 1


def cut(place: Place) -> None:
    os.truncate(place.root / "events-1.jsonl", 100)


def damage(place: Place) -> None:
    segment = max(place.root.glob("state/dedupe/*/*"), key=lambda path: path.stat().st_size)
    data = segment.read_bytes()
    segment.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("seed", "spoil", "sentence"),
    [
        (708, cut, "events-1.jsonl is shorter than what was already read of it"),
        (709, damage, "is damaged"),
    ],
)
def test_what_only_a_worker_finds_is_said_at_once_too(
    tmp_path: Path, server: ClickHouseProcess, seed: int, spoil: Callable[[Place], None], sentence: str
) -> None:
    place = place_with_traffic(tmp_path / "spoilt", server, seed, events=1_000)
    assert place.run(source_of(place), "--workers", "2")[0] == 0
    spoil(place)
    code, stderr = place.run(source_of(place), "--workers", "2")
    (said,) = [line for line in stderr.splitlines() if not line.startswith("{")]
    assert (code, logged(stderr, RESTARTED), sentence in said) == (1, [], True), stderr
    words = "".join(path.read_text() for path in place.root.glob("state/crash-*.log"))
    assert "Traceback" in words
    assert said.removeprefix("meterline: ") in words


ONE_OF_TWO_REFUSES = """
import sys
import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.run import cli_main
from bytewax.testing import TestingSink, TestingSource
from dataflows.cli_run import _leave
from dataflows.file_source import InputError
from dataflows.first_cause import FirstCause
from dataflows.run import OtherWorkerFailedError

def refuse(number):
    raise InputError("it was cut")

flow = Dataflow("refused")
op.output("out", op.map("map", op.input("in", flow, TestingSource([1])), refuse), TestingSink([]))
cause = FirstCause()
try:
    cli_main(cause.watch(flow), process_id=int(sys.argv[1]), addresses=sys.argv[2].split(";"))
except BaseException as error:
    _leave(cause.error or OtherWorkerFailedError("another one"))
"""


def test_only_the_worker_that_refuses_says_so_and_by_its_exit_code() -> None:
    addresses = ";".join(free_addresses(2))
    command = [sys.executable, "-c", ONE_OF_TWO_REFUSES]
    pair = [
        subprocess.Popen([*command, str(number), addresses], cwd=ROOT, stderr=subprocess.PIPE)
        for number in (0, 1)
    ]
    said = [worker.communicate(timeout=JOB_SECONDS)[1].count(b"meterline: it was cut") for worker in pair]
    codes = [worker.returncode for worker in pair]
    assert sorted(zip(codes, said, strict=True)) == [(1, 0), (EXIT_REFUSED, 1)]


def test_bytewax_can_run_it_in_threads(tmp_path: Path, server: ClickHouseProcess) -> None:
    place = place_with_traffic(tmp_path / "threads", server, 710, events=4_000)
    environment = {
        "METERLINE_CONFIG": str(place.root / "meterline.yaml"),
        "METERLINE_SOURCE": source_of(place),
        "METERLINE_CLICKHOUSE_URL": place.clickhouse,
        "METERLINE_STATE_DIR": str(place.root / "state"),
    }
    flags = ["-w", "3", "-r", str(place.root / "state" / "recovery"), "-s", "1", "-b", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "bytewax.run", "dataflows.metering", *flags],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=JOB_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert_agrees(place, expected_of(place))


@pytest.mark.long
def test_1_to_2_to_3_to_1_workers_keep_the_totals(tmp_path: Path, server: ClickHouseProcess) -> None:
    place = place_with_traffic(tmp_path / "rescale", server, 705, events=4_000)
    lines = {path: path.read_bytes().splitlines(keepends=True) for path in place.root.glob("events-*")}
    for path in lines:
        path.write_bytes(b"")
    for number, workers in enumerate((1, 2, 3, 1)):
        for path, all_lines in lines.items():  # so that each input goes on from what the run before counted
            part = len(all_lines) // 4
            with path.open("ab") as file:
                file.writelines(all_lines[number * part : None if number == 3 else (number + 1) * part])
        code, stderr = place.run(source_of(place), "--workers", str(workers))
        assert code == 0, stderr
    assert_agrees(place, expected_of(place))
    code, report = audit_of(place)
    assert code == 0, report


def two_free_ports() -> int:
    """A port that is free, like its successor, and from which no system hands out ports by itself."""
    for port in random.sample(range(20_000, 32_000), 50):
        with contextlib.suppress(OSError):
            for number in (port, port + 1):
                socket.create_server(("127.0.0.1", number)).close()
            return port
    raise AssertionError("fifty ports in use")


def test_each_worker_serves_its_own_metrics(tmp_path: Path, server: ClickHouseProcess) -> None:
    place = place_with_traffic(tmp_path / "metrics", server, 706, events=2_000)
    port = two_free_ports()
    flags = ["--workers", "2", "--follow", "--metrics-port", str(port)]
    child = place.start(source_of(place), *flags)
    expected = expected_of(place)
    until(lambda: published(place) == len(expected.priced), "everything is published")
    pages = [httpx.get(f"http://127.0.0.1:{port + number}/metrics").text for number in (0, 1)]
    health = [httpx.get(f"http://127.0.0.1:{port + number}/healthz").status_code for number in (0, 1)]
    child.terminate()
    _, stderr = child.communicate(timeout=JOB_SECONDS)
    assert child.returncode == 0, stderr.decode()
    read = [
        float(value)
        for page in pages
        for value in re.findall(r"^meterline_read_total (\S+)", page, re.MULTILINE)
    ]
    assert (sum(read), min(read) > 0, health) == (expected.read, True, [200, 200])
