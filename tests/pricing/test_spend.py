"""Spend windows and cap alerts: scenarios worked by hand."""

from __future__ import annotations

from decimal import ROUND_UP, Context, Decimal, localcontext

import polars as pl
import pytest

from pricing.cap import CapAlert, alert_id
from pricing.money import to_pico
from pricing.settings import CapPair, LimitSettings, TenantLimits, TenantOverride
from pricing.spend import SpendBook, WindowKey, alert_of, sum_rows
from tests.pricing.spend_events import THRESHOLDS, add, add_all, events_of, ms, rows_of, told, windows_in


def tenant_caps(daily: str | None = None, monthly: str | None = None, zone: str = "UTC") -> LimitSettings:
    return LimitSettings(tenant=TenantLimits(daily_cap=usd(daily), monthly_cap=usd(monthly), timezone=zone))


def usd(amount: str | None) -> Decimal | None:
    return None if amount is None else Decimal(amount)


FIFTY = tenant_caps("50.00")
OWN_CAPS = LimitSettings(
    tenant=TenantLimits(daily_cap=Decimal(50)),
    tenant_overrides={
        "big": TenantOverride(daily_cap=Decimal(1000)),
        "acme": TenantOverride(features={"search": CapPair(daily_cap=Decimal(5), monthly_cap=Decimal(9))}),
    },
    feature_overrides={"search": CapPair(daily_cap=Decimal(10))},
)
ZONES = LimitSettings(
    tenant=TenantLimits(daily_cap=Decimal(10)),
    tenant_overrides={
        "tokyo": TenantOverride(timezone="Asia/Tokyo"),
        "york": TenantOverride(timezone="America/New_York", monthly_cap=Decimal(12)),
    },
)

