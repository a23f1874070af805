"""The rules that exactly-once rests on, each broken on purpose: the crash trials must notice every one.

Each function breaks one rule in this process, for good: call it in a fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

from dataflows import operators, segments
from dataflows.alerts import wall_clock_ms
from sinks import stage
from sinks.metering_sink import MeteringPartition
from sinks.publish import Publisher
from sinks.stage import BlockStage, OpenBlock, StagedBlock


def publish_at_once() -> None:
    """Insert a block in the epoch that staged it, before that epoch is durable."""

    def turn_epoch(self: Publisher, _behind_max: int = 0) -> tuple[StagedBlock, ...]:
        self._stage.collect()
        staged = self._end_blocks()
        self._send(staged)
        self._stage.discard(staged)
        return ()

    Publisher.turn_epoch = turn_epoch  # type: ignore[method-assign, assignment]


def token_from_epoch_number() -> None:
    """Make an insert's token of its partition, table and the number of the epoch since the start."""
    begin = BlockStage.begin
    epochs: dict[str, int] = {}

    def numbered(self: BlockStage, table: str) -> OpenBlock:
        epochs[table] = epochs.get(table, 0) + 1
        block = begin(self, table)
        seal, token = block.seal, f"{self._owner}/{table}/{epochs[table]}"
        block.seal = lambda: replace(seal(), token=token)  # type: ignore[method-assign]
        return block

    BlockStage.begin = numbered  # type: ignore[method-assign]


def no_fsync() -> None:
    """Trust that what was written is on the disk."""
    trusting = SimpleNamespace(**{**vars(os), "fsync": lambda _: None})
    for module in (segments, stage):
        vars(module)["os"] = trusting


def window_by_wall_clock() -> None:
    """Let keys and windows expire by the clock of the machine instead of the events' own."""

    def close(self: operators.Watermarks) -> int:
        self.closed_ms = wall_clock_ms()
        return self.closed_ms

    def settled_ms(self: operators.Watermarks) -> int:  # noqa: ARG001
        return wall_clock_ms()

    operators.Watermarks.close = close  # type: ignore[method-assign]
    operators.Watermarks.settled_ms = settled_ms  # type: ignore[method-assign]


def flush_in_close() -> None:
    """Publish what is left when a sink is closed, which happens on errors too."""
    close = MeteringPartition.close

    def flushing(self: MeteringPartition) -> None:
        for table in self._rows:
            self._stage(table)
        publisher = self._publisher
        publisher._send(publisher._end_blocks())  # noqa: SLF001  # what it must not do
        close(self)

    MeteringPartition.close = flushing  # type: ignore[method-assign]


def delete_at_once() -> None:
    """Delete a segment file as soon as the manifest no longer names it, not two snapshots later."""
    retire = segments.SegmentLog._retire  # noqa: SLF001  # what deletes late

    def retiring(self: segments.SegmentLog, gone: list[segments.Segment]) -> None:
        retire(self, gone)
        for segment in gone:
            (self._directory / segment.name).unlink(missing_ok=True)

    segments.SegmentLog._retire = retiring  # type: ignore[method-assign, assignment]  # noqa: SLF001  # as above


MUTATIONS: dict[str, Callable[[], None]] = {
    rule.__name__: rule
    for rule in (
        publish_at_once,
        token_from_epoch_number,
        no_fsync,
        window_by_wall_clock,
        flush_in_close,
        delete_at_once,
    )
}
