"""ClickHouse over HTTP that refuses, dawdles, drops connections, is read-only, is full, or is killed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from sinks.clickhouse import connect, parse_address
from sinks.migrate import migrate
from sinks.publish import send
from sinks.rows import delivery_rows
from sinks.stage import BlockStage
from tests.clickhouse_process import ClickHouseProcess, running_clickhouse
from tests.integration.running import JOB_SECONDS, assert_agrees, published, until
from tests.integration.test_supervision import expected_of, place_with_traffic, source_of
from tests.misbehaving_proxy import FAULTS, MisbehavingProxy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseProcess]:
    with running_clickhouse(tmp_path_factory.mktemp("served") / "ch") as process:
        yield process


@pytest.mark.parametrize(
    "faults", [FAULTS, *(pytest.param((fault,), marks=pytest.mark.long) for fault in FAULTS)], ids=" or ".join
)
def test_inserts_that_meet_a_fault_stand_once(
    tmp_path: Path, server: ClickHouseProcess, faults: tuple[str, ...]
) -> None:
    seed = 800 + len(faults) + FAULTS.index(faults[-1])
    direct = place_with_traffic(tmp_path, server, seed, events=2_000)
    migrate(connect(parse_address(direct.clickhouse)))  # the proxy meets the job's own inserts only
    proxy = MisbehavingProxy(server.port, chance=0.5, seed=seed, faults=faults)
    through = replace(direct, served=direct.served.replace(str(server.port), str(proxy.port)))
    code, stderr = through.run(source_of(direct), "--workers", "2")
    proxy.close()
    assert code == 0, stderr
    assert len(proxy.happened) >= min(3, len(faults)), "the test has shown nothing"
    assert_agrees(direct, expected_of(direct))


def test_the_driver_repeats_no_insert_by_itself(server: ClickHouseProcess, tmp_path: Path) -> None:
    proxy = MisbehavingProxy(server.port, chance=1.0, seed=1, faults=("dropped after",))
    direct = connect(parse_address(f"clickhouse://127.0.0.1:{server.port}/repeats"))
    migrate(direct)
    stage = BlockStage(tmp_path, "sink-00")
    opened = stage.begin("cap_alert_deliveries")
    opened.append(delivery_rows([("a", 0)]))
    block = opened.seal()
    client = connect(parse_address(f"clickhouse://127.0.0.1:{proxy.port}/repeats"))
    with pytest.raises(ClickHouseError):
        send(client, block, stage.read(block))
    proxy.close()
    assert proxy.happened == {"dropped after": 1}
    assert direct.query("SELECT count() FROM cap_alert_deliveries").result_rows == [(1,)]


@pytest.mark.long
def test_clickhouse_killed_and_started_again_under_a_running_job(tmp_path: Path) -> None:
    with running_clickhouse(tmp_path / "ch") as server:
        place = place_with_traffic(tmp_path / "job", server, 830, events=30_000)
        child = place.start(source_of(place), "--workers", "2")
        until(lambda: published(place) > 0, "something is published")
        chance = random.Random(830)
        for _ in range(2):
            server.kill()
            time.sleep(chance.uniform(0.0, 1.0))
            server.start()
            time.sleep(chance.uniform(0.2, 0.6))
        _, stderr = child.communicate(timeout=JOB_SECONDS)
        assert child.returncode == 0, stderr.decode()
        assert_agrees(place, expected_of(place))


def test_a_fault_in_a_migration_is_one_sentence(tmp_path: Path, server: ClickHouseProcess) -> None:
    direct = place_with_traffic(tmp_path, server, 820, events=1_000)
    proxy = MisbehavingProxy(server.port, chance=1.0, seed=1, faults=("read-only",))
    code, stderr = replace(direct, served=direct.served.replace(str(server.port), str(proxy.port))).run(
        source_of(direct)
    )
    proxy.close()
    assert (code, "Traceback" in stderr, "Cannot execute query in readonly mode" in stderr) == (
        1,
        False,
        True,
    )


def test_clickhouse_that_is_not_there_at_the_start_is_one_sentence(tmp_path: Path) -> None:
    with running_clickhouse(tmp_path / "ch") as server:
        place = place_with_traffic(tmp_path / "job", server, 840, events=1_000)
    for workers in ("1", "2"):
        code, stderr = place.run(source_of(place), "--workers", workers)
        assert (code, "Traceback" in stderr) == (1, False)
        assert f"nothing answers as ClickHouse at 127.0.0.1:{server.port}" in stderr