SCENARIOS = {
    "below every threshold": (
        FIFTY,
        ["acme chat 2026-03-01T10:00 k1 39.999999999999"],
        [
            "acme - day 2026-03-01T00:00 2026-03-02T00:00 39.999999999999 1",
            "acme - month 2026-03-01T00:00 2026-04-01T00:00 39.999999999999 1",
        ],
        [],
    ),
    "exactly the first threshold": (
        FIFTY,
        ["acme chat 2026-03-01T10:00 k1 39.999999999999", "acme chat 2026-03-01T10:01 k2 0.000000000001"],
        [
            "acme - day 2026-03-01T00:00 2026-03-02T00:00 40 2",
            "acme - month 2026-03-01T00:00 2026-04-01T00:00 40 2",
        ],
        ["acme - day 2026-03-01T00:00 50 0.8 40 k2"],
    ),
    "exactly the cap, by another event": (
        FIFTY,
        [
            "acme chat 2026-03-01T10:00 k1 30",
            "acme chat 2026-03-01T10:01 k2 10.5",
            "acme chat 2026-03-01T10:02 k3 9.5",
            "acme chat 2026-03-01T10:03 k4 100",
        ],
        [
            "acme - day 2026-03-01T00:00 2026-03-02T00:00 150 4",
            "acme - month 2026-03-01T00:00 2026-04-01T00:00 150 4",
        ],
        ["acme - day 2026-03-01T00:00 50 0.8 40.5 k2", "acme - day 2026-03-01T00:00 50 1 50 k3"],
    ),
    "both thresholds by one large event": (
        FIFTY,
        [
            "acme chat 2026-03-01T10:00 k1 1",
            "acme chat 2026-03-01T10:01 k2 60.000000000001",
            "acme chat 2026-03-01T10:02 k3 60",
        ],
        [
            "acme - day 2026-03-01T00:00 2026-03-02T00:00 121.000000000001 3",
            "acme - month 2026-03-01T00:00 2026-04-01T00:00 121.000000000001 3",
        ],
        [
            "acme - day 2026-03-01T00:00 50 0.8 61.000000000001 k2",
            "acme - day 2026-03-01T00:00 50 1 61.000000000001 k2",
        ],
    ),
    "a limit between two picodollars is the upper one": (
        # 0.8 x 0.000000000003 = 0.0000000000024
        tenant_caps("0.000000000003"),
        [
            "acme chat 2026-03-01T10:00 k1 0.000000000002",
            "acme chat 2026-03-01T10:01 k2 0.000000000001",
        ],
        [
            "acme - day 2026-03-01T00:00 2026-03-02T00:00 0.000000000003 2",
            "acme - month 2026-03-01T00:00 2026-04-01T00:00 0.000000000003 2",
        ],
        [
            "acme - day 2026-03-01T00:00 0.000000000003 0.8 0.000000000003 k2",
            "acme - day 2026-03-01T00:00 0.000000000003 1 0.000000000003 k2",
        ],
    ),
    "once for each day, in the order of arrival": (
        FIFTY,
        [
            "acme chat 2026-03-02T10:00 k1 40",
            "acme chat 2026-03-01T23:59 k2 39",
            "acme chat 2026-03-02T09:00 k3 1",
            # A late event takes yesterday over its threshold.
            "acme chat 2026-03-01T00:00 k4 2",
        ],
        [
            "acme - day 2026-03-01T00:00 2026-03-02T00:00 41 2",
            "acme - day 2026-03-02T00:00 2026-03-03T00:00 41 2",
            "acme - month 2026-03-01T00:00 2026-04-01T00:00 82 4",
        ],
        ["acme - day 2026-03-01T00:00 50 0.8 41 k4", "acme - day 2026-03-02T00:00 50 0.8 40 k1"],
    ),
    "a month's cap over its days": (
        tenant_caps(None, "100"),
        [
            "acme chat 2026-01-31T23:59 k1 79",
            "acme chat 2026-02-01T00:00 k2 79",
            "acme chat 2026-02-14T12:00 k3 1",
            "acme chat 2026-02-28T23:59 k4 20",
            "acme chat 2026-03-01T00:00 k5 79",
        ],
        [
            "acme - day 2026-01-31T00:00 2026-02-01T00:00 79 1",
            "acme - day 2026-02-01T00:00 2026-02-02T00:00 79 1",
            "acme - day 2026-02-14T00:00 2026-02-15T00:00 1 1",
            "acme - day 2026-02-28T00:00 2026-03-01T00:00 20 1",
            "acme - day 2026-03-01T00:00 2026-03-02T00:00 79 1",
            "acme - month 2026-01-01T00:00 2026-02-01T00:00 79 1",
            "acme - month 2026-02-01T00:00 2026-03-01T00:00 100 3",
            "acme - month 2026-03-01T00:00 2026-04-01T00:00 79 1",
        ],
        ["acme - month 2026-02-01T00:00 100 0.8 80 k3", "acme - month 2026-02-01T00:00 100 1 100 k4"],
    ),
    "one event may cross a day's and a month's cap": (
        tenant_caps("10", "10"),
        ["acme chat 2026-03-01T10:00 k1 9"],
        [
            "acme - day 2026-03-01T00:00 2026-03-02T00:00 9 1",
            "acme - month 2026-03-01T00:00 2026-04-01T00:00 9 1",
        ],
        ["acme - day 2026-03-01T00:00 10 0.8 9 k1", "acme - month 2026-03-01T00:00 10 0.8 9 k1"],
    ),
    "each tenant, and each feature, has its own": (
        OWN_CAPS,
        [
            "acme search 2026-03-01T10:00 k1 4",
            "acme chat 2026-03-01T10:01 k2 40",
            "acme search 2026-03-01T10:02 k3 1",
            "big search 2026-03-01T10:03 k4 9.5",
            "big chat 2026-03-01T10:04 k5 700",
            "else chat 2026-03-01T10:05 k6 3",
            "acme search 2026-03-02T10:06 k7 3",
        ],
        [
            "acme - day 2026-03-01T00:00 2026-03-02T00:00 45 3",
            "acme - day 2026-03-02T00:00 2026-03-03T00:00 3 1",
            "acme - month 2026-03-01T00:00 2026-04-01T00:00 48 4",
            "acme search day 2026-03-01T00:00 2026-03-02T00:00 5 2",
            "acme search day 2026-03-02T00:00 2026-03-03T00:00 3 1",
            "acme search month 2026-03-01T00:00 2026-04-01T00:00 8 3",
            "big - day 2026-03-01T00:00 2026-03-02T00:00 709.5 2",
            "big - month 2026-03-01T00:00 2026-04-01T00:00 709.5 2",
            "big search day 2026-03-01T00:00 2026-03-02T00:00 9.5 1",
            "else - day 2026-03-01T00:00 2026-03-02T00:00 3 1",
            "else - month 2026-03-01T00:00 2026-04-01T00:00 3 1",
        ],
        [
            "acme - day 2026-03-01T00:00 50 0.8 44 k2",
            "acme search day 2026-03-01T00:00 5 0.8 4 k1",
            "acme search day 2026-03-01T00:00 5 1 5 k3",
            "acme search month 2026-03-01T00:00 9 0.8 8 k7",
            "big search day 2026-03-01T00:00 10 0.8 9.5 k4",
        ],
    ),
    "a cap of zero allows nothing": (
        tenant_caps("0"),
        ["acme chat 2026-03-01T10:00 k1 0", "acme chat 2026-03-01T10:01 k2 1"],
        [
            "acme - day 2026-03-01T00:00 2026-03-02T00:00 1 2",
            "acme - month 2026-03-01T00:00 2026-04-01T00:00 1 2",
        ],
        ["acme - day 2026-03-01T00:00 0 0.8 0 k1", "acme - day 2026-03-01T00:00 0 1 0 k1"],
    ),
    "without a cap there is spend and no alert": (
        tenant_caps(),
        ["acme chat 2026-03-01T10:00 k1 1000000000000"],
        [
            "acme - day 2026-03-01T00:00 2026-03-02T00:00 1000000000000 1",
            "acme - month 2026-03-01T00:00 2026-04-01T00:00 1000000000000 1",
        ],
        [],
    ),
    "what is not billed counts as an event and crosses nothing": (
        FIFTY,
        [
            "acme chat 2026-03-01T10:00 k1 0",
            "acme chat 2026-03-01T10:01 k2 40",
            "acme chat 2026-03-01T10:02 k3 0",
        ],
        [
            "acme - day 2026-03-01T00:00 2026-03-02T00:00 40 3",
            "acme - month 2026-03-01T00:00 2026-04-01T00:00 40 3",
        ],
        ["acme - day 2026-03-01T00:00 50 0.8 40 k2"],
    ),
    "a day begins at the tenant's midnight": (
        ZONES,
        [
            "else chat 2026-03-01T02:00 k1 9",
            "tokyo chat 2026-02-28T14:59 k2 4",
            "tokyo chat 2026-02-28T15:00 k3 4",
            "tokyo chat 2026-03-01T14:59 k4 4",
            # In New York it is still February; its 8th of March has 23 hours.
            "york chat 2026-03-01T04:59 k5 5",
            "york chat 2026-03-01T05:00 k6 5",
            "york chat 2026-03-08T05:00 k7 2",
            "york chat 2026-03-09T03:59 k8 7",
            "york chat 2026-03-09T04:00 k9 1",
        ],
        [
            "else - day 2026-03-01T00:00 2026-03-02T00:00 9 1",
            "else - month 2026-03-01T00:00 2026-04-01T00:00 9 1",
            "tokyo - day 2026-02-27T15:00 2026-02-28T15:00 4 1",
            "tokyo - day 2026-02-28T15:00 2026-03-01T15:00 8 2",
            "tokyo - month 2026-01-31T15:00 2026-02-28T15:00 4 1",
            "tokyo - month 2026-02-28T15:00 2026-03-31T15:00 8 2",
            "york - day 2026-02-28T05:00 2026-03-01T05:00 5 1",
            "york - day 2026-03-01T05:00 2026-03-02T05:00 5 1",
            "york - day 2026-03-08T05:00 2026-03-09T04:00 9 2",
            "york - day 2026-03-09T04:00 2026-03-10T04:00 1 1",
            "york - month 2026-02-01T05:00 2026-03-01T05:00 5 1",
            "york - month 2026-03-01T05:00 2026-04-01T04:00 15 4",
        ],
        [
            "else - day 2026-03-01T00:00 10 0.8 9 k1",
            "tokyo - day 2026-02-28T15:00 10 0.8 8 k4",
            "york - day 2026-03-08T05:00 10 0.8 9 k8",
            "york - month 2026-03-01T05:00 12 0.8 14 k8",
            "york - month 2026-03-01T05:00 12 1 14 k8",
        ],
    ),
    "clocks that go back over midnight": (
        tenant_caps("50", "50", "America/St_Johns"),
        # 00:30 of the 1st of November 2009, when it is the 31st of October for a second time.
        ["acme chat 2009-11-01T02:31 k1 40"],
        [
            "acme - day 2009-11-01T02:30 2009-11-02T03:30 40 1",
            "acme - month 2009-11-01T02:30 2009-12-01T03:30 40 1",
        ],
        ["acme - day 2009-11-01T02:30 50 0.8 40 k1", "acme - month 2009-11-01T02:30 50 0.8 40 k1"],
    ),
}


