"""What `Meter.record` costs: alone, with its sender delivering on the same core, and to requests around it.

Events are what `metering.call.events_of` makes of an answer (20 fields and two attributes, 560 bytes as
JSON). The application records as fast as it may: it rests only while a tenth of the queue is full, so
that nothing is dropped, which is asserted, as is the arrival of every event. Application and sender share one
core; the mock cluster is a process on the other.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.pinned import cores, cpu_seconds, on_core
from benchmarks.report import Section, Size, Target, spread
from metering.call import Call, Ending, Fields, events_of
from metering.meter import QUEUE_EVENTS_MAX, Meter
from metering.usage import Usage
from tests.metering.kafka_process import running_kafka

NOWHERE = "kafka://127.0.0.1:1/events"
TENANTS = 50
FLUSH_SECONDS = 120
TURNS = 20
REQUEST_SECONDS = 0.0005
"""Of pure Python, which waits for the interpreter's lock; a real request mostly waits for its model."""

RECORDS_PER_SECOND_MIN = 200_000
REQUEST_ADDED_US_MAX = 100


@dataclass(frozen=True, slots=True)
class Amounts:
    """Events of a run, repetitions, and seconds for which requests are timed."""

    events: int
    repetitions: int
    seconds: float


AMOUNTS = {Size.SMOKE: Amounts(3_000, 1, 0.3), Size.FULL: Amounts(200_000, 5, 20)}


@dataclass(frozen=True, slots=True)
class Run:
    """Events a second of wall time and of processor time (all threads); the caller's microseconds a call."""

    per_second: float
    per_cpu_second: float
    call_us: tuple[float, ...] = ()


def run(size: Size) -> Section:
    """Every destination; then requests with and without a meter."""
    amounts = AMOUNTS[size]
    core, other = cores()
    events = _events()
    with (
        tempfile.TemporaryDirectory(prefix="meterline-bench-") as name,
        on_core(other),
        running_kafka() as kafka,
    ):
        directory = Path(name)
        meters: dict[str, Callable[[], Meter]] = {
            "to a file": lambda: Meter(f"file://{directory}/events.jsonl"),
            "to the mock cluster": lambda: Meter(f"kafka://{kafka.bootstrap}/events"),
            "to the spool": lambda: Meter(NOWHERE, spool_dir=directory / "spool", spool_after_seconds=0.001),
        }
        with on_core(core):
            alone = [_alone(events) for _ in range(amounts.repetitions)]
            found = {
                where: [_sustained(make, events, amounts.events) for _ in range(amounts.repetitions)]
                for where, make in meters.items()
            }
            requests = {
                rate: _both(meters["to the mock cluster"](), events, amounts.seconds, rate)
                for rate in (100, 1_000)
            }
    return _section(alone, found, requests)


def _events() -> list[Fields]:
    made = []
    for number in range(1_000):
        tenant, team = f"tenant-{number % TENANTS}", {"team": "search"}
        call = Call(tenant, "gpt-4o", 1_770_000_000_000, "chat", "openai", attributes=team)
        usage = Usage(
            "openai",
            "gpt-4o",
            response_id=f"chatcmpl-{number:022}",
            input_tokens=1_000 + number,
            output_tokens=200,
            cache_read_tokens=512,
        )
        made += events_of(call, [usage], Ending(1_200, first_token_latency_ms=300), lambda: "")
    return made


