"""Sums of spend by generation: what prevails, and what came over from the table of before."""

from __future__ import annotations

from decimal import Decimal

import pytest
from clickhouse_connect.driver.client import Client

from pricing.money import PICO
from sinks.clickhouse import connect, parse_address
from sinks.migrate import migrate, migrations
from sinks.rows import WindowVersion, window_rows
from sinks.spend_sums import newest_generation

START_MS = 1_773_705_600_000
GENERATIONS = 7
"""The migration that made them."""


@pytest.fixture
def client(clickhouse_url: str) -> Client:
    return connect(parse_address(clickhouse_url))


@pytest.mark.parametrize(
    ("versions", "spend"),
    [
        pytest.param([(0, 1, 1), (0, 2, 2)], 2, id="more events"),
        pytest.param([(0, 2, 2), (0, 1, 1)], 2, id="a replay does not set back"),
        pytest.param([(0, 9, 9), (1, 2, 2)], 2, id="a rebuilt sum of fewer events"),
        pytest.param([(1, 2, 2), (0, 9, 9)], 2, id="an older generation that comes late"),
        pytest.param([(1, 2, 2), (1, 3, 3)], 3, id="events after a rebuild"),
        pytest.param([(1, 2, 2), (1, 2, 5)], 5, id="of two equal ones the later"),
        pytest.param([(70_000, 1, 1), (0, 1 << 39, 9)], 1, id="large numbers of both"),
    ],
)
def test_which_sum_prevails(client: Client, versions: list[tuple[int, int, int]], spend: int) -> None:
    migrate(client)
    for generation, events, usd in versions:
        one = WindowVersion("t", "", "day", START_MS, START_MS + 86_400_000, usd * PICO, events, None)
        client.insert_arrow("spend_sums", window_rows([one], generation, START_MS).to_arrow())
    assert client.query("SELECT spend FROM spend").result_rows == [(Decimal(spend),)]
    assert newest_generation(client) == max(version[0] for version in versions)


@pytest.mark.parametrize("statements_before_a_crash", [0, 1, 2, 3, 4, 5])
def test_sums_of_before_come_over_also_after_a_crash_in_the_middle(
    client: Client, statements_before_a_crash: int
) -> None:
    migrate(client)
    assert newest_generation(client) == 0, "there are none"
    for name in ("spend_sums", "spend_windows"):
        client.command(f"DROP TABLE IF EXISTS {name} SYNC")
    client.command(
        f"ALTER TABLE schema_migrations DELETE WHERE number = {GENERATIONS}", settings={"mutations_sync": 1}
    )
    (migration,) = [one for one in migrations() if one.number == GENERATIONS]
    client.command(migration.statements[0])  # the table of before
    for events in (1, 2):
        client.command(
            "INSERT INTO spend_windows SELECT 't', '', 'day', toDateTime64(0, 3), toDateTime64(86400, 3),"
            f" {events}, {events}, 10, toDateTime64(0, 3)"
        )
    for statement in migration.statements[:statements_before_a_crash]:
        client.command(statement)
    assert [one.number for one in migrate(client)] == [GENERATIONS]
    assert client.query("SELECT spend, events, cap FROM spend").result_rows == [(Decimal(2), 2, Decimal(10))]
    assert client.query("SELECT count() FROM spend_sums FINAL").result_rows == [(1,)]
    assert client.query("EXISTS TABLE spend_windows").result_rows == [(0,)]
