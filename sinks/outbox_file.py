"""The outbox's SQLite file: its tables, how it is opened, and what its errors are called.

Every commit is fsynced (WAL with synchronous=FULL), and so is the directory once the file exists.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

_BUSY_TIMEOUT_SECONDS = 10.0  # another process may hold the write lock for one short transaction
_APPLICATION_ID = 0x6D657465  # "mete"
_SCHEMA_VERSION = 1

_SCHEMA = f"""
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    body BLOB NOT NULL,
    delivered_at_ms INTEGER,
    recorded INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX messages_unrecorded ON messages (seq) WHERE delivered_at_ms IS NOT NULL AND recorded = 0;
CREATE TABLE deliveries (
    message_seq INTEGER NOT NULL REFERENCES messages (seq) ON DELETE CASCADE,
    endpoint TEXT NOT NULL,
    webhook INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'given_up')),
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt_ms INTEGER NOT NULL DEFAULT 0,
    settled_at_ms INTEGER,
    reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (message_seq, endpoint)
) WITHOUT ROWID;
CREATE INDEX deliveries_pending ON deliveries (endpoint, next_attempt_ms, message_seq)
    WHERE state = 'pending';
CREATE INDEX deliveries_given_up ON deliveries (message_seq) WHERE state = 'given_up';
CREATE TABLE disabled_endpoints (
    endpoint TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    reason TEXT NOT NULL
);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
"""


class OutboxError(Exception):
    """The outbox file cannot be used; the sentence names it and says what to do."""


def open_outbox_file(file: Path) -> sqlite3.Connection:
    """Open or create the file, in autocommit mode and for use by any thread, one at a time.

    Raises:
        OutboxError: the file is damaged, is no outbox, or was written by a newer Meterline.
    """
    try:
        connection = sqlite3.connect(
            file, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise outbox_error(file, error) from error
    try:
        _prepare(connection, file)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise outbox_error(file, error) from error
        raise
    _sync_directory(file.parent)
    return connection


def _prepare(connection: sqlite3.Connection, file: Path) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("BEGIN IMMEDIATE")  # two processes may open a new file at once
    application, version, tables = (
        connection.execute(query).fetchone()[0]
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    if tables == 0:
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
    elif application != _APPLICATION_ID:
        raise OutboxError(f"{file} is a database of something else, not an alert outbox: name another file.")
    elif version > _SCHEMA_VERSION:
        raise OutboxError(f"The alert outbox {file} was written by a newer Meterline: upgrade this one.")
    connection.execute("COMMIT")
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def outbox_error(file: Path, error: sqlite3.Error) -> OutboxError:
    """The same error as one sentence for whoever runs the job."""
    damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, sqlite3.OperationalError | sqlite3.ProgrammingError
    )
    if damaged:
        return OutboxError(
            f"The alert outbox {file} is damaged ({error}): move it away to start with an empty one; "
            "alerts that still waited in it keep an empty delivered_at in cap_alerts."
        )
    return OutboxError(f"The alert outbox {file} cannot be used: {error}.")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