def _alone(events: Sequence[Fields]) -> float:
    """Calls a second of the caller's own processor time, into a queue that takes them all."""
    meter = Meter("file:///dev/null")
    started = time.thread_time()
    for _ in range(QUEUE_EVENTS_MAX // len(events) - 10):
        for event in events:
            meter.record(event)
    seconds = time.thread_time() - started
    recorded = meter.stats().recorded
    meter.close(FLUSH_SECONDS)
    return recorded / seconds


def _sustained(make: Callable[[], Meter], events: Sequence[Fields], count: int) -> Run:
    meter = make()
    meter.record(events[0])
    meter.flush(FLUSH_SECONDS)  # connected, and every module loaded
    clock = time.perf_counter
    took: list[float] = []
    wall, processor = clock(), cpu_seconds()
    for start in range(0, count, len(events)):
        while meter.stats().queue_depth > QUEUE_EVENTS_MAX // 10:
            time.sleep(0.001)
        for event in events[: count - start]:
            before = clock()
            meter.record(event)
            took.append(clock() - before)
    assert meter.flush(FLUSH_SECONDS), meter.stats()
    wall, processor = clock() - wall, cpu_seconds() - processor
    stats = meter.stats()
    assert (stats.recorded, stats.delivered + stats.spooled, stats.dropped) == (count + 1, count + 1, {}), (
        stats
    )
    meter.close()
    return Run(count / wall, count / processor, tuple(1e6 * one for one in took))


def _both(
    meter: Meter, events: Sequence[Fields], seconds: float, per_second: int
) -> tuple[list[float], list[float]]:
    """Microseconds of each request without a meter and with one, in turns: a busy machine then slows both."""
    without: list[float] = []
    with_meter: list[float] = []
    count, loops = max(int(seconds * per_second / TURNS), 1), _loops()
    meter.record(events[0])
    meter.flush(FLUSH_SECONDS)
    for _ in range(TURNS):
        without += _requests(lambda _: None, events, count, per_second, loops)
        with_meter += _requests(meter.record, events, count, per_second, loops)
        meter.flush(FLUSH_SECONDS)
    assert meter.close(FLUSH_SECONDS), meter.stats()
    return without, with_meter


def _requests(
    record: Callable[[Fields], None], events: Sequence[Fields], count: int, per_second: int, loops: int
) -> list[float]:
    clock, pause = time.perf_counter, max(1 / per_second - REQUEST_SECONDS, 0)
    took = []
    for number in range(count):
        before = clock()
        _work(loops)
        record(events[number % len(events)])
        took.append(1e6 * (clock() - before))
        time.sleep(pause)
    return took


def _work(loops: int) -> int:
    total = 0
    for number in range(loops):
        total += number
    return total


def _loops() -> int:
    best = min(_timed(partial(_work, 10_000)) for _ in range(20))
    return int(10_000 * REQUEST_SECONDS / best)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _quantiles(values: Sequence[float]) -> str:
    ordered = sorted(values)
    shown = [ordered[int(len(ordered) * part)] for part in (0.5, 0.99, 0.999)]
    return " · ".join(f"{value:,.1f}" for value in [*shown, ordered[-1]])


def _added(without: Sequence[float], with_meter: Sequence[float], part: float) -> float:
    return sorted(with_meter)[int(len(with_meter) * part)] - sorted(without)[int(len(without) * part)]


def _section(
    alone: list[float], found: dict[str, list[Run]], requests: dict[int, tuple[list[float], list[float]]]
) -> Section:
    rows = [("record() alone", spread(alone), "", "")]
    rows += [
        (
            f"sustained {where}",
            spread([one.per_second for one in runs]),
            spread([one.per_cpu_second for one in runs]),
            _quantiles([took for one in runs for took in one.call_us]),
        )
        for where, runs in found.items()
    ]
    for rate, (without, with_meter) in requests.items():
        rows.append((f"requests, up to {rate:,} a second, no meter", "", "", _quantiles(without)))
        rows.append((f"requests, up to {rate:,} a second, each records", "", "", _quantiles(with_meter)))
    targets = [Target.at_least("record() alone, calls/s", statistics.median(alone), RECORDS_PER_SECOND_MIN)]
    targets += [
        Target.at_least(
            f"sustained {where}, events per CPU second",
            statistics.median(one.per_cpu_second for one in runs),
            RECORDS_PER_SECOND_MIN,
        )
        for where, runs in found.items()
    ]
    targets += [
        Target.at_most(
            f"µs added to a request's p99 at {rate:,} a second", _added(*both, 0.99), REQUEST_ADDED_US_MAX
        )
        for rate, both in requests.items()
    ]
    note = (
        "Microseconds are of one call of record() in the upper rows, timing included, and of a whole request "
        f"in the lower: {1e6 * REQUEST_SECONDS:.0f} µs of Python on the core that the sender uses too. "
        "Sustained runs record without a pause and compete with their sender for one core and for the "
        "interpreter's lock: their longest calls are a thread's turn, not the call's own work."
    )
    return Section(
        "sdk_record",
        "Recording",
        ("what", "events/s", "events/s of processor time", "µs p50 · p99 · p99.9 · max"),
        tuple(rows),
        targets=tuple(targets),
        notes=(note,),
        figures={
            "alone": alone,
            "sustained": {
                where: [(one.per_second, one.per_cpu_second) for one in runs] for where, runs in found.items()
            },
        },
    )
