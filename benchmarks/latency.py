"""From an event to its row and to its webhook, at half of the load that the machine can bear.

The producer stamps each event when it hands it to the Kafka client; a query every 100 ms and a receiver, on
the same machine and thus with the same clock, note when its row and its alert are there. The job runs on one
core; broker, ClickHouse, query and receiver on the other. The producer, which stands for applications
elsewhere, takes whichever has room. The machine's maximum is what all of them bear together: events sent
without a pace, until the last probe has its row.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.arena import Arena, WrongResult
from benchmarks.observers import ProbeWatcher, receiving_webhooks
from benchmarks.paced_producer import Plan, Sent, special_line
from benchmarks.pinned import CHILD_SECONDS_MAX, ROOT, ChildFailed, cores, on_any_core, on_core
from benchmarks.report import Plot, Section, Size, Target
from benchmarks.servers import Servers, fresh_database, running_servers
from benchmarks.workload import Message, make_lines
from dataflows.demo import CONFIG
from pricing.settings_values import MeteringSettings
from sinks.migrate import migrate

SECRET_ENV = "BENCH_WEBHOOK_SECRET"  # noqa: S105  # a variable's name
WARM_UP_MS = 2_000
START_SECONDS_MAX = 60
ARRIVE_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60
DEFAULT_EPOCH = float(MeteringSettings().epoch_interval_seconds)
FIRST_PROBE = -1


@dataclass(frozen=True, slots=True)
class Amounts:
    """Events of the run that finds the maximum, seconds of each run at half of it, and what is varied."""

    unpaced: int
    seconds: int
    epochs: tuple[float, ...]
    shapes: tuple[int, ...]
    per_second_max: int


AMOUNTS = {
    Size.SMOKE: Amounts(5_000, 3, (0.5,), (100,), 1_000),
    Size.FULL: Amounts(3_000_000, 20, (0.25, 0.5, 1.0, 2.0), (100, 1), 1_000_000),
}


@dataclass(frozen=True, slots=True)
class Latencies:
    """One run: events sent a second, and those a second from the first one sent to the last row of a probe.

    Milliseconds from the stamp of an event, by event.
    """

    events_per_message: int
    epoch_seconds: float
    per_second: float
    borne_per_second: float
    row_ms: tuple[int, ...]
    webhook_ms: tuple[int, ...]


def run(size: Size) -> Section:
    """Every shape of message with every epoch."""
    amounts = AMOUNTS[size]
    with tempfile.TemporaryDirectory(prefix="meterline-bench-") as name:
        directory = Path(name)
        worker_core, other_core = cores()
        with running_servers(size, directory, other_core) as servers:
            arena = Arena(servers, directory, worker_core)
            found = list(_runs(arena, amounts))
            return section(found, servers)


def _runs(arena: Arena, amounts: Amounts) -> Iterator[Latencies]:
    for per_message in amounts.shapes:
        most = measure(arena, _plan(arena, amounts.unpaced, 1, per_message), DEFAULT_EPOCH)
        half = min(amounts.per_second_max, round(most.borne_per_second / 2))
        print(f"  {per_message} a message: at most {most.borne_per_second:,.0f} events/s", file=sys.stderr)
        for epoch_seconds in amounts.epochs:
            found = measure(arena, _plan(arena, half, amounts.seconds, per_message), epoch_seconds)
            yield found
            print(f"  {per_message} a message, epoch {epoch_seconds} s: {_row(found)}", file=sys.stderr)


def _plan(arena: Arena, per_second: int, seconds: int, per_message: int) -> Plan:
    traffic = arena.directory / f"traffic-{per_second * seconds}.jsonl"
    if not traffic.exists():
        traffic.write_bytes(b"\n".join(make_lines(per_second * seconds)) + b"\n")
    return Plan(
        bootstrap=arena.servers.bootstrap,
        topic=arena.servers.topic([]),
        lines_file=str(traffic),
        per_second=per_second,
        seconds=seconds,
        events_per_message=per_message,
        run=uuid.uuid4().hex[:8],
    )


def measure(arena: Arena, plan: Plan, epoch_seconds: float) -> Latencies:
    """One run at the pace of the plan.

    Raises:
        WrongResult: a probe has no row, or a crossing no alert.
        ChildFailed: the job or the producer ended with an error.
    """
    with (
        fresh_database(arena.servers.clickhouse) as (url, client),
        arena.state() as state,
        receiving_webhooks() as receiver,
    ):
        migrate(client)  # so that there is something to ask before the job is up
        config = state / "meterline.yaml"
        config.write_text(job_config(epoch_seconds, receiver.url), encoding="utf-8")
        environment = {
            "METERLINE_CONFIG": str(config),
            "METERLINE_SOURCE": f"kafka://{plan.bootstrap}/{plan.topic}",
            "METERLINE_CLICKHOUSE_URL": url,
            "METERLINE_STATE_DIR": str(state / "job"),
            SECRET_ENV: f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}",
        }
        arena.servers.send(plan.topic, [_first_probe(plan)])
        with running_job(environment, arena.core):
            watcher = ProbeWatcher(url, plan.run)
            watcher.start()
            _wait_for(lambda: len(watcher.seen), 1, START_SECONDS_MAX)
            sent = _produce(arena, plan, state / "plan.json")
            _wait_for(lambda: len(watcher.seen), sent.probes + 1, ARRIVE_SECONDS_MAX)
            # Two thresholds, so two alerts a crossing.
            _wait_for(lambda: len(receiver.seen), 2 * sent.crossings, ARRIVE_SECONDS_MAX)
            watcher.stop()
        if len(watcher.seen) != sent.probes + 1 or len(receiver.seen) != 2 * sent.crossings:
            raise WrongResult(f"{len(watcher.seen)} probes and {len(receiver.seen)} alerts came of {sent}")
    begin_ms = sent.first_ms + WARM_UP_MS
    return Latencies(
        events_per_message=plan.events_per_message,
        epoch_seconds=epoch_seconds,
        per_second=sent.events * 1000 / (sent.last_ms - sent.first_ms),
        borne_per_second=sent.events * 1000 / (_last_arrival(watcher.seen) - sent.first_ms),
        row_ms=_after(begin_ms, watcher.seen),
        webhook_ms=_after(begin_ms, receiver.seen),
    )


def job_config(epoch_seconds: float, webhook_url: str) -> str:
    """The demo's configuration with a cap that traffic never reaches, an epoch interval and a receiver."""
    return (
        CONFIG.replace("daily_cap: 60.00", "daily_cap: 1000000.00")
        + f"  epoch_interval_seconds: {epoch_seconds}\n"
        + f"alerts:\n  webhooks:\n    - name: bench\n      url: {webhook_url}\n"
        + f"      secret_env: {SECRET_ENV}\n      allow_private: true\n"
    )


