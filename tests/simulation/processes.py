"""Processes of the real job, killed at random moments while Kafka goes on receiving events.

    python -m tests.simulation.processes --seed 1 --kills 30

A chain is one topic that a producer fills all the while, one state directory, one database of a served
ClickHouse, and up to ten ends: `kill -9` of every process at once, of one worker, of the supervisor alone, or
SIGTERM. Then a run to the end of the topic, and the auditor's verdict. Kafka is the broker that
METERLINE_TEST_KAFKA names, else librdkafka's mock cluster. The seed fixes what is drawn; the moments
are those of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from confluent_kafka import Producer

from dataflows.traffic import TrafficShape, generate
from tests.auditor import audit, load_config
from tests.clickhouse_process import ClickHouseProcess, running_clickhouse
from tests.integration.running import JOB_SECONDS, Place, assert_agrees, children_of
from tests.integration.topics import PARTITIONS, make_topic, read_back

KAFKA_VARIABLE = "METERLINE_TEST_KAFKA"
KILLS_IN_A_CHAIN = 10
EVENTS = 12_000
LINES_IN_A_MESSAGE = 10
MESSAGE_PAUSE_SECONDS = 0.03
RUNS_SECONDS = (0.3, 4.0)
"""A job lives this long before its end comes: from its first imports to many epochs."""

ENDS = {1: ("job", "sigterm"), 2: ("job", "worker", "supervisor", "sigterm")}


@contextlib.contextmanager
def mock_broker() -> Iterator[str]:
    """Librdkafka's mock cluster, in this process."""
    client = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    brokers = client.list_topics(timeout=20).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    del client


@contextlib.contextmanager
def traffic(bootstrap: str, topic: str, seed: int) -> Iterator[None]:
    """Produce a day's events during the block, a tenant's to one partition and in their order."""
    day = datetime.now(timezone.utc).date() - timedelta(days=2)
    lines = b"".join(generate(TrafficShape(events=EVENTS, seed=seed, day=day))).splitlines()
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})
    over = threading.Event()

    def produce() -> None:
        waiting: dict[int, list[bytes]] = {number: [] for number in range(PARTITIONS)}
        for line in lines:
            tenant = line.split(b'"tenant_id":"')[-1].split(b'"')[0]
            number = sum(tenant) % PARTITIONS
            waiting[number].append(line)
            if len(waiting[number]) == LINES_IN_A_MESSAGE:
                producer.produce(topic, b"\n".join(waiting[number]), key=tenant, partition=number)
                waiting[number] = []
                if over.wait(MESSAGE_PAUSE_SECONDS):
                    return

    thread = threading.Thread(target=produce, name="traffic", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        assert producer.flush(30) == 0


def end_once(place: Place, source: str, chance: random.Random) -> str:
    """Start the job, let it live for a while, end it in some way; returns which."""
    workers = chance.choice(list(ENDS))
    how = chance.choice(ENDS[workers])
    child = place.start(source, "--workers", str(workers))
    time.sleep(chance.uniform(*RUNS_SECONDS))
    everyone = children_of(child.pid)
    if how == "worker" and everyone:
        _kill(chance.choice(everyone))
        time.sleep(chance.uniform(*RUNS_SECONDS))  # started again by the supervisor, or about to be
    if how in ("worker", "sigterm"):
        child.terminate()
    else:
        child.kill()
        for worker in everyone if how == "job" else []:
            _kill(worker)
    _, stderr = child.communicate(timeout=JOB_SECONDS)  # also until its workers have let go of the pipe
    # A signal may come before Python is up; and a job that has to stop with a dead worker says so, and 1.
    fine = {"sigterm": (0, -signal.SIGTERM), "worker": (0, 1, -signal.SIGTERM)}.get(how, (-signal.SIGKILL,))
    assert child.returncode in fine, (how, child.returncode, stderr.decode()[-2000:])
    return f"{how}, {workers}w"


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def run_chain(root: Path, server: ClickHouseProcess, bootstrap: str, seed: int, kills: int) -> Counter[str]:
    """One chain, judged.

    Raises:
        AssertionError: what stands is not what should.
    """
    chance = random.Random(seed)
    topic = f"trial-{uuid.uuid4().hex}"
    make_topic(bootstrap, topic)
    place = Place(root, served=server.url().replace("/meterline", f"/chain_{seed}"))
    source = f"kafka://{bootstrap}/{topic}"
    ends: Counter[str] = Counter()
    with traffic(bootstrap, topic, seed):
        for _ in range(kills):
            ends[end_once(place, source, chance)] += 1
    code, stderr = place.run(source, "--to-end", "--workers", "2")
    assert code == 0, stderr
    expected = audit(read_back(bootstrap, topic), load_config(place.config))
    assert expected.priced, "the topic holds nothing"
    assert_agrees(place, expected, by_line=False)
    _assert_audit_agrees(place, source)
    return ends


def _assert_audit_agrees(place: Place, source: str) -> None:
    flags = ["--config", f"{place.root}/meterline.yaml", "--source", source, "--clickhouse", place.clickhouse]
    command = [sys.executable, "-m", "dataflows.cli", "audit", *flags, "--state-dir", f"{place.root}/state"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def main() -> int:
    """Run chains until there were enough kills; 1 if one of them went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=30)
    arguments = parser.parse_args()
    real = os.environ.get(KAFKA_VARIABLE)
    ends: Counter[str] = Counter()
    seed = arguments.seed
    with contextlib.ExitStack() as stack:
        bootstrap = real or stack.enter_context(mock_broker())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running_clickhouse(directory / "ch"))
        while ends.total() < arguments.kills:
            root = directory / f"chain-{seed}"
            root.mkdir()
            kills = min(KILLS_IN_A_CHAIN, arguments.kills - ends.total())
            try:
                ends += run_chain(root, server, bootstrap, seed, kills)
            except AssertionError as wrong:
                sys.stdout.write(f"seed {seed}: {wrong}\n")
                return 1
            sys.stdout.write(f"seed {seed}: {ends.total()} ends, none wrong\n")
            sys.stdout.flush()
            seed += 1
    kind = "a real broker" if real else "the mock cluster"
    sys.stdout.write(f"{kind}: {dict(sorted(ends.items()))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
