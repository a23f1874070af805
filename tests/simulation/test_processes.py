"""Two ends of real processes; `python -m tests.simulation.processes --kills 30` has more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clickhouse_process import running_clickhouse
from tests.simulation.processes import run_chain

pytestmark = pytest.mark.slow


def test_killed_while_kafka_goes_on_nothing_is_lost_or_doubled(tmp_path: Path, kafka_bootstrap: str) -> None:
    with running_clickhouse(tmp_path / "ch") as server:
        (tmp_path / "job").mkdir()
        assert run_chain(tmp_path / "job", server, kafka_bootstrap, seed=3, kills=2).total() == 2
