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

pytestmark = pytest.mark.usefixtures("kept_engine")

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
RATED = [("2026-03-16", "acme", "big", 2, 1, 300, "1.25", "2", "0.75", "37.5"), MONDAY[1]]
# On tuesday two adjustments of monday's events were booked: one meets events of the same kind, one does not.
ADJUSTED = [
    ("2026-03-17", "acme", "big", 1, 1, 300, "0.5", "0.5", "0", "0"),
    ("2026-03-17", "zenith", "small", 0, 0, 0, "-0.000000000001", "0", "0.000000000001", None),
]


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


def re_rate(client: Client) -> None:
    """The first event of monday costs and yields more by re-rating number 1."""
    client.command(
        "INSERT INTO priced_events SELECT * REPLACE (toDecimal128('1', 12) AS cost,"
        " toDecimal128('2', 12) AS price, 1 AS rating) FROM usage"
        " WHERE tenant_id = 'acme' AND idempotency_key = 'a'"
    )


def adjust(client: Client) -> None:
    client.command(
        "INSERT INTO adjustments (booked_on, tenant_id, idempotency_key, timestamp, rating, model,"
        " delta_cost, delta_price) VALUES"
        " ('2026-03-17', 'acme', 'a', '2026-03-16 09:00:00.000', 1, 'big', 0, '0.25'),"
        " ('2026-03-17', 'zenith', 'a', '2026-03-16 11:00:00.000', 1, 'small', '-0.000000000001', 0)"
    )


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
        steps = {"merge": merge, "roll up": roll_up, "cut short": cut_short}
        {**steps, "re-rate": re_rate, "adjust": adjust}[step](client)


def margin(client: Client) -> list[tuple[Any, ...]]:
    rows = client.query(
        "SELECT day, tenant_id, model, requests, billable_requests, input_tokens, cost, price, margin,"
        " margin_pct FROM margin_daily ORDER BY day, tenant_id, model"
    ).result_rows
    return [(str(day), *rest) for day, *rest in rows]


def exact(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(*row[:6], *(amount and Decimal(amount) for amount in row[6:])) for row in rows]


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
        ("monday, re-rate", 0, RATED),
        ("monday, roll up, re-rate", 0, RATED),
        ("monday, re-rate, merge, roll up", 1, RATED),
        ("monday, re-rate, monday", 0, RATED),
        ("monday, re-rate, merge, monday, merge, roll up", 1, RATED),
        ("monday, tuesday, adjust", 0, MONDAY + ADJUSTED),
        ("monday, tuesday, adjust, adjust", 0, MONDAY + ADJUSTED),
        ("monday, tuesday, roll up, adjust", 2, MONDAY + ADJUSTED),
        ("monday, adjust, tuesday, merge, roll up", 2, MONDAY + ADJUSTED),
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


def move_of(first: int, last: int) -> list[tuple[int, str]]:
    """The statements of some migrations, each with the number of its file."""
    return [
        (one.number, statement)
        for one in migrations()
        if first <= one.number <= last
        for statement in one.statements
    ]


MOVES = {"to days": move_of(4, 6), "to ratings": move_of(10, 12)}
# Of the last file only the drop moves anything: what it makes besides is made again whole.
CUTS = [
    *(("to days", statements) for statements in range(len(MOVES["to days"]) + 1)),
    *(("to ratings", statements) for statements in range(len(move_of(10, 11)) + 3)),
    ("to ratings", len(MOVES["to ratings"])),
]


@pytest.mark.parametrize(("move", "before_crash"), CUTS)
def test_rows_move_to_another_table_wherever_the_move_is_cut(
    clickhouse_url: str, move: str, before_crash: int
) -> None:
    with connect(parse_address(clickhouse_url)) as client:
        first = MOVES[move][0][0]
        for one in migrations():
            for statement in one.statements if one.number < first else ():
                client.command(statement)
        insert(client, "monday")
        insert(client, "monday")
        insert(client, "tuesday")
        migrate_until(client, MOVES[move], before_crash)
        migrate(client)
        assert margin(client) == exact(MONDAY + TUESDAY)
        days = "SELECT DISTINCT _partition_id FROM priced_events ORDER BY ALL"
        assert client.query(days).result_rows == [("20260316",), ("20260317",)]


def test_after_the_move_to_ratings_no_day_is_taken_from_sums_of_the_table_before(clickhouse_url: str) -> None:
    with connect(parse_address(clickhouse_url)) as client:
        for one in migrations():
            for statement in one.statements if one.number < 10 else ():
                client.command(statement)
        client.command("SYSTEM STOP VIEW margin_rollup_refresh")
        insert(client, "monday")
        roll_up(client)
        assert days_rolled(client) == 1
        migrate_until(client, MOVES["to ratings"], 0)
        migrate(client)
        client.command("SYSTEM STOP VIEW margin_rollup_refresh")
        assert client.query("SELECT count() FROM margin_builds").result_rows == [(0,)]
        assert margin(client) == exact(MONDAY)


def migrate_until(client: Client, move: list[tuple[int, str]], statements: int) -> None:
    """What `migrate` does, up to a crash after so many statements of the move; what comes before is done."""
    client.command(
        "CREATE TABLE schema_migrations"
        " (number UInt32, name String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3))"
        " ENGINE = ReplacingMergeTree ORDER BY number"
    )
    begun = {number for number, _ in move[:statements]}
    finished = {number for number in begun if statements == len(move) or move[statements][0] != number}
    for _, statement in move[:statements]:
        client.command(statement)
    for number in sorted({*range(1, move[0][0]), *finished}):
        client.command(
            "INSERT INTO schema_migrations (number, name) VALUES ({number:UInt32}, 'applied')",
            parameters={"number": number},
        )
