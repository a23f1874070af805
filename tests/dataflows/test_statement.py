"""Statements from the real engine, and as text, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timezone
from decimal import Decimal

import pytest
from clickhouse_connect.driver.client import Client

from dataflows.statement import (
    UnknownTenantError,
    read_statement,
    statement_csv,
    statement_json,
    statement_text,
    usage_by_month,
)
from pricing.plans import LineKind
from pricing.settings import Settings, load_settings
from pricing.statement import Statement, make_statement
from sinks.clickhouse import connect, parse_address
from sinks.migrate import migrate
from tests.pricing.plan_rows import month, short, usage

NOVEMBER = month("2026-11")
NOW_MS = int(datetime(2026, 12, 5, tzinfo=timezone.utc).timestamp()) * 1000

CONFIG = """\
pricing: {rules: [{model: big, input_rate: 0, output_rate: 0}]}
limits: {overrides: {tenants: {vienna: {timezone: Europe/Vienna}}}}
plans:
  definitions:
    team:
      base_fee: 20
      charges:
        - quantity: total_tokens
          feature: chat
          included: 1000
          graduated: [{up_to: 500, unit_price: 0.01}, {unit_price: 0.005}]
  tenants:
    acme: [{plan: team, from: 2026-11}]
    idle: [{plan: team, from: 2026-01}]
  prepaid:
    acme: [{amount: 10, granted_at: 2026-10, expires_at: 2026-12}]
