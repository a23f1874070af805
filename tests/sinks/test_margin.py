"""`margin_daily` from the rollup and from the rows: one answer, at any moment, and from old databases too."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from sinks.clickhouse import connect, parse_address
from sinks.migrate import migrate, migrations

COLUMNS = "tenant_id, idempotency_key, timestamp, model, billable, input_tokens, cost, price"
TABLE_ROWS = {
    "monday": (
        ("acme", "a", "2026-03-16 09:00:00.000", "big", 1, 100, "0.5", "0.75"),
        ("acme", "b", "2026-03-16 10:00:00.000", "big", 0, 200, "0.25", "0"),
        ("zenith", "a", "2026-03-16 11:00:00.000", "small", 1, 10, "0.000000000001", "0.000000000003"),
    ),
    "tuesday": (("acme", "c", "2026-03-17 09:00:00.000", "big", 1, 300, "0.5", "0.25"),),
    "late": (("acme", "d", "2026-03-16 23:59:59.999", "big", 1, 400, "1", "2"),),
}
# day, tenant, model: requests, billable requests, input tokens, cost, price, margin, percentage
MONDAY = [
    ("2026-03-16", "acme", "big", 2, 1, 300, "0.75", "0.75", "0", "0"),
    (
        "2026-03-16",
        "zenith",
        "small",
        1,
        1,
        10,
        "0.000000000001",
        "0.000000000003",
        "0.000000000002",
        "66.6667",
    ),
]
TUESDAY = [("2026-03-17", "acme", "big", 1, 1, 300, "0.5", "0.25", "-0.25", "-100")]
WITH_LATE = [("2026-03-16", "acme", "big", 3, 2, 700, "1.75", "2.75", "1", "36.3636"), MONDAY[1]]
WITHOUT_ACME = [MONDAY[1]]


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    """Tables that nothing merges or rolls up but the steps of a test."""
    with connect(parse_address(clickhouse_url)) as opened:
        migrate(opened)
        opened.command("SYSTEM STOP VIEW margin_rollup_refresh")
        opened.command("SYSTEM STOP MERGES priced_events")
        yield opened


def insert(client: Client, name: str, table: str = "priced_events") -> None:
    values = ", ".join(str(row) for row in TABLE_ROWS[name])
    # Under a token of its own, like a replay after the state was lost: ClickHouse does not drop it.
    settings = f"SETTINGS insert_deduplication_token = '{uuid.uuid4().hex}'"
    client.command(f"INSERT INTO {table} ({COLUMNS}) {settings} VALUES {values}")  # noqa: S608  # ours


def merge(client: Client) -> None:
    client.command("SYSTEM START MERGES priced_events")
    client.command("OPTIMIZE TABLE priced_events FINAL")
    client.command("SYSTEM STOP MERGES priced_events")


def roll_up(client: Client) -> None:
    client.command("SYSTEM START VIEW margin_rollup_refresh")
    client.command("SYSTEM REFRESH VIEW margin_rollup_refresh")
    client.command("SYSTEM WAIT VIEW margin_rollup_refresh")
    client.command("SYSTEM STOP VIEW margin_rollup_refresh")


def cut_short(client: Client) -> None:
    """A build of which a crash left one row out."""
    client.command(
        "INSERT INTO margin_rollup SELECT * REPLACE (built_at + INTERVAL 1 SECOND AS built_at)"
        " FROM margin_rollup WHERE tenant_id = 'zenith'"
    )
    client.command("OPTIMIZE TABLE margin_rollup FINAL")


def take(client: Client, step: str) -> None:
    if step in TABLE_ROWS:
        insert(client, step)
    elif step == "delete acme":
        client.command("SYSTEM START MERGES priced_events")  # a delete waits for them
        client.command(
            "DELETE FROM priced_events WHERE tenant_id = 'acme' AND toDate(timestamp) = '2026-03-16'"
        )
        client.command("SYSTEM STOP MERGES priced_events")
    else:
        {"merge": merge, "roll up": roll_up, "cut short": cut_short}[step](client)


def margin(client: Client) -> list[tuple[Any, ...]]:
    rows = client.query(
        "SELECT day, tenant_id, model, requests, billable_requests, input_tokens, cost, price, margin,"
        " margin_pct FROM margin_daily ORDER BY day, tenant_id, model"
    ).result_rows
    return [(str(day), *rest) for day, *rest in rows]


def exact(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(*row[:6], *(Decimal(amount) for amount in row[6:])) for row in rows]


def days_rolled(client: Client) -> int:
    return int(client.query("SELECT count() FROM margin_days_rolled").result_rows[0][0])


@pytest.mark.parametrize(
    ("steps", "rolled", "answer"),
    [
        ("", 0, []),
        ("monday", 0, MONDAY),
        ("monday, roll up", 1, MONDAY),
        ("monday, tuesday, roll up", 2, MONDAY + TUESDAY),
        ("monday, roll up, tuesday", 1, MONDAY + TUESDAY),
        ("monday, monday", 0, MONDAY),
        ("monday, monday, roll up", 0, MONDAY),
        ("monday, monday, merge, roll up", 1, MONDAY),
        ("monday, roll up, monday", 0, MONDAY),
        ("monday, roll up, monday, merge", 0, MONDAY),
        ("monday, roll up, monday, merge, roll up", 1, MONDAY),
        ("monday, roll up, roll up", 1, MONDAY),
        ("monday, tuesday, roll up, late", 1, WITH_LATE + TUESDAY),
        ("monday, tuesday, roll up, late, merge, roll up", 2, WITH_LATE + TUESDAY),
        ("monday, roll up, delete acme", 0, WITHOUT_ACME),
        ("monday, roll up, delete acme, roll up", 1, WITHOUT_ACME),
        ("monday, roll up, cut short", 0, MONDAY),
        ("monday, roll up, cut short, roll up", 1, MONDAY),
    ],
)
def test_the_rollup_changes_no_answer(
    client: Client, steps: str, rolled: int, answer: list[tuple[Any, ...]]
) -> None:
    for step in steps.split(", ") if steps else ():
        take(client, step)
    assert days_rolled(client) == rolled
    assert margin(client) == exact(answer)


def test_where_snapshots_are_not_shared_nothing_comes_from_the_rollup(client: Client) -> None:
    take(client, "monday")
    take(client, "roll up")
    off = "SELECT count() FROM margin_days_rolled SETTINGS enable_shared_storage_snapshot_in_query = 0"
    assert client.query(off).result_rows == [(0,)]
    assert days_rolled(client) == 1


def test_a_query_amid_replays_merges_and_rollups_sees_each_event_once(
    client: Client, clickhouse_url: str
) -> None:
    # ClickHouse waits before it looks at a table's parts, so that others change them in between.
    slowly = "SETTINGS merge_tree_storage_snapshot_sleep_ms = 10"
    sums = f"SELECT sum(requests), sum(price) FROM margin_daily {slowly}"  # noqa: S608  # a constant
    take(client, "monday")
    take(client, "roll up")
    done = threading.Event()

    def replay() -> None:
        with connect(parse_address(clickhouse_url)) as own:
            while not done.is_set():
                for step in ("monday", "merge", "roll up"):
                    take(own, step)

    replaying = threading.Thread(target=replay)
    replaying.start()
    try:
        seen = {client.query(sums).result_rows[0] for _ in range(25)}
    finally:
        done.set()
        replaying.join()
    assert seen == {(3, Decimal("0.750000000003"))}


MOVE = [
    (one.number, statement) for one in migrations() if 4 <= one.number <= 6 for statement in one.statements
]


@pytest.mark.parametrize("before_crash", range(len(MOVE) + 1))
def test_rows_by_month_move_to_days_wherever_the_move_is_cut(clickhouse_url: str, before_crash: int) -> None:
    with connect(parse_address(clickhouse_url)) as client:
        by_month = [one for one in migrations() if one.number < 4]
        for statement in (statement for one in by_month for statement in one.statements):
            client.command(statement)
        insert(client, "monday")
        insert(client, "monday")
        insert(client, "tuesday")
        migrate_until(client, before_crash)
        migrate(client)
        assert margin(client) == exact(MONDAY + TUESDAY)
        days = "SELECT DISTINCT _partition_id FROM priced_events ORDER BY ALL"
        assert client.query(days).result_rows == [("20260316",), ("20260317",)]


def migrate_until(client: Client, statements: int) -> None:
    """What `migrate` does, up to a crash after so many statements of the move."""
    client.command(
        "CREATE TABLE schema_migrations"
        " (number UInt32, name String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3))"
        " ENGINE = ReplacingMergeTree ORDER BY number"
    )
    begun = {number for number, _ in MOVE[:statements]}
    finished = {number for number in begun if statements == len(MOVE) or MOVE[statements][0] != number}
    for _, statement in MOVE[:statements]:
        client.command(statement)
    for number in sorted({1, 2, 3} | finished):
        client.command(
            "INSERT INTO schema_migrations (number, name) VALUES ({number:UInt32}, 'applied')",
            parameters={"number": number},
        )
