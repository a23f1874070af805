"""What any part of a flow raises is noted before Bytewax has it; that an input ends is not."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

from dataflows.first_cause import FirstCause

Pass = Callable[[str], None]
"""Called with the name of a place, each time that a flow is there."""


class Numbers(StatefulSourcePartition[int, int]):
    def __init__(self, reach: Pass) -> None:
        self._reach, self._left = reach, 3

    def next_batch(self) -> list[int]:
        self._reach("next_batch")
        if not self._left:
            raise StopIteration
        self._left -= 1
        return [self._left]

    def snapshot(self) -> int:
        self._reach("source snapshot")
        return self._left


class Source(FixedPartitionedSource[int, int]):
    def __init__(self, reach: Pass) -> None:
        self._reach = reach

    def list_parts(self) -> list[str]:
        self._reach("source list_parts")
        return ["only"]

    def build_part(self, *_: object) -> Numbers:
        self._reach("source build_part")
        return Numbers(self._reach)


class Echo(StatefulBatchLogic[int, int, int]):
    def __init__(self, reach: Pass) -> None:
        self._reach = reach

    def on_batch(self, values: list[int]) -> tuple[list[int], bool]:
        self._reach("on_batch")
        return values, StatefulBatchLogic.RETAIN

    def snapshot(self) -> int:
        self._reach("step snapshot")
        return 0


class Written(StatefulSinkPartition[int, int]):
    def __init__(self, reach: Pass) -> None:
        self._reach = reach

    def write_batch(self, _: list[int]) -> None:
        self._reach("write_batch")

    def snapshot(self) -> int:
        self._reach("sink snapshot")
        return 0

    def close(self) -> None:
        self._reach("sink close")


class Sink(FixedPartitionedSink[int, int]):
    def __init__(self, reach: Pass) -> None:
        self._reach = reach

    def list_parts(self) -> list[str]:
        self._reach("sink list_parts")
        return ["0"]

    def build_part(self, *_: object) -> Written:
        self._reach("sink build_part")
        return Written(self._reach)


def flow_of(reach: Pass, logic: Callable[[Pass], Echo] = Echo) -> Dataflow:
    def keyed(number: int) -> tuple[str, int]:
        reach("map")
        return "0", number

    def lazily(item: tuple[str, int]) -> Iterator[tuple[str, int]]:
        yield item
        reach("flat_map")

    def build(_: int | None) -> Echo:
        reach("builder")
        return logic(reach)

    flow = Dataflow("watched")
    numbers = op.input("in", flow, Source(reach))
    echoed = op.stateful_batch("step", op.map("map", numbers, keyed), build)
    op.output("out", op.flat_map("flat_map", echoed, lazily), Sink(reach))
    return flow


@pytest.fixture
def recovery(tmp_path: Path) -> RecoveryConfig:
    """A store, without which no epoch has a snapshot."""
    init_db_dir(tmp_path, 1)
    return RecoveryConfig(str(tmp_path), timedelta(0))


PLACES = (
    "source list_parts",
    "sink list_parts",
    "source build_part",
    "next_batch",
    "source snapshot",
    "map",
    "builder",
    "on_batch",
    "step snapshot",
    "flat_map",
    "sink build_part",
    "write_batch",
    "sink snapshot",
    "sink close",
)


class PanicException(BaseException):
    """As Polars raises it."""


@pytest.mark.parametrize(
    ("place", "raised"),
    [
        *((place, ValueError(place)) for place in PLACES),
        ("map", PanicException()),
        ("on_batch", StopIteration()),
    ],
)
def test_the_error_of_each_place_is_noted(
    place: str, raised: BaseException, recovery: RecoveryConfig
) -> None:
    def reach(here: str) -> None:
        if here == place:
            raise raised

    cause = FirstCause()
    with pytest.raises(BaseException):  # noqa: B017, PT011  # Bytewax's own, whatever it is
        run_main(cause.watch(flow_of(reach)), recovery_config=recovery)
    assert cause.error is raised


def test_a_run_that_ends_well_has_none(recovery: RecoveryConfig) -> None:
    reached: list[str] = []
    cause = FirstCause()
    run_main(cause.watch(flow_of(reached.append)), recovery_config=recovery)
    assert (cause.error, set(reached)) == (None, set(PLACES))


def test_what_a_run_remembered_goes_with_it(recovery: RecoveryConfig) -> None:
    built: list[weakref.ref[object]] = []

    class Remembered(Echo):
        def __init__(self, reach: Pass) -> None:
            super().__init__(reach)
            built.append(weakref.ref(self))

    gc.collect()
    gc.disable()  # as in a job, which looks for cycles rarely
    try:
        run_main(FirstCause().watch(flow_of(lambda _: None, Remembered)), recovery_config=recovery)
        assert (len(built), [one() for one in built]) == (1, [None])
    finally:
        gc.enable()


def test_what_fails_because_something_failed_is_not_the_cause() -> None:
    cause = FirstCause()
    first = ValueError("first")

    def reach(here: str) -> None:
        if here == "map":
            raise first

    watched = cause.watch(flow_of(reach))
    for _ in range(2):
        with pytest.raises(BaseException):  # noqa: B017, PT011  # as above
            run_main(watched)
        first = ValueError("second")
    assert str(cause.error) == "first"