@pytest.mark.parametrize(
    ("limits", "lines", "windows", "alerts"), list(SCENARIOS.values()), ids=list(SCENARIOS)
)
def test_spend_and_alerts(
    limits: LimitSettings, lines: list[str], windows: list[str], alerts: list[str]
) -> None:
    """However the events are cut into batches."""
    events = events_of(lines)
    batchings = [[events], [[event] for event in events]]
    batchings += [[events[:cut], [], events[cut:]] for cut in range(1, len(events))]
    for batches in batchings:
        book = SpendBook(limits, THRESHOLDS)
        assert told(add_all(book, limits, batches)) == alerts
        assert windows_in(book) == windows


def test_an_alert_says_everything() -> None:
    limits = LimitSettings(feature_overrides={"search": CapPair(daily_cap=Decimal("5.00"))})
    book = SpendBook(limits, (Decimal("0.800"),))
    (alert,) = add_all(book, limits, [events_of(["acme search 2026-03-01T10:00:00.123 k1 4.000000000001"])])
    assert alert == CapAlert(
        alert_id=alert_id("acme", "search", "day", ms("2026-03-01T00:00"), Decimal("0.8")),
        tenant_id="acme",
        feature_id="search",
        window_kind="day",
        window_start_ms=ms("2026-03-01T00:00"),
        window_end_ms=ms("2026-03-02T00:00"),
        cap=Decimal(5),
        threshold=Decimal("0.8"),
        spend=Decimal("4.000000000001"),
        crossing_key="k1",
        raised_at_ms=ms("2026-03-01T10:00:00.123"),
    )