def _first_probe(plan: Plan) -> Message:
    line = special_line("probe", plan.run, FIRST_PROBE)
    return Message(0, b"", line.replace(b'"timestamp":0', b'"timestamp":%d' % (time.time() * 1000)))


def _produce(arena: Arena, plan: Plan, file: Path) -> Sent:
    file.write_text(json.dumps(asdict(plan)), encoding="utf-8")
    with on_any_core((arena.core, arena.servers.core)):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.paced_producer", str(file)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS_MAX,
            check=False,
        )
    if done.returncode != 0:
        raise ChildFailed(f"the producer ended with {done.returncode}: {done.stderr[-2000:]}")
    return Sent(**json.loads(done.stdout))


@contextmanager
def running_job(environment: Mapping[str, str], core: int) -> Iterator[None]:
    """`meterline run`, following its topic, until the end of the block; it has to end well.

    Raises:
        ChildFailed: it did not.
    """
    with on_core(core):
        job = subprocess.Popen(
            [sys.executable, "-m", "dataflows.cli", "run"],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        yield
        job.send_signal(signal.SIGTERM)
        code = job.wait(STOP_SECONDS_MAX)
    finally:
        if job.poll() is None:
            job.kill()
            job.wait()
    if code != 0:
        raise ChildFailed(f"the job ended with {code}")


def _wait_for(count: Callable[[], int], wanted: int, seconds_max: float) -> None:
    """Until there are so many, or the time is over: who asks for them then says what is missing."""
    deadline = time.monotonic() + seconds_max
    while count() < wanted and time.monotonic() < deadline:
        time.sleep(0.05)


def _last_arrival(seen: Mapping[str, tuple[int, int]]) -> int:
    return max(arrived for _, arrived in seen.values())


def _after(begin_ms: int, seen: Mapping[str, tuple[int, int]]) -> tuple[int, ...]:
    return tuple(arrived - stamp for stamp, arrived in seen.values() if stamp >= begin_ms)


def percentile(values: Sequence[int], per_cent: int) -> float:
    """Of at least two values."""
    return statistics.quantiles(values, n=100, method="inclusive")[per_cent - 1]


def _row(one: Latencies) -> tuple[str, ...]:
    cells = [str(one.events_per_message), f"{one.epoch_seconds:g} s", f"{one.per_second:,.0f}"]
    for values in (one.row_ms, one.webhook_ms):
        figures = (percentile(values, 50), percentile(values, 99), max(values))
        cells.append(" / ".join(f"{figure:,.0f}" for figure in figures))
    return tuple(cells)


def section(found: Sequence[Latencies], servers: Servers) -> Section:
    """The table, the targets at the default epoch, and the trade between epoch and latency as a plot."""
    targets = []
    for one in found:
        if one.epoch_seconds == DEFAULT_EPOCH:
            where = f"{one.events_per_message} a message, epoch {one.epoch_seconds:g} s"
            row, webhook = percentile(one.row_ms, 99), percentile(one.webhook_ms, 99)
            targets.append(Target.at_most(f"event to row, p99 in ms, {where}", row, 2_000))
            targets.append(Target.at_most(f"event to webhook, p99 in ms, {where}", webhook, 1_000))
    columns = ("events a message", "epoch", "events/s", "to row, ms: p50 / p99 / max")
    note = (
        f"Broker: {servers.broker}. Half of the rate that the machine bore just before, events sent "
        "without a pace. From the stamp that the producer gives an event as it hands it to its client, to "
        "the first answer of a query every 100 ms that holds its row, and to the arrival of its webhook."
    )
    return Section(
        name="latency",
        title="Latency at half load",
        columns=(*columns, "to webhook, ms: p50 / p99 / max"),
        rows=tuple(_row(one) for one in found),
        targets=tuple(targets),
        plots=(_plot(found),),
        notes=(note,),
        figures={"runs": [asdict(one) for one in found]},
    )


def _plot(found: Sequence[Latencies]) -> Plot:
    shapes = sorted({one.events_per_message for one in found})
    series = []
    for shape in shapes:
        runs = [one for one in found if one.events_per_message == shape]
        epochs = tuple(one.epoch_seconds for one in runs)
        for label, values in (
            ("row", tuple(percentile(one.row_ms, 99) for one in runs)),
            ("webhook", tuple(percentile(one.webhook_ms, 99) for one in runs)),
        ):
            series.append((f"{label}, {shape} a message", epochs, values))
    return Plot("latency", "epoch, s", "p99, ms", tuple(series))
