"""What a second worker brings: one and two worker processes, each on a core of its own, over the same files.

Input comes from eight files, so that no broker shares the cores. ClickHouse has to live somewhere, and with
two cores and two workers it takes from them: so two shapes are run twice, with rows inserted, and with
blocks staged and then dropped, which shows the workers alone. Two jobs that need nothing of each other, each
with half of the files, show what the two cores give to workers that never wait.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO

from clickhouse_connect.driver.client import Client

from benchmarks.arena import WrongResult, check
from benchmarks.job_run import SAMPLE_SECONDS
from benchmarks.pinned import CHILD_SECONDS_MAX, ROOT, ChildFailed, Measured, cores, on_core
from benchmarks.report import Section, Size, Target, spread
from benchmarks.servers import fresh_database
from benchmarks.worker_run import WorkerTimes
from benchmarks.workload import JOB_CONFIG, Expected, expect, make_lines
from dataflows.start import prepare, release, share_among
from dataflows.state import LOCK_HELD_ENV
from dataflows.supervise import free_addresses
from tests.clickhouse_process import ClickHouseProcess, running_clickhouse

FILES = 8
EVENTS = {Size.SMOKE: 20_000, Size.FULL: 5_000_000}
REPETITIONS = {Size.SMOKE: 1, Size.FULL: 3}
HOT_FRACTION = 0.6
HALVES = ("[0-3]", "[4-7]")
"""The files of two jobs apart, as globs."""
ONE, TWO, APART = "1", "2", "1 + 1 apart"

NOTE = (
    "Eight files, each worker on a core of its own, ClickHouse on both as the system likes. Wall time is "
    "from the first event read by any worker to the last row that can be queried; the ratios are of the time "
    "while there was something to read. With rows dropped, blocks are still staged. `1 + 1 apart` are two "
    "jobs at once that need nothing of each other, each with half of the files."
)

Deal = Callable[[Sequence[bytes]], list[list[bytes]]]


@dataclass(frozen=True)
class Shape:
    """One input: files, and what must come out of them."""

    name: str
    directory: Path
    expected: Expected
    rows: tuple[str, ...]
    """What happens to rows: `rows` are inserted, `no-rows` are dropped. Each is run."""

    def source(self, names: str = "*") -> str:
        """Files of it whose names, without their ending, match a glob."""
        return f"file://{self.directory}/{names}.jsonl"


@dataclass(frozen=True)
class Part:
    """What a worker is given: its job's environment, and the addresses of all workers of that job."""

    environment: dict[str, str]
    addresses: str


@dataclass(frozen=True)
class CrewRun:
    """One run of one worker, of two, or of two jobs."""

    measured: Measured
    clickhouse_cpu_seconds: float


def by_event(lines: Sequence[bytes]) -> list[list[bytes]]:
    """Dealt by event, so that copies follow their original and the files are equally long."""
    return _dealt(lines, rb'"idempotency_key":"([^"]*)"', FILES)


def by_tenant(lines: Sequence[bytes]) -> list[list[bytes]]:
    """Dealt by tenant, as Kafka's keys do: a hot tenant makes one file long."""
    return _dealt(lines, rb'"tenant_id":"([^"]*)"', FILES)


def one_idle_one_behind(lines: Sequence[bytes]) -> list[list[bytes]]:
    """Dealt by event to seven files, the last one's events an hour older; the eighth file is empty."""
    *files, behind = _dealt(lines, rb'"idempotency_key":"([^"]*)"', FILES - 1)
    return [*files, [an_hour_earlier(line) for line in behind], []]


def _dealt(lines: Sequence[bytes], field: bytes, files: int) -> list[list[bytes]]:
    compiled = re.compile(field)
    dealt: list[list[bytes]] = [[] for _ in range(files)]
    for line in lines:
        found = compiled.search(line)
        assert found is not None
        dealt[zlib.crc32(found[1]) % files].append(line)
    return dealt


def an_hour_earlier(line: bytes) -> bytes:
    """The event, its time moved; the rest of its bytes as they are."""
    found = re.search(rb'"timestamp":("[^"]*"|\d+)', line)
    assert found is not None
    written = json.loads(found[1])
    if isinstance(written, int):
        moved = str(written - 3_600_000)
    else:
        at = datetime.fromisoformat(written.replace("Z", "+00:00")) - timedelta(hours=1)
        moved = f'"{at.isoformat(timespec="milliseconds")}"'
    return line[: found.start(1)] + moved.encode() + line[found.end(1) :]


