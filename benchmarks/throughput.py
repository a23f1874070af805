"""Events a second on one core: Meterline, the same job one item an event, a peer, and what limits them all.

One worker on one core; broker and ClickHouse on the other. Every competitor reads the same bytes from
Kafka, or the first of them, writes into the same ClickHouse, and is checked to the last digit before its time
counts. Each is repeated, in turns, so that a slow minute of the machine meets all of them. The naive flow
runs twice: as it comes, and with snapshots kept (see `naive_flow`); the faster of the two is what counts.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks.arena import Arena
from benchmarks.limits import decoders
from benchmarks.pinned import Measured, cores
from benchmarks.report import Section, Size, Target, spread
from benchmarks.servers import running_servers
from benchmarks.workload import make_lines

BATCHED, SINGLE = 100, 1
"""Events a message: a producer that batches, and one that does not."""

DECODE_ONLY = "decode-only"
NAIVE = "naive"
NAIVE_KEEPING = "naive, keeping snapshots"


@dataclass(frozen=True, slots=True)
class Amounts:
    """How many events each kind of competitor reads, and how often all of them run."""

    shapes: tuple[tuple[int, int], ...]
    """(events a message, events in all)."""
    few: int
    """What the peer reads, and the naive flow as it comes: they would take minutes for all."""
    more: int
    """What the naive flow reads when it keeps its snapshots."""
    decoded: int
    repetitions: int


AMOUNTS = {
    Size.SMOKE: Amounts(((BATCHED, 20_000),), few=2_000, more=4_000, decoded=20_000, repetitions=1),
    Size.FULL: Amounts(
        ((BATCHED, 2_000_000), (SINGLE, 2_000_000)),
        few=200_000,
        more=500_000,
        decoded=500_000,
        repetitions=3,
    ),
}
ON_MOCK = Amounts(
    ((BATCHED, 60_000), (SINGLE, 20_000)), few=10_000, more=20_000, decoded=500_000, repetitions=3
)
"""What the mock's ring of about 5 MB a partition holds; a note then says that the figures are no claims."""


def run(size: Size) -> Section:
    """Every competitor, in turns."""
    with tempfile.TemporaryDirectory(prefix="meterline-bench-") as name:
        directory = Path(name)
        worker_core, other_core = cores()
        with running_servers(size, directory, other_core) as servers:
            amounts = AMOUNTS[size] if servers.real or size is Size.SMOKE else ON_MOCK
            arena = Arena(servers, directory, worker_core)
            runs = measure(competitors(arena, amounts, size), amounts.repetitions)
            return section(runs, arena)


def competitors(arena: Arena, amounts: Amounts, size: Size) -> dict[str, Callable[[], Measured]]:
    """What runs in each turn, its messages on the broker already."""
    lines = make_lines(max(events for _, events in amounts.shapes))
    decoded, rows_file = arena.directory / "decoded.jsonl", arena.directory / "rows.arrow"
    decoded.write_bytes(b"\n".join(lines[: amounts.decoded]) + b"\n")
    libraries = decoders() if size is Size.FULL else ["polars"]
    found: dict[str, Callable[[], Measured]] = {
        f"{DECODE_ONLY}, {library}": partial(arena.decode, library, decoded) for library in libraries
    }
    for per_message, events in amounts.shapes:
        many = arena.topic(lines[:events], per_message)
        few, more = (arena.topic(lines[:count], per_message) for count in (amounts.few, amounts.more))
        found[f"meterline, {per_message} a message"] = partial(arena.meterline, many, rows_file)
        found[f"{NAIVE}, {per_message} a message"] = partial(arena.naive, few)
        found[f"{NAIVE_KEEPING}, {per_message} a message"] = partial(arena.naive, more, keep_days=1)
        if per_message == SINGLE and arena.can_run_quix():
            found["quixstreams, 1 a message"] = partial(arena.quix, few)
        found[f"consume-only, {per_message} a message"] = partial(arena.consume, many)
    found["insert-only"] = partial(arena.insert, rows_file)
    return found


def measure(lineup: Mapping[str, Callable[[], Measured]], repetitions: int) -> dict[str, list[Measured]]:
    """Each competitor's runs."""
    runs: dict[str, list[Measured]] = {name: [] for name in lineup}
    for turn in range(repetitions):
        for name, race in lineup.items():
            runs[name].append(race())
            print(f"  turn {turn + 1}: {name}: {runs[name][-1]}", file=sys.stderr)
    return runs


def median_of(runs: Sequence[Measured]) -> float:
    """Events a second."""
    return statistics.median(one.per_second for one in runs)


def section(runs: dict[str, list[Measured]], arena: Arena) -> Section:
    """The table and the targets."""
    rows = tuple(
        (
            name,
            f"{found[0].events:,}",
            spread([one.per_second for one in found]),
            spread([one.events / one.reading_seconds for one in found]) if found[0].reading_seconds else "",
            spread([one.cpu_per_million for one in found], 2),
        )
        for name, found in runs.items()
    )
    return Section(
        name="throughput",
        title="Throughput of one worker on one core",
        columns=("", "events", "events/s", "events/s while reading", "CPU s per million"),
        rows=rows,
        targets=tuple(_targets(runs)),
        notes=tuple(_notes(runs, arena)),
        figures={name: [asdict(one) for one in found] for name, found in runs.items()},
    )


def _targets(runs: dict[str, list[Measured]]) -> Iterator[Target]:
    speeds = {name: median_of(found) for name, found in runs.items()}
    fastest = max((name for name in speeds if name.startswith(DECODE_ONLY)), key=lambda name: speeds[name])
    for per_message, bound in ((BATCHED, 20), (SINGLE, 12)):
        ours = f"meterline, {per_message} a message"
        if ours in speeds:
            naive = max(speeds[f"{name}, {per_message} a message"] for name in (NAIVE, NAIVE_KEEPING))
            yield Target.at_least(
                f"meterline / the faster naive, {per_message} a message", speeds[ours] / naive, bound
            )
    ours = f"meterline, {BATCHED} a message"
    yield Target.at_least(f"{ours} / {fastest}", speeds[ours] / speeds[fastest], 0.5)


def _notes(runs: dict[str, list[Measured]], arena: Arena) -> Iterator[str]:
    yield (
        f"Broker: {arena.servers.broker}. Runs in turns; median (least to greatest). Wall time runs from "
        "before the connection to Kafka until the last row can be queried, the last epochs included; `while "
        "reading` is from the first event to the last. CPU is user and system time of the worker alone."
    )
    cpu = {name: statistics.median(one.cpu_per_million for one in found) for name, found in runs.items()}
    for per_message in (BATCHED, SINGLE):
        ours = f"meterline, {per_message} a message"
        if ours in cpu:
            naive = min(cpu[f"{name}, {per_message} a message"] for name in (NAIVE, NAIVE_KEEPING))
            yield (
                "By CPU time alone, which other work on the machine disturbs less, an event costs the "
                f"cheaper naive {naive / cpu[ours]:.1f} times what it costs meterline, with {per_message} a "
                "message."
            )
    versions = {one.detail for found in runs.values() for one in found if one.detail.startswith("quix")}
    yield from (f"The peer is {version}." for version in sorted(versions))
    if not arena.servers.real:
        yield "The mock cluster keeps some 5 MB a partition: these sizes show that it works, and no more."
    if not arena.can_run_quix():
        yield (
            "Quix Streams was left out: it needs `.venv-peers` (make bench) and a real broker, because its "
            "stateful operators create topics and read their settings, which the mock cluster cannot do."
        )
