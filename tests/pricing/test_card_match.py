"""Which entry rates an event, at which instant, and which entries contradict each other."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from metering.event import InvalidEvent, timestamp_ms
from pricing.rate_card import RateCard, compile_card
from pricing.settings import InvalidSettings, load_settings
from tests.pricing.card_events import PLAIN, priced, rule_of

FREE = "input_rate: 0, output_rate: 0"


def card_of(*entries: str, contracts: str = "") -> RateCard:
    listed = ", ".join(f"{{{entry}, {FREE}}}" for entry in entries)
    pricing = load_settings(f"pricing: {{rules: [{listed}], contracts: [{contracts}]}}").pricing
    return compile_card(pricing.rules, pricing.contracts)


def refusal(card: RateCard, **event: Any) -> str:
    (found,) = priced(card, event)
    assert isinstance(found, InvalidEvent)
    return found.detail


@pytest.mark.parametrize(
    ("entries", "event", "chosen"),
    [
        # An exact model before the longest prefix, before a shorter one, before clauses, wherever they stand.
        (
            ["match: {contains: '-4o'}", "model_prefix: gpt-", "model_prefix: gpt-4o", "model: gpt-4o"],
            "gpt-4o",
            3,
        ),
        (
            ["model: gpt-4o", "model_prefix: gpt-4o", "model_prefix: gpt-", "match: {contains: '-4o'}"],
            "gpt-4o",
            0,
        ),
        (["match: {contains: '-4o'}", "model_prefix: gpt-", "model_prefix: gpt-4o"], "gpt-4o-mini", 2),
        (["match: {contains: '-4o'}", "model_prefix: gpt-"], "gpt-4o", 1),
        (["match: {contains: '-4o'}", "model_prefix: gpt-5"], "gpt-4o", 0),
        (["model_prefix: gpt-4o"], "gpt-4", -1),
        (["model_prefix: GPT"], "gpt-4", -1),
        # Clauses.
        (["match: {equals: gpt-4o}"], "gpt-4o", 0),
        (["match: {equals: gpt-4o}"], "gpt-4o-mini", -1),
        (["match: {ends_with: mini}"], "gpt-4o-mini", 0),
        (["match: {regex: 'o[0-9]$'}"], "openai/o3", 0),
        (["match: {regex: '^o[0-9]$'}"], "openai/o3", -1),
        (["match: {or: [{equals: a}, {starts_with: b}]}"], "bc", 0),
        (["match: {or: [{equals: a}, {starts_with: b}]}"], "ab", -1),
        (["match: {and: [{starts_with: a}, {or: [{ends_with: c}, {ends_with: d}]}]}"], "abd", 0),
        (["match: {and: [{starts_with: a}, {or: [{ends_with: c}, {ends_with: d}]}]}"], "abe", -1),
        (["match: {regex: '^(?!.*-tts)gem'}"], "gemini-pro", 0),
        (["match: {regex: '^(?!.*-tts)gem'}"], "gemini-pro-tts", -1),
    ],
)
def test_the_most_specific_model_clause_prevails(entries: list[str], event: str, chosen: int) -> None:
    assert rule_of(card_of(*entries), model=event) == chosen


@pytest.mark.parametrize(
    ("entries", "event", "chosen"),
    [
        (["model: m", "model: m, provider: p"], {"provider": "p"}, 1),
        (["model: m", "model: m, provider: p"], {"provider": "q"}, 0),
        (["model: m, region: eu", "model: m"], {"region": "eu"}, 0),
        (["model: m, region: eu", "model: m"], {"region": ""}, 1),
        (["model: m, model_version: '1'"], {"model_version": "2"}, -1),
        (["model: m, region: eu", "model: m, provider: p, region: eu"], {"provider": "p", "region": "eu"}, 1),
        # The model's name outweighs every dimension.
        (["model: m", "model_prefix: m, provider: p, region: eu"], {"provider": "p", "region": "eu"}, 0),
        # Tiers: three names for the standard one; what no entry names has no rate.
        (["model: m"], {"service_tier": ""}, 0),
        (["model: m"], {"service_tier": "default"}, 0),
        (["model: m"], {"service_tier": "standard"}, 0),
        (["model: m"], {"service_tier": "Standard"}, -1),
        (["model: m"], {"service_tier": "priority"}, -1),
        (["model: m, service_tier: default"], {"service_tier": "standard"}, 0),
        (["model: m", "model: m, service_tier: flex"], {"service_tier": "flex"}, 1),
        (["model: m", "model: m, service_tier: flex"], {"service_tier": "flx"}, -1),
        (["model: m, service_tier: '*'"], {"service_tier": "flx"}, 0),
        (["model: m, service_tier: '*'"], {}, 0),
        (["model: m, service_tier: '*'", "model: m"], {}, 1),
        (["model: m, service_tier: '*'", "model: m, service_tier: flex"], {"service_tier": "flex"}, 1),
        (["model: m, service_tier: '*'", "model: m, service_tier: flex"], {"service_tier": "batch"}, 0),
    ],
)
def test_dimensions_that_are_given_must_be_the_events(
    entries: list[str], event: dict[str, str], chosen: int
) -> None:
    assert rule_of(card_of(*entries), **event) == chosen


MAY = "2025-05-01T00:00:00Z"
JUNE = "2025-06-01T00:00:00Z"
OLD, NEW = f"model: m, effective_until: {JUNE}", f"model: m, effective_from: {JUNE}"


@pytest.mark.parametrize(
    ("entries", "time", "chosen"),
    [
        ([OLD, NEW], "2025-05-31T23:59:59.999Z", 0),
        ([OLD, NEW], "2025-06-01T00:00:00Z", 1),
        ([OLD, NEW], "2025-06-01T01:59:59.999+02:00", 0),
        ([NEW, OLD], "2025-06-01T02:00:00+02:00", 0),
        ([NEW], "2025-05-31T23:59:59.999Z", -1),
        ([OLD], "2025-06-01T00:00:00Z", -1),
        # Where the most specific one is not in force, the next one is asked.
        ([NEW, "model_prefix: m"], "2025-05-31T00:00:00Z", 1),
        ([NEW, "model_prefix: m"], "2025-06-02T00:00:00Z", 0),
        (["model: m, region: ''", "model: m, provider: p"], "2025-06-02T00:00:00Z", 0),
    ],
)
def test_an_entry_is_for_events_from_one_instant_until_before_another(
    entries: list[str], time: str, chosen: int
) -> None:
    assert rule_of(card_of(*entries), timestamp_ms=timestamp_ms(time)) == chosen


NIGHT = "model: m, time_of_day: {from: '16:30', until: '00:30'}"
MONDAY_NIGHT = "model: m, time_of_day: {from: '16:30', until: '00:30', weekdays: [mon]}"
WEEKEND = "model: m, time_of_day: {weekdays: [sat, sun]}"
VIENNA = "model: m, time_of_day: {from: '02:00', until: '03:00', timezone: Europe/Vienna}"


@pytest.mark.parametrize(
    ("entry", "time", "chosen"),
    [
        (NIGHT, "2025-06-02T16:29:59.999Z", 0),
        (NIGHT, "2025-06-02T16:30:00Z", 1),
        (NIGHT, "2025-06-02T23:59:59.999Z", 1),
        (NIGHT, "2025-06-03T00:29:59.999Z", 1),
        (NIGHT, "2025-06-03T00:30:00Z", 0),
        # 2025-06-02 is a Monday. A night belongs to the day on which it begins.
        (MONDAY_NIGHT, "2025-06-02T00:15:00Z", 0),
        (MONDAY_NIGHT, "2025-06-02T17:00:00Z", 1),
        (MONDAY_NIGHT, "2025-06-03T00:15:00Z", 1),
        (MONDAY_NIGHT, "2025-06-03T17:00:00Z", 0),
        (WEEKEND, "2025-06-06T23:59:59Z", 0),
        (WEEKEND, "2025-06-07T00:00:00Z", 1),
        (WEEKEND, "2025-06-08T23:59:59Z", 1),
        (WEEKEND, "2025-06-09T00:00:00Z", 0),
        # Vienna: winter is UTC+1, summer UTC+2; on 2025-10-26 the hour from two to three comes twice.
        (VIENNA, "2025-01-15T01:30:00Z", 1),
        (VIENNA, "2025-07-15T01:30:00Z", 0),
        (VIENNA, "2025-07-15T00:30:00Z", 1),
        (VIENNA, "2025-10-26T00:30:00Z", 1),
        (VIENNA, "2025-10-26T01:30:00Z", 1),
        (VIENNA, "2025-10-26T02:00:00Z", 0),
        # On 2025-03-30 it does not come at all.
        (VIENNA, "2025-03-30T00:59:59Z", 0),
        (VIENNA, "2025-03-30T01:00:00Z", 0),
    ],
)
def test_hours_prevail_over_none_and_are_local(entry: str, time: str, chosen: int) -> None:
    assert rule_of(card_of("model: m", entry), timestamp_ms=timestamp_ms(time)) == chosen
    assert rule_of(card_of(entry), timestamp_ms=timestamp_ms(time)) == chosen - 1


@pytest.mark.parametrize(
    ("entries", "event", "sentence"),
    [
        (["model: m"], {"model": "n"}, "the rate card has no rate for model n of provider p"),
        (["model: m, provider: q"], {}, "the rate card has no rate for model m of provider p"),
        (["model: m"], {"service_tier": "flx"}, "no rate for service_tier 'flx' of model m of provider p"),
        (["model: m, region: eu"], {"region": "us"}, "no rate for region 'us' of model m of provider p"),
        (["model: m, region: eu"], {}, "no rate for region '' of model m of provider p"),
        (["model: m, model_version: a"], {"model_version": "b"}, "no rate for model_version 'b' of model m"),
        (
            [NEW],
            {"timestamp_ms": 1_500},
            "for model m of provider p that is in force at its time on 1970-01-01",
        ),
        (
            ["match: {regex: '^m'}", "match: {regex: 'm$'}"],
            {},
            "the rate card has two entries that are equally specific for model m of provider p",
        ),
    ],
)
def test_what_has_no_rate_is_told_what_the_card_lacks(
    entries: list[str], event: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal(card_of(*entries), **{"provider": "p", **event})


def test_two_patterns_that_meet_at_an_event_rate_neither() -> None:
    """Whether two patterns can meet is not known before an event shows it: then nothing is guessed."""
    card = card_of("match: {regex: '^a'}", "match: {regex: 'b$'}")
    assert [rule_of(card, model=model) for model in ("a", "b", "ab", "c")] == [0, 1, -2, -1]


BOTH = "applies to the same events as pricing.rules[0], and neither is more specific"
GAP = (
    "begins at {}, but pricing.rules[0] ends at 2025-05-01T00:00:00Z, and nothing is priced in between: "
    "let one end when the other begins, or say gap: intended"
)


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (["model: m", "model: m"], BOTH),
        (["model: m", "model: n"], None),
        (["model_prefix: m", "model_prefix: m"], BOTH),
        (["model_prefix: m", "model_prefix: mn"], None),
        (["model: m, provider: p", "model: m, provider: q"], None),
        # One names the provider, one the region: which of them is for both?
        (["model: m, provider: p", "model: m, region: eu"], BOTH),
        (["model: m, provider: p, service_tier: '*'", "model: m"], BOTH),
        (["model: m, service_tier: flex", "model: m"], None),
        (["model: m, service_tier: default", "model: m, service_tier: standard"], BOTH),
        # Dates that touch do not overlap.
        ([OLD, NEW], None),
        ([f"model: m, effective_until: {JUNE}", f"model: m, effective_from: {MAY}"], BOTH),
        (["model: m", NEW], BOTH),
        # Hours.
        (["model: m", NIGHT], None),
        ([NIGHT, NIGHT], BOTH),
        ([NIGHT, "model: m, time_of_day: {from: '00:30', until: '16:30'}"], None),
        ([NIGHT, "model: m, time_of_day: {from: '00:29', until: '16:30'}"], BOTH),
        ([WEEKEND, "model: m, time_of_day: {weekdays: [mon]}"], None),
        ([MONDAY_NIGHT, "model: m, time_of_day: {from: '00:00', until: '01:00', weekdays: [tue]}"], BOTH),
        # In two zones, hours are taken to meet.
        ([NIGHT, VIENNA], BOTH),
        # Clauses, as far as their texts show.
        (["match: {contains: a}", "match: {contains: a}"], BOTH),
        (["match: {starts_with: ab}", "match: {starts_with: a}"], BOTH),
        (["match: {starts_with: a}", "match: {starts_with: b}"], None),
        (["match: {starts_with: a}", "match: {or: [{equals: b}, {and: [{equals: ab}]}]}"], BOTH),
        (["match: {contains: a}, provider: p", "match: {contains: a}, provider: q"], None),
        # Gaps between dates.
        ([f"model: m, effective_until: {MAY}", NEW], GAP.format(JUNE)),
        ([f"model: m, effective_until: {MAY}", f"{NEW}, gap: intended"], None),
        ([f"model: m, effective_until: {MAY}", f"{NEW}, region: eu"], None),
        ([f"model: m, effective_until: {MAY}", f"model: n, effective_from: {JUNE}"], None),
    ],
)
def test_entries_contradict_each_other_or_do_not(entries: list[str], problem: str | None) -> None:
    if problem is None:
        card_of(*entries)
        return
    with pytest.raises(InvalidSettings) as caught:
        card_of(*entries)
    assert str(caught.value) == f"pricing.rules[1]: {problem}"


UNTIL_MAY = f"{{tenant: a, effective_until: '{MAY}', discount: 0}}"
UNTIL_JUNE = f"{{tenant: a, effective_until: '{JUNE}', discount: 0}}"
FROM_JUNE = f"{{tenant: a, effective_from: '{JUNE}', discount: 1}}"


@pytest.mark.parametrize(
    ("contracts", "problem"),
    [
        ("{tenant: a, discount: 0}, {tenant: a, discount: 1}", True),
        ("{tenant: a, discount: 0}, {tenant: b, discount: 1}", False),
        ("{tenant: a, discount: 0}, {tenant: a, model: m, discount: 1}", False),
        ("{tenant: a, provider: p, discount: 0}, {tenant: a, region: r, discount: 1}", True),
        ("{tenant: a, service_tier: flex, discount: 0}, {tenant: a, discount: 1}", False),
        (
            f"{UNTIL_JUNE}, {FROM_JUNE}",
            False,
        ),
        # A tenant without a contract for a while pays the list price: no gap to speak of.
        (
            f"{UNTIL_MAY}, {FROM_JUNE}",
            False,
        ),
    ],
)
def test_contracts_of_one_tenant_contradict_each_other_or_do_not(contracts: str, problem: bool) -> None:
    if not problem:
        card_of("model: m", contracts=contracts)
        return
    with pytest.raises(InvalidSettings, match=r"contracts\[1\]: applies to the same events as pricing.contr"):
        card_of("model: m", contracts=contracts)


def test_a_card_looks_at_each_combination_once_and_forgets_when_it_knows_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pricing.card_assign.CHOSEN_MAX", 3)
    card = card_of("model: m", "model_prefix: x")
    for number in range(10):
        assert rule_of(card, model="m") == 0
        assert rule_of(card, model=f"x{number}") == 1
        assert len(card.chosen) <= 3


def test_the_plain_event_is_at_noon_on_a_sunday() -> None:
    assert (
        datetime.fromtimestamp(PLAIN["timestamp_ms"] / 1000, timezone.utc).strftime("%a %H:%M") == "Sun 12:00"
    )
