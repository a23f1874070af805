"""The alert outbox: messages wait here, durable, until every endpoint that should have them does.

One SQLite file, `STATE/outbox.sqlite3`. A *message* has an id, a type and a body; a *delivery* is one
message for one endpoint, and is pending, delivered or given up.

Delivery: at least once, with an id that never changes.
    A crash before `put` returns: the messages may or may not be stored; the job replays their epoch and
    puts them again, and the repetition is ignored by (id, endpoint).
    A crash between `put` and the delivery: they are stored and fsynced, and due at the next start.
    A crash between the receiver's answer and `record_delivered`: they are sent again, with the same id
    and the same body, so that the receiver can drop the repetition.
    A crash after `record_delivered`: they are not sent again while the outbox remembers them, which is
    RETENTION_MS after the delivery; a replay of older events sends the same ids again.

Bounds: at most PENDING_MAX deliveries wait for one endpoint (further ones are given up at once), at most
GIVEN_UP_MAX messages with a delivery given up are kept (the oldest leave with a warning), and messages
that everybody has leave RETENTION_MS after the last delivery, once that has been reported.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sinks.outbox_file import OutboxError, open_outbox_file, outbox_error

__all__ = [
    "GivenUpDelivery",
    "Outbox",
    "OutboxCounts",
    "OutboxError",
    "OutboxMessage",
    "PendingDelivery",
    "Pruned",
]

_log = logging.getLogger(__name__)

RETENTION_MS = 7 * 24 * 3_600_000
"""How long a delivered and reported message is remembered, in milliseconds."""

PENDING_MAX = 100_000
"""Deliveries that may wait for one endpoint: about 100 MB."""

GIVEN_UP_MAX = 100_000
"""Messages kept although some delivery of theirs was given up: about 100 MB."""

STATE_PREFIX = "kafka:"
"""Endpoints with names like this publish state. They are nobody who could have received an alert, so they
do not count for the time at which a message was delivered."""

_PRUNE_STEP = 1_000  # messages for each transaction of a pruning, so that `put` never waits long

# A message counts as delivered when the last of its webhook endpoints has it.
_SETTLE_MESSAGE = """
UPDATE messages SET delivered_at_ms = ?
WHERE seq = ? AND delivered_at_ms IS NULL
  AND EXISTS (SELECT 1 FROM deliveries WHERE message_seq = seq AND webhook = 1)
  AND NOT EXISTS (SELECT 1 FROM deliveries WHERE message_seq = seq AND webhook = 1 AND state <> 'delivered')
"""

_PRUNE_DELIVERED = """
DELETE FROM messages
WHERE seq >= ? AND seq < ?
  AND (recorded = 1 OR NOT EXISTS (SELECT 1 FROM deliveries WHERE message_seq = seq AND webhook = 1))
  AND NOT EXISTS (
    SELECT 1 FROM deliveries WHERE message_seq = seq AND (state <> 'delivered' OR settled_at_ms > ?))
"""

_EVICT_GIVEN_UP = """
DELETE FROM messages
WHERE seq >= ? AND seq < ? AND seq < ?
  AND EXISTS (SELECT 1 FROM deliveries WHERE message_seq = seq AND state = 'given_up')
  AND NOT EXISTS (SELECT 1 FROM deliveries WHERE message_seq = seq AND state = 'pending')
