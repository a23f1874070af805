"""Sends events at an even pace, each stamped as it leaves: `python -m benchmarks.paced_producer PLAN`.

The plan is a JSON file, a `Plan`. Among the events are probes, whose rows are looked for, and events that
cross a cap, each of a tenant of its own. It prints one JSON object, a `Sent`.
"""

from __future__ import annotations

import json
import re
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from confluent_kafka import Producer

from benchmarks.workload import PARTITIONS

PROBES_PER_SECOND = 200
CROSSINGS_PER_SECOND = 10
PROBE_TENANT = "probe"
CROSSING_TENANT = "crossing-"
TICK_SECONDS = 0.005
FLUSH_SECONDS_MAX = 30

_TIMESTAMP = re.compile(rb'"timestamp":("[^"]*"|\d+)')

Template = tuple[int, bytes, bytes]
"""Partition, and the bytes of an event before and after its timestamp."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send: `lines_file` for `seconds` at `per_second`; `run` keeps the keys of runs apart."""

    bootstrap: str
    topic: str
    lines_file: str
    per_second: int
    seconds: int
    events_per_message: int
    run: str


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent: `events` in all, and when, in epoch milliseconds. It may be slower than planned."""

    events: int
    probes: int
    crossings: int
    first_ms: int
    last_ms: int


def special_line(kind: str, run: str, number: int) -> bytes:
    """A probe, or an event that costs more than any cap."""
    tenant = PROBE_TENANT if kind == "probe" else f"{CROSSING_TENANT}{number}"
    tokens = 1_000 if kind == "probe" else 500_000_000_000
    return (
        f'{{"idempotency_key":"{kind}-{run}-{number}","tenant_id":"{tenant}","feature_id":"chat",'
        f'"provider":"openai","model":"gpt-4o","timestamp":0,"input_tokens":{tokens},"output_tokens":0,'
        f'"status":"success"}}'
    ).encode()


def templates(plan: Plan) -> Iterator[Template]:
    """Every event, in order: traffic goes to its tenant's partition, the others to each in turn."""
    lines = Path(plan.lines_file).read_bytes().splitlines()[: plan.per_second * plan.seconds]
    every_probe = max(1, plan.per_second // PROBES_PER_SECOND)
    every_crossing = max(1, plan.per_second // CROSSINGS_PER_SECOND)
    for number, line in enumerate(lines):
        tenant = line.split(b'"tenant_id":"', 1)[1].split(b'"', 1)[0]
        yield _template(zlib.crc32(tenant) % PARTITIONS, line)
        if number % every_probe == 0:
            probe = number // every_probe
            yield _template(probe % PARTITIONS, special_line("probe", plan.run, probe))
        if number % every_crossing == 0:
            crossing = number // every_crossing
            yield _template(crossing % PARTITIONS, special_line("crossing", plan.run, crossing))


def _template(partition: int, line: bytes) -> Template:
    found = _TIMESTAMP.search(line)
    assert found is not None
    return partition, line[: found.start(1)], line[found.end(1) :]


class Pacer:
    """Collects events into messages, stamps them when a message is full, and hands it over."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._producer = Producer(
            {"bootstrap.servers": plan.bootstrap, "compression.type": "lz4", "linger.ms": 5}
        )
        self._waiting: list[list[Template]] = [[] for _ in range(PARTITIONS)]
        self.last_ms = 0

    def add(self, template: Template) -> None:
        """One event more."""
        batch = self._waiting[template[0]]
        batch.append(template)
        if len(batch) >= self._plan.events_per_message:
            self._send(batch)

    def poll(self) -> None:
        """Let the client report deliveries."""
        self._producer.poll(0)

    def finish(self) -> None:
        """Send what is left, and wait for the broker to have it."""
        for batch in self._waiting:
            if batch:
                self._send(batch)
        if self._producer.flush(FLUSH_SECONDS_MAX):
            raise SystemExit("the broker did not take everything")

    def _send(self, batch: list[Template]) -> None:
        self.last_ms = int(time.time() * 1000)
        stamp = str(self.last_ms).encode()
        value = b"\n".join(before + stamp + after for _, before, after in batch)
        partition = batch[0][0]
        batch.clear()
        while True:
            try:
                self._producer.produce(self._plan.topic, value, partition=partition)
            except BufferError:
                self._producer.poll(0.01)
            else:
                return


def main(plan_file: str) -> None:
    """Send the plan."""
    plan = Plan(**json.loads(Path(plan_file).read_text()))
    events = list(templates(plan))
    pacer = Pacer(plan)
    per_second = len(events) / plan.seconds
    started, first_ms, sent = time.monotonic(), int(time.time() * 1000), 0
    while sent < len(events):
        due = min(len(events), int((time.monotonic() - started) * per_second))
        for template in events[sent:due]:
            pacer.add(template)
        sent = due
        pacer.poll()
        time.sleep(TICK_SECONDS)
    pacer.finish()
    traffic = plan.per_second * plan.seconds
    probes = -(-traffic // max(1, plan.per_second // PROBES_PER_SECOND))
    crossings = -(-traffic // max(1, plan.per_second // CROSSINGS_PER_SECOND))
    print(json.dumps(asdict(Sent(len(events), probes, crossings, first_ms, pacer.last_ms))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
