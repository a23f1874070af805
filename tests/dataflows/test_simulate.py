"""What if: simulated amounts are those that the auditor makes of other rules, and nothing is written."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from clickhouse_connect.driver.client import Client

from dataflows import repricing
from dataflows.card_file import compiled, pricing_of
from dataflows.connections import PlanError
from dataflows.rerate import apply
from dataflows.rerate_log import begin, set_closed
from dataflows.simulate import (
    _SUMS,
    DIMENSIONS,
    Simulated,
    read_pairs,
    routes_of,
    simulate,
    simulated_table,
    with_multipliers,
)
from sinks.clickhouse import connect, parse_address
from sinks.migrate import migrate
from tests.dataflows.priced import EVER, HISTORY, NEW, NOON_MS, OLD, audited, card, only, price

PROVIDERS = """
rules:
  - {model: big, input_rate: 0, output_rate: 0}
  - {model: small, provider: here, input_rate: 0, output_rate: 0}
  - {model: other, provider: here, input_rate: 0, output_rate: 0}
  - {model: other, provider: there, input_rate: 0, output_rate: 0}
  - {model_prefix: pre-, input_rate: 0, output_rate: 0}
"""


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    with connect(parse_address(clickhouse_url)) as opened:
        migrate(opened)
        price(opened, HISTORY)
        yield opened


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some days together, and of a stretch of the day that has most."""
    monkeypatch.setattr(repricing, "PAGE_ROWS", 6)


def quiet(_: str) -> None:
    """No progress."""


def what_if(
    client: Client, text: str, multipliers: tuple[str, ...] = (), routes: tuple[str, ...] = ()
) -> Simulated:
    pricing = with_multipliers(pricing_of(card(text)), read_pairs("--multiplier", multipliers))
    return simulate(client, EVER, pricing, routes_of(pricing, read_pairs("--route", routes)), quiet)


def figures(table: Any) -> dict[str, tuple[Decimal, ...]]:
    """By name: cost, price, new cost, new price."""
    places = [table.columns.index(name) for name in ("cost", "price", "new cost", "new price")]
    return {row[0]: tuple(row[place] for place in places) for row in table.rows}


def expected(column: str, instead: dict[str, Any]) -> dict[str, tuple[Decimal, ...]]:
    """The auditor's: `instead` has the amounts that differ from those of the old card."""
    old = audited(HISTORY, OLD)
    sums: dict[str, list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 4)
    for one in HISTORY:
        key = one["idempotency_key"]
        new = instead.get(key, old[key])
        amounts = (*old[key][:2], *new[:2])
        sums[one[column]] = [left + right for left, right in zip(sums[one[column]], amounts, strict=True)]
    return {name: tuple(amounts) for name, amounts in sums.items()}


ROUTED = [{**one, "model": {"big": "small"}.get(one["model"], one["model"])} for one in HISTORY]


@pytest.mark.parametrize(
    ("text", "multipliers", "routes", "instead"),
    [
        pytest.param(OLD, (), (), audited(HISTORY, OLD), id="the card of today"),
        pytest.param(NEW, (), (), audited(HISTORY, NEW), id="another card"),
        pytest.param(
            OLD,
            ("big=1.35",),
            (),
            audited(HISTORY, OLD.replace("0.000015, multiplier: 1.2", "0.000015, multiplier: 1.35")),
            id="another multiplier",
        ),
        pytest.param(OLD, (), ("big=small",), audited(ROUTED, OLD), id="another model"),
        pytest.param(
            NEW,
            ("small=0", "same=2.000000"),
            ("big=small", "gone=same"),
            audited(
                [{**one, "model": {"gone": "same"}.get(one["model"], one["model"])} for one in ROUTED],
                NEW.replace("multiplier: 0.9", "multiplier: 0").replace("1.01", "2"),
            ),
            id="all of them",
        ),
    ],
)
def test_the_tables_are_what_the_auditor_makes_of_it(
    client: Client, text: str, multipliers: tuple[str, ...], routes: tuple[str, ...], instead: dict[str, Any]
) -> None:
    before = client.query("SELECT * FROM priced_events ORDER BY ALL").result_rows
    found = what_if(client, text, multipliers, routes)
    for by, column in DIMENSIONS.items():
        assert figures(simulated_table(found, by, "")) == expected(column, instead)
    assert client.query("SELECT * FROM priced_events ORDER BY ALL").result_rows == before
    assert client.query("SELECT count() FROM rerate_log").result_rows == [(0,)]