"""

_OLDEST_KEPT_GIVEN_UP = """
SELECT DISTINCT message_seq FROM deliveries WHERE state = 'given_up'
ORDER BY message_seq DESC LIMIT 1 OFFSET ?
"""


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """What an endpoint is to receive. `id` is deterministic; `timestamp_ms` is epoch ms UTC, event time."""

    id: str
    type: str
    timestamp_ms: int
    body: bytes


@dataclass(frozen=True, slots=True)
class PendingDelivery:
    """One message that is due at one endpoint, after `attempts` attempts in vain."""

    message: OutboxMessage
    endpoint: str
    attempts: int


@dataclass(frozen=True, slots=True)
class GivenUpDelivery:
    """One delivery that is not tried any more, since `at_ms` (epoch ms UTC) and for what `reason`."""

    message_id: str
    endpoint: str
    attempts: int
    at_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """Deliveries in the outbox now, by state, and endpoints that asked to be left alone."""

    pending: int
    delivered: int
    given_up: int
    disabled_endpoints: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """Messages that `prune` removed: those that everybody has, and the oldest of those given up."""

    delivered: int
    given_up: int


class Outbox:
    """The outbox in one open file. Any thread may call any method; one lock keeps them apart.

    No method waits for an endpoint: the lock is held for one short transaction at a time. Every method
    raises OutboxError when the file cannot be read or written (damaged, disk full, closed).
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Outbox:
        """Open the outbox at `path`, or create it; its directory must exist.

        Raises:
            OutboxError: the file is damaged, is no outbox, or was written by a newer Meterline.
        """
        file = Path(path)
        return cls(file, open_outbox_file(file))

    def close(self) -> None:
        """Let go of the file. Closing twice is harmless."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise outbox_error(self._path, error) from error

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise outbox_error(self._path, error) from error

    def put(self, messages: Sequence[OutboxMessage], endpoint_names: Collection[str]) -> None:
        """Store what every endpoint named is to receive; fsynced when this returns.

        Idempotent by (message id, endpoint); the first body of an id stays. What an endpoint that is
        disabled, or already has PENDING_MAX deliveries waiting, would receive is given up at once, so that
        it is listed and can be sent again.
        """
        if not messages or not endpoint_names:
            return
        with self._transaction() as connection:
            seqs = [_store(connection, message) for message in messages]
            for endpoint in dict.fromkeys(endpoint_names):
                _address(connection, endpoint, list(zip(seqs, messages, strict=True)))

    def due(self, endpoint: str, now_ms: int, limit: int) -> list[PendingDelivery]:
        """At most `limit` deliveries that `endpoint` is due now, the longest due first, then as put."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT m.id, m.type, m.timestamp_ms, m.body, d.attempts FROM deliveries d"
                " JOIN messages m ON m.seq = d.message_seq"
                " WHERE d.state = 'pending' AND d.endpoint = ? AND d.next_attempt_ms <= ?"
                " ORDER BY d.next_attempt_ms, d.message_seq LIMIT ?",
                (endpoint, now_ms, limit),
            ).fetchall()
        return [PendingDelivery(OutboxMessage(*row[:4]), endpoint, row[4]) for row in rows]

    def record_delivered(self, message_id: str, endpoint: str, at_ms: int) -> None:
        """The endpoint has the message since `at_ms`. Recording it again changes nothing."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE deliveries SET state = 'delivered', attempts = attempts + 1, settled_at_ms = ?,"
                " reason = '' WHERE message_seq = (SELECT seq FROM messages WHERE id = ?) AND endpoint = ?"
                " AND state <> 'delivered'",
                (at_ms, message_id, endpoint),
            )
            row = connection.execute("SELECT seq FROM messages WHERE id = ?", (message_id,)).fetchone()
            if row is not None:
                connection.execute(_SETTLE_MESSAGE, (at_ms, row[0]))

    def record_failed(
        self, message_id: str, endpoint: str, at_ms: int, next_attempt_ms: int | None, reason: str
    ) -> None:
        """An attempt at `at_ms` was in vain; the next is at `next_attempt_ms`, or None gives up."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE deliveries SET attempts = attempts + 1, reason = ?, next_attempt_ms = coalesce(?, 0),"
                " state = CASE WHEN ? IS NULL THEN 'given_up' ELSE 'pending' END,"
                " settled_at_ms = CASE WHEN ? IS NULL THEN ? END"
                " WHERE message_seq = (SELECT seq FROM messages WHERE id = ?) AND endpoint = ?"
                " AND state = 'pending'",
                (
                    reason, next_attempt_ms, next_attempt_ms, next_attempt_ms, at_ms, message_id, endpoint,
                ),
            )  # fmt: skip

    def disable_endpoint(self, endpoint: str, at_ms: int, reason: str) -> None:
        """The endpoint wants nothing any more, until `enable_endpoint`.

        All that waits for it is given up, and so is what is put for it meanwhile.
        """
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO disabled_endpoints (endpoint, at_ms, reason) VALUES (?, ?, ?)",
                (endpoint, at_ms, reason),
            )
            _give_up_all(connection, endpoint, at_ms, reason)

    def enable_endpoint(self, endpoint: str) -> None:
        """Take the mark off again; `retry_given_up` then sends what was given up meanwhile."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM disabled_endpoints WHERE endpoint = ?", (endpoint,))

    def disabled_endpoints(self) -> dict[str, str]:
        """The endpoints that asked to be left alone, and why."""
        with self._reading() as connection:
            return dict(connection.execute("SELECT endpoint, reason FROM disabled_endpoints ORDER BY 1"))

    def retire_unconfigured(self, configured: Collection[str], at_ms: int) -> int:
        """Give up what waits for endpoints that are no longer configured; how many deliveries that were."""
        with self._transaction() as connection:
            waiting = connection.execute("SELECT DISTINCT endpoint FROM deliveries WHERE state = 'pending'")
            gone = [row[0] for row in waiting.fetchall() if row[0] not in configured]
            return sum(
                _give_up_all(connection, endpoint, at_ms, "the endpoint is no longer configured")
                for endpoint in gone
            )

    def given_up(self, limit: int) -> list[GivenUpDelivery]:
        """At most `limit` deliveries that are not tried any more, the latest first."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT m.id, d.endpoint, d.attempts, d.settled_at_ms, d.reason FROM deliveries d"
                " JOIN messages m ON m.seq = d.message_seq WHERE d.state = 'given_up'"
                " ORDER BY d.message_seq DESC, d.endpoint LIMIT ?",
                (limit,),
            ).fetchall()
        return [GivenUpDelivery(*row) for row in rows]

    def retry_given_up(self) -> int:
        """Send again, from the first attempt on, all that was given up; how many deliveries that are.

        Deliveries to disabled endpoints stay given up until `enable_endpoint`.
        """
        with self._transaction() as connection:
            return connection.execute(
                "UPDATE deliveries SET state = 'pending', attempts = 0, next_attempt_ms = 0,"
                " settled_at_ms = NULL WHERE state = 'given_up'"
                " AND endpoint NOT IN (SELECT endpoint FROM disabled_endpoints)"
            ).rowcount

    def unrecorded_deliveries(self, limit: int) -> list[tuple[str, int]]:
        """At most `limit` pairs (message id, delivered at, epoch ms) that `mark_recorded` has not had yet.

        A message is listed when every webhook endpoint that it was put for has it; the time is that of
        the last of them. The same pair comes back until it is marked, so recording it has to be idempotent.
        """
        with self._reading() as connection:
            return connection.execute(
                "SELECT id, delivered_at_ms FROM messages WHERE delivered_at_ms IS NOT NULL AND recorded = 0"
                " ORDER BY seq LIMIT ?",
                (limit,),
            ).fetchall()

    def mark_recorded(self, message_ids: Collection[str]) -> None:
        """The deliveries of these messages have been reported; `unrecorded_deliveries` is done with them."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE messages SET recorded = 1 WHERE id = ? AND delivered_at_ms IS NOT NULL",
                [(message_id,) for message_id in message_ids],
            )

    def counts(self) -> OutboxCounts:
        """What is in the outbox now. It reads every delivery: ask at the pace of metrics, not of events."""
        with self._reading() as connection:
            states = dict(connection.execute("SELECT state, count(*) FROM deliveries GROUP BY state"))
            disabled = connection.execute("SELECT count(*) FROM disabled_endpoints").fetchone()[0]
        return OutboxCounts(
            states.get("pending", 0), states.get("delivered", 0), states.get("given_up", 0), disabled
        )

    def prune(self, now_ms: int) -> Pruned:
        """Forget what the bounds at the top of this module do not keep."""
        with self._reading() as connection:
            first, last = connection.execute(
                "SELECT coalesce(min(seq), 0), coalesce(max(seq), -1) FROM messages"
            ).fetchone()
            kept = connection.execute(_OLDEST_KEPT_GIVEN_UP, (GIVEN_UP_MAX - 1,)).fetchone()
        oldest_kept = kept[0] if kept else 0
        delivered = given_up = 0
        for start in range(first, last + 1, _PRUNE_STEP):
            step = (start, start + _PRUNE_STEP)
            with self._transaction() as connection:
                delivered += connection.execute(_PRUNE_DELIVERED, (*step, now_ms - RETENTION_MS)).rowcount
                given_up += connection.execute(_EVICT_GIVEN_UP, (*step, oldest_kept)).rowcount
        if given_up:
            _log.warning(
                "The outbox kept %d messages with deliveries given up and let go of the %d oldest: "
                "they were never delivered everywhere and cannot be sent again.",
                GIVEN_UP_MAX,
                given_up,
            )
        return Pruned(delivered, given_up)


def _store(connection: sqlite3.Connection, message: OutboxMessage) -> int:
    connection.execute(
        "INSERT OR IGNORE INTO messages (id, type, timestamp_ms, body) VALUES (?, ?, ?, ?)",
        (message.id, message.type, message.timestamp_ms, message.body),
    )
    row = connection.execute("SELECT seq FROM messages WHERE id = ?", (message.id,)).fetchone()
    return int(row[0])


def _address(
    connection: sqlite3.Connection, endpoint: str, messages: Sequence[tuple[int, OutboxMessage]]
) -> None:
    disabled = connection.execute(
        "SELECT reason FROM disabled_endpoints WHERE endpoint = ?", (endpoint,)
    ).fetchone()
    room = PENDING_MAX - _pending(connection, endpoint)
    for seq, message in messages:
        refusal = disabled[0] if disabled else "" if room > 0 else f"{PENDING_MAX} messages already waited"
        room -= connection.execute(
            "INSERT OR IGNORE INTO deliveries (message_seq, endpoint, webhook, state, settled_at_ms, reason)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                seq,
                endpoint,
                not endpoint.startswith(STATE_PREFIX),
                "given_up" if refusal else "pending",
                message.timestamp_ms if refusal else None,
                refusal,
            ),
        ).rowcount


def _pending(connection: sqlite3.Connection, endpoint: str) -> int:
    row = connection.execute(
        "SELECT count(*) FROM deliveries WHERE state = 'pending' AND endpoint = ?", (endpoint,)
    ).fetchone()
    return int(row[0])


def _give_up_all(connection: sqlite3.Connection, endpoint: str, at_ms: int, reason: str) -> int:
    return connection.execute(
        "UPDATE deliveries SET state = 'given_up', settled_at_ms = ?, reason = ?"
        " WHERE state = 'pending' AND endpoint = ?",
        (at_ms, reason, endpoint),
    ).rowcount
