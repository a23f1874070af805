"""The file of the outbox: what a kill leaves, who may open it, and what is no such file."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sinks import outbox as outbox_module
from sinks.outbox import Outbox, OutboxError
from tests.sinks.outbox_messages import due_ids, message


def test_everything_is_still_there_after_a_kill(path: Path) -> None:
    child = """
import os, signal, sys
from sinks.outbox import Outbox, OutboxMessage
outbox = Outbox.open(sys.argv[1])
outbox.put([OutboxMessage(f"alert_{i}", "t", 0, b"body") for i in range(3)], ["ops"])
outbox.record_delivered("alert_0", "ops", 5)
outbox.record_failed("alert_1", "ops", 6, 7, "HTTP 500")
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(outbox_module.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", child, str(path)], cwd=root, check=False).returncode == -9

    outbox = Outbox.open(path)
    assert due_ids(outbox, "ops", 6) == ["alert_2"]
    assert due_ids(outbox, "ops", 7) == ["alert_2", "alert_1"]
    assert outbox.unrecorded_deliveries(9) == [("alert_0", 5)]
    outbox.close()


def test_every_commit_is_synced(outbox: Outbox) -> None:
    settings_of_file = [
        outbox._connection.execute(f"PRAGMA {name}").fetchone()[0]  # noqa: SLF001 - nothing else shows them
        for name in ("journal_mode", "synchronous")
    ]
    assert settings_of_file == ["wal", 2]


def test_a_second_process_may_open_the_same_file(path: Path, outbox: Outbox) -> None:
    other = Outbox.open(path)
    outbox.put([message("a")], ["ops"])
    other.record_delivered("alert_a", "ops", 5)
    assert outbox.unrecorded_deliveries(9) == [("alert_a", 5)]
    other.close()


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name says" * 100)


def _damage(path: Path) -> None:
    outbox = Outbox.open(path)
    outbox.put([message(str(number), b"x" * 500) for number in range(200)], ["ops"])
    outbox.close()
    content = bytearray(path.read_bytes())
    content[8_192:40_960] = b"\xa5" * (40_960 - 8_192)
    path.write_bytes(content)


def _foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE somebody_elses (column)")
    connection.close()


def _newer(path: Path) -> None:
    Outbox.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def _directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_garbage, "is damaged"),
        (_damage, "is damaged"),
        (_foreign, "is a database of something else"),
        (_newer, "was written by a newer Meterline"),
        (_directory, "cannot be used: unable to open database file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_one_sentence(
    path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(path)

    with pytest.raises(OutboxError, match=sentence) as raised:
        Outbox.open(path)
    assert str(path) in str(raised.value)


def test_a_closed_outbox_says_so(path: Path) -> None:
    outbox = Outbox.open(path)
    outbox.close()
    outbox.close()
    with pytest.raises(OutboxError, match="closed database"):
        outbox.due("ops", 0, 1)
    with pytest.raises(OutboxError, match="closed database"):
        outbox.put([message("a")], ["ops"])
