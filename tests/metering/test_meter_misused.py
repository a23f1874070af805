"""What an application gives a meter by mistake: it is told by the constructor, and by nothing else."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from metering.meter import Meter
from tests.metering.recording import SECONDS, event, keys_in, until


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def meter(file: Path) -> Iterator[Meter]:
    with Meter(f"file://{file}") as meter:
        yield meter


class Strange(Mapping[str, Any]):
    """Its own code raises whatever it likes, in whatever thread reads it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getitem__(self, name: str) -> Any:
        raise self.error

    def __iter__(self) -> Iterator[str]:
        raise self.error

    def __len__(self) -> int:
        raise self.error


class OfNoClass:
    @property
    def __class__(self) -> Any:
        raise SystemExit

    @__class__.setter
    def __class__(self, _: object) -> None: ...


class OfNoName:
    def __getattr__(self, name: str) -> Any:
        raise KeyboardInterrupt(name)


class StrangeNumber(int):
    def __abs__(self) -> int:
        raise ValueError

    def __ge__(self, other: object) -> bool:
        raise ValueError

    __lt__ = __le__ = __gt__ = __ge__


class StrangeText(str):
    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        raise SystemExit


@pytest.mark.parametrize(
    "strange",
    [
        event(3, input_tokens=StrangeNumber(3)),
        event(3, tenant=StrangeText("acme"), model=""),
        Strange(ValueError("x")),
        Strange(KeyboardInterrupt()),
        Strange(SystemExit(3)),
        Strange(GeneratorExit()),
        None,
        7,
        "text",
    ],
)
def test_a_strange_event_is_counted_and_ends_nothing(meter: Meter, file: Path, strange: Any) -> None:
    meter.record(event(1))
    meter.record(strange)
    meter.record(event(2))
    assert meter.flush(SECONDS)
    assert keys_in(file) == ["k1", "k2"]
    stats = meter.stats()
    assert (stats.dropped, stats.recorded, stats.delivered) == ({"not_serialisable": 1}, 3, 2)


@pytest.mark.parametrize("kind", [OfNoClass, OfNoName])
def test_no_code_of_an_event_runs_in_the_callers_thread(meter: Meter, kind: type) -> None:
    meter.record(kind())
    assert meter.flush(SECONDS)
    assert meter.stats().dropped == {"not_serialisable": 1}


@pytest.mark.parametrize("seconds", [None, "soon", math.inf, math.nan, 1e300, 10**400, True, "60"])
def test_whatever_it_is_given_a_flush_and_a_close_wait_for_seconds(file: Path, seconds: Any) -> None:
    async def flush_and_close(meter: Meter) -> tuple[bool, bool]:
        return await meter.aflush(seconds), await meter.aclose(seconds)

    meter = Meter(f"file://{file}")
    meter.record(event(1))
    assert (meter.flush(seconds), meter.close(seconds)) == (True, True)
    meter = Meter(f"file://{file}")
    meter.record(event(2))
    assert asyncio.run(flush_and_close(meter)) == (True, True)
    assert keys_in(file) == ["k1", "k2"]


@pytest.mark.parametrize("seconds", [0, -1, -math.inf])
def test_a_flush_without_time_answers_at_once(tmp_path: Path, seconds: float) -> None:
    meter = Meter(f"file://{tmp_path}/none/events.jsonl")
    meter.record(event(1))
    assert (meter.flush(seconds), meter.close(seconds)) == (False, False)


def test_a_directory_for_a_file_is_told_where_events_wait(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    meter = Meter(f"file://{tmp_path}")
    with caplog.at_level(logging.WARNING, "meterline"):
        meter.record(event(1))
        until(lambda: any("Is a directory" in record.getMessage() for record in caplog.records))
    assert (meter.stats().waiting, meter.stats().last_error) == (1, f"{tmp_path}: Is a directory")
    assert not meter.close(0.1)
