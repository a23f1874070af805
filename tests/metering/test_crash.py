"""A round of `tests.metering.crash`, which has more: `python -m tests.metering.crash --rounds 30`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.metering.crash import broker, check_the_job, run_round


def test_what_a_flush_covered_arrives_though_its_process_is_killed(tmp_path: Path) -> None:
    with broker(is_real=False) as kafka:
        outcome = run_round(kafka, tmp_path, seed=1, kills=1)
    assert len(outcome.arrived) >= outcome.flushed > 0


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 8))
def test_it_arrives_and_the_job_prices_it_once(tmp_path: Path, seed: int) -> None:
    with broker(is_real=False) as kafka:
        outcome = run_round(kafka, tmp_path, seed, kills=5)
        check_the_job(tmp_path, outcome)
    assert outcome.flushed
