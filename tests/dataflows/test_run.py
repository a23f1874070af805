"""What the operator is told when a job fails, and where the engine's own words go."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataflows.cli_options import EXIT_FAILED
from dataflows.cli_run import _leave
from dataflows.file_source import InputError, InputUnavailableError
from dataflows.run import (
    NEW_OBJECTS_MAX,
    JobFailedError,
    JobRefusedError,
    OtherWorkerFailedError,
    _rare_collections,
    explain,
)
from dataflows.state import StateHeldError
from dataflows.supervise import EXIT_REFUSED
from sinks.clickhouse import ClickHouseUnavailableError
from sinks.engine_output import STANDARD_ERROR, STANDARD_OUTPUT, engine_output_to
from tests.integration.running import ROOT

DETAILS = Path("/state/crash-0.log")
ENGINE = RuntimeError("(src/outputs.rs:366:42): error snapshotting StatefulSink\nnoise")


class PanicException(BaseException):  # the engine's own name for it
    """As the engine raises it."""


@pytest.mark.parametrize(
    ("behind", "kind", "sentence"),
    [
        pytest.param(
            OSError("No space left on device (os error 28)"),
            JobFailedError,
            "the job failed: No space left on device (os error 28) (its state is in /state)",
            id="as a library says it",
        ),
        pytest.param(
            OSError(28, "No space left on device", "/state/dedupe/1.segment"),
            JobFailedError,
            "the job failed: No space left on device: /state/dedupe/1.segment (its state is in /state)",
            id="as Python says it",
        ),
        pytest.param(
            StateHeldError("it is held"), JobRefusedError, "it is held", id="a restart mends nothing"
        ),
        pytest.param(
            ClickHouseUnavailableError("it is away"), JobFailedError, "it is away", id="a restart may"
        ),
        pytest.param(
            InputUnavailableError("no broker answers"),
            JobFailedError,
            "no broker answers",
            id="a restart may mend this as well",
        ),
        pytest.param(
            KeyError("k"),
            JobFailedError,
            "the job failed with KeyError: 'k' (details in /state/crash-0.log)",
            id="ours",
        ),
        pytest.param(
            None,
            JobFailedError,
            "the job failed with RuntimeError: (src/outputs.rs:366:42): error snapshotting StatefulSink"
            " (details in /state/crash-0.log)",
            id="the engine's, the first line of it",
        ),
        pytest.param(
            PanicException("index out of range"),
            JobFailedError,
            "the job failed with PanicException: index out of range (details in /state/crash-0.log)",
            id="a panic",
        ),
        pytest.param(
            PanicException("Send thread panic: Any { .. }"),
            OtherWorkerFailedError,
            "this worker ended with the others: one of them failed, or the engine"
            " (details in /state/crash-0.log)",
            id="a panic because another worker is gone",
        ),
    ],
)
def test_the_first_cause_is_what_the_operator_is_told(
    behind: BaseException | None, kind: type[JobFailedError], sentence: str
) -> None:
    error = RuntimeError(*ENGINE.args)
    error.__cause__ = behind
    told = explain(error, DETAILS)
    assert (type(told), str(told)) == (kind, sentence)


class Left(BaseException):
    """Instead of the end of the process."""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("it was cut"), EXIT_REFUSED, "meterline: it was cut\n"),
        (JobRefusedError("damaged"), EXIT_REFUSED, "meterline: damaged\n"),
        (InputUnavailableError("no broker"), EXIT_FAILED, "meterline: no broker\n"),
        (ClickHouseUnavailableError("away"), EXIT_FAILED, "meterline: away\n"),
        (JobFailedError("it failed"), EXIT_FAILED, "meterline: it failed\n"),
        (OtherWorkerFailedError("with the others"), EXIT_FAILED, ""),
    ],
)
def test_a_worker_ends_at_once_with_a_code_that_says_whether_it_is_to_be_started_again(
    error: Exception,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def leave(found: int) -> None:
        raise Left(found)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Left) as left:
        _leave(error)
    assert (left.value.args, capsys.readouterr().err) == ((code,), said)


def test_what_an_engine_writes_is_kept_and_what_we_write_is_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    with engine_output_to(outer, STANDARD_OUTPUT, STANDARD_ERROR):
        os.write(1, b"one ")
        with engine_output_to(inner, STANDARD_ERROR):
            os.write(1, b"two ")
            os.write(2, b"three")
        os.write(2, b"four")
    os.write(1, b"five")
    os.write(2, b"six")
    assert (outer.read_text(), inner.read_text()) == ("one two four", "three")
    assert capfd.readouterr() == ("five", "six")


SIGTERM_DURING_IMPORTS = """
import os, signal, sys
class Sender:
    def find_spec(self, name, path=None, target=None):
        if name == "dataflows.cli":
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Sender())
from dataflows.__main__ import main
main()
"""


@pytest.mark.parametrize(("command", "code"), [("run", 0), ("audit", -15)])
def test_a_run_that_is_ended_before_it_began_has_ended_well(command: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGTERM_DURING_IMPORTS, command], cwd=ROOT, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_python_looks_for_cycles_as_before_once_the_job_has_ended() -> None:
    before = (gc.get_threshold(), gc.get_freeze_count())
    with _rare_collections():
        assert gc.get_threshold()[0] == NEW_OBJECTS_MAX
        assert gc.get_freeze_count() > 0
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
