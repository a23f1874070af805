"""Machine code that is kept: another process reads it, and whatever is wrong with it stops nobody."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dataflows import compiled
from dataflows.compiled import _digest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import numpy as np
from dataflows.compiled import compiled

def total(values):
    found = 0
    for value in values:
        found += value
    return found

print(compiled(total)(np.arange(5)))
"""


def run(tmp_path: Path) -> tuple[str, str]:
    program = tmp_path / "program.py"
    if not program.exists():
        program.write_text(PROGRAM)
    environment = {
        "NUMBA_CACHE_DIR": str(tmp_path / "kept"),
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), done.stderr


def kept(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]


def _cut(path: Path) -> None:
    path.write_bytes(b"")


def _alter(path: Path) -> None:
    path.write_bytes(b"\0" + path.read_bytes()[1:])


@pytest.mark.parametrize("damage", [_cut, _alter])
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_damaged_code_is_compiled_again(tmp_path: Path, suffix: str, damage: Callable[[Path], None]) -> None:
    assert run(tmp_path) == ("10", "")
    assert {path.suffix for path in kept(tmp_path)} == {".nbi", ".nbc"}
    for path in kept(tmp_path):
        if path.suffix == suffix:
            damage(path)
    answer, said = run(tmp_path)
    assert answer == "10"
    assert "compiled code could not be kept or read" in said


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file where a directory should be")
    assert run(tmp_path) == ("10", "")


def test_the_same_sources_elsewhere_have_a_place_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = _digest()
    shutil.copytree(Path(compiled.__file__).parent, tmp_path / "dataflows")
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "dataflows" / "compiled.py"))
    assert _digest() != here
