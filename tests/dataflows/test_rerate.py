"""Re-rating: what the auditor says of the new card, whatever is cut off, repeated or closed on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from clickhouse_connect.driver.client import Client

from dataflows import repricing
from dataflows.card_file import compiled, pricing_of
from dataflows.repricing import Scope
from dataflows.rerate import _SUMS, Effect, apply, effect_table, preview, remarks
from dataflows.rerate_log import begin, set_closed, unfinished
from sinks.clickhouse import connect, parse_address
from sinks.migrate import migrate
from tests.dataflows.priced import (
    EVER,
    HISTORY,
    NEW,
    NOON_MS,
    OLD,
    audited,
    card,
    event,
    only,
    price,
    standing,
)

KEPT = {"gone"}


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    with connect(parse_address(clickhouse_url)) as opened:
        migrate(opened)
        opened.command("SYSTEM STOP VIEW margin_rollup_refresh")
        price(opened, HISTORY)
        yield opened


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some days together, and of a stretch of the day that has most."""
    monkeypatch.setattr(repricing, "PAGE_ROWS", 6)


def quiet(_: str) -> None:
    """No progress."""


def rerate(client: Client, text: str, scope: Scope = EVER, now_ms: int = NOON_MS) -> Effect:
    file = card(text)
    one = begin(client, scope, file, compiled(pricing_of(file)).version, "tester", now_ms)
    return apply(client, one, quiet, lambda: now_ms + 1)


def before_and_after(text: str = NEW) -> dict[str, Any]:
    """Where every event of `text`'s models has its new amounts, and the others those of before."""
    return {**audited(HISTORY, OLD), **audited(HISTORY, text)}


def margins(client: Client) -> dict[tuple[str, str, str], tuple[Any, ...]]:
    rows = client.query(
        "SELECT day, tenant_id, model, requests, m.cost, m.price, m.credits FROM margin_daily AS m"
    ).result_rows
    return {(str(day), tenant, model): tuple(figures) for day, tenant, model, *figures in rows}


def sums(client: Client) -> tuple[Decimal, ...]:
    rows = client.query("SELECT sum(m.cost), sum(m.price), sum(m.credits) FROM margin_daily AS m").result_rows
    return tuple(rows[0])


@pytest.mark.parametrize("page_rows", [1, 2, 6, 100])
def test_usage_shows_what_the_auditor_makes_of_the_new_card(
    client: Client, monkeypatch: pytest.MonkeyPatch, page_rows: int
) -> None:
    monkeypatch.setattr(repricing, "PAGE_ROWS", page_rows)
    assert standing(client) == audited(HISTORY, OLD)
    effect = rerate(client, NEW)
    assert standing(client) == before_and_after()
    assert effect.unpriced.total() == 1
    assert list(remarks(effect, (), date(2026, 3, 17))) == [
        "1 events keep their rating: the rate card has no rate for model gone of provider "
    ]


RICH = """
rules:
  - {model: big, input_rate: 0.0000049, output_rate: 0.000016, effective_until: 2026-03-01T00:00:00Z}
  - model: big
    input_rate: 0.000003
    output_rate: 0.000011
    multiplier: 1.1
    effective_from: 2026-03-01T00:00:00Z
    context_tiers: [{above: 1000, input_rate: 0.000001, output_rate: 0.000002}]
    units: {searches: {rate: SEARCH}}
  - {model_prefix: s, input_rate: 0.000002, output_rate: 0.000003}
"""


def test_dates_tiers_patterns_and_units_hold_for_what_is_priced_already(client: Client) -> None:
    searched = event("searched", attributes={"unit.searches": "3"})
    price(client, [searched], RICH.replace("SEARCH", "0.005"))
    dearer = RICH.replace("SEARCH", "0.007")
    rerate(client, dearer)
    assert standing(client) == {**audited(HISTORY, OLD), **audited([*HISTORY, searched], dearer)}


