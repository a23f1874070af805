"""The auditor is the judge of the job, so its own answers are worked out by hand here.

Nothing expected was ever computed by a program. Its reading of lines is tested in
`test_auditor_event.py`, its money in `test_auditor_rating.py`.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.auditor import audit, load_config
from tests.auditor_cases import (
    CLAUDE,
    CONFIG,
    DAY_MS,
    HOUR_MS,
    JUNE_MS,
    LATER_MS,
    MIDNIGHT_MS,
    MINUTE_MS,
    NOON_MS,
    audit_of,
    raw,
)
from tests.auditor_event import Line

FIRST: dict[str, Any] = {}
DAY_LATER = {"timestamp": NOON_MS + DAY_MS}
PAST_THE_WINDOW = {"timestamp": NOON_MS + DAY_MS + 1}
DAY_EARLIER = {"timestamp": NOON_MS - DAY_MS}
NOISE = {"timestamp": NOON_MS + 1, "latency_ms": 9, "retry_count": 3, "attributes": {"attempt": "2"}}


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ([FIRST, FIRST], "priced duplicate"),
        ([FIRST, NOISE], "priced duplicate"),
        ([FIRST, DAY_LATER], "priced duplicate"),
        ([FIRST, DAY_EARLIER], "priced duplicate"),
        ([FIRST, PAST_THE_WINDOW], "priced priced"),
        ([FIRST, {"tenant_id": "tenant-002"}], "priced priced"),
        ([FIRST, {"output_tokens": 201}], "priced idempotency_conflict"),
        ([FIRST, {"feature_id": "search"}], "priced idempotency_conflict"),
        ([FIRST, {"provider": "azure"}], "priced idempotency_conflict"),
        ([FIRST, {"status": "error"}], "priced idempotency_conflict"),
        ([FIRST, {"provider_cost": "0.01"}], "priced idempotency_conflict"),
        # A field that is absent is its default.
        ([FIRST, {"provider": "", "status": "success", "reasoning_tokens": 0}], "priced duplicate"),
        # Costs are compared as they are kept, with 12 places.
        ([{"provider_cost": "0.1"}, {"provider_cost": "0.1000000000000001"}], "priced duplicate"),
        # A conflict is no first: the third is compared with the first.
        (
            [FIRST, {"output_tokens": 201}, {"output_tokens": 201}],
            "priced idempotency_conflict idempotency_conflict",
        ),
        ([FIRST, {"output_tokens": 201}, FIRST], "priced idempotency_conflict duplicate"),
        # The window hangs on the first, not on its latest copy.
        ([FIRST, DAY_LATER, {"timestamp": NOON_MS + DAY_MS + HOUR_MS}], "priced duplicate priced"),
        # Two firsts, each within the window of the third: the earlier arrival is asked.
        (
            [FIRST, {**PAST_THE_WINDOW, "output_tokens": 9}, {"timestamp": NOON_MS + HOUR_MS}],
            "priced priced duplicate",
        ),
        (
            [
                FIRST,
                {**PAST_THE_WINDOW, "output_tokens": 9},
                {"timestamp": NOON_MS + HOUR_MS, "output_tokens": 9},
            ],
            "priced priced idempotency_conflict",
        ),
        # What never became an event is nobody's first.
        ([{"output_tokens": -1}, FIRST], "out_of_range priced"),
        ([{"timestamp": LATER_MS + DAY_MS}, {"timestamp": LATER_MS}], "timestamp_in_future priced"),
        # Nor is an unpriced one: it claims no key, so it can be put through again once there is a rate.
        ([{"model": "new"}, {"model": "new"}], "unpriced unpriced"),
        ([{"model": "new"}, FIRST], "unpriced priced"),
        ([FIRST, {"model": "new"}], "priced unpriced"),
        # Nothing is guessed about a model: case counts.
        ([{"model": "GPT-4o"}], "unpriced"),
        ([{"model": "new", "status": "error"}], "unpriced"),
        ([{"model": "new", "cache_status": "hit"}], "unpriced"),
    ],
)
def test_the_fate_of_each_event(events: list[dict[str, Any]], outcome: str) -> None:
    found = audit_of(*(raw(**changes) for changes in events))

    fates = {row.position: "priced" for row in found.priced.values()}
    fates |= dict.fromkeys(found.duplicates, "duplicate")
    fates |= dict(found.quarantined)
    assert " ".join(fates[position] for position in sorted(fates)) == outcome
    assert found.read == len(events)


@pytest.mark.parametrize(
    ("event_ms", "arrival_ms", "fate"),
    [
        (NOON_MS + 5 * MINUTE_MS, NOON_MS, "priced"),
        (NOON_MS + 5 * MINUTE_MS + 1, NOON_MS, "timestamp_in_future"),
        (NOON_MS - 35 * DAY_MS, NOON_MS, "priced"),
        (NOON_MS - 35 * DAY_MS - 1, NOON_MS, "timestamp_too_old"),
        # Files have no arrival time: the wall clock (here a year later) bounds the future, nothing the past.
        (NOON_MS - 3650 * DAY_MS, None, "priced"),
        (LATER_MS + 5 * MINUTE_MS, None, "priced"),
        (LATER_MS + 5 * MINUTE_MS + 1, None, "timestamp_in_future"),
    ],
)
def test_implausible_times(event_ms: int, arrival_ms: int | None, fate: str) -> None:
    line = Line("events", 0, 0, 0, raw(timestamp=event_ms), arrival_ms)

    found = audit([line], load_config(CONFIG), now_ms=LATER_MS)

    assert [reason for _, reason in found.quarantined] == ([] if fate == "priced" else [fate])


def test_implausible_time_comes_before_duplicates_and_after_the_contract() -> None:
    ahead = LATER_MS + DAY_MS
    found = audit_of(raw(timestamp=ahead), raw(timestamp=ahead), raw(timestamp=ahead, reasoning_tokens=999))

    reasons = [reason for _, reason in found.quarantined]
    assert reasons == ["timestamp_in_future", "timestamp_in_future", "inconsistent_usage"]


def test_without_any_clock_a_file_cannot_be_audited() -> None:
    with pytest.raises(ValueError, match="now_ms"):
        audit([Line("events", 0, 0, 0, raw())], load_config(CONFIG))


def test_blank_lines_are_not_events() -> None:
    found = audit_of(b"", b" \t\r", raw(), b"\xef\xbb\xbf")

    # A byte order mark alone is no blank: somebody wrote it.
    assert (found.read, len(found.priced), [why for _, why in found.quarantined]) == (2, 1, ["invalid_json"])


# ---------------------------------------------------------------------------------------------
# Windows, caps, margin


def priced(key: str, event_ms: int, dollars: str, **changes: Any) -> bytes:
    """An event of the model that costs 1 USD a token."""
    tokens = {"model": "bulk", "input_tokens": int(dollars), "output_tokens": 0}
    return raw(idempotency_key=key, timestamp=event_ms, **tokens, **changes)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1000


@pytest.mark.parametrize(
    ("zone", "event", "day", "month"),
    [
        ("UTC", "2025-06-01T00:00:00+00:00", "2025-06-01T00:00:00+00:00", "2025-06-01T00:00:00+00:00"),
        ("UTC", "2025-05-31T23:59:59+00:00", "2025-05-31T00:00:00+00:00", "2025-05-01T00:00:00+00:00"),
        # Still May in New York.
        (
            "America/New_York",
            "2025-06-01T03:59:59+00:00",
            "2025-05-31T04:00:00+00:00",
            "2025-05-01T04:00:00+00:00",
        ),
        (
            "America/New_York",
            "2025-06-01T04:00:00+00:00",
            "2025-06-01T04:00:00+00:00",
            "2025-06-01T04:00:00+00:00",
        ),
        # 23 hours, and 25: the day after the change starts an hour earlier or later in UTC.
        (
            "Europe/Vienna",
            "2025-03-30T22:00:00+00:00",
            "2025-03-30T22:00:00+00:00",
            "2025-02-28T23:00:00+00:00",
        ),
        (
            "Europe/Vienna",
            "2025-10-26T22:59:59+00:00",
            "2025-10-25T22:00:00+00:00",
            "2025-09-30T22:00:00+00:00",
        ),
        (
            "Asia/Kathmandu",
            "2025-06-01T18:15:00+00:00",
            "2025-06-01T18:15:00+00:00",
            "2025-05-31T18:15:00+00:00",
        ),
        # 8 September 2024 began at one o'clock in Santiago: there was no midnight.
        (
            "America/Santiago",
            "2024-09-08T04:00:00+00:00",
            "2024-09-08T04:00:00+00:00",
            "2024-09-01T04:00:00+00:00",
        ),
        (
            "America/Santiago",
            "2024-09-08T03:59:59+00:00",
            "2024-09-07T04:00:00+00:00",
            "2024-09-01T04:00:00+00:00",
        ),
    ],
)
def test_windows_follow_the_tenant_s_calendar(zone: str, event: str, day: str, month: str) -> None:
    config = CONFIG + f"  overrides: {{tenants: {{tenant-001: {{timezone: {zone}}}}}}}\n"

    found = audit_of(priced("k", ms(event), "3"), config=config)

    tenant = "tenant-001"
    assert found.spend == {
        (tenant, feature, kind, start): Decimal(3)
        for feature in ("", "chat")
        for kind, start in (("day", ms(day)), ("month", ms(month)))
    }


def test_spend_sums_prices_by_tenant_and_by_feature() -> None:
    found = audit_of(
        priced("a", NOON_MS, "3"),
        priced("b", NOON_MS, "4", feature_id="search"),
        priced("c", NOON_MS + DAY_MS, "5"),
        priced("d", NOON_MS, "100", status="error"),
        priced("a", NOON_MS, "3"),
        priced("e", NOON_MS, "9", tenant_id="tenant-002"),
    )

    tenant = "tenant-001"
    assert {key: int(spend) for key, spend in found.spend.items() if key[0] == tenant} == {
        (tenant, "", "day", MIDNIGHT_MS): 7,
        (tenant, "chat", "day", MIDNIGHT_MS): 3,
        (tenant, "search", "day", MIDNIGHT_MS): 4,
        (tenant, "", "day", MIDNIGHT_MS + DAY_MS): 5,
        (tenant, "chat", "day", MIDNIGHT_MS + DAY_MS): 5,
        (tenant, "", "month", JUNE_MS): 12,
        (tenant, "chat", "month", JUNE_MS): 8,
        (tenant, "search", "month", JUNE_MS): 4,
    }
    assert found.spend["tenant-002", "", "month", JUNE_MS] == 9


# The day of noon ends 12 hours after it; its window is kept for 72 hours more.
KEPT_UNTIL_MS = NOON_MS + 12 * HOUR_MS + 72 * HOUR_MS


@pytest.mark.parametrize(
    ("earlier", "late"),
    [
        ([], False),
        ([("p", 0, KEPT_UNTIL_MS, {})], False),
        ([("p", 0, KEPT_UNTIL_MS + 1, {})], True),
        # Another partition's clock does not count, nor another source's.
        ([("p", 1, KEPT_UNTIL_MS + 1, {})], False),
        ([("q", 0, KEPT_UNTIL_MS + 1, {})], False),
        # Neither does one that is not believed, nor what is no event.
        ([("p", 0, LATER_MS + DAY_MS, {})], False),
        ([("p", 0, KEPT_UNTIL_MS + 1, {"output_tokens": -1})], False),
        # Nor one that waits for its rate.
        ([("p", 0, KEPT_UNTIL_MS + 1, {"model": "new"})], False),
        # Time never runs back.
        ([("p", 0, KEPT_UNTIL_MS + 1, {}), ("p", 0, NOON_MS, {"idempotency_key": "x"})], True),
    ],
)
def test_late_events_are_priced_but_leave_their_window_alone(
    earlier: list[tuple[str, int, int, dict[str, Any]]], late: bool
) -> None:
    lines = [
        Line(
            source, partition, offset, 0, raw(**{"idempotency_key": f"e{offset}", "timestamp": at, **changes})
        )
        for offset, (source, partition, at, changes) in enumerate(earlier)
    ]
    lines.append(Line("p", 0, 99, 0, priced("late?", NOON_MS, "3", tenant_id="tenant-002")))

    found = audit(lines, load_config(CONFIG), now_ms=LATER_MS)

    row = found.priced["tenant-002", "late?", NOON_MS]
    assert row.late is late
    assert row.price == 3
    spend = {key: amount for key, amount in found.spend.items() if key[0] == "tenant-002"}
    assert len(spend) == (0 if late else 4)


OVERRIDES = """
  overrides:
    tenants:
      tenant-big: {daily_cap: 1000, features: {chat: {daily_cap: 10}}}
      tenant-month: {monthly_cap: 60.5}
      tenant-null: {daily_cap: null}
    features:
      chat: {daily_cap: 30, monthly_cap: 100}
