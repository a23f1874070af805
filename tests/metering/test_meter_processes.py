"""The meter and the life of a process: forks, ends, `kill -9`, and heirs."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from metering.meter import Meter
from tests.metering.kafka_process import KafkaProcess, running_kafka
from tests.metering.recording import NOWHERE, keys_at, keys_in, run, start, until

REPLAY = "meter.start()\nwhile not meter.stats().replayed or meter.stats().spool_bytes: time.sleep(0.01)\n"


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaProcess]:
    with running_kafka() as process:
        yield process


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


ENDS = [
    # how the process ends after recording k0 … k99, and what of that is in the file
    ("", 100),
    pytest.param("sys.exit(0)", 100, marks=pytest.mark.long),
    pytest.param("meter.close()", 100, marks=pytest.mark.long),
    ("import threading; threading.Thread(target=lambda: meter.record(event('k100'))).start()", 101),
    ("import atexit; atexit.register(lambda: meter.record(event('k100')))", 101),
    ("meter.flush(); os._exit(0)", 100),
]


@pytest.mark.parametrize(("ending", "expected"), ENDS)
def test_an_interpreter_that_ends_delivers_what_was_recorded(file: Path, ending: str, expected: int) -> None:
    run(f"for n in range(100): meter.record(event(f'k{{n}}'))\n{ending}", events=f"file://{file}")
    assert keys_in(file) == [f"k{number}" for number in range(expected)]


def test_the_end_does_not_wait_for_a_broker_that_is_away(tmp_path: Path) -> None:
    run("meter.record(event('k'))", events=NOWHERE, spool_dir=str(tmp_path))
    assert len(list(tmp_path.glob("*/*/*.seg"))) == 1


FORKS = {
    "os.fork": """
child = os.fork()
if not child:
    record("child")
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
    "os.fork, then os._exit after a flush": """
child = os.fork()
if not child:
    record("child")
    os._exit(not meter.flush(20))
assert os.waitpid(child, 0)[1] == 0
""",
    "multiprocessing": """
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=record, args=("child",))
child.start()
child.join()
assert child.exitcode == 0
""",
    "a grandchild": """
child = os.fork()
if not child:
    grandchild = os.fork()
    if not grandchild:
        record("child")
        sys.exit(0)
    sys.exit(os.waitpid(grandchild, 0)[1])
assert os.waitpid(child, 0)[1] == 0
""",
}


@pytest.mark.parametrize(
    ("fork", "is_flushed"),
    [
        ("os.fork", "meter.flush(20)"),
        ("multiprocessing", ""),
        pytest.param("os.fork", "", marks=pytest.mark.long),
        pytest.param("os.fork, then os._exit after a flush", "", marks=pytest.mark.long),
        pytest.param("multiprocessing", "meter.flush(20)", marks=pytest.mark.long),
        pytest.param("a grandchild", "meter.flush(20)", marks=pytest.mark.long),
        pytest.param("a grandchild", "", marks=pytest.mark.long),
    ],
)
def test_a_forked_child_sends_its_own_events_and_none_of_its_parents(
    kafka: KafkaProcess, kafka_topic: str, fork: str, is_flushed: str
) -> None:
    script = f"""
def record(who):
    for n in range(50):
        meter.record(event(f"{{who}}-{{n}}"))

record("before")
{is_flushed}
{FORKS[fork]}
record("after")
"""
    run(script, events=f"kafka://{kafka.bootstrap}/{kafka_topic}")
    expected = Counter(f"{who}-{n}" for who in ("before", "child", "after") for n in range(50))
    assert Counter(keys_at(kafka.bootstrap, kafka_topic)) == expected


def test_a_pool_that_is_closed_and_joined_has_sent_all(file: Path) -> None:
    script = """
import multiprocessing

def work(number):
    meter.record(event(f"k{number}"))

with multiprocessing.get_context("fork").Pool(2) as pool:
    pool.map(work, range(100))
    pool.close()
    pool.join()
"""
    run(script, events=f"file://{file}")
    assert sorted(keys_in(file)) == sorted(f"k{number}" for number in range(100))


def test_a_child_has_a_spool_of_its_own_and_leaves_its_parents_alone(tmp_path: Path) -> None:
    script = """
meter.record(event("parent"))
assert meter.flush(20)
child = os.fork()
if not child:
    assert meter.stats().recorded == 0
    meter.record(event("child"))
    os._exit(not meter.flush(20))
assert os.waitpid(child, 0)[1] == 0
meter.record(event("parent, again"))
assert meter.flush(20)
"""
    run(script, events=NOWHERE, spool_dir=str(tmp_path / "spool"))
    assert len(list((tmp_path / "spool").glob("*/*/*.seg"))) == 2


def test_a_child_that_lives_on_does_not_hold_the_spool_of_its_dead_parent(tmp_path: Path) -> None:
    script = """
meter.record(event("parent"))
assert meter.flush(20)
if os.fork():
    os.kill(os.getpid(), 9)
print("the child", flush=True)
sys.stdin.read()
os._exit(0)
"""
    with start(script, events=NOWHERE, spool_dir=str(tmp_path)) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "the child\n"
        parent.wait()
        with Meter(NOWHERE, spool_dir=tmp_path) as heir:
            until(lambda: heir.stats().spool_bytes > 0)


def test_events_that_were_flushed_outlive_a_kill_and_the_next_process_delivers_them(
    kafka: KafkaProcess, kafka_topic: str, tmp_path: Path
) -> None:
    place = {"events": f"kafka://{kafka.bootstrap}/{kafka_topic}", "spool_dir": str(tmp_path)}
    script = """
n = 0
while True:
    for _ in range(50):
        meter.record(event(f"k{n}"))
        n += 1
    if meter.flush(20):
        print(n, flush=True)
"""
    kafka.go_away()
    try:
        child = start(script, **place)
        assert child.stdout is not None
        flushed = [int(child.stdout.readline()) for _ in range(5)][-1]
        child.kill()
        out, _ = child.communicate()
        flushed = int(([str(flushed), *out.split()])[-1])
    finally:
        kafka.come_back()
    assert child.returncode == -signal.SIGKILL
    run(REPLAY, **place)
    arrived = keys_at(kafka.bootstrap, kafka_topic)
    assert set(arrived) >= {f"k{number}" for number in range(flushed)}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_several_processes_share_a_spool_directory_and_a_file(tmp_path: Path, file: Path) -> None:
    script = "for n in range(300): meter.record(event(f'{sys.argv[0]}{os.getpid()}-{n}'))\nmeter.flush(20)"
    place = {"events": f"file://{file}", "spool_dir": str(tmp_path / "spool")}
    children = [start(script, **place) for _ in range(3)]
    for child in children:
        _, err = child.communicate(timeout=60)
        assert (child.returncode, err) == (0, "")
    expected = Counter(f"-c{child.pid}-{number}" for child in children for number in range(300))
    assert Counter(keys_in(file)) == expected


def test_what_a_killed_process_left_in_the_middle_of_a_line_is_quarantined_alone(file: Path) -> None:
    file.write_bytes(b'{"idempotency_key": "torn')
    run("meter.record(event('whole'))", events=f"file://{file}")
    assert file.read_bytes().splitlines()[0] == b'{"idempotency_key": "torn'
    assert json.loads(file.read_bytes().splitlines()[1])["idempotency_key"] == "whole"


def test_recording_imports_nothing_of_the_job() -> None:
    run("assert not {'numpy', 'polars', 'bytewax'} & set(sys.modules)", events=NOWHERE)
