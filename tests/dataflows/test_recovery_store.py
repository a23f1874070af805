"""Bytewax's recovery store: a crash leaves a whole one or none, and a damaged one is named before its use."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bytewax.recovery import init_db_dir

from dataflows import recovery_store
from dataflows.recovery_store import PARTS, check_store, make_store
from dataflows.segments import CorruptStateError
from dataflows.state import open_state

NAMES = {f"part-{number}.sqlite3" for number in range(PARTS)}


def test_a_crash_while_the_first_store_is_made_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die_half_way(directory: Path, _: int) -> None:
        (directory / "part-0.sqlite3").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(recovery_store, "init_db_dir", die_half_way)
        with pytest.raises(KeyboardInterrupt):
            open_state(tmp_path, [("topic", 0)], 1)
    state = open_state(tmp_path, [("topic", 0)], 1)
    check_store(state.recovery)
    assert {path.name for path in state.recovery.glob("*.sqlite3")} == NAMES
    assert not (tmp_path / "recovery.new").exists()


def zero_a_page(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(4096) + content[8192:])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda part: part.unlink(), "is missing"),
        (lambda part: part.write_bytes(b""), "is damaged: no such table: parts"),
        (lambda part: part.write_bytes(b"garbage" * 1000), "is damaged: file is not a database"),
        (lambda part: part.write_bytes(part.read_bytes()[:5000]), "is damaged"),
        (zero_a_page, "is damaged"),
        (lambda part: shutil.copy(part.with_name("part-1.sqlite3"), part), "is not the part"),
    ],
)
def test_a_damaged_part_is_named_with_the_way_out(
    tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    make_store(tmp_path / "recovery")
    part = tmp_path / "recovery" / "part-2.sqlite3"
    damage(part)
    with pytest.raises(CorruptStateError) as refused:
        check_store(tmp_path / "recovery")
    said = str(refused.value)
    assert (str(part) in said, told in said, "--rebuild-state" in said) == (True, True, True), said


def test_parts_of_two_stores_are_no_store(tmp_path: Path) -> None:
    make_store(tmp_path / "recovery")
    other = tmp_path / "other"
    other.mkdir()
    init_db_dir(other, PARTS + 1)
    shutil.copy(other / "part-0.sqlite3", tmp_path / "recovery")
    with pytest.raises(CorruptStateError, match="is missing"):
        check_store(tmp_path / "recovery")
    shutil.copy(other / "part-4.sqlite3", tmp_path / "recovery")
    with pytest.raises(CorruptStateError, match="several stores"):
        check_store(tmp_path / "recovery")


def test_a_store_whose_writer_was_killed_is_whole(tmp_path: Path) -> None:
    make_store(tmp_path / "recovery")
    part = tmp_path / "recovery" / "part-0.sqlite3"
    write_and_die = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        " c.execute('INSERT INTO commits (part_index, commit_epoch) VALUES (0, 7)'); c.commit();"
        " os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", write_and_die, str(part)], check=False)
    journal = part.with_name(f"{part.name}-wal")
    assert journal.stat().st_size > 0, "what was written stands in the journal alone"
    check_store(tmp_path / "recovery")