def run(size: Size) -> Section:
    """Every shape with one worker and with two, as its `rows` say, and the first with two jobs, in turns."""
    with tempfile.TemporaryDirectory(prefix="meterline-bench-") as name:
        directory = Path(name)
        (directory / "meterline.yaml").write_text(JOB_CONFIG, encoding="utf-8")
        shapes = list(_shapes(size, directory))
        runs: dict[tuple[str, str, str], list[CrewRun]] = {}
        with running_clickhouse(directory / "clickhouse") as clickhouse:
            for turn in range(REPETITIONS[size]):
                for shape in shapes:
                    for rows, crew in itertools.product(shape.rows, (ONE, TWO, APART)):
                        if crew == APART and (rows, shape) != ("no-rows", shapes[0]):
                            continue
                        done = run_crew(directory, clickhouse, shape, crew, rows)
                        runs.setdefault((shape.name, rows, crew), []).append(done)
                        said = f"{shape.name}, {rows}, {crew}: {done.measured}"
                        print(f"  turn {turn + 1}: {said}", file=sys.stderr)
        return section(runs)


def _shapes(size: Size, directory: Path) -> Iterator[Shape]:
    even = make_lines(EVENTS[size])
    both = ("no-rows", "rows")
    wanted: list[tuple[str, Sequence[bytes], Deal, tuple[str, ...]]] = [("even", even, by_event, both)]
    if size is Size.FULL:
        hot = make_lines(EVENTS[size], HOT_FRACTION)
        wanted += [
            ("one tenant at 60 %", hot, by_event, both),
            ("one file idle, one an hour behind", even, one_idle_one_behind, ("rows",)),
            ("one tenant at 60 %, keyed by tenant", hot, by_tenant, ("rows",)),
        ]
    for number, (name, lines, deal, rows) in enumerate(wanted):
        where = directory / f"shape-{number}"
        where.mkdir()
        for file_number, dealt in enumerate(deal(lines)):
            (where / f"{file_number}.jsonl").write_bytes(b"".join(line + b"\n" for line in dealt))
        yield Shape(name, where, expect(lines), rows)


@contextmanager
def _prepared(directory: Path, address: str, source: str, workers: int) -> Iterator[tuple[Part, Client]]:
    """A job that workers can begin, in a database and a state directory of its own."""
    with (
        fresh_database(address) as (url, client),
        tempfile.TemporaryDirectory(dir=directory, prefix="state-") as state,
    ):
        environment = {
            "METERLINE_CONFIG": str(directory / "meterline.yaml"),
            "METERLINE_SOURCE": source,
            "METERLINE_CLICKHOUSE_URL": url,
            "METERLINE_STATE_DIR": state,
        }
        # As the supervisor does: tables and state are there before two workers look for them.
        share_among(prepare(environment), workers)
        release()
        environment[LOCK_HELD_ENV] = str(os.getpid())
        yield Part(environment, ";".join(free_addresses(workers))), client


def run_crew(directory: Path, clickhouse: ClickHouseProcess, shape: Shape, crew: str, rows: str) -> CrewRun:
    """Run one worker, two, or two jobs to the end of the shape's files, and check what came out.

    Raises:
        WrongResult: it is not what it should be.
    """
    address = f"clickhouse://127.0.0.1:{clickhouse.port}"
    with ExitStack() as stack:
        if crew == APART:
            jobs = [
                stack.enter_context(_prepared(directory, address, shape.source(half), 1)) for half in HALVES
            ]
            parts = [part for part, _ in jobs]
        else:
            jobs = [stack.enter_context(_prepared(directory, address, shape.source(), int(crew)))]
            parts = [jobs[0][0]] * int(crew)
        before = clickhouse.cpu_seconds()
        times = _workers(parts, rows)
        used = clickhouse.cpu_seconds() - before
        read, priced = sum(one.read for one in times), sum(one.priced for one in times)
        duplicates = sum(one.duplicates for one in times)
        if (priced, duplicates) != (shape.expected.rows, shape.expected.duplicates):
            raise WrongResult(f"{priced} priced and {duplicates} copies; expected {shape.expected}")
        if rows == "rows":
            ((_, client),) = jobs
            check(client, "usage", shape.expected)
    started = min(one.first_read for one in times if one.first_read)
    seconds = max(one.last_published for one in times) - started
    reading = max(SAMPLE_SECONDS, max(one.last_read for one in times) - started)
    cpu = sum(one.cpu_seconds for one in times)
    return CrewRun(Measured(read, seconds, cpu, reading_seconds=reading), used)


