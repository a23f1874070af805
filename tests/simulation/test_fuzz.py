"""Ten thousand random and mutated lines; `python -m tests.simulation.fuzz` has a million."""

from __future__ import annotations

from pathlib import Path

from tests.simulation.fuzz import run_fuzzed


def test_no_line_ends_the_job_or_goes_uncounted(tmp_path: Path) -> None:
    found = run_fuzzed(tmp_path, seed=77, count=10_000)
    assert len({reason for _, reason in found.quarantined}) > 10
    assert len(found.priced) > 1_000