@pytest.mark.parametrize(
    ("scope", "changed"),
    [
        (only(EVER, tenant_id="zenith"), {"b", "february 2"}),
        (only(EVER, model="small"), {"c", "february 2"}),
        (only(EVER, tenant_id="acme", model="small"), {"c"}),
        (only(EVER, first_day=date(2026, 1, 1), end_day=date(2026, 2, 1)), {"january"}),
        (only(EVER, first_day=date(2026, 3, 17)), {"a", "b"}),
        (only(EVER, end_day=date(2026, 1, 16)), set()),
    ],
)
def test_only_events_in_scope_change(client: Client, scope: Scope, changed: set[str]) -> None:
    before = standing(client)
    rerate(client, NEW, scope)
    after = standing(client)
    assert {key for key in before if after[key] != before[key]} == changed
    assert {key: after[key] for key in changed} == {key: before_and_after()[key] for key in changed}


def test_the_same_card_changes_nothing_and_writes_nothing(client: Client) -> None:
    before = client.query("SELECT * FROM priced_events ORDER BY ALL").result_rows
    effect = rerate(client, OLD)
    assert effect.sums["changed"].sum() == 0
    assert client.query("SELECT * FROM priced_events ORDER BY ALL").result_rows == before
    assert client.query("SELECT count() FROM rating_history").result_rows == [(0,)]


def test_there_and_back_restores_every_digit(client: Client) -> None:
    rows = "SELECT * EXCEPT (rating) FROM usage ORDER BY ALL"
    before, of_margin = client.query(rows).result_rows, margins(client)
    rerate(client, NEW)
    assert client.query(rows).result_rows != before
    rerate(client, OLD)
    assert client.query(rows).result_rows == before
    assert margins(client) == of_margin
    assert client.query("SELECT sum(delta_price), sum(delta_cost) FROM rating_history FINAL").result_rows == [
        (0, 0)
    ]


def test_a_replay_of_the_job_brings_no_old_rating_back(client: Client) -> None:
    rerate(client, NEW)
    price(client, HISTORY, ingested_ms=1)
    assert standing(client) == before_and_after()
    client.command("OPTIMIZE TABLE priced_events FINAL")
    assert standing(client) == before_and_after()


def test_the_preview_is_what_applying_does_and_writes_nothing(client: Client) -> None:
    tables = ("priced_events", "rating_history", "adjustments", "rerate_log")
    counts = [f"SELECT count() FROM {table}" for table in tables]  # noqa: S608  # ours
    before = [client.query(count).result_rows for count in counts]
    shown = preview(client, EVER, compiled(pricing_of(card(NEW))), (), quiet)
    assert [client.query(count).result_rows for count in counts] == before
    before_sums = sums(client)
    done = rerate(client, NEW)
    assert effect_table(shown, "") == effect_table(done, "")
    assert shown.unpriced == done.unpriced
    table = effect_table(shown, "")
    totals = dict(zip(table.columns, table.totals, strict=True))
    assert (totals["cost"], totals["price"]) == before_sums[:2]
    assert (totals["new cost"], totals["new price"]) == sums(client)[:2]
    assert totals["difference"] == totals["new margin"] - totals["margin"]
    assert (totals["events"], totals["changed"]) == (len(HISTORY), len(HISTORY) - len({"gone", "same"}))


@pytest.mark.parametrize(
    ("differences", "shown"),
    [
        ({"a": 0, "b": 2, "c": -1, "d": 0}, "cbad"),
        ({"a": 0, "b": 2, "c": 1}, "cba"),
        ({"a": 0, "b": -1, "c": -2}, "cba"),
    ],
)
def test_what_changed_comes_first_and_the_greatest_loss_before_all(
    differences: dict[str, int], shown: str
) -> None:
    rows = [
        (model, "t", 1, int(bool(by)), Decimal(0), Decimal(5), Decimal(0), Decimal(5 + by))
        for model, by in differences.items()
    ]
    sums = pl.DataFrame(rows, schema=_SUMS, orient="row")
    table = effect_table(Effect(sums, 0, Counter()), "")
    assert "".join(row[0] for row in table.rows) == shown


def test_the_trail_says_who_when_by_which_card_and_how_much(client: Client) -> None:
    before = sums(client)
    rerate(client, NEW, only(EVER, tenant_id="acme"))
    after = sums(client)
    rows = client.query(
        "SELECT rating, actor, toString(begun_at), toString(applied_at), tenant_id, model, events,"
        " unpriced, adjusted, r.delta_cost, r.delta_price, r.delta_credits, card[1].2 FROM rerates AS r"
    ).result_rows
    assert rows == [
        (
            *(1, "tester", "2026-03-17 12:00:00.000", "2026-03-17 12:00:00.001", "acme", "", 16, 1, 0),
            *(new - old for old, new in zip(before, after, strict=True)),
            NEW,
        )
    ]


