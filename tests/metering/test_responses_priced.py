"""Tiers, units and providers are named as in the rate cards that we import: what is served has a price."""

from __future__ import annotations

from typing import Any

import pytest

from dataflows.catalogue import Wanted, import_provider
from metering.event import InvalidEvent
from metering.usage import Usage
from pricing.card_text import card_text
from pricing.rate_card import RateCard, compile_card
from pricing.settings import load_settings
from tests.metering.test_responses import CASES, as_is, read_case
from tests.pricing.card_events import priced

data: Any = pytest.importorskip("genai_prices.data", reason="the catalogue wants Python 3.11")
AT_MS = 1_793_000_000_000  # 2026-10-26
WANTED = Wanted(("gpt-5.6*", "claude-sonnet-*", "claude-opus-*", "gemini-2.5-flash", "grok-4*"))


@pytest.fixture(scope="module")
def card() -> RateCard:
    providers = [one for one in data.providers if one.id in ("anthropic", "google", "openai", "x-ai")]
    rules = [rule for one in providers for rule in import_provider(one, WANTED).rules]
    return compile_card(load_settings("pricing: {cards: [x]}", [("x", card_text(rules))]).pricing.rules)


def refusal(card: RateCard, usage: Usage) -> str:
    """Why an event has no price, or "" where it has one."""
    named = ("provider", "model", "service_tier", "region", "input_tokens", "output_tokens")
    parts = ("cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens")
    event = {name: getattr(usage, name) for name in (*named, *parts)}
    units = {f"unit.{name}": str(number) for name, number in usage.units.items()}
    [money] = priced(card, {**event, "timestamp_ms": AT_MS, "attributes": units})
    return money.reason.value if isinstance(money, InvalidEvent) else ""


@pytest.mark.parametrize(
    ("name", "refusals"),
    [
        ("anthropic: the cache is not in the input, and thinking is in the output", [""]),
        ("anthropic: fast mode is a tier", [""]),
        ("anthropic: fast mode in another tier is neither of the two", ["unpriced"]),
        ("anthropic: results of a batch say batch themselves", [""]),
        ("anthropic: compaction is not in the usage around it, and is a leg", ["", ""]),
        ("anthropic: an advisor is another model, and its leg is not in the usage around it", ["", ""]),
        ("gemini: searches of earlier models are billed by the prompt", [""]),
        ("openai_chat: a priority request that was downgraded is billed as it was served", [""]),
        ("openai_chat: auto is never a tier", [""]),
        ("openai_chat: fast is the tier that responses call priority", [""]),
        ("openai_chat: results of a batch say default and are batch", [""]),
        ("openai_chat: usage comes in a last chunk without choices and is null before", [""]),
        ("openai_chat: reasoning that xAI counts beside the completion is added to it", [""]),
        ("openai_responses: without a word on billable searches the calls are counted", [""]),
        ("openai_responses: an image model that is not named is not the one that answered", ["", "unpriced"]),
    ],
)
def test_what_was_served_is_what_the_card_prices(card: RateCard, name: str, refusals: list[str]) -> None:
    assert [refusal(card, usage) for usage in read_case(CASES[name], as_is)] == refusals
