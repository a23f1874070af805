"""What differs between two cards, and from when on an event that was priced comes to something else."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from metering.event import InvalidEvent, timestamp_ms
from pricing.card_check import Place, card_problems
from pricing.card_diff import Change, Difference, changes, repriced_from_ms
from pricing.card_match import is_of_model, may_share_events
from pricing.card_values import EVERY_TIER, Clause, Entry, Rule, TimeOfDay
from pricing.rate_card import RateCard, compile_card
from pricing.settings import load_settings
from tests.pricing.card_events import NOON_MS, priced

MAY = timestamp_ms("2026-05-01T00:00:00Z")
JUNE = timestamp_ms("2026-06-01T00:00:00Z")


def card(rules: str, contracts: str = "") -> RateCard:
    pricing = load_settings(f"pricing: {{rules: [{rules}], contracts: [{contracts}]}}").pricing
    return compile_card(pricing.rules, pricing.contracts)


def shown(change: Change) -> tuple[str, int | None, int | None, dict[str, tuple[Any, Any]], bool]:
    entry = change.entry
    differences = {one.name: (told(one.old), told(one.new)) for one in change.differences}
    name = entry.model or (f"{entry.model_prefix}*" if entry.model_prefix else "")
    if change.old is None or change.new is None:
        differences = {key: value for key, value in differences.items() if key == "input_rate"}
    return name, change.from_ms, change.until_ms, differences, change.reprices


def told(number: Decimal | None) -> str | None:
    return None if number is None else f"{number:f}"


M = "{model: m, input_rate: 1e-6, output_rate: 2e-6}"
M_FROM_MAY = "{model: m, input_rate: 1e-6, output_rate: 2e-6, effective_from: 2026-05-01T00:00:00Z}"
M_UNTIL_MAY = "{model: m, input_rate: 1e-6, output_rate: 2e-6, effective_until: 2026-05-01T00:00:00Z}"
M_IN_MAY = M_FROM_MAY[:-1] + ", effective_until: 2026-06-01T00:00:00Z}"
DEAR_FROM_JUNE = "{model: m, input_rate: 3e-6, output_rate: 2e-6, effective_from: 2026-06-01T00:00:00Z}"
M_UNTIL_JUNE = "{model: m, input_rate: 1e-6, output_rate: 2e-6, effective_until: 2026-06-01T00:00:00Z}"
WHOLE = "{model: m, per: 1_000_000, input_rate: 1, output_rate: 2, cache_read_rate: 1, reasoning_rate: 2}"
TIERED = M[:-1] + ", context_tiers: [{above: 9, input_rate: 5e-6, output_rate: 2e-6}]}"
ADDED = {"input_rate": (None, "0.000001")}
DEARER = dict.fromkeys(
    ("input_rate", "cache_read_rate", "cache_write_rate", "cache_write_1h_rate"), ("0.000001", "0.000003")
)
REMOVED = {"input_rate": ("0.000001", None)}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(M, M, [], id="the same"),
        pytest.param(M, WHOLE, [], id="the same in other words"),
        pytest.param(M, f"{M_UNTIL_MAY}, {M_FROM_MAY}", [], id="the same in two periods"),
        pytest.param(M, M.replace("2e-6", "3e-6"),
                     [("m", None, None, {"output_rate": ("0.000002", "0.000003"),
                                         "reasoning_rate": ("0.000002", "0.000003")}, True)],
                     id="a rate, and what follows it"),
        pytest.param(M, f"{M_UNTIL_JUNE}, {DEAR_FROM_JUNE}",
                     [("m", JUNE, None, DEARER, True)],
                     id="a rate from a date on"),
        pytest.param(M, f"{M_UNTIL_MAY}, {M_IN_MAY[:-1]}, multiplier: 2}}, {DEAR_FROM_JUNE}",
                     [("m", MAY, JUNE, {"multiplier": ("1", "2")}, True), ("m", JUNE, None, DEARER, True)],
                     id="two changes, one after the other"),
        pytest.param(M, f"{M_UNTIL_JUNE.replace('1e-6', '3e-6')}, {DEAR_FROM_JUNE}",
                     [("m", None, None, DEARER, True)], id="one change, in two entries"),
        pytest.param(M, M[:-1] + ", multiplier: 1.2}",
                     [("m", None, None, {"multiplier": ("1", "1.2")}, True)], id="a multiplier"),
        pytest.param(M, M[:-1] + ", units: {searches: {rate: 0.01}}}",
                     [("m", None, None, {"units.searches": (None, "0.01")}, True)], id="a unit"),
        pytest.param(M, M[:-1] + ", credit_multiplier: 2}",
                     [("m", None, None, {"credit_multiplier": ("1", "2")}, True)], id="credits"),
        pytest.param(TIERED, TIERED.replace("5e-6, output_rate: 2e-6", "5e-6, output_rate: 4e-6"),
                     [("m", None, None, {"output_rate above 9": ("0.000002", "0.000004"),
                                         "reasoning_rate above 9": ("0.000002", "0.000004")}, True)],
                     id="a context tier"),
        pytest.param(M, f"{M}, {M.replace('m,', 'n,', 1)}", [("n", None, None, ADDED, False)],
                     id="a model that had no rate"),
        pytest.param(M_FROM_MAY, M, [("m", None, MAY, ADDED, False)], id="a time that had no rate"),
        pytest.param(M, M_FROM_MAY, [("m", None, MAY, REMOVED, True)], id="a time that has none now"),
        pytest.param(f"{M}, {M.replace('m,', 'n,', 1)}", M, [("n", None, None, REMOVED, True)],
                     id="a model that has none now"),
        pytest.param("{model_prefix: m, input_rate: 2e-6, output_rate: 2e-6}",
                     f"{{model_prefix: m, input_rate: 2e-6, output_rate: 2e-6}}, {M_FROM_MAY}",
                     [("m", MAY, None, ADDED, True)], id="an entry that takes events from a prefix"),
        pytest.param("{model_prefix: m, input_rate: 1e-6, output_rate: 2e-6}",
                     f"{{model_prefix: m, input_rate: 1e-6, output_rate: 2e-6}}, {M}",
                     [("m", None, None, ADDED, False)], id="takes them, at the same rates"),
        pytest.param(M, f"{M}, {{model_prefix: m, input_rate: 1e-6, output_rate: 9e-6}}",
                     [("m*", None, None, ADDED, False)], id="a prefix takes nothing from an exact model"),
        pytest.param(M, f"{M}, {{model: m, service_tier: flex, input_rate: 1e-6, output_rate: 1e-6}}",
                     [("m", None, None, ADDED, False)], id="another tier"),
        pytest.param(M, f"{M}, {{model: m, region: eu, input_rate: 1e-6, output_rate: 1e-6}}",
                     [("m", None, None, ADDED, True)], id="a region of a model that had one rate for all"),
        pytest.param("{match: {regex: m}, input_rate: 2e-6, output_rate: 2e-6}",
                     f"{{match: {{regex: m}}, input_rate: 2e-6, output_rate: 2e-6}}, {M}",
                     [("m", None, None, ADDED, True)], id="an entry that takes events from a clause"),
    ],
)  # fmt: skip
def test_each_change_has_its_period_its_numbers_and_whether_it_reprices(
    old: str, new: str, expected: list[Any]
) -> None:
    assert [shown(change) for change in changes(card(old), card(new))] == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "{tenant: acme, discount: 0.1}", [(Difference("discount", None, Decimal("0.1")), True)]),
        ("{tenant: acme, discount: 0.1}", "", [(Difference("discount", Decimal("0.1"), None), True)]),
        (
            "{tenant: acme, multiplier: 1}",
            "{tenant: acme, multiplier: 1.5}",
            [(Difference("multiplier", Decimal(1), Decimal("1.5")), True)],
        ),
    ],
)
def test_a_contract_changes_what_a_tenant_pays(old: str, new: str, expected: list[Any]) -> None:
    found = changes(card(M, old), card(M, new))
    assert [(*change.differences, change.reprices) for change in found] == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (M, M, None),
        (M, f"{M}, {M.replace('m,', 'n,', 1)}", None),
        (M, f"{M_UNTIL_JUNE}, {DEAR_FROM_JUNE}", JUNE),
        (M, DEAR_FROM_JUNE, 0),
    ],
)
def test_the_first_instant_at_which_something_comes_to_something_else(
    old: str, new: str, expected: int | None
) -> None:
    assert repriced_from_ms(changes(card(old), card(new))) == expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("model: ab", "model: ab", True),
        ("model: ab", "model: abc", False),
        ("model: ab", "model_prefix: a", True),
        ("model: ab", "match: {contains: c}", False),
        ("model_prefix: a", "model_prefix: ab", True),
        ("model_prefix: a", "model_prefix: b", False),
        ("model_prefix: a", "match: {starts_with: b}", False),
        ("model_prefix: a", "match: {contains: b}", True),
        ("model_prefix: a", "match: {or: [{starts_with: b}, {equals: ac}]}", True),
        ("model_prefix: a", "match: {or: [{starts_with: b}, {equals: c}]}", False),
        ("model_prefix: a", "match: {and: [{contains: a}, {starts_with: b}]}", False),
        ("match: {regex: ^a}", "match: {regex: ^b}", True),  # which is more than need be
        ("model: ab, provider: p", "model: ab", True),
        ("model: ab, provider: p", "model: ab, provider: q", False),
        ("model: ab", "model: ab, service_tier: batch", False),
        ("model: ab", "model: ab, service_tier: '*'", True),
        ("model: ab, effective_until: 2026-05-01T00:00:00Z",
         "model: ab, effective_from: 2026-05-01T00:00:00Z", False),
        ("model: ab, time_of_day: {until: '12:00'}", "model: ab, time_of_day: {from: '12:00'}", False),
        ("model: ab, time_of_day: {until: '12:01'}", "model: ab, time_of_day: {from: '12:00'}", True),
    ],
)  # fmt: skip
def test_whether_two_entries_may_apply_to_one_event(left: str, right: str, expected: bool) -> None:
    one, other = (card(f"{{{entry}, input_rate: 0, output_rate: 0}}").rules[0] for entry in (left, right))
    assert may_share_events(one, other) is expected
    assert may_share_events(other, one) is expected


HOURS = TimeOfDay(0, 720)
SELECTORS: tuple[dict[str, Any], ...] = (
    {"model": "ab"},
    {"model": "abc"},
    {"model_prefix": "a"},
    {"model_prefix": "ab"},
    {"match": Clause("contains", "b")},
    {"match": Clause("and", parts=(Clause("starts_with", "a"), Clause("ends_with", "c")))},
    {"match": Clause("or", parts=(Clause("equals", "x"), Clause("regex", "c$")))},
)
RULES = st.builds(
    lambda named, **more: Rule(**named, **more, output_rate=Decimal(0)),
    st.sampled_from(SELECTORS),
    input_rate=st.sampled_from((Decimal("0.1"), Decimal("0.2"))),
    provider=st.sampled_from(("", "p")),
    service_tier=st.sampled_from(("", "batch", EVERY_TIER)),
    effective_from_ms=st.sampled_from((None, NOON_MS, NOON_MS + 1)),
    effective_until_ms=st.sampled_from((None, NOON_MS + 2)),
    time_of_day=st.sampled_from((None, HOURS)),
)
CARDS = st.lists(RULES, min_size=1, max_size=4)
EVENTS = [
    {"model": model, "provider": provider, "service_tier": tier, "timestamp_ms": at, "input_tokens": 7}
    for model in ("a", "ab", "abc", "bc", "x")
    for provider in ("", "p", "q")
    for tier in ("", "batch")
    for at in (NOON_MS - 1, NOON_MS, NOON_MS + 1, NOON_MS + 2)
]


def unambiguous(rules: list[Rule]) -> RateCard:
    assume(not list(card_problems([(Place("", str(n)), rule) for n, rule in enumerate(rules)], [])))
    return compile_card(rules)


@given(CARDS, CARDS, st.booleans())
def test_no_event_comes_to_something_else_without_a_change_that_says_so(
    first: list[Rule], second: list[Rule], related: bool
) -> None:
    old, new = unambiguous(first), unambiguous(first[1:] + second if related else second)
    found = [change for change in changes(old, new) if change.reprices]
    for event, before, after in zip(EVENTS, priced(old, *EVENTS), priced(new, *EVENTS), strict=True):
        if isinstance(before, InvalidEvent) or before == after:
            continue
        assert any(_is_about(change, event) for change in found), (event, before, after)


def _is_about(change: Change, event: dict[str, Any]) -> bool:
    entry: Entry = change.entry
    begins = change.from_ms is None or change.from_ms <= event["timestamp_ms"]
    ends = change.until_ms is not None and change.until_ms <= event["timestamp_ms"]
    return begins and not ends and is_of_model(entry, event["model"])
