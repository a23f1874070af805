"""Processes that record while Kafka comes and goes, killed at random moments; then heirs, and the job.

    python -m tests.metering.crash --seed 1 --rounds 30
    python -m tests.metering.crash --seed 1 --rounds 10 --real     Apache Kafka, killed in place of stopped

A round is one topic and one spool directory. Recorders say how far a `flush` has said True, and are
killed with `kill -9`; others are started in their place, while the broker goes away and comes back. In the
end a fresh process replays what is left. What must hold: every event that a flush covered is in the topic, no
event is there that nobody recorded, copies of a key are alike to the byte; and the job, run over the topic,
has each key in `usage` once. The seed fixes what is drawn; the moments are those of the machine.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.running import Place
from tests.kafka_broker import running_broker
from tests.metering.kafka_process import lines_at, running_kafka
from tests.metering.recording import SECONDS, start, until

LIVES_SECONDS = (0.5, 3.0)
"""A recorder lives so long: from its imports to many flushes."""

AWAY_SECONDS = (0.1, 2.5)

RECORDER = """
import random
who, seed, now_ms = sys.argv[1], int(sys.argv[2]), int(time.time() * 1000)
chance, n = random.Random(seed), 0
while True:
    for _ in range(chance.randrange(1, 300)):
        known = event(f"{who}-{n}", f"t{n % 5}")
        meter.record({**known, "model": "gpt-4o", "timestamp": now_ms, "input_tokens": n})
        n += 1
    if chance.random() < 0.5 and meter.flush(5):
        print(n, flush=True)
    time.sleep(chance.random() * 0.02)
"""

HEIR = """
with meter:
    quiet = 0
    while quiet < 5:
        time.sleep(0.1)
        quiet = quiet + 1 if meter.stats().spool_bytes == 0 else 0
print(meter.stats())
"""


@dataclass
class Recorder:
    """A process that records, and how many events a flush has covered."""

    who: str
    process: subprocess.Popen[str]
    flushed: int = 0
    reading: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.reading = threading.Thread(target=self._read, daemon=True)
        self.reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                self.flushed = int(line)

    def kill(self) -> None:
        with self.process:
            self.process.kill()
            self.reading.join()


@dataclass(frozen=True)
class Switch:
    """A broker, and how it goes away and comes back."""

    bootstrap: str
    go_away: Callable[[], None]
    come_back: Callable[[], None]


@contextmanager
def broker(*, is_real: bool) -> Iterator[Switch]:
    if is_real:
        with running_broker() as real:
            yield Switch(real.bootstrap, real.kill, real.start)
    else:
        with running_kafka() as mock:
            yield Switch(mock.bootstrap, mock.go_away, mock.come_back)


@dataclass(frozen=True)
class Outcome:
    """A round's topic, how many events a flush had covered, and the keys that arrived."""

    source: str
    flushed: int
    arrived: set[str]


def run_round(kafka: Switch, root: Path, seed: int, kills: int) -> Outcome:
    """One round, up to the topic.

    Raises:
        AssertionError: what stands is not what should.
    """
    chance = random.Random(seed)
    topic = f"crash-{uuid.uuid4().hex}"
    place = {"events": f"kafka://{kafka.bootstrap}/{topic}", "spool_dir": str(root / "spool")}
    lives = [_begin(place, f"r{number}", chance) for number in range(2)]
    ended: list[Recorder] = []
    over = threading.Event()
    weather = threading.Thread(target=_change, args=(kafka, random.Random(seed + 1), over), daemon=True)
    weather.start()
    try:
        for number in range(kills):
            time.sleep(chance.uniform(*LIVES_SECONDS))
            victim = lives.pop(chance.randrange(len(lives)))
            victim.kill()
            ended.append(victim)
            lives.append(_begin(place, f"r{number + 2}", chance))
        until(lambda: any(recorder.flushed for recorder in ended + lives))  # or the round shows nothing
    finally:
        over.set()
        weather.join()
        for recorder in lives:
            recorder.kill()
    heir = start(HEIR, **place)
    out, err = heir.communicate(timeout=SECONDS)
    assert heir.returncode == 0, err
    assert "dropped={}" in out, out
    arrived = _check(kafka.bootstrap, topic, ended + lives)
    left = [path for path in (root / "spool").rglob("*") if path.suffix == ".seg"]
    assert left == [], left
    return Outcome(place["events"], sum(one.flushed for one in ended + lives), arrived)


def _begin(place: dict[str, str], who: str, chance: random.Random) -> Recorder:
    return Recorder(who, start(RECORDER, who, str(chance.randrange(10**6)), **place))


def _change(kafka: Switch, chance: random.Random, over: threading.Event) -> None:
    """Let the broker come and go until it is over; it is there in the end."""
    while not over.wait(chance.uniform(*AWAY_SECONDS)):
        kafka.go_away()
        over.wait(chance.uniform(*AWAY_SECONDS))
        kafka.come_back()


def _check(bootstrap: str, topic: str, recorders: list[Recorder]) -> set[str]:
    """The keys that arrived."""
    lines: dict[str, bytes] = {}
    for _, line in lines_at(bootstrap, topic):
        key = json.loads(line)["idempotency_key"]
        assert lines.setdefault(key, line) == line, key
    for recorder in recorders:
        lost = [n for n in range(recorder.flushed) if f"{recorder.who}-{n}" not in lines]
        assert lost == [], (recorder.who, recorder.flushed, lost[:10])
    names = {recorder.who for recorder in recorders}
    assert {key.split("-")[0] for key in lines} <= names
    return set(lines)


def check_the_job(root: Path, outcome: Outcome) -> None:
    """Run the real job over a round's topic.

    Raises:
        AssertionError: `usage` does not hold each key once.
    """
    (root / "job").mkdir()
    job = Place(root / "job")
    code, stderr = job.run(outcome.source, "--to-end")
    assert code == 0, stderr
    rows = job.ask("SELECT idempotency_key FROM usage")
    assert len(rows) == len(outcome.arrived)
    assert {row[0] for row in rows} == outcome.arrived


def main() -> int:
    """Run rounds; 1 if one of them went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kills", type=int, default=6, help="in each round")
    parser.add_argument("--real", action="store_true", help="Apache Kafka, killed with kill -9 and restarted")
    options = parser.parse_args()
    with broker(is_real=options.real) as kafka:
        for seed in range(options.seed, options.seed + options.rounds):
            with tempfile.TemporaryDirectory() as directory:
                outcome = run_round(kafka, Path(directory), seed, options.kills)
                check_the_job(Path(directory), outcome)
            arrived = len(outcome.arrived)
            found = f"{options.kills} kills, {outcome.flushed:,} flushed, {arrived:,} arrived and priced once"
            sys.stdout.write(f"seed {seed}: {found}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
