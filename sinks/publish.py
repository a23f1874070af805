"""Deferred publishing: rows reach ClickHouse once, whatever dies when.

Theory of operation. Within an epoch rows are written to files under `staged/`, a block a table, each with a
token that is never used again. At the epoch's snapshot the blocks are ended, and the snapshot names them as
pending. When the next epoch begins, and the one that staged them is thus durable on every worker, they are
handed to a thread, which inserts block after block with its token, in order, while the job goes on; each
snapshot names all that do not stand yet. On resume whatever is pending is inserted again where it does not
stand: whenever an insert is repeated, on resume or after an error, its rows are looked for, before and after,
because a token alone does not tell (`sinks.standing`).

Delivery, exactly once in effect. A crash before the snapshot that names a block is durable: the epoch
is replayed and staged anew under other tokens, the old files are orphans. A crash after it and before,
during or after the insert, of the job or of ClickHouse: the same file is looked for on resume, and inserted
with the same token where it is missing. Nothing is sent from `close`, which also runs when the epoch will
be thrown away.

Bounds: the caller says at each snapshot how many epochs' blocks may still be on their way; `BLOCK_ROWS_MAX`
rows a block, so that an insert is one block of ClickHouse; `RETRY_SECONDS_MAX` of retries for an insert that
fails for a passing reason, `REFUSALS_MAX` attempts for one that waiting does not mend. Then the job stops
with everything staged.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias

import polars as pl
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from sinks.clickhouse import ClickHouseUnavailableError, first_line
from sinks.stage import BlockStage, OpenBlock, StagedBlock, arrow_stream
from sinks.standing import missing_rows

BLOCK_ROWS_MAX = 500_000
RETRY_SECONDS_MAX = 300
REFUSALS_MAX = 4
"""A few attempts all the same: a request may be cut on its way, a table be away while it is exchanged."""
_RETRY_PAUSE_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)

REFUSALS = frozenset(
    {
        *(6, 26, 27, 33, 117),  # the bytes are no Arrow stream, or hold values that no column takes
        *(10, 16, 20, 44, 47, 50, 53, 70, 349, 469),  # the table's columns are not those of the block
        *(60, 81, 218),  # there is no such table or database, or it was dropped
        *(62, 73, 115, 452),  # the statement, its format or a setting is not known or not allowed
        *(192, 193, 194, 291, 497, 516),  # the login or its rights
    }
)
"""Codes of ClickHouse for what waiting does not mend. Any other error passes, as far as we know: a network
that is down, too many queries or parts, no memory, a full disk, a table that is read-only."""

INSERT_SETTINGS: dict[str, Any] = {
    "async_insert": 0,
    # One block in, one block stored: a token stands for exactly these rows.
    "max_insert_block_size": 2 * BLOCK_ROWS_MAX,
    "min_insert_block_size_rows": 2 * BLOCK_ROWS_MAX,
    "min_insert_block_size_bytes": 0,
    # Rows of one identity are merged later, and FINAL hides them until then; to look for them in each block
    # would take more than half of an insert's time.
    "optimize_on_insert": 0,
    # History may span any number of days.
    "max_partitions_per_insert_block": 0,
}

_log = logging.getLogger(__name__)


class RefusedInsertError(Exception):
    """ClickHouse refuses a block for a reason that does not pass by itself. The message names the file."""


class PublishObserver(Protocol):
    """Who counts what is published."""

    def published(self, rows: int, seconds: float) -> None:
        """A block stands, `seconds` after it was first sent."""

    def retried(self) -> None:
        """An insert failed and is tried again."""


class Unobserved:
    """Counts nothing."""

    def published(self, rows: int, seconds: float) -> None:
        """Nothing."""

    def retried(self) -> None:
        """Nothing."""


Send: TypeAlias = Callable[[Client, StagedBlock, bytes], None]
"""One attempt at an insert. Raises ClickHouseError or OSError."""


def send(client: Client, block: StagedBlock, data: bytes) -> None:
    """Insert a block that was never sent before."""
    _insert(client, block.table, data, block.token)


def send_again(client: Client, block: StagedBlock, data: bytes) -> None:
    """Insert of a block that may stand, wholly, in part, or in name only, what does not stand."""
    missing = missing_rows(client, block.table, pl.read_ipc_stream(data))
    if not len(missing):
        return
    # Under its own token first: an earlier attempt may still be on its way.
    _insert(client, block.table, arrow_stream(missing), block.token)
    lost = missing_rows(client, block.table, missing)
    if len(lost):
        _log.warning(
            "ClickHouse knew a block whose rows it had lost; they are inserted again",
            extra={"table": block.table, "rows": len(lost)},
        )
        _insert(client, block.table, arrow_stream(lost), f"{block.token}/{uuid.uuid4().hex}")


def _insert(client: Client, table: str, data: bytes | pa.Buffer, token: str) -> None:
    client.raw_insert(
        table,
        # The driver by itself sends bytes again when the connection is cut, and may take a token without rows
        # for a success. It does not do so with a view of them.
        insert_block=memoryview(data),  # type: ignore[arg-type]  # it takes any buffer
        fmt="ArrowStream",
        settings={**INSERT_SETTINGS, "insert_deduplication_token": token},
    )


def insert_block(
    client: Client,
    block: StagedBlock,
    data: bytes,
    first: Send,
    sleep: Callable[[float], None],
    observer: PublishObserver,
) -> None:
    """Insert one block under its token, again and again while ClickHouse is away; `first` is how it begins.

    Raises:
        ClickHouseUnavailableError: it still fails after `RETRY_SECONDS_MAX`. The block stays staged.
        RefusedInsertError: ClickHouse has refused it `REFUSALS_MAX` times. The block stays staged.
    """
    started = time.monotonic()
    attempt = refusals = 0
    while True:
        try:
            (send_again if attempt else first)(client, block, data)
        except (ClickHouseError, OSError) as exc:
            refusals += getattr(exc, "code", None) in REFUSALS
            if refusals >= REFUSALS_MAX:
                raise RefusedInsertError(
                    f"ClickHouse refuses {block.rows} rows for {block.table} (staged/{block.file}), or to "
                    "say whether they stand; they stay staged, and the next run publishes them once this is "
                    f"mended: {first_line(exc)}"
                ) from exc
            if time.monotonic() - started > RETRY_SECONDS_MAX:
                raise ClickHouseUnavailableError(
                    f"ClickHouse did not confirm {block.rows} rows for {block.table} within "
                    f"{RETRY_SECONDS_MAX} seconds; they stay staged, and the next run publishes them. "
                    f"The last error was: {first_line(exc)}"
                ) from exc
            observer.retried()
            pause = _RETRY_PAUSE_SECONDS[min(attempt, len(_RETRY_PAUSE_SECONDS) - 1)]
            attempt += 1
            _log.warning(
                "an insert failed and is tried again",
                extra={
                    "table": block.table,
                    "rows": block.rows,
                    "attempt": attempt,
                    "error": first_line(exc),
                },
            )
            sleep(pause)
        else:
            observer.published(block.rows, time.monotonic() - started)
            return


@dataclass(frozen=True, slots=True)
class PublisherState:
    """What a snapshot keeps of a sink partition: blocks that may not stand yet, and its own small memory."""

    pending: tuple[StagedBlock, ...]
    memory: Mapping[str, Any]

    def to_json(self) -> str:
        """Immutable text for the snapshot."""
        return json.dumps({"pending": [asdict(block) for block in self.pending], "memory": dict(self.memory)})

    @classmethod
    def from_json(cls, text: str) -> PublisherState:
        """Inverse of `to_json`."""
        content = json.loads(text)
        return cls(tuple(StagedBlock(**block) for block in content["pending"]), content["memory"])


class _Inserting:
    """A thread that inserts the blocks of one epoch after the other; there is none while nothing waits.

    After an error it inserts nothing more: rows of a later epoch must not stand before those of it.
    """

    def __init__(self, publish: Callable[[tuple[StagedBlock, ...]], None]) -> None:
        self._publish = publish
        self._turn = threading.Condition()
        self._epochs: deque[tuple[StagedBlock, ...]] = deque()
        self._landed: list[StagedBlock] = []
        self._error: BaseException | None = None
        self._running = False

    def send(self, blocks: tuple[StagedBlock, ...]) -> None:
        """The blocks of an epoch, behind those of the epochs before."""
        with self._turn:
            self._epochs.append(blocks)
            if not self._running and self._error is None:
                self._running = True
                threading.Thread(target=self._run, name="insert", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._turn:
                if not self._epochs:
                    self._running = False
                    return
                blocks = self._epochs[0]
            try:
                self._publish(blocks)
            except BaseException as exc:  # noqa: BLE001  # raised again where the job waits
                with self._turn:
                    self._error, self._running = exc, False
                    self._turn.notify()
                return
            with self._turn:
                self._landed += self._epochs.popleft() if self._epochs else ()
                self._turn.notify()

    def landed(self, behind_max: int) -> tuple[StagedBlock, ...]:
        """The blocks that stand in ClickHouse since the last call, once no more epochs are left than this.

        Raises:
            ClickHouseUnavailableError, RefusedInsertError, DamagedBlockError: as `insert_block` and
                `BlockStage.read`, which also bound the wait.
        """
        with self._turn:
            self._turn.wait_for(lambda: self._error is not None or len(self._epochs) <= behind_max)
            if self._error is not None:
                raise self._error
            landed, self._landed = self._landed, []
            return tuple(landed)

    def on_their_way(self) -> tuple[StagedBlock, ...]:
        """The blocks that do not stand yet."""
        with self._turn:
            return tuple(block for blocks in self._epochs for block in blocks)

    def stop(self) -> None:
        """Begin no further epoch."""
        with self._turn:
            self._epochs.clear()


class Publisher:
    """The deferred-publish protocol of one sink partition.

    In each epoch: `publish_durable` when it begins, `collect` rows, `turn_epoch` at its snapshot.
    """

    def __init__(
        self,
        client: Client,
        stage: BlockStage,
        sleep: Callable[[float], None] = time.sleep,
        observer: PublishObserver | None = None,
    ) -> None:
        self._client = client
        self._stage = stage
        self._sleep = sleep
        self._observer = observer or Unobserved()
        self._open: dict[str, OpenBlock] = {}
        self._full: dict[str, list[StagedBlock]] = {}
        self._staged: tuple[StagedBlock, ...] = ()
        self._inserting = _Inserting(self._send)

    def resume(self, pending: tuple[StagedBlock, ...]) -> None:
        """Publish what the last durable snapshot of an earlier run named; it may be there already."""
        self._stage.open(pending)
        self._publish(pending, send_again)
        self._stage.discard(pending)

    def publish_durable(self) -> None:
        """The epoch of the last snapshot is durable: what it staged may be published."""
        staged, self._staged = self._staged, ()
        if staged:
            self._inserting.send(staged)

    def collect(self, table: str, frame: pl.DataFrame) -> None:
        """Stage rows of this epoch: they are written, and named by the next snapshot."""
        while len(frame):
            full = self._full.setdefault(table, [])
            block = self._open.get(table) or self._stage.begin(table)
            self._open[table] = block
            part = frame[: BLOCK_ROWS_MAX - block.rows]
            block.append(part)
            frame = frame[len(part) :]
            if block.rows == BLOCK_ROWS_MAX:
                full.append(self._open.pop(table).seal())

    def turn_epoch(self, behind_max: int = 0) -> tuple[StagedBlock, ...]:
        """At the snapshot of an epoch: end its blocks, and let those of earlier ones arrive.

        Args:
            behind_max: so many epochs before this one may have blocks on their way when it returns.

        Returns the blocks that do not stand in ClickHouse yet, oldest first.

        Raises:
            ClickHouseUnavailableError, RefusedInsertError, DamagedBlockError: the blocks of an earlier epoch
                cannot be published.
        """
        self.publish_durable()  # at the latest
        self._stage.collect()
        staged = self._end_blocks()
        if staged:
            self._stage.seal()
        self._stage.discard(self._inserting.landed(behind_max))
        self._staged = staged
        return (*self._inserting.on_their_way(), *staged)

    def _end_blocks(self) -> tuple[StagedBlock, ...]:
        """The blocks since the last snapshot, table after table, as each was begun."""
        blocks: list[StagedBlock] = []
        for table, full in self._full.items():
            blocks += full
            if table in self._open:
                blocks.append(self._open[table].seal())
        self._full, self._open = {}, {}
        return tuple(blocks)

    def close(self) -> None:
        """Begin to publish no further epoch. What was staged since the last snapshot belongs to none.

        An epoch that is being inserted is durable; its blocks may still arrive.
        """
        self._inserting.stop()
        for block in self._open.values():
            block.abandon()

    def _send(self, blocks: tuple[StagedBlock, ...]) -> None:
        self._publish(blocks, send)

    def _publish(self, blocks: tuple[StagedBlock, ...], first: Send) -> None:
        for block in blocks:
            sys.audit("meterline.step", f"insert {block.table}: before")
            insert_block(self._client, block, self._stage.read(block), first, self._sleep, self._observer)
            sys.audit("meterline.step", f"insert {block.table}: accepted")
