"""Spend windows and cap alerts against a model: every event by itself, sums as fractions, local dates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from pricing.cap import CapAlert
from pricing.money import PICO
from pricing.settings import CapPair, LimitSettings, TenantLimits, TenantOverride, caps_for, timezone_for
from pricing.spend import SpendBook
from tests.pricing.spend_events import EPOCH, MILLISECOND, THRESHOLDS, Event, add_all, ms, told

Place = tuple[str, str, str, str]
"""(tenant_id, feature_id or "", "day" or "month", the local date or month)."""


@dataclass(slots=True)
class Model:
    spend: dict[Place, tuple[Fraction, int]]
    alerts: dict[tuple[Place, Decimal], tuple[Fraction, str, int]]


def local_label(instant_ms: int, zone: str, kind: str) -> str:
    moment = (EPOCH + instant_ms * MILLISECOND).astimezone(ZoneInfo(zone))
    return moment.strftime("%Y-%m-%d" if kind == "day" else "%Y-%m")


def event_by_event(limits: LimitSettings, thresholds: Sequence[Decimal], events: Iterable[Event]) -> Model:
    model = Model({}, {})
    for event in events:
        zone = timezone_for(limits, event.tenant)
        for feature in ("", event.feature):
            caps = caps_for(limits, event.tenant, feature)
            for kind, cap in (("day", caps.daily_cap), ("month", caps.monthly_cap)):
                if feature and cap is None:
                    continue
                place = (event.tenant, feature, kind, local_label(event.at_ms, zone, kind))
                spend, count = model.spend.get(place, (Fraction(0), 0))
                spend += Fraction(event.price)
                model.spend[place] = spend, count + 1
                for threshold in thresholds:
                    if cap is not None and spend >= Fraction(threshold) * Fraction(cap):
                        model.alerts.setdefault((place, threshold), (spend, event.key, event.at_ms))
    return model


def as_model(limits: LimitSettings, book: SpendBook, alerts: Sequence[CapAlert]) -> Model:
    def place(tenant: str, feature: str, kind: str, start_ms: int) -> Place:
        return tenant, feature, kind, local_label(start_ms, timezone_for(limits, tenant), kind)

    assert len({alert.alert_id for alert in alerts}) == len(alerts)
    return Model(
        {
            place(*key): (Fraction(window.spend_pico, PICO), window.events)
            for key, window in book.windows.items()
        },
        {
            (
                place(alert.tenant_id, alert.feature_id, alert.window_kind, alert.window_start_ms),
                alert.threshold,
            ): (Fraction(alert.spend), alert.crossing_key, alert.raised_at_ms)
            for alert in alerts
        },
    )


caps = st.none() | st.sampled_from(["0", "0.000000000003", "0.7", "1", "2.333333333333", "40"]).map(Decimal)
cap_pairs = st.builds(CapPair, daily_cap=caps, monthly_cap=caps)
zones = st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Auckland"])
features = st.sampled_from(["chat", "search"])
some_limits = st.builds(
    LimitSettings,
    tenant=st.builds(TenantLimits, daily_cap=caps, monthly_cap=caps, timezone=zones),
    tenant_overrides=st.dictionaries(
        st.sampled_from(["a", "b"]),
        st.builds(
            TenantOverride,
            daily_cap=caps,
            monthly_cap=caps,
            timezone=st.none() | zones,
            features=st.dictionaries(features, cap_pairs, max_size=2),
        ),
        max_size=2,
    ),
    feature_overrides=st.dictionaries(features, cap_pairs, max_size=1),
)
some_thresholds = st.sampled_from([("0.8", "1"), ("0.333333", "1"), ("1",), ("0.000001", "0.5", "1")]).map(
    lambda written: tuple(map(Decimal, written))
)
# Two days about the end of a month, and about a day of 23 hours in New York.
instants = st.integers(ms("2026-02-28T00:00"), ms("2026-03-02T00:00")) | st.integers(
    ms("2026-03-07T12:00"), ms("2026-03-09T12:00")
)
prices = st.sampled_from(
    ["0", "0.000000000001", "0.1", "0.333333333333", "0.7", "1", "41", "1000000000000000000.000000000001"]
).map(Decimal)


@st.composite
def some_events(draw: st.DrawFn) -> list[Event]:
    drawn = st.tuples(st.sampled_from("abc"), features, instants, prices)
    return [
        Event(tenant, feature, at_ms, f"k{number}", price)
        for number, (tenant, feature, at_ms, price) in enumerate(draw(st.lists(drawn, max_size=25)))
    ]


def cut(events: list[Event], cuts: Iterable[int]) -> list[list[Event]]:
    edges = [0, *sorted(cut for cut in cuts if cut < len(events)), len(events)]
    return [events[start:end] for start, end in pairwise(edges)]


@given(some_limits, some_thresholds, some_events(), st.lists(st.integers(0, 25), max_size=5))
def test_batches_say_what_events_say_one_by_one(
    limits: LimitSettings, thresholds: tuple[Decimal, ...], events: list[Event], cuts: list[int]
) -> None:
    book = SpendBook(limits, thresholds)
    alerts = add_all(book, limits, cut(events, cuts))
    assert as_model(limits, book, alerts) == event_by_event(limits, thresholds, events)


@given(some_limits, some_events(), st.data())
def test_tenants_do_not_touch_one_another(
    limits: LimitSettings, events: list[Event], data: st.DataObject
) -> None:
    """In whatever order they come among each other, as long as each one's own events keep theirs."""
    order = data.draw(st.permutations("abc"))
    sorted_events = sorted(events, key=lambda event: order.index(event.tenant))
    together, apart = SpendBook(limits, THRESHOLDS), SpendBook(limits, THRESHOLDS)
    alerts = add_all(together, limits, [events])
    by_tenant = [[event for event in events if event.tenant == tenant] for tenant in order]
    assert told(add_all(apart, limits, by_tenant)) == told(alerts)
    assert apart.windows == together.windows
    resorted = SpendBook(limits, THRESHOLDS)
    assert told(add_all(resorted, limits, [sorted_events])) == told(alerts)
    assert resorted.windows == together.windows
