"""Bytewax's recovery store: made whole or not at all, and looked at before Bytewax opens it.

Bytewax says of a damaged store only that a part is missing, or that a line of its own source failed.

Delivery: a store is made under another name and renamed once it is whole. A crash before the rename
leaves no store, and the next start makes one.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from bytewax.recovery import init_db_dir

from dataflows.segments import CorruptStateError, fsync_directory

PARTS = 4
_DRAFT = "recovery.new"
_STRICT_TABLES_SINCE = (3, 37)
"""The SQLite that reads the tables of a store. An older one (Python may bring it) cannot look at them."""
_BUSY_SECONDS = 5.0


def has_store(directory: Path) -> bool:
    """Whether anything of a store stands there."""
    return any(directory.glob("part-*"))


def make_store(directory: Path) -> None:
    """Make an empty store.

    Raises:
        CorruptStateError: the directory is there and holds something else.
    """
    draft = directory.with_name(_DRAFT)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    init_db_dir(draft, PARTS)
    fsync_directory(draft)
    try:
        draft.rename(directory)  # an empty directory gives way
    except OSError as exc:
        raise CorruptStateError(f"the recovery store {directory} cannot be made: {exc.strerror}") from None
    fsync_directory(directory.parent)


def check_store(directory: Path) -> None:
    """Read every part of a store once. Call it with the state's lock held and no flow running.

    Two copies of SQLite in one process undo each other's locks, so nothing of it is open afterwards.

    Raises:
        CorruptStateError: a part is missing or cannot be read.
    """
    if sqlite3.sqlite_version_info < _STRICT_TABLES_SINCE:
        return
    paths = sorted(directory.glob("part-*.sqlite3"))
    counts = {_parts_told_by(path) for path in paths}
    wanted = [directory / f"part-{number}.sqlite3" for number in range(max(counts, default=PARTS))]
    missing = [path for path in wanted if path not in paths]
    if missing:
        raise CorruptStateError(f"the state file {missing[0]} is missing")
    if len(counts) > 1 or len(paths) > len(wanted):
        raise CorruptStateError(f"the recovery store {directory} holds parts of several stores")


def _parts_told_by(path: Path) -> int:
    """How many parts the store has, as this one says."""
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)) as connection:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            rows = connection.execute("SELECT part_index, part_count FROM parts").fetchall()
    except sqlite3.Error as exc:
        raise CorruptStateError(f"the state file {path} is damaged: {exc}") from None
    if verdict != "ok":
        raise CorruptStateError(f"the state file {path} is damaged: {' '.join(str(verdict).split())}")
    if len(rows) != 1 or path.name != f"part-{rows[0][0]}.sqlite3":
        raise CorruptStateError(f"the state file {path} is not the part of the store that its name says")
    return int(rows[0][1])