def test_every_rating_of_an_event_stays_readable(client: Client) -> None:
    first = audited(HISTORY, OLD)["c"]
    second = audited(HISTORY, NEW)["c"]
    rerate(client, NEW)
    rerate(client, OLD)
    price(client, HISTORY, ingested_ms=1)
    rows = client.query(
        "SELECT rating, r.cost, r.price, r.credits, r.multiplier FROM ratings AS r"
        " WHERE tenant_id = 'acme' AND idempotency_key = 'c' ORDER BY rating"
    ).result_rows
    assert rows == [(0, *first), (1, *second), (2, *first)]


class CutOffError(Exception):
    """The process ends here."""


class Cut:
    """Ends the process before its nth write, or when half of it is done: the days of an insert are parts."""

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch, at: int, when: str) -> None:
        self.writes = 0
        for name in ("insert", "insert_arrow", "command"):
            real = getattr(client, name)

            def cut(*args: Any, real: Any = real, **kwargs: Any) -> Any:
                self.writes += 1
                if self.writes != at:
                    return real(*args, **kwargs)
                if when == "amid":
                    real(*half(*args), **kwargs)
                raise CutOffError

            monkeypatch.setattr(client, name, cut)


def half(first: str, rows: Any = None) -> tuple[Any, ...]:
    """Arguments that write half as many rows: of an INSERT … SELECT, or of a table in Arrow."""
    if rows is None:
        return (first.replace("ON u.tenant_id", "ON cityHash64(u.idempotency_key) % 2 = 0 AND u.tenant_id"),)
    return first, rows if isinstance(rows, list) else rows.slice(0, len(rows) // 2)


def finish(client: Client) -> bool:
    begun = unfinished(client)
    if begun is not None:
        apply(client, begun, quiet, lambda: NOON_MS + 2)
    return begun is not None


HISTORY_ROWS = (
    "SELECT * EXCEPT (rating, rerate_id, rated_at) FROM rating_history FINAL"
    " WHERE rating = (SELECT max(rating) FROM rating_history) ORDER BY ALL"
)
BOOKED_ROWS = (
    "SELECT * EXCEPT (rating, rerate_id, booked_at) FROM adjustments FINAL"
    " WHERE rating = (SELECT max(rating) FROM rating_history) ORDER BY ALL"
)
TRAIL = (
    "SELECT events, adjusted, unpriced, r.delta_cost, r.delta_price, r.delta_credits FROM rerates AS r"
    " ORDER BY rating DESC LIMIT 1"
)


def what_it_came_to(client: Client) -> list[Any]:
    rows = [client.query(query).result_rows for query in (HISTORY_ROWS, BOOKED_ROWS, TRAIL)]
    return [standing(client), margins(client), *rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "every"),
    [
        ("amid", 3),
        pytest.param("before", 1, marks=pytest.mark.long),
        pytest.param("amid", 1, marks=pytest.mark.long),
    ],
)
def test_cut_off_anywhere_and_finished_it_is_as_if_it_never_was(
    client: Client, monkeypatch: pytest.MonkeyPatch, when: str, every: int
) -> None:
    set_closed(client, date(2026, 2, 1), "tester", NOON_MS)
    with monkeypatch.context() as patch:
        counted = Cut(client, patch, 0, when)
        rerate(client, NEW)
    expected = what_it_came_to(client)
    rerate(client, OLD)
    original = standing(client), sums(client)
    assert counted.writes >= 6
    for at in range(1, counted.writes + 1, every):
        with monkeypatch.context() as patch:
            Cut(client, patch, at, when)
            with pytest.raises(CutOffError):
                rerate(client, NEW)
        if not finish(client) and standing(client) == original[0]:
            # It only wanted to begin, which counts for a minute.
            client.command("ALTER TABLE rerate_log DELETE WHERE step = 0 SETTINGS mutations_sync = 1")
            rerate(client, NEW)
        assert what_it_came_to(client) == expected, f"cut off {when} write {at}"
        assert not finish(client)
        rerate(client, OLD)
        assert (standing(client), sums(client)) == original, f"back, cut off {when} write {at}"
