"""The make targets: each is described and rightly named; `make venv` finds a Python that runs, or says so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


def test_every_target_is_phony_and_says_what_it_does() -> None:
    phony = set(" ".join(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)).split())
    described = set(re.findall(r"^([a-z][a-z-]*):.*## \S", MAKEFILE, re.MULTILINE))
    assert targets() == phony == described


def test_make_alone_lists_the_targets() -> None:
    # Without what an outer make hands down: under `make test` this one would announce its directory.
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make"], cwd=ROOT, env=alone, capture_output=True, text=True, check=True)
    assert {line.split()[0] for line in done.stdout.splitlines()} == targets()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_target_that_a_page_names_exists(page: str) -> None:
    if not (ROOT / page).exists():
        pytest.skip(f"this checkout has no {page}")
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^\s*(?:\$ )?)make ([a-z][a-z-]*)", text, re.MULTILINE))
    assert named
    assert named <= targets()


def house_with(tmp_path: Path, programs: dict[str, str]) -> Path:
    """A house whose PATH holds what make's recipes use, and these shell scripts, and nothing else."""
    house = tmp_path / "house"
    bin_directory = tmp_path / "bin"
    house.mkdir()
    bin_directory.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, house / name)
    for tool in ("make", "sh", "rm", "touch", "mkdir", "cp", "cat", "chmod"):
        found = shutil.which(tool)
        assert found is not None
        (bin_directory / tool).symlink_to(found)
    for name, script in programs.items():
        program = bin_directory / name
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
    return house


def make_venv(house: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "venv", *variables],
        cwd=house,
        env={"PATH": str(house.parent / "bin"), "HOME": str(house)},
        capture_output=True,
        text=True,
        check=False,
    )


# A python that answers the version question with yes, and whose venv's python notes what pip was asked for.
GOOD_PYTHON = """
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
  "-m pip") shift 2; echo "$@" > pip-was-asked-for;;
esac"""
UNUSABLE_PYTHON = "exit 1"
SHIM_WITHOUT_A_PYTHON = "echo 'pyenv: python: command not found' >&2; exit 127"
UV = """
mkdir -p .venv/bin
cp "$(dirname "$0")/good-python" .venv/bin/python
echo "$@" > uv-was-asked-for"""


def test_venv_takes_the_first_python_that_runs_and_installs_once(tmp_path: Path) -> None:
    house = house_with(
        tmp_path, {"python3.12": SHIM_WITHOUT_A_PYTHON, "python3.11": GOOD_PYTHON, "python3": UNUSABLE_PYTHON}
    )
    first = make_venv(house)
    assert first.returncode == 0, first.stderr
    assert "python3.11" in first.stdout
    asked = (house / "pip-was-asked-for").read_text(encoding="utf-8")
    assert ".[pipeline,embedded,dev]" in asked
    assert "-c constraints.txt" in asked
    (house / "pip-was-asked-for").unlink()
    assert make_venv(house).returncode == 0
    assert not (house / "pip-was-asked-for").exists()


def test_venv_installs_again_when_the_versions_change(tmp_path: Path) -> None:
    house = house_with(tmp_path, {"python3.12": GOOD_PYTHON})
    assert make_venv(house).returncode == 0
    (house / "pip-was-asked-for").unlink()
    later = (house / "constraints.txt").stat().st_mtime + 3600
    os.utime(house / "constraints.txt", (later, later))
    assert make_venv(house).returncode == 0
    assert (house / "pip-was-asked-for").exists()


def test_venv_takes_uv_where_no_python_fits(tmp_path: Path) -> None:
    house = house_with(
        tmp_path,
        {"python3": UNUSABLE_PYTHON, "uv": UV, "good-python": GOOD_PYTHON, "dirname": 'echo "${1%/*}"'},
    )
    done = make_venv(house)
    assert done.returncode == 0, done.stderr
    assert "--python 3.12" in (house / "uv-was-asked-for").read_text(encoding="utf-8")
    assert (house / "pip-was-asked-for").exists()


@pytest.mark.parametrize(
    ("programs", "variables", "sentence"),
    [
        ({"python3": UNUSABLE_PYTHON}, [], "none of them was found: install one of them, or uv."),
        ({"python3": GOOD_PYTHON}, ["PYTHON=false"], "PYTHON=false is none of them"),
    ],
)
def test_venv_says_in_a_sentence_which_python_it_needs(
    tmp_path: Path, programs: dict[str, str], variables: list[str], sentence: str
) -> None:
    house = house_with(tmp_path, programs)
    done = make_venv(house, *variables)
    assert done.returncode != 0
    assert "Meterline needs Python 3.10, 3.11 or 3.12" in done.stderr
    assert sentence in done.stderr
    assert not (house / ".venv").exists()
