"""States put into Bytewax's recovery store: a flow with the job's steps that does nothing but hold them.

The store is the engine's own; this way in uses nothing of it but what a flow may do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.recovery import RecoveryConfig
from bytewax.run import cli_main

from dataflows.file_source import FileState

Held = tuple[str, str, str]
"""Step, key within the step, state."""


@dataclass(frozen=True, slots=True)
class States:
    """What each step is to resume with, by the key of the state. At least one input."""

    inputs: Mapping[str, FileState]
    dedupe: Mapping[str, str]
    spend: Mapping[str, str]
    sinks: Mapping[str, str]


def seed(recovery: Path, states: States) -> None:
    """Make the next run of the job on an empty recovery store resume with these states."""
    flow = Dataflow("metering")
    held = op.input("read", flow, _Source(states))
    for step in ("dedupe", "spend"):
        op.stateful_batch(step, op.filter_map(f"of_{step}", held, _Of(step)), _Hold)
    op.output("publish", op.filter_map("of_publish", held, _Of("publish")), _Sink(list(states.sinks)))
    cli_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(str(recovery), timedelta(0)))


@dataclass(frozen=True)
class _Of:
    step: str

    def __call__(self, held: Held) -> tuple[str, str] | None:
        step, key, state = held
        return (key, state) if step == self.step else None


class _Partition(StatefulSourcePartition[Held, FileState]):
    def __init__(self, position: FileState, items: list[Held]) -> None:
        self._position = position
        self._items = items

    def next_batch(self) -> Iterable[Held]:
        if not self._items:
            raise StopIteration
        items, self._items = self._items, []
        return items

    def snapshot(self) -> FileState:
        return self._position


class _Source(FixedPartitionedSource[Held, FileState]):
    def __init__(self, states: States) -> None:
        self._inputs = states.inputs
        numbered = {str(number): state for number, state in enumerate(states.sinks.values())}
        steps = {"dedupe": states.dedupe, "spend": states.spend, "publish": numbered}
        self._items = [(step, key, state) for step, of in steps.items() for key, state in of.items()]

    def list_parts(self) -> list[str]:
        return list(self._inputs)

    def build_part(
        self, step_id: str, for_part: str, resume_state: FileState | None
    ) -> StatefulSourcePartition[Held, FileState]:
        first = next(iter(self._inputs))
        return _Partition(self._inputs[for_part], self._items if for_part == first else [])


class _Hold(StatefulBatchLogic[str, str, str]):
    def __init__(self, resumed: str | None) -> None:
        self._state = resumed or ""

    def on_batch(self, values: list[str]) -> tuple[Iterable[str], bool]:
        self._state = values[-1]
        return (), StatefulBatchLogic.RETAIN

    def snapshot(self) -> str:
        return self._state


class _SinkPartition(StatefulSinkPartition[str, str]):
    def __init__(self) -> None:
        self._state = ""

    def write_batch(self, items: list[str]) -> None:
        self._state = items[-1]

    def snapshot(self) -> str:
        return self._state


class _Sink(FixedPartitionedSink[str, str]):
    def __init__(self, names: list[str]) -> None:
        self._names = names

    def list_parts(self) -> list[str]:
        return self._names

    def part_fn(self, item_key: str) -> int:
        return int(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: str | None) -> _SinkPartition:
        return _SinkPartition()