"""

COLUMNS = (
    "tenant_id, idempotency_key, timestamp, feature_id, model, billable, input_tokens, output_tokens,"
    " credits, price"
)
ROWS = (
    # October, of which prepaid credits pay 4
    ("acme", "a", "2026-10-31 23:59:59.999", "chat", "big", 1, 1, 1, "1", "4"),
    # November, from its first millisecond to its last
    ("acme", "b", "2026-11-01 00:00:00.000", "chat", "big", 1, 1000, 200, "1.5", "1"),
    ("acme", "c", "2026-11-15 12:00:00.000", "chat", "small", 1, 300, 100, "0", "1"),
    ("acme", "d", "2026-11-30 23:59:59.999", "search", "big", 1, 10, 20, "0", "3.004000000001"),
    # a failed call costs the tenant nothing
    ("acme", "e", "2026-11-15 12:00:00.000", "chat", "big", 0, 9999, 9999, "0", "0"),
    ("acme", "f", "2026-12-01 00:00:00.000", "chat", "big", 1, 1, 1, "0", "999"),
    # in Vienna November begins and ends at 23:00 of the day before
    ("vienna", "a", "2026-10-31 22:59:59.999", "chat", "big", 1, 1, 1, "0", "100"),
    ("vienna", "b", "2026-10-31 23:00:00.000", "chat", "big", 1, 2, 1, "0", "0.25"),
    ("vienna", "c", "2026-11-30 22:59:59.999", "chat", "big", 1, 3, 1, "0", "0.5"),
    ("vienna", "d", "2026-11-30 23:00:00.000", "chat", "big", 1, 4, 1, "0", "200"),
)
ODD_NAMES = (
    "=cmd()",
    "it's",
    'say "hi"',
    "back\\slash",
    "tab\there",
    "line\nend",
    "{x:String}",
    "Zoë",
    "%s",
    "\\N",
)


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    with connect(parse_address(clickhouse_url)) as opened:
        migrate(opened)
        rows = ", ".join(str(row) for row in ROWS)
        opened.command(f"INSERT INTO priced_events ({COLUMNS}) VALUES {rows}")  # noqa: S608  # ours
        yield opened


def read(client: Client, tenant_id: str, at: date = NOVEMBER, now_ms: int = NOW_MS) -> Statement:
    return read_statement(client, load_settings(CONFIG), tenant_id, at, now_ms)


@pytest.mark.parametrize(
    ("tenant_id", "at", "lines", "total"),
    [
        ("acme", "2026-10", ["usage 4", "credits_burned -4"], "0.00"),
        (
            "acme",
            "2026-11",
            [
                "base_fee 20",
                "usage 0",
                "usage 0",
                "usage 3.004000000001",
                "included 1000 total_tokens 0",
                "overage 500 total_tokens 5",
                "overage 100 total_tokens 0.5",
                "credits_burned -6",
                "rounding -0.004000000001",
            ],
            "22.50",
        ),
        ("acme", "2026-09", [], "0.00"),
        ("vienna", "2026-10", ["usage 100"], "100.00"),
        ("vienna", "2026-11", ["usage 0.75"], "0.75"),
        ("vienna", "2026-12", ["usage 200"], "200.00"),
        ("idle", "2026-11", ["base_fee 20"], "20.00"),
        ("idle", "2025-11", [], "0.00"),
    ],
)
def test_a_statement_from_the_rows(
    client: Client, tenant_id: str, at: str, lines: list[str], total: str
) -> None:
    found = read(client, tenant_id, month(at))
    assert short(found.lines) == lines
    assert str(found.total) == total


def test_a_replay_changes_no_statement(client: Client) -> None:
    before = read(client, "acme")
    client.command(
        f"INSERT INTO priced_events ({COLUMNS}) SETTINGS insert_deduplicate = 0"  # noqa: S608  # ours
        f" SELECT {COLUMNS} FROM priced_events"
    )
    assert client.query("SELECT count() FROM priced_events").result_rows[0][0] > len(ROWS)
    assert read(client, "acme") == before


def test_usage_is_split_by_feature_and_model_of_billable_events(client: Client) -> None:
    found = usage_by_month(client, "acme", [month("2026-10"), NOVEMBER], "UTC")
    assert found == {
        month("2026-10"): [usage(input_tokens=1, output_tokens=1, credits_used="1", price="4")],
        NOVEMBER: [
            usage(input_tokens=1000, output_tokens=200, credits_used="1.5", price="1"),
            usage(model="small", input_tokens=300, output_tokens=100, price="1"),
            usage(feature_id="search", input_tokens=10, output_tokens=20, price="3.004000000001"),
        ],
    }


def test_nobody_has_no_statement(client: Client) -> None:
    with pytest.raises(UnknownTenantError, match="there is no tenant 'nobody': it has no usage, and"):
        read(client, "nobody")


def test_a_tenant_may_be_called_anything(client: Client) -> None:
    columns = "tenant_id, idempotency_key, timestamp, feature_id, model, billable, price"
    for name in ODD_NAMES:
        client.query(
            f"INSERT INTO priced_events ({columns})"
            " SELECT {name:String}, 'k', '2026-11-02 00:00:00', {name:String}, {name:String}, 1, 2",
            parameters={"name": name},
        )
    for name in ODD_NAMES:
        found = read(client, name)
        assert str(found.total) == "2.00"
        assert [line.usage and (line.usage.feature_id, line.usage.model) for line in found.lines] == [
            (name, name)
        ]


# Formats


def stated(
    config: str = CONFIG, tenant_id: str = "acme", name: str = "chat", now_ms: int = NOW_MS
) -> Statement:
    given: Settings = load_settings(config)
    spent = {
        NOVEMBER: [
            usage(feature_id=name, requests=12_345, input_tokens=1500, output_tokens=100, price="1"),
            usage(feature_id="search", model=name, requests=2, input_tokens=10, price="1234567.004"),
        ]
    }
    return make_statement(given, tenant_id, NOVEMBER, spent, now_ms)


def test_text_is_aligned_and_exact() -> None:
    lines = statement_text(stated()).splitlines()
    assert lines[:2] == ["Statement of acme for 2026-11 (UTC): over", "Plan: team. Amounts are USD."]
    assert lines[-1] == "Prepaid credits left: 0.00"
    table = lines[3:-2]
    assert len({len(line) for line in table}) == 1
    assert [line.split()[-1] for line in table if line.strip("─ ")] == [
        "amount",
        "20.000",
        "0.000",
        "1,234,567.004",
        "0.000",
        "5.000",
        "0.500",
        "-10.000",
        "-0.004",
        "1,234,582.500",
    ]
    assert [" ".join(line.split()) for line in table[3:7]] == [
        "chat with big: usage, metered below 12,345 1,500 100 0.000",
        "search with chat: usage 2 10 0 1,234,567.004",
        "included: total_tokens of chat, of 1000 1,000 total_tokens 0.000",
        "total_tokens of chat over the included, up to 500 500 total_tokens 0.01 5.000",
    ]


def test_text_has_only_the_columns_that_it_fills() -> None:
    config = CONFIG.replace("idle:", "acme2:")
    found = make_statement(load_settings(config), "acme2", NOVEMBER, {}, 0)
    assert statement_text(found) == (
        "Statement of acme2 for 2026-11 (UTC): open, so every line is provisional\n"
        "Plan: team. Amounts are USD.\n"
        "\n"
        "  line              amount\n"
        "  ────────────────────────\n"
        "  base fee of team   20.00\n"
        "  ────────────────────────\n"
        "  total              20.00"
    )


def test_text_of_nothing_is_a_total_of_zero() -> None:
    found = make_statement(load_settings(CONFIG), "anybody", NOVEMBER, {}, NOW_MS)
    assert statement_text(found).splitlines()[3:] == ["  line   amount", "  total    0.00"]


def test_text_moves_no_cursor() -> None:
    text = statement_text(stated(name="\x1b[2J\nchat"))
    assert "\x1b" not in text
    assert r"\x1b[2J\nchat with big" in text


def test_json_has_exact_strings() -> None:
    found = stated()
    document = json.loads(statement_json(found))
    assert {key: document[key] for key in document if key != "lines"} == {
        "tenant": "acme",
        "month": "2026-11",
        "timezone": "UTC",
        "status": "over",
        "plan": "team",
        "currency": "USD",
        "rounding": "nearest_cent",
        "rounding_remainder": "-0.004",
        "total": "1234582.50",
        "prepaid_credits_left": "0.00",
    }
    assert document["lines"][2] == {
        "kind": "usage",
        "text": "usage",
        "feature": "search",
        "model": "chat",
        "requests": 2,
        "input_tokens": 10,
        "output_tokens": 0,
        "quantity": None,
        "unit": None,
        "unit_price": None,
        "amount": "1234567.004",
    }
    assert sum(Decimal(line["amount"]) for line in document["lines"]) == Decimal(document["total"])
    assert json.loads(statement_json(stated(now_ms=0)))["status"] == "open"


def test_csv_sums_to_the_total() -> None:
    found = stated()
    rows = list(csv.DictReader(io.StringIO(statement_csv(found))))
    assert [row["kind"] for row in rows] == [line.kind.value for line in found.lines]
    assert sum(Decimal(row["amount"]) for row in rows) == found.total
    assert rows[4] == {
        "tenant": "acme",
        "month": "2026-11",
        "status": "over",
        "plan": "team",
        "kind": "overage",
        "text": "total_tokens of chat over the included, up to 500",
        "feature": "",
        "model": "",
        "requests": "",
        "input_tokens": "",
        "output_tokens": "",
        "quantity": "500",
        "unit": "total_tokens",
        "unit_price": "0.01",
        "amount": "5.00",
    }


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=cmd()", "'=cmd()"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =cmd()", "' =cmd()"),
        ("\t=cmd()", r"\t=cmd()"),
        ("\uff1dcmd()", "'\uff1dcmd()"),
        ("a=b", "a=b"),
        ('say "hi", twice', 'say "hi", twice'),
        ("two\nlines", r"two\nlines"),
    ],
)
def test_csv_holds_no_formula(name: str, cell: str) -> None:
    found = replace(stated(name=name), tenant_id=name, plan=name)
    rows = list(csv.DictReader(io.StringIO(statement_csv(found))))
    assert {(row["tenant"], row["plan"]) for row in rows} == {(cell, cell)}
    in_usage = [(row["feature"], row["model"]) for row in rows if row["kind"] == LineKind.USAGE.value]
    assert sorted(in_usage) == sorted([(cell, "big"), ("search", cell)])
