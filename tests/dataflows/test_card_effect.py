"""What two cards make of a period's usage: both as the auditor rates it, whatever rated it first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner
from clickhouse_connect.driver.client import Client

from dataflows.card_effect import effect_by_model, last_month
from dataflows.card_file import pricing_of
from dataflows.cli import main
from dataflows.repricing import Scope
from sinks.clickhouse import connect, parse_address
from sinks.migrate import migrate
from tests.dataflows.priced import EVER, HISTORY, NEW, OLD, audited, card, price


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    with connect(parse_address(clickhouse_url)) as opened:
        migrate(opened)
        price(opened, HISTORY, OLD)
        yield opened


def quiet(_: str) -> None:
    """No progress."""


@pytest.mark.parametrize(
    ("today", "expected"),
    [
        (date(2026, 3, 1), (date(2026, 2, 1), date(2026, 3, 1))),
        (date(2026, 3, 31), (date(2026, 2, 1), date(2026, 3, 1))),
        (date(2026, 1, 15), (date(2025, 12, 1), date(2026, 1, 1))),
    ],
)
def test_last_month_is_the_whole_one_before(today: date, expected: tuple[date, date]) -> None:
    scope = last_month(today)
    assert (scope.first_day, scope.end_day) == expected


def test_both_sides_are_what_the_auditor_makes_of_them(client: Client) -> None:
    dearer = OLD.replace("0.000015, multiplier: 1.2", "0.00003, multiplier: 1.5")
    table, unpriced = effect_by_model(client, EVER, pricing_of(card(dearer)), pricing_of(card(NEW)), quiet)
    expected: dict[str, list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 4)
    models = {one["idempotency_key"]: one["model"] for one in HISTORY}
    in_force = audited(HISTORY, OLD)
    for position, text in ((0, dearer), (2, NEW)):
        found = audited(HISTORY, text)
        for key, kept in in_force.items():
            cost, paid = found.get(key, kept)[:2]
            expected[models[key]][position] += cost
            expected[models[key]][position + 1] += paid
    rows = {row[0]: [row[2], row[3], row[6], row[7]] for row in table.rows}
    assert rows == expected
    assert unpriced == {"new card: the rate card has no rate for model gone of provider ": 1}


def test_a_card_against_itself_differs_in_nothing(client: Client) -> None:
    table, _ = effect_by_model(client, EVER, pricing_of(card(OLD)), pricing_of(card(OLD)), quiet)
    assert {row[-1] for row in table.rows} == {Decimal(0)}


def test_only_the_period_counts(client: Client) -> None:
    table, _ = effect_by_model(
        client,
        Scope(date(2026, 2, 1), date(2026, 3, 1)),
        pricing_of(card(OLD)),
        pricing_of(card(NEW)),
        quiet,
    )
    assert {row[0]: row[1] for row in table.rows} == {"big": 1, "small": 1}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "no ClickHouse is named, so what this makes of usage is not shown"),
        (("--from", "2026-02-01"), "give both of --from and --to"),
        (("--from", "2026-02-02", "--to", "2026-02-02"), "must be later than --from"),
        (("--clickhouse", "chdb:///nowhere/at/all"), "there is no embedded ClickHouse"),
    ],
)
def test_the_command_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], told: str
) -> None:
    monkeypatch.delenv("METERLINE_CLICKHOUSE_URL", raising=False)
    paths = [tmp_path / "old.yaml", tmp_path / "new.yaml"]
    for path, text in zip(paths, (OLD, NEW), strict=True):
        path.write_text(text)
    done = CliRunner().invoke(main, ["rates", "diff", *map(str, paths), *flags])
    assert told in done.output


@pytest.mark.usefixtures("client")
def test_the_command_shows_both_tables(
    clickhouse_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERLINE_CLICKHOUSE_URL", clickhouse_url)
    paths = [tmp_path / "old.yaml", tmp_path / "new.yaml"]
    for path, text in zip(paths, (OLD, NEW), strict=True):
        path.write_text(text)
    period = ("--from", "2026-03-01", "--to", "2026-04-01")
    done = CliRunner().invoke(main, ["rates", "diff", *map(str, paths), *period])
    assert done.exit_code == 0, done.output
    assert "cache_read_rate" in done.output
    assert "Usage of 2026-03-01 to 2026-03-31, by the old card and the new one (USD)" in done.output
    alone = CliRunner().invoke(main, ["rates", "diff", *map(str, paths), *period, "--format", "csv"])
    assert alone.output.splitlines()[0].startswith("model,events,cost,price,margin")