def test_totals_and_percentages(client: Client) -> None:
    table = simulated_table(what_if(client, NEW), "tenant", "")
    totals = dict(zip(table.columns, table.totals, strict=True))
    assert totals["difference"] == sum(row[-1] for row in table.rows)
    assert totals["margin %"] == round((totals["price"] - totals["cost"]) * 100 / totals["price"], 2)
    assert totals["events"] == len(HISTORY)


@pytest.mark.parametrize(
    ("differences", "shown"),
    [({"a": 0, "b": 2, "c": -1, "d": 0}, "cbad"), ({"a": 0, "b": 2, "c": 1}, "cba")],
)
def test_what_differs_comes_first_and_the_greatest_loss_before_all(
    differences: dict[str, int], shown: str
) -> None:
    rows = [
        {"tenant_id": name, "events": 1, "old_price": Decimal(5), "price": Decimal(5 + by)}
        for name, by in differences.items()
    ]
    sums = pl.DataFrame(rows, schema=_SUMS).with_columns(pl.col("old_cost", "cost").fill_null(0))
    table = simulated_table(Simulated(sums, Counter(), Counter()), "tenant", "")
    assert "".join(row[0] for row in table.rows) == shown


def test_routed_and_unpriced_events_are_counted(client: Client) -> None:
    found = what_if(client, NEW, (), ("big=same", "none=same"))
    assert found.routed == {"big": sum(one["model"] == "big" for one in HISTORY), "none": 0}
    assert list(found.unpriced.values()) == [1]


def test_of_a_closed_month_what_was_booked_is_in_force(client: Client) -> None:
    set_closed(client, date(2026, 2, 1), "tester", NOON_MS)
    file = card(NEW)
    apply(
        client,
        begin(client, EVER, file, compiled(pricing_of(file)).version, "tester", NOON_MS),
        quiet,
        lambda: 0,
    )
    found = simulated_table(what_if(client, NEW), "tenant", "")
    assert {row[-1] for row in found.rows} == {0}
    sums = client.query("SELECT sum(m.cost), sum(m.price) FROM margin_daily AS m").result_rows[0]
    assert tuple(found.totals[2:4]) == tuple(sums)


def test_only_the_scope_is_rated(client: Client) -> None:
    pricing = pricing_of(card(NEW))
    found = simulate(client, only(EVER, tenant_id="zenith"), pricing, {}, quiet)
    assert found.sums["events"].sum() == 2


def read(flag: str, texts: tuple[str, ...]) -> None:
    pricing, pairs = pricing_of(card(PROVIDERS)), read_pairs(flag, texts)
    routes_of(pricing, pairs) if flag == "--route" else with_multipliers(pricing, pairs)


@pytest.mark.parametrize(
    ("flag", "texts", "sentence"),
    [
        ("--route", ("big",), "--route 'big' is not of the form A=B"),
        (
            "--route",
            ("big=", "=big"),
            "--route 'big=' is not of the form A=B; --route '=big' is not of the form A=B",
        ),
        ("--route", ("a=big", "a=small"), "--route is given twice for a"),
        (
            "--route",
            ("a=bug",),
            "--route leads to 'bug', which the card does not know; did you mean 'big'?",
        ),
        (
            "--route",
            ("a=other",),
            "--route leads to 'other', which several providers of the card have: here, there",
        ),
        (
            "--multiplier",
            ("pre-1=1",),
            "--multiplier names 'pre-1', which the card knows only by a pattern",
        ),
        ("--multiplier", ("big",), "--multiplier 'big' is not of the form MODEL=X"),
        ("--multiplier", ("zzz=1",), "--multiplier names 'zzz', which the card knows not at all"),
        (
            "--multiplier",
            ("big=-1",),
            "--multiplier big=-1 is not a number from 0 to 1000 with at most 6 decimal places",
        ),
        (
            "--multiplier",
            ("big=1.0000001",),
            "--multiplier big=1.0000001 is not a number from 0 to 1000 with at most 6 decimal places",
        ),
        (
            "--multiplier",
            ("big=1e4",),
            "--multiplier big=1e4 is not a number from 0 to 1000 with at most 6 decimal places",
        ),
        (
            "--multiplier",
            ("big=nan",),
            "--multiplier big=nan is not a number from 0 to 1000 with at most 6 decimal places",
        ),
    ],
)
def test_each_mistake_is_a_sentence(flag: str, texts: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(PlanError) as refused:
        read(flag, texts)
    assert str(refused.value) == sentence