@pytest.mark.parametrize(
    ("daily_cap", "lines", "cap", "alerts"),
    [
        # Lowered below what is spent already: the next event finds it crossed.
        ("30", ["acme chat 2026-03-01T11:00 k2 0"], "30", ["acme - day 2026-03-01T00:00 30 1 40 k2"]),
        # Lowered, and still reached only later.
        ("45", ["acme chat 2026-03-01T11:00 k2 5"], "45", ["acme - day 2026-03-01T00:00 45 1 45 k2"]),
        # Raised: 0.8 was told for this window, and is not told again.
        ("60", ["acme chat 2026-03-01T11:00 k2 10"], "60", []),
        ("60", ["acme chat 2026-03-01T11:00 k2 20"], "60", ["acme - day 2026-03-01T00:00 60 1 60 k2"]),
        # Taken away, and the next day is as if nothing had been.
        (None, ["acme chat 2026-03-01T11:00 k2 1000"], None, []),
        ("60", ["acme chat 2026-03-02T11:00 k2 48"], "50", ["acme - day 2026-03-02T00:00 60 0.8 48 k2"]),
    ],
)
def test_a_cap_that_changes_while_a_window_is_open(
    daily_cap: str | None, lines: list[str], cap: str | None, alerts: list[str]
) -> None:
    before = SpendBook(FIFTY, THRESHOLDS)
    first = add_all(before, FIFTY, [events_of(["acme chat 2026-03-01T10:00 k1 40"])])
    assert told(first) == ["acme - day 2026-03-01T00:00 50 0.8 40 k1"]
    limits = tenant_caps(daily_cap)
    after = SpendBook(limits, THRESHOLDS)
    after.windows.update(before.windows)
    assert told(add_all(after, limits, [events_of(lines)])) == alerts
    assert after.windows["acme", "", "day", ms("2026-03-01T00:00")].cap == usd(cap)


