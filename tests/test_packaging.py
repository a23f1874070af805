"""What a user installs: the SDK alone stays light, and says so where more is asked of it."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PIPELINE_ONLY = (
    "bytewax",
    "click",
    "clickhouse-connect",
    "httpx",
    "numba",
    "numpy",
    "polars",
    "pyarrow",
    "pyyaml",
)

WITHOUT_CLICK = """
import sys
sys.modules["click"] = None
from dataflows.__main__ import main
main()
"""


def test_a_command_without_the_pipeline_is_one_sentence() -> None:
    command = [sys.executable, "-c", WITHOUT_CLICK]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "meterline: the package click is missing; only the SDK is installed here. "
        "The commands need pip install 'meterline[pipeline]'\n"
    )


@pytest.mark.long
def test_the_wheel_installs_without_the_pipeline_and_the_sdk_works(tmp_path: Path) -> None:
    def run(*command: str) -> str:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT))
    [wheel] = tmp_path.glob("meterline-*.whl")
    venv.create(tmp_path / "clean", with_pip=True)
    python = str(tmp_path / "clean" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", str(wheel), "-c", str(ROOT / "constraints.txt"))
    installed = {line.partition("==")[0].lower() for line in run(python, "-m", "pip", "freeze").splitlines()}
    assert installed.isdisjoint(PIPELINE_ONLY)
    assert run(python, "-c", "import metering; print(metering.Meter.__name__)") == "Meter\n"