def _workers(parts: Sequence[Part], rows: str) -> list[WorkerTimes]:
    """Let a worker for each part run, on a core of its own; all begin once all are ready."""
    children = []
    logs = [tempfile.TemporaryFile() for _ in parts]  # noqa: SIM115  # gone with the list
    for number, part in enumerate(parts):
        with on_core(cores()[number]):
            child = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker_run", str(number), part.addresses, rows],
                cwd=ROOT,
                env={**os.environ, **part.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=logs[number],
                text=True,
            )
        children.append(child)
    late = threading.Timer(CHILD_SECONDS_MAX, _kill, [children])
    late.start()
    try:
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()  # it is ready, or has ended
        for child in children:
            assert child.stdin is not None
            with suppress(BrokenPipeError):
                child.stdin.write("\n")
                child.stdin.flush()
        said = [child.communicate()[0] for child in children]
    finally:
        late.cancel()
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
    if any(child.returncode for child in children):
        raise ChildFailed(
            f"workers ended with {[child.returncode for child in children]}: {_last_words(logs)}"
        )
    return [WorkerTimes(**json.loads(text.splitlines()[-1])) for text in said]


def _kill(children: Sequence[subprocess.Popen[str]]) -> None:
    for child in children:
        child.kill()


def _last_words(logs: Sequence[IO[bytes]]) -> str:
    said = []
    for log in logs:
        log.seek(0)
        said.append(log.read().decode(errors="replace")[-3000:])
    return "\n".join(said)


def section(runs: dict[tuple[str, str, str], list[CrewRun]]) -> Section:
    """The table and the targets."""
    rows = tuple(
        (
            name,
            "inserted" if kind == "rows" else "dropped",
            crew,
            spread([one.measured.per_second for one in found]),
            spread([one.measured.events / one.measured.reading_seconds for one in found]),
            spread([one.measured.cpu_per_million for one in found], 2),
            spread([one.clickhouse_cpu_seconds * 1e6 / one.measured.events for one in found], 2),
        )
        for (name, kind, crew), found in runs.items()
    )
    return Section(
        name="workers",
        title="A second worker",
        columns=(
            *("input", "rows", "workers", "events/s", "events/s while reading"),
            *("workers' CPU s per million", "ClickHouse's"),
        ),
        rows=rows,
        targets=tuple(_targets(runs)),
        notes=tuple(_notes(runs)),
        figures={", ".join(key): [asdict(one) for one in found] for key, found in runs.items()},
    )


def _targets(runs: dict[tuple[str, str, str], list[CrewRun]]) -> Iterator[Target]:
    for (name, kind, crew), found in runs.items():
        if crew == TWO:
            label = f"2 workers / 1, {name}, rows {'inserted' if kind == 'rows' else 'dropped'}"
            yield Target.at_least(label, reading_rate(found) / reading_rate(runs[name, kind, ONE]), 1.7)


def _notes(runs: dict[tuple[str, str, str], list[CrewRun]]) -> Iterator[str]:
    yield NOTE
    for name, kind, crew in runs:
        if crew == APART:
            apart, one, two = (reading_rate(runs[name, kind, each]) for each in (APART, ONE, TWO))
            yield (
                f"Two jobs apart bring {apart / one:.2f} times what one brings, rows dropped: two workers of "
                f"one job do {two / apart:.0%} of that."
            )


def reading_rate(runs: Sequence[CrewRun]) -> float:
    """Events a second while there was something to read: the last epochs last as long for two as for one."""
    return statistics.median(one.measured.events / one.measured.reading_seconds for one in runs)
