"""What the SDK adds to a request: a gateway without it and with it, in turns, in one process.

The application is a bare ASGI gateway: it reads a request, waits as for a model, and hands an answer on, as
JSON or as a stream. Each of the concurrent callers asks the bare one and the metered one alternately, so that
both meet the same machine, the same garbage collection and the same sender thread of the meter. Measured is
the time that a request spends in the process, without the wait: what is added to that is the SDK's. It has
three parts: until the first byte of the answer is handed to the server, from there to its last, and from
there to the end, when the client has its answer and the call is recorded.

A caller waits one millisecond on average for each caller that there is, so that about a thousand requests a
second are served whatever the concurrency; with no idle time left, each request would wait for all others,
and the figure would be theirs. The waits are drawn from an exponential distribution, as the times between
requests of many users are: with equal ones the callers would soon wake up all at once, and between two such
bursts the process would sleep for tens of milliseconds, after which any code, the bare gateway's too, runs
many times slower.

Events go through a real meter into a file. In the end each metered request has its event there, or the run
fails.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import Section, Size, Target
from metering.asgi import MeteringMiddleware
from metering.meter import Meter
from metering.resolvers import header

CONCURRENCY = (1, 50, 500)
WAIT_SECONDS_PER_CALLER = 0.001
SEED = 1
REQUESTS = {Size.SMOKE: 200, Size.FULL: 20_000}
"""Of each kind, at each concurrency: the 99.9th percentile is then that of 20."""

ADDED_P99_MICROSECONDS_MAX = 100
FLUSH_SECONDS_MAX = 60
PERCENTILES = (50, 99, 99.9)
MEASURES = ("whole", "first_byte", "last_byte", "recording")

App = Callable[[Any, Any, Any], Awaitable[None]]

_ASKED = json.dumps(
    {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is metered? " * 50}]}
).encode()
_HEAD = {"object": "chat.completion", "created": 1, "model": "gpt-4o-2024-08-06"}
_USAGE = {"prompt_tokens": 300, "completion_tokens": 200, "total_tokens": 500}
_TEXT = "Everything that a model is asked and everything that it answers. " * 12
_WORDS = 40


@dataclass(slots=True)
class Gateway:
    """The application, which waits `wait_seconds` on average.

    `waits` notes how many seconds each request waited for the model, by its number.
    """

    wait_seconds: float
    waits: dict[int, float] = field(default_factory=dict)
    drawn: random.Random = field(default_factory=lambda: random.Random(SEED))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        while (await receive())["more_body"]:
            pass
        number = scope["number"]
        started = time.perf_counter()
        await asyncio.sleep(self.drawn.expovariate(1 / self.wait_seconds))
        self.waits[number] = time.perf_counter() - started
        if scope["path"] == "/v1/stream":
            parts, media_type = _events(number), b"text/event-stream"
        else:
            parts, media_type = [_answer(number)], b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type)]})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _answer(number: int) -> bytes:
    message = {"role": "assistant", "content": _TEXT}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": f"c{number}", **_HEAD, "choices": [choice], "usage": _USAGE}).encode()


def _events(number: int) -> list[bytes]:
    head = {"id": f"c{number}", **_HEAD}
    chunks: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": {"content": f"word{n} "}}]} for n in range(_WORDS)
    ]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({**head, "choices": [], "usage": _USAGE})
    return [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks] + [b"data: [DONE]\n\n"]


@dataclass(frozen=True, slots=True)
class Timing:
    """One request, in seconds without the wait: to its end, to the first byte of its body and to its last."""

    whole: float
    first_byte: float
    last_byte: float
    recording: float


async def _ask(app: App, gateway: Gateway, number: int, path: str) -> Timing:
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "number": number,
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"x-tenant", b"acme")],
    }
    first_at = last_at = 0.0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": _ASKED, "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal first_at, last_at
        if not first_at and message.get("body"):
            first_at = time.perf_counter()
        if message["type"] == "http.response.body" and not message["more_body"]:
            last_at = time.perf_counter()

    started = time.perf_counter()
    await app(scope, receive, send)
    ended = time.perf_counter()
    left = started + gateway.waits.pop(number)
    return Timing(ended - left, first_at - left, last_at - left, ended - last_at)


async def _measure(
    ways: Mapping[str, App], gateway: Gateway, callers: int, requests: int, path: str
) -> dict[str, list[Timing]]:
    """Timings of each way: every caller goes through the ways in turn."""
    found: dict[str, list[Timing]] = {name: [] for name in ways}
    rounds = max(1, requests // callers)

    async def call(caller: int) -> None:
        for turn in range(rounds):
            for place, (name, app) in enumerate(ways.items()):
                number = (turn * callers + caller) * len(ways) + place
                found[name].append(await _ask(app, gateway, number, path))

    await asyncio.gather(*(call(caller) for caller in range(callers)))
    return found


@contextmanager
def _metered(events: Path) -> Iterator[Meter]:
    """A meter that writes into a file.

    Raises:
        ValueError: not all events were written.
    """
    meter = Meter(events.as_uri())
    yield meter
    if not meter.flush(FLUSH_SECONDS_MAX):
        raise ValueError(f"the meter did not write all events: {meter.stats()}")
    meter.close()


def run(size: Size) -> Section:
    """Measure at each concurrency, whole answers and streams.

    Raises:
        ValueError: a metered request has no event, or another one than it should have.
    """
    rows: list[tuple[str, ...]] = []
    figures: dict[str, object] = {}
    added: dict[str, list[float]] = {}
    for path in ("/v1/whole", "/v1/stream"):
        for callers in CONCURRENCY:
            found = _run_one(path, callers, max(REQUESTS[size], callers))
            bare = found["bare"]
            for name, micros in found.items():
                label = f"{path[4:]}, {callers} at once, {name}"
                figures[label] = micros
                rows.append((label, *(f"{micros[what]:,.0f}" for what in micros)))
                if name != "bare":
                    added[label] = [micros[what] - bare[what] for what in micros]
                    rows.append((f"{label}: added", *(f"{value:,.0f}" for value in added[label])))
    return _section(rows, added, figures)


def _run_one(path: str, callers: int, requests: int) -> dict[str, dict[str, float]]:
    """Of each way, microseconds by what they are."""
    gateway = Gateway(WAIT_SECONDS_PER_CALLER * callers)
    with tempfile.TemporaryDirectory() as directory:
        events = Path(directory) / "events.jsonl"
        with _metered(events) as meter:
            options: dict[str, Any] = {"tenant": header("x-tenant"), "on_missing_tenant": "reject"}
            ways: dict[str, App] = {
                "bare": gateway,
                "context": MeteringMiddleware(gateway, meter, **options),
                "metered": MeteringMiddleware(gateway, meter, **options, inference=["/v1/*"]),
            }
            asyncio.run(_measure(ways, gateway, callers, callers, path))  # warms up
            found = asyncio.run(_measure(ways, gateway, callers, requests, path))
        _check(events, len(found["metered"]) + callers)
    return {name: _micros(timings) for name, timings in found.items()}


def _check(events: Path, count: int) -> None:
    lines = [json.loads(line) for line in events.read_bytes().splitlines()]
    told = {(line["tenant_id"], line["input_tokens"], line["output_tokens"], line["model"]) for line in lines}
    if len(lines) != count or told != {("acme", 300, 200, _HEAD["model"])}:
        raise ValueError(f"{count} requests were metered, and {len(lines)} events written: {told}")


def _micros(timings: Sequence[Timing]) -> dict[str, float]:
    """Microseconds: percentiles of each measure."""
    found = {}
    for what in MEASURES:
        values = sorted(getattr(timing, what) * 1e6 for timing in timings)
        for percentile in PERCENTILES:
            found[f"{what} p{percentile:g}"] = values[
                min(len(values) - 1, int(len(values) * percentile / 100))
            ]
    return found


def _section(
    rows: Sequence[tuple[str, ...]], added: Mapping[str, Sequence[float]], figures: dict[str, object]
) -> Section:
    columns = [f"{what.replace('_', ' ')} p{part:g}" for what in MEASURES for part in PERCENTILES]
    targets = tuple(
        Target.at_most(f"added {what}, p99, µs: {label}", values[place], ADDED_P99_MICROSECONDS_MAX)
        for label, values in added.items()
        for what, place in (("to a request", 1), ("to its first byte", 4), ("after its last byte", 10))
    )
    how = (
        "Time that a request spends in the process, without its wait for the model. `context` says whose "
        "request it is; `metered` keeps the answer besides, and records an event, which the meter's thread "
        "reads. `recording` is the time after the last byte. Added is the difference of two percentiles, "
        f"not the percentile of differences. A stream has {_WORDS + 3} parts."
    )
    return Section(
        "sdk_overhead",
        "What the SDK adds to a request",
        ("request, in µs", *columns),
        tuple(rows),
        targets=targets,
        notes=(how,),
        figures=figures,
    )