"""


@pytest.mark.parametrize(
    ("events", "alerts"),
    [
        # The cap of every tenant is 50 USD a day: 40 is the threshold of 0.8.
        ([("t", 39, "search")], []),
        ([("t", 40, "search")], ["t//day@0.8 by 0 at 40 of 50"]),
        ([("t", 39, "search"), ("t", 1, "search")], ["t//day@0.8 by 1 at 40 of 50"]),
        ([("t", 49, "search"), ("t", 1, "x")], ["t//day@0.8 by 0 at 49 of 50", "t//day@1 by 1 at 50 of 50"]),
        ([("t", 70, "search")], ["t//day@0.8 by 0 at 70 of 50", "t//day@1 by 0 at 70 of 50"]),
        # Once each.
        ([("t", 45, "search"), ("t", 1, "search")], ["t//day@0.8 by 0 at 45 of 50"]),
        # Tenants do not add up.
        ([("t", 30, "search"), ("u", 30, "search")], []),
        # A feature's own cap: 24 and 30 of 30 a day, 80 of 100 a month.
        ([("t", 24, "chat")], ["t/chat/day@0.8 by 0 at 24 of 30"]),
        ([("t", 20, "chat"), ("t", 19, "search")], []),
        (
            [("tenant-big", 8, "chat"), ("tenant-big", 72, "chat")],
            [
                "tenant-big/chat/day@0.8 by 0 at 8 of 10",
                "tenant-big/chat/day@1 by 1 at 80 of 10",
                # The override gave no cap a month, so the feature's own stands.
                "tenant-big/chat/month@0.8 by 1 at 80 of 100",
            ],
        ),
        # 0.8 x 60.5 = 48.4 a month, and the day's cap is still the general one.
        (
            [("tenant-month", 49, "search")],
            ["tenant-month//day@0.8 by 0 at 49 of 50", "tenant-month//month@0.8 by 0 at 49 of 60.5"],
        ),
        # A null counts as absent.
        ([("tenant-null", 40, "search")], ["tenant-null//day@0.8 by 0 at 40 of 50"]),
    ],
)
def test_alerts_name_the_crossing_event(events: list[tuple[str, int, str]], alerts: list[str]) -> None:
    found = audit_of(
        *(
            priced(str(number), NOON_MS, str(dollars), tenant_id=tenant, feature_id=feature)
            for number, (tenant, dollars, feature) in enumerate(events)
        ),
        config=CONFIG + OVERRIDES,
    )

    said = [
        f"{tenant}/{feature}/{kind}@{threshold} by {hit.crossing_key}"
        f" at {hit.spend.normalize():f} of {hit.cap.normalize():f}"
        for (tenant, feature, kind, _, threshold), hit in found.alerts.items()
    ]
    assert sorted(said) == sorted(alerts)


def test_margin_is_summed_by_utc_day_and_what_was_used() -> None:
    claude = {**CLAUDE, "provider": "anthropic", "model_version": "v2"}
    found = audit_of(
        raw(idempotency_key="a", **claude),
        raw(idempotency_key="b", **claude, status="error"),
        raw(idempotency_key="c", **{**claude, "cache_status": "hit"}),
        raw(idempotency_key="d", timestamp=MIDNIGHT_MS - 1),
    )

    assert set(found.margin_daily) == {
        (date(2025, 6, 1), "tenant-001", "chat", "anthropic", "claude", "v2"),
        (date(2025, 5, 31), "tenant-001", "chat", "", "gpt-4o", ""),
    }
    day = found.margin_daily[date(2025, 6, 1), "tenant-001", "chat", "anthropic", "claude", "v2"]
    assert (day.requests, day.billable_requests) == (3, 1)
    assert (day.input_tokens, day.output_tokens, day.cache_read_tokens) == (30_000, 2_400, 18_000)
    assert (day.cache_write_tokens, day.cache_write_1h_tokens, day.reasoning_tokens) == (9_000, 3_000, 900)
    # Two calls of 0.0318 reached the provider; one was sold for 0.03975 and 27000 credits.
    assert (day.cost, day.price) == (Decimal("0.0636"), Decimal("0.03975"))
    assert day.credits == 27_000
    assert day.margin == Decimal("-0.02385")


def test_what_is_read_is_priced_or_a_duplicate_or_quarantined() -> None:
    found = audit_of(raw(), raw(), raw(output_tokens=1), b"{", b" ", raw(idempotency_key="z"))

    assert (found.read, len(found.priced), len(found.duplicates), len(found.quarantined)) == (5, 2, 1, 2)
