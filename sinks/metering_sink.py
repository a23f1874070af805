"""The end of the flow: a Bytewax sink whose partitions publish to ClickHouse and fill the alert outbox.

Delivery: rows exactly once in effect, by deferred publishing (see `sinks.publish`). Alerts enter the
outbox once their epoch is durable, while its rows are on their way; a crash after that puts them there
again under the same ids.

Bytewax's sources bring nothing of an epoch before the one before it is durable on every worker, and every
item of this flow comes of what a source brought (no step emits on a timer or at the end of its input). So
the first items after a snapshot say that its epoch is durable, long before the next snapshot would.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import polars as pl
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from clickhouse_connect.driver.client import Client

from pricing.cap import CapAlert
from sinks.publish import Publisher, PublisherState
from sinks.rows import (
    Heartbeat,
    Progress,
    SinkItem,
    TableRows,
    WindowVersion,
    WindowVersions,
    alert_rows,
    delivery_rows,
    progress_rows,
    stamped,
    window_rows,
)
from sinks.stage import BlockStage, StagedBlock

EPOCHS_BEHIND_MAX = 3
"""So many epochs may end before the rows of one must stand in ClickHouse, so that a slow insert does not hold
up the next epoch. An epoch that brings nothing but progress waits for all, and so the last one does."""
STAGED_ROWS_MIN = 16_384
"""Rows are written when so many have come together, and at the end of the epoch: a frame of a few rows costs
as much as one of thousands, and the columns of a whole epoch take hundreds of megabytes."""

_STAMPS = {"priced_events": "ingested_at", "quarantine_log": "received_at", "duplicates": "received_at"}
DELIVERIES = "cap_alert_deliveries"
_DELIVERIES_PER_EPOCH = 1_000

Finish: TypeAlias = Callable[[pl.DataFrame], pl.DataFrame]
"""Makes rows of a table from the job's own columns."""


class AlertPost(Protocol):
    """Where alerts go once they are durable."""

    def post(self, alerts: Sequence[CapAlert]) -> None:
        """Take over alerts; it may be called twice with the same ones."""

    def delivered(self, limit: int) -> list[tuple[str, int]]:
        """Alerts delivered and not yet reported, as (alert id, epoch ms)."""

    def reported(self, alert_ids: Sequence[str]) -> None:
        """These deliveries stand in ClickHouse now."""

    def close(self) -> None:
        """Let go of everything."""


