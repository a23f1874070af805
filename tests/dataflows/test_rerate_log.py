"""Notes of re-ratings: who may begin, who gives way, and where differences of closed months go."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import pytest
from clickhouse_connect.driver.client import Client

from dataflows.actor import actor_of
from dataflows.rerate_log import (
    Rerate,
    RerateRefusedError,
    begin,
    closed_months,
    first_open_day,
    note_applied,
    set_closed,
    set_open,
    unfinished,
)
from sinks.clickhouse import connect, parse_address
from sinks.migrate import migrate
from tests.dataflows.priced import DAY_MS, EVER, NEW, NOON_MS, card

JANUARY, FEBRUARY, MARCH, APRIL, MAY = (date(2026, month, 1) for month in range(1, 6))
DECEMBER = date(2026, 12, 1)


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    with connect(parse_address(clickhouse_url)) as opened:
        migrate(opened)
        yield opened


def begun(client: Client) -> Rerate:
    return begin(client, EVER, card(NEW), "version", "tester", NOON_MS)


@pytest.mark.parametrize(
    ("today", "closed", "booked_on"),
    [
        (date(2026, 3, 17), (), date(2026, 3, 17)),
        (date(2026, 3, 17), (JANUARY, FEBRUARY), date(2026, 3, 17)),
        (date(2026, 3, 17), (FEBRUARY, MARCH), APRIL),
        (date(2026, 3, 17), (MARCH, APRIL), MAY),
        (date(2026, 3, 17), (MARCH, MAY), APRIL),
        (date(2026, 12, 31), (DECEMBER,), date(2027, 1, 1)),
        (MARCH, (FEBRUARY,), MARCH),
    ],
)
def test_differences_are_booked_on_the_first_open_day(
    today: date, closed: tuple[date, ...], booked_on: date
) -> None:
    assert first_open_day(today, closed) == booked_on


def test_what_was_begun_is_read_back_whole_until_it_is_applied(client: Client) -> None:
    set_closed(client, MARCH, "tester", NOON_MS)
    one = begun(client)
    assert (one.rating, one.closed, one.booked_on) == (1, (MARCH,), APRIL)
    assert unfinished(client) == one
    note_applied(client, one, 0, NOON_MS + 1)
    assert unfinished(client) is None
    assert begun(client).rating == 2


def test_none_begins_while_another_is_not_finished(client: Client) -> None:
    first = begun(client)
    with pytest.raises(RerateRefusedError, match=r"^re-rating 1 of tester, begun at .* is not finished"):
        begun(client)
    assert unfinished(client) == first
    note_applied(client, first, 0, NOON_MS + 1)
    assert begun(client).rating == 3, "a number is not used again"


@pytest.mark.parametrize(("seconds_ago", "may_begin"), [(0, False), (50, False), (70, True), (100_000, True)])
def test_of_two_that_want_to_begin_the_one_that_sees_the_other_gives_way(
    client: Client, seconds_ago: int, may_begin: bool
) -> None:
    client.command(
        "INSERT INTO rerate_log (rating, rerate_id, step, actor, noted_at) SELECT 1, 'other', 0, 'other',"
        f" now64(3) - toIntervalSecond({seconds_ago})"
    )
    if may_begin:
        assert begun(client).rating == 2
        return
    with pytest.raises(RerateRefusedError, match=r"of other, .* has just wanted to begin"):
        begun(client)
    assert unfinished(client) is None
    client.command("ALTER TABLE rerate_log DELETE WHERE rerate_id = 'other' SETTINGS mutations_sync = 1")
    assert begun(client).rating == 3, "one that gave way is in nobody's way"


def test_months_close_and_open_and_stay_open_amid_a_re_rating(client: Client) -> None:
    for step, month in enumerate((MARCH, JANUARY)):
        set_closed(client, month, "tester", NOON_MS + step)
    assert closed_months(client) == (JANUARY, MARCH)
    set_open(client, JANUARY, "tester", NOON_MS + DAY_MS)
    assert closed_months(client) == (MARCH,)
    one = begun(client)
    with pytest.raises(RerateRefusedError):
        set_closed(client, FEBRUARY, "tester", NOON_MS)
    with pytest.raises(RerateRefusedError):
        set_open(client, MARCH, "tester", NOON_MS)
    assert closed_months(client) == (MARCH,)
    note_applied(client, one, 0, NOON_MS)
    set_closed(client, FEBRUARY, "tester", NOON_MS + DAY_MS)
    assert closed_months(client) == (FEBRUARY, MARCH)


def test_the_actor_is_named_or_is_the_user() -> None:
    assert actor_of({"METERLINE_ACTOR": "billing"}) == "billing"
    assert actor_of({}) == actor_of({"METERLINE_ACTOR": ""}) != ""


def test_a_month_that_is_closed_stays_so_when_it_is_closed_again_amid_a_re_rating(client: Client) -> None:
    set_closed(client, FEBRUARY, "tester", NOON_MS)
    begun(client)
    set_closed(client, FEBRUARY, "tester", NOON_MS + 10)
    with pytest.raises(RerateRefusedError):
        set_closed(client, MARCH, "tester", NOON_MS + 20)
    assert closed_months(client) == (FEBRUARY,)
