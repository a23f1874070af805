"""Re-ratings and statements: that of a closed month stays, and the open one has the difference."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal

import pytest
from clickhouse_connect.driver.client import Client

from dataflows.card_file import compiled, pricing_of
from dataflows.rerate import apply
from dataflows.rerate_log import begin, set_closed
from dataflows.statement import read_statement
from pricing.plans import LineKind, amount_of
from pricing.settings import load_settings
from pricing.statement import Statement
from sinks.clickhouse import connect, parse_address
from sinks.migrate import migrate
from tests.dataflows.priced import EVER, HISTORY, NEW, NOON_MS, OLD, card, price

JANUARY, FEBRUARY, MARCH = (date(2026, month, 1) for month in (1, 2, 3))
EXACT = load_settings(OLD.replace("rules:", "rounding: none\n  rules:"))


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    with connect(parse_address(clickhouse_url)) as opened:
        migrate(opened)
        price(opened, HISTORY)
        yield opened


def rerate(client: Client, text: str) -> None:
    file = card(text)
    one = begin(client, EVER, file, compiled(pricing_of(file)).version, "tester", NOON_MS)
    apply(client, one, lambda _: None, lambda: NOON_MS)


def stated(client: Client, month: date) -> Statement:
    return read_statement(client, EXACT, "acme", month, NOON_MS)


def test_the_statement_of_a_closed_month_stays_and_the_open_one_has_the_difference(client: Client) -> None:
    at_first = {month: stated(client, month).total for month in (JANUARY, FEBRUARY, MARCH)}
    set_closed(client, JANUARY, "tester", NOON_MS)
    set_closed(client, FEBRUARY, "tester", NOON_MS)
    rerate(client, NEW)
    assert {month: stated(client, month).total for month in (JANUARY, FEBRUARY)} == {
        JANUARY: at_first[JANUARY],
        FEBRUARY: at_first[FEBRUARY],
    }
    found = stated(client, MARCH)
    adjusted = [line for line in found.lines if line.kind is LineKind.ADJUSTMENT]
    assert [line.text for line in adjusted] == [
        "re-rating 1 of chat with big in 2026-01",
        "re-rating 1 of chat with big in 2026-02",
    ]
    booked = client.query(
        "SELECT sum(delta_price) FROM adjustments FINAL WHERE tenant_id = 'acme'"
    ).result_rows
    assert amount_of(found.lines, LineKind.ADJUSTMENT) == booked[0][0] != 0
    assert found.total == amount_of(found.lines, LineKind.USAGE) + booked[0][0]

    rerate(client, OLD.replace("pricing:", "").replace("\n  ", "\n"))
    assert stated(client, MARCH).total == at_first[MARCH]
    back = amount_of(stated(client, MARCH).lines, LineKind.ADJUSTMENT)
    assert back == Decimal(0)
