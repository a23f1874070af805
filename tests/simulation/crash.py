"""Crash trials: stop the job at a step of an epoch, start it again, and ask the auditor what stands.

    python -m tests.simulation.crash --seed 7 --crashes 1000      (make crash)

A chain is one generated day, one state directory, a few crashes and a run to the end. Each run is a fork
of this process with the real engine, real files and an embedded ClickHouse. The job names its steps as
audit events of Python; a hook ends the run at the nth occurrence of the one that was drawn. Three ways:

- `error`: an exception, after which Bytewax closes every step and sink;
- `kill`: the process is gone at once, as after kill -9;
- `power`: as `kill`, and every byte and name under the state directory that was not fsynced is gone too.
  The engine's own recovery store, the outbox (both SQLite) and ClickHouse are taken to be durable.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from bytewax.recovery import RecoveryConfig
from bytewax.run import cli_main

from dataflows import file_source, operators
from dataflows.metering import build_flow
from dataflows.start import prepare
from dataflows.traffic import TrafficShape, generate
from tests.auditor import Audit, audit, load_config
from tests.auditor_event import lines_of_file
from tests.integration.running import SEED_RULES, Place, what_stands
from tests.simulation.crash_points import CRASHED, FAILED, FAULTS, CrashPoint, arm, draw
from tests.simulation.disk import Disk
from tests.simulation.mutations import MUTATIONS

WORKERS = (1, 2, 3)
CRASHES_PER_CHAIN = 3
EVENTS = 500
READ_BYTES = 12_000
COMPACT_RECORDS_MIN = 20
EPOCH = timedelta(milliseconds=60)
"""Small, slow reads and short epochs, so that a small day has many. A commit must take less than an epoch."""

RUN_SECONDS_MAX = 120
"""A run takes a second or two where nothing else runs; beside other work it may take many."""

MUTATION_CHAINS_MAX = 20
FAILURES_MAX = 5
DAY = date(2026, 11, 12)
CONFIG = SEED_RULES.replace("daily_cap: 50.00", "daily_cap: 0.05") + (
    "alerts:\n  drain_seconds: 0\n  webhooks:\n"
    "    - {name: nobody, url: 'http://127.0.0.1:9/', secret_env: [CRASH_SECRET], allow_private: true}\n"
)
EXPIRING = CONFIG + "metering: {allowed_lateness_hours: 12}\n"
DAYS = {CONFIG: 1, EXPIRING: 3}
"""The same number of events over more days: there keys expire, and segment files with them."""

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # of no receiver


@dataclass(slots=True)
class Verdict:
    """What stands that should not, and the other way about. All zeros, or there is a defect."""

    lost: int = 0
    doubled: int = 0
    amounts_off: int = 0
    spend_off: int = 0
    alerts_off: int = 0
    others_off: int = 0

    @property
    def clean(self) -> bool:
        return not any(
            (self.lost, self.doubled, self.amounts_off, self.spend_off, self.alerts_off, self.others_off)
        )


def in_fork(work: Callable[[], Any], output: Path) -> tuple[int, Any]:
    """Do something in a fork of this process: its exit code and what it returned, as JSON.

    This process itself must use neither Polars nor ClickHouse: threads do not survive a fork.
    """
    output.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            with (output.parent / "log").open("ab") as log:
                os.dup2(log.fileno(), 2)
                os.dup2(log.fileno(), 1)
            output.write_text(json.dumps(work()))
            os._exit(0)
        except BaseException:  # noqa: BLE001  # a fork must never run on into its parent's code
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(FAILED)
    deadline = time.monotonic() + RUN_SECONDS_MAX
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            raise TimeoutError(
                f"a run did not end within {RUN_SECONDS_MAX} seconds: see {output.parent / 'log'}"
            )
        time.sleep(0.005)
    result = json.loads(output.read_text()) if output.exists() else None
    return os.waitstatus_to_exitcode(status), result


def run_job(
    place: Place, workers: int, point: CrashPoint | None, broken: Callable[[], None] | None
) -> dict[str, int]:
    """The job, in this process, to its end or to a crash point; how often each step was passed.

    `broken` breaks a rule of the job first (see `tests.simulation.mutations`).
    """
    if broken is not None:
        broken()
    state = place.root / "state"
    Disk(*_kept_in(place), journal=place.root / "synced").watch()
    passed = arm(point)
    file_source.READ_BYTES = READ_BYTES
    operators.COMPACT_AFTER, operators.COMPACT_RECORDS_MIN = 1, COMPACT_RECORDS_MIN
    job = prepare(
        {
            "METERLINE_CONFIG": str(place.root / "meterline.yaml"),
            "METERLINE_SOURCE": f"file://{place.root}/part-*.jsonl",
            "METERLINE_CLICKHOUSE_URL": place.clickhouse,
            "METERLINE_STATE_DIR": str(state),
            "CRASH_SECRET": SECRET,
        }
    )
    cli_main(
        build_flow(job),
        workers_per_process=workers,
        epoch_interval=EPOCH,
        recovery_config=RecoveryConfig(str(job.state.recovery), timedelta(0)),
    )
    return dict(passed)


def _kept_in(place: Place) -> list[Path]:
    return [place.root / "state" / name for name in ("dedupe", "spend", "staged")]


def judge(place: Place) -> dict[str, int]:
    """Compare what stands with what the auditor says, raw rows included: the state was kept."""
    expected = expected_of(place)
    found = what_stands(place)
    rows = {
        key: (row.cost, row.price, row.credits, row.multiplier, row.billable, row.late)
        for key, row in expected.priced.items()
    }
    raw = place.ask("SELECT count() FROM priced_events")[0][0]
    alerts = {key: (one.crossing_key, one.spend) for key, one in expected.alerts.items()}
    reasons = Counter(row[4] for row in found["quarantined"])
    copies = place.ask("SELECT count() FROM duplicates")[0][0]
    known = found["priced"]
    verdict = Verdict(
        lost=len(rows.keys() - known.keys()),
        doubled=raw - len(known) + len(known.keys() - rows.keys()),
        amounts_off=sum(known[key] != rows[key] for key in rows.keys() & known.keys()),
        spend_off=_differing(
            {key: amount for key, amount in found["spend"].items() if not key[1]},
            {key: amount for key, amount in expected.spend.items() if not key[1]},
        ),
        alerts_off=_differing(found["alerts"], alerts) + abs(_in_outbox(place) - len(alerts)),
        others_off=_differing(reasons, Counter(reason for _, reason in expected.quarantined))
        + abs(copies - len(expected.duplicates)),
    )
    return {"rows": len(rows), **{name: getattr(verdict, name) for name in Verdict.__slots__}}


def _differing(left: dict[Any, Any], right: dict[Any, Any]) -> int:
    return sum(left.get(key) != right.get(key) for key in left.keys() | right.keys())


def _in_outbox(place: Place) -> int:
    connection = sqlite3.connect(place.root / "state" / "outbox.sqlite3")
    try:
        return int(connection.execute("SELECT count() FROM messages").fetchone()[0])
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Chain:
    """What became of one: its crashes, with the number of workers, the events to be priced, the verdict."""

    happened: list[tuple[CrashPoint, int]]
    rows: int
    verdict: Verdict


@dataclass
class Tally:
    """Crashes that happened, by (step, fault, workers), and what the verdicts on their chains added up to."""

    crashes: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    bad: dict[tuple[str, str, int], Verdict] = field(default_factory=dict)
    chains: int = 0
    rows: int = 0

    def add(self, chain: Chain) -> None:
        """Count a chain; what it got wrong stands with each of its crashes."""
        self.chains += 1
        self.rows += chain.rows
        for point, workers in chain.happened:
            key = (point.step, point.fault, workers)
            self.crashes[key] += 1
            if not chain.verdict.clean:
                self.bad[key] = chain.verdict


def write_days(place: Place, seed: int) -> None:
    """Events of one or more days in two files, each tenant's in one of them."""
    days = DAYS[place.config]
    parts: dict[int, list[bytes]] = {0: [], 1: []}
    for number in range(days):
        day = DAY + timedelta(days=number)
        shape = TrafficShape(events=EVENTS // days, seed=seed + number, day=day, malformed_fraction=0.02)
        for line in b"".join(generate(shape)).splitlines(keepends=True):
            tenant = line.split(b'"tenant_id":"')[-1].split(b'"')[0]
            parts[sum(tenant) % 2].append(line)
    for number, part in parts.items():
        (place.root / f"part-{number}.jsonl").write_bytes(b"".join(part))


def expected_of(place: Place) -> Audit:
    """What must come of the days."""
    lines = [line for path in sorted(place.root.glob("part-*.jsonl")) for line in lines_of_file(path)]
    return audit(lines, load_config(place.config), now_ms=time.time_ns() // 1_000_000)


def run_chain(
    root: Path, seed: int, steps: dict[str, int], broken: Callable[[], None] | None = None
) -> Chain:
    """One chain, all of whose choices come from its seed.

    Raises:
        AssertionError: the job does not come back, or fails where it should have crashed.
    """
    chance = random.Random(seed)
    place = Place(root, chance.choice(list(DAYS)))
    in_fork(partial(write_days, place, seed), root / "written")
    happened: list[tuple[CrashPoint, int]] = []
    for _ in range(CRASHES_PER_CHAIN):
        workers = chance.choice(WORKERS)
        point = draw(steps, chance)
        code, _ = in_fork(partial(run_job, place, workers, point, broken), root / "passed")
        if code == FAILED and point.fault != "error":
            raise AssertionError(f"seed {seed}: the job failed instead of crashing: see {root / 'log'}")
        if code == CRASHED and point.fault == "power":
            Disk.remembered(root / "synced", *_kept_in(place)).lose_power()
        if code != 0:
            happened.append((point, workers))
    code, _ = in_fork(partial(run_job, place, chance.choice(WORKERS), None, broken), root / "passed")
    if code != 0:
        raise AssertionError(f"seed {seed}: the job does not recover from {happened}: see {root / 'log'}")
    code, found = in_fork(partial(judge, place), root / "verdict")
    if code != 0:
        raise AssertionError(f"seed {seed}: what stands cannot be read: see {root / 'log'}")
    return Chain(happened, found.pop("rows"), Verdict(**found))


def attempt(root: Path, seed: int, steps: dict[str, int]) -> tuple[Chain | None, str]:
    """A chain in a directory of its own, if it has a verdict, and in words what is wrong with it."""
    root.mkdir()
    try:
        chain = run_chain(root, seed, steps)
        return chain, "" if chain.verdict.clean else str(chain.verdict)
    except (AssertionError, TimeoutError) as exc:
        return None, f"{exc}\n{(root / 'log').read_text(errors='replace')[-3_000:]}"
    finally:
        shutil.rmtree(root)


def steps_of(root: Path, seed: int) -> dict[str, int]:
    """How often a run without a crash passes each step."""
    place = Place(root, EXPIRING)
    in_fork(partial(write_days, place, seed), root / "written")
    code, passed = in_fork(partial(run_job, place, 1, None, None), root / "passed")
    if code != 0:
        raise AssertionError(f"the job fails without a crash: see {root / 'log'}")
    return dict(passed)


def matrix(tally: Tally) -> Iterator[str]:
    """The tally as a table: a row a step, a column a fault and number of workers."""
    columns = [(fault, workers) for fault in FAULTS for workers in WORKERS]
    yield "| crash at | " + " | ".join(f"{fault}, {workers}w" for fault, workers in columns) + " | wrong |"
    yield "|---|" + "---:|" * (len(columns) + 1)
    for step in sorted({step for step, _, _ in tally.crashes}):
        counts = [str(tally.crashes[(step, fault, workers)]) for fault, workers in columns]
        wrong = sum(key[0] == step for key in tally.bad)
        yield f"| {step} | " + " | ".join(counts) + f" | {wrong} |"


def run_chains(directory: Path, seed: int, crashes: int, processes: int) -> tuple[int, str]:
    """Chains from `seed` on, until so many crashes have happened or `FAILURES_MAX` chains went wrong.

    Returns how many went wrong, and the report.
    """
    tally, first, failures = Tally(), seed, 0
    steps = steps_of(_made(directory / "steps"), seed)
    running: deque[tuple[int, Future[tuple[Chain | None, str]]]] = deque()
    # Processes that are begun anew, not forks of this one, which has threads by then.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        while True:
            enough = sum(tally.crashes.values()) >= crashes or failures >= FAILURES_MAX
            while not enough and len(running) < processes:
                running.append((seed, pool.submit(attempt, directory / f"seed-{seed}", seed, steps)))
                seed += 1
            if not running:
                break
            number, future = running.popleft()
            chain, trouble = future.result()
            if chain is not None:
                tally.add(chain)
            if trouble:
                failures += 1
                again = f"python -m tests.simulation.crash --seed {number} --crashes 1 --processes 1"
                sys.stderr.write(f"\nseed {number}: {trouble}\nagain with: {again}\n")
            sys.stderr.write(f"\r{sum(tally.crashes.values()):,} of {crashes:,} crashes")
    sys.stderr.write("\n")
    head = (
        f"Seeds {first} to {seed - 1}: {tally.chains} days, {sum(tally.crashes.values()):,} crashes, "
        f"{tally.rows:,} events to be priced; {failures} days wrong.\n"
    )
    return failures, "\n".join([head, *matrix(tally), ""])


def symptom(directory: Path, seed: int, rule: str) -> str | None:
    """How it was noticed that a rule is broken; None if `MUTATION_CHAINS_MAX` days went well."""
    steps = steps_of(_made(directory / f"steps-{rule}"), seed)
    for chain in range(MUTATION_CHAINS_MAX):
        root = _made(directory / f"{rule}-{chain}")
        try:
            verdict = run_chain(root, seed + chain, steps, MUTATIONS[rule]).verdict
        except (AssertionError, TimeoutError):
            last_words = (root / "log").read_text(errors="replace").strip().splitlines()[-1]
            return f"seed {seed + chain}: it does not come back, {last_words.replace(str(root), '')}"
        if not verdict.clean:
            wrong = {name: getattr(verdict, name) for name in Verdict.__slots__}
            told = ", ".join(f"{name} {count}" for name, count in wrong.items() if count)
            return f"seed {seed + chain}: {told}"
        shutil.rmtree(root)
    return None


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def main() -> int:
    """The matrix on standard output, or the mutation check; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.crash")
    parser.add_argument("--seed", type=int, default=7, help="of the first chain; the next ones count on")
    parser.add_argument("--crashes", type=int, default=1_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="chains at a time")
    parser.add_argument("--mutations", nargs="*", choices=list(MUTATIONS), help="break these rules instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crash-") as directory:
        if options.mutations is None:
            failures, report = run_chains(Path(directory), options.seed, options.crashes, options.processes)
            sys.stdout.write(report)
            return 1 if failures else 0
        missed = 0
        for rule in options.mutations or MUTATIONS:
            found = symptom(Path(directory), options.seed, rule)
            missed += found is None
            sys.stdout.write(f"| {rule} | {'NOT caught' if found is None else f'caught, {found}'} |\n")
            sys.stdout.flush()
        return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