def test_changed_windows_are_named_once() -> None:
    day, month = ("acme", "", "day", ms("2026-03-01T00:00")), ("acme", "", "month", ms("2026-03-01T00:00"))
    other = ("acme", "", "day", ms("2026-03-02T00:00"))
    book = SpendBook(FIFTY, THRESHOLDS)
    lines = ["acme a 2026-03-01T10:00 k1 1", "acme b 2026-03-01T11:00 k2 1", "acme a 2026-03-01T12:00 k3 0"]
    touched, _ = add(book, FIFTY, rows_of(FIFTY, events_of(lines)))
    assert sorted(touched) == [day, month]
    touched, _ = add(book, FIFTY, rows_of(FIFTY, events_of(["acme a 2026-03-02T10:00 k4 1"])))
    assert sorted(touched) == [other, month]
    assert add(book, FIFTY, rows_of(FIFTY, [])) == ([], [])
    assert sorted(book.take_changed()) == [day, other, month]
    assert book.take_changed() == []


def test_a_window_is_forgotten_after_its_end() -> None:
    book = SpendBook(FIFTY, THRESHOLDS)
    lines = [
        "acme chat 2026-02-28T10:00 k1 1",
        "acme chat 2026-03-01T10:00 k2 1",
        "zeta chat 2026-03-01T10:00 k3 1",
    ]
    add_all(book, FIFTY, [events_of(lines)])
    february, first, march = ms("2026-02-01T00:00"), ms("2026-03-01T00:00"), ms("2026-03-01T00:00")
    ended = ms("2026-03-01T00:00")
    # At the very instant of its end it stays: the events of it are not late yet.
    assert book.forget(ended) == []
    assert sorted(book.forget(ended + 1)) == [
        ("acme", "", "day", ms("2026-02-28T00:00")),
        ("acme", "", "month", february),
    ]
    assert sorted(book.forget(ms("2026-03-02T00:00") + 1)) == [
        ("acme", "", "day", first),
        ("zeta", "", "day", first),
    ]
    left: list[WindowKey] = [("acme", "", "month", march), ("zeta", "", "month", march)]
    assert sorted(book.windows) == left
    # What is gone has not changed either: there is nothing to write of it.
    assert sorted(book.take_changed()) == left
    assert book.forget(ended) == []


def test_many_small_amounts_add_up_to_the_last_place() -> None:
    """Ten thousand tenths and ten thousand picodollars, where floats would have drifted long ago."""
    day_ms, count = ms("2026-03-01T00:00"), 10_000
    rows = rows_of(
        FIFTY, events_of(["acme chat 2026-03-01T10:00 k 0.1", "acme chat 2026-03-01T10:00 k 1e-12"])
    )
    rows = pl.concat([rows] * count).with_columns(idempotency_key=pl.int_range(2 * count).cast(pl.String))
    exact = Decimal("1000.000000010000")
    limits = tenant_caps(str(exact))
    book = SpendBook(limits, (Decimal(1),))
    (alert,) = add(book, limits, rows)[1]
    assert book.windows["acme", "", "day", day_ms].spend_pico == to_pico(exact)
    assert (alert.crossing_key, alert.spend) == (str(2 * count - 1), exact)


def test_other_rows_than_those_that_were_summed_name_no_event() -> None:
    lines = ["zeta a 2026-03-01 k0 99", "acme a 2026-03-01 k1 39", "acme a 2026-03-01 k2 11"]
    rows = rows_of(FIFTY, events_of(lines))
    _, (first, second) = SpendBook(FIFTY, THRESHOLDS).add(sum_rows(rows[1:], FIFTY))
    assert [alert_of(crossing, rows).crossing_key for crossing in (first, second)] == ["k2", "k2"]
    with pytest.raises(AssertionError, match="no row crosses"):
        alert_of(second, rows[:2])


def test_the_threads_decimal_context_changes_no_sum() -> None:
    limits, lines, windows, alerts = SCENARIOS["both thresholds by one large event"]
    events = events_of(lines)
    with localcontext(Context(prec=1, rounding=ROUND_UP)):
        book = SpendBook(limits, THRESHOLDS)
        found = add_all(book, limits, [events[:2], events[2:]])
    assert windows_in(book) == windows
    assert told(found) == alerts