class MeteringPartition(StatefulSinkPartition[SinkItem, str]):
    """One partition. `post` is there on the first one only."""

    def __init__(
        self,
        publisher: Publisher,
        client: Client,
        post: AlertPost | None,
        finish: Mapping[str, Finish],
        generation: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._publisher = publisher
        self._client = client
        self._post = post
        self._finish = finish
        self._generation = generation
        self._now_ms = now_ms
        self._rows: dict[str, list[pl.DataFrame]] = {}
        self._is_idle_epoch = True
        self._windows: dict[tuple[str, str, str, int], WindowVersion] = {}
        self._alerts: list[CapAlert] = []
        self._undelivered: list[CapAlert] = []
        self._reporting: dict[str, list[str]] = {}
        self._is_new_epoch = False
        self._progress: dict[str, list[int]] = {}
        self._moved: dict[str, None] = {}

    def resume(self, state: PublisherState) -> None:
        """Go on from a snapshot: publish what it staged, and hand over the alerts of its epoch."""
        self._publisher.resume(state.pending)
        self._progress = {name: list(counts) for name, counts in state.memory["progress"].items()}
        alerts = [_alert_from_json(entry) for entry in state.memory["alerts"]]
        if alerts and self._post is not None:
            self._post.post(alerts)

    def write_batch(self, items: list[SinkItem]) -> None:
        """Collect and stage; nothing leaves the process before the epoch after this one.

        The first items of an epoch send off what the one before it staged.
        """
        self._begin_epoch()
        for item in items:
            self._is_idle_epoch &= isinstance(item, Progress | Heartbeat)
            match item:
                case TableRows(table, frame):
                    self._hold(table, frame)
                case WindowVersions(versions):
                    for one in versions:
                        key = (one.tenant_id, one.feature_id, one.window_kind, one.window_start_ms)
                        self._windows[key] = one
                case CapAlert():
                    self._alerts.append(item)
                case Progress():
                    self._count(item)
                case Heartbeat():
                    pass

    def snapshot(self) -> str:
        """Stage what is left of this epoch; no more than `EPOCHS_BEHIND_MAX` before it stay unpublished."""
        sys.audit("meterline.step", "sink: before snapshot")
        self._begin_epoch()
        for table in self._rows:
            self._stage(table)
        now_ms = self._now_ms()
        windows = window_rows(self._windows.values(), self._generation, now_ms)
        self._publisher.collect("spend_sums", windows)
        self._publisher.collect("cap_alert_log", alert_rows(self._alerts))
        delivered = self._new_deliveries()
        self._publisher.collect(DELIVERIES, delivery_rows(delivered))
        # Progress is staged last, so that it claims nothing of this partition that is not there yet. With
        # more workers than partitions rows may lie in another: who relies on it counts rows (`rebuild`).
        moved = [_progress_row(name, self._progress[name]) for name in self._moved]
        self._publisher.collect("source_progress", progress_rows(moved, now_ms))
        pending = self._publisher.turn_epoch(0 if self._is_idle_epoch else EPOCHS_BEHIND_MAX)
        self._report(pending, [alert_id for alert_id, _ in delivered])
        memory: dict[str, Any] = {
            "progress": self._progress,
            "alerts": [alert_to_json(alert) for alert in self._alerts],
        }
        self._undelivered, self._alerts = self._alerts, []
        self._rows, self._windows, self._moved = {}, {}, {}
        self._is_idle_epoch = True
        self._is_new_epoch = True
        sys.audit("meterline.step", "sink: after snapshot")
        return PublisherState(pending, memory).to_json()

    def close(self) -> None:
        """Let go of ClickHouse and the outbox. What is staged stays staged: this also runs on errors."""
        if self._post is not None:
            self._post.close()
        self._publisher.close()
        self._client.close()

    def _hold(self, table: str, frame: pl.DataFrame) -> None:
        """Keep rows until there are enough of them to be staged."""
        held = self._rows.setdefault(table, [])
        held.append(frame)
        if sum(map(len, held)) >= STAGED_ROWS_MIN:
            self._stage(table)

    def _stage(self, table: str) -> None:
        held, self._rows[table] = self._rows[table], []
        if held:
            finished = self._finish.get(table, _as_it_is)(pl.concat(held))
            self._publisher.collect(table, stamped(finished, _STAMPS[table], self._now_ms()))

    def _begin_epoch(self) -> None:
        """Once an epoch: send off rows and alerts of the one before, which is durable now."""
        if not self._is_new_epoch:
            return
        self._is_new_epoch = False
        self._publisher.publish_durable()
        if self._undelivered and self._post is not None:
            sys.audit("meterline.step", "alerts: before the outbox")
            self._post.post(self._undelivered)
            sys.audit("meterline.step", "alerts: in the outbox")
        self._undelivered = []

    def _new_deliveries(self) -> list[tuple[str, int]]:
        """Deliveries to report, but for those on their way."""
        found = self._post.delivered(_DELIVERIES_PER_EPOCH) if self._post is not None else []
        known = {alert_id for alert_ids in self._reporting.values() for alert_id in alert_ids}
        return [one for one in found if one[0] not in known]

    def _report(self, pending: Sequence[StagedBlock], delivered: list[str]) -> None:
        """Tell the post which deliveries stand by now; those of this epoch are in its last such block."""
        blocks = [block.file for block in pending if block.table == DELIVERIES]
        if delivered:
            self._reporting[blocks[-1]] = delivered
        for file in self._reporting.keys() - set(blocks):
            alert_ids = self._reporting.pop(file)
            if self._post is not None:
                self._post.reported(alert_ids)

    def _count(self, progress: Progress) -> None:
        name = json.dumps([progress.source, progress.number])
        counts = self._progress.setdefault(name, [0, 0])
        if progress.next_offset > counts[0] or progress.read:
            self._moved[name] = None
        counts[0] = max(counts[0], progress.next_offset)
        counts[1] += progress.read


def _as_it_is(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


def _progress_row(name: str, counts: list[int]) -> tuple[str, int, int, int]:
    source, number = json.loads(name)
    next_offset, events_read = counts
    return source, number, next_offset, events_read


def alert_to_json(alert: CapAlert) -> dict[str, Any]:
    """An alert as a snapshot keeps it."""
    entry = asdict(alert)
    return {key: str(value) if isinstance(value, Decimal) else value for key, value in entry.items()}


def _alert_from_json(entry: dict[str, Any]) -> CapAlert:
    amounts = {name: Decimal(entry[name]) for name in ("cap", "threshold", "spend")}
    return CapAlert(**{**entry, **amounts})


def partition_names(count: int) -> list[str]:
    """What the sink's partitions are called."""
    return [f"sink-{number:02d}" for number in range(count)]


class MeteringSink(FixedPartitionedSink[SinkItem, str]):
    """`partitions` sink partitions, each with a client. Nothing is opened before Bytewax builds one.

    `finish` has, by table, what makes its rows where the items bring the job's own columns; `generation` is
    that of the sums of spend.
    """

    def __init__(
        self,
        partitions: int,
        staged: Path,
        connect: Callable[[], Client],
        new_publisher: Callable[[Client, BlockStage], Publisher],
        open_post: Callable[[], AlertPost],
        finish: Mapping[str, Finish],
        generation: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._partitions = partitions
        self._staged = staged
        self._connect = connect
        self._new_publisher = new_publisher
        self._open_post = open_post
        self._finish = finish
        self._generation = generation
        self._now_ms = now_ms
        self._here: list[int] = []

    def near(self, number: int) -> str:
        """The address of a partition, one of this process if it has any, so that rows need not travel."""
        partitions = self._here or range(self._partitions)
        return str(partitions[number % len(partitions)])

    def list_parts(self) -> list[str]:
        """Names of the partitions; their number may grow, never shrink."""
        return partition_names(self._partitions)

    def part_fn(self, item_key: str) -> int:
        """Items are addressed to a partition by its number."""
        return int(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: str | None) -> MeteringPartition:
        """Connect, and publish what an earlier run left pending."""
        self._here.append(self.list_parts().index(for_part))
        client = self._connect()
        publisher = self._new_publisher(client, BlockStage(self._staged, for_part))
        post = self._open_post() if for_part == "sink-00" else None
        partition = MeteringPartition(publisher, client, post, self._finish, self._generation, self._now_ms)
        state = (
            PublisherState.from_json(resume_state)
            if resume_state
            else PublisherState((), {"progress": {}, "alerts": []})
        )
        partition.resume(state)
        return partition
