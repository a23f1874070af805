"""Models as their providers sell them, with every dimension that they have, worked out by hand.

List prices in USD per million tokens, as published in 2025 and 2026; they are facts to calculate with, and no
promise that they are still true. In comments M stands for a million tokens, so 2.5 x 0.0008 M is 0.002 USD.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from metering.event import InvalidEvent, timestamp_ms
from pricing.rate_card import compile_card
from pricing.settings import load_settings
from tests.pricing.card_events import priced

OPENAI = """
rules:
  - provider: openai
    match: {or: [{equals: gpt-4o}, {equals: gpt-4o-2024-08-06}, {equals: gpt-4o-2024-11-20}]}
    per: 1_000_000
    input_rate: 2.5
    cache_read_rate: 1.25
    output_rate: 10
    units: {web_searches: {rate: 10, per: 1_000}, storage_searches: {rate: 2.5, per: 1_000}}
  - {provider: openai, model: gpt-4o-2024-05-13, per: 1_000_000, input_rate: 5, output_rate: 15}
  - {provider: openai, model_prefix: gpt-4o-mini, per: 1_000_000, input_rate: 0.15, cache_read_rate: 0.075,
     output_rate: 0.6}
  - {provider: openai, model_prefix: gpt-4.1, per: 1_000_000, input_rate: 2, cache_read_rate: 0.5,
     output_rate: 8}
  - {provider: openai, model: o3, effective_until: "2025-06-10T00:00:00Z", per: 1_000_000, input_rate: 10,
     cache_read_rate: 2.5, output_rate: 40}
  - {provider: openai, model: o3, effective_from: "2025-06-10T00:00:00Z", per: 1_000_000, input_rate: 2,
     cache_read_rate: 0.5, output_rate: 8}
  - {provider: openai, model: gpt-5, per: 1_000_000, input_rate: 1.25, cache_read_rate: 0.125,
     output_rate: 10}
  - {provider: openai, model: gpt-5, service_tier: flex, per: 1_000_000, input_rate: 0.625,
     cache_read_rate: 0.0625, output_rate: 5}
  - {provider: openai, model: gpt-5, service_tier: priority, per: 1_000_000, input_rate: 2.5,
     cache_read_rate: 0.25, output_rate: 20}
  - {provider: openai, model: gpt-5, service_tier: batch, per: 1_000_000, input_rate: 0.625,
     cache_read_rate: 0.0625, output_rate: 5}
  - provider: openai
    model: gpt-5.4
    per: 1_000_000
    input_rate: 2.5
    cache_read_rate: 0.25
    output_rate: 15
    context_tiers: [{above: 272_000, input_rate: 5, cache_read_rate: 0.5, output_rate: 22.5}]
  - provider: openai
    model_prefix: gpt-realtime
    per: 1_000_000
    input_rate: 4
    cache_read_rate: 0.4
    output_rate: 16
    input_audio_rate: 32
    cache_read_audio_rate: 0.4
    output_audio_rate: 64
    input_image_rate: 5
    cache_read_image_rate: 0.5
"""
ANTHROPIC = """
rules:
  - provider: anthropic
    match: {or: [{starts_with: claude-sonnet-4-5}, {starts_with: claude-sonnet-4.5}]}
    per: 1_000_000
    input_rate: 3
    cache_read_rate: 0.3
    cache_write_rate: 3.75
    cache_write_1h_rate: 6
    output_rate: 15
    context_tiers:
      - {above: 200_000, input_rate: 6, cache_read_rate: 0.6, cache_write_rate: 7.5, cache_write_1h_rate: 12,
         output_rate: 22.5}
    units: {web_searches: {rate: 10, per: 1_000}}
  - provider: anthropic
    model_prefix: claude-opus-4-6
    effective_until: "2026-03-13T00:00:00Z"
    per: 1_000_000
    input_rate: 5
    cache_read_rate: 0.5
    cache_write_rate: 6.25
    cache_write_1h_rate: 10
    output_rate: 25
    context_tiers:
      - {above: 200_000, input_rate: 10, cache_read_rate: 1, cache_write_rate: 12.5, cache_write_1h_rate: 20,
         output_rate: 37.5}
  - provider: anthropic
    model_prefix: claude-opus-4-6
    effective_from: "2026-03-13T00:00:00Z"
    per: 1_000_000
    input_rate: 5
    cache_read_rate: 0.5
    cache_write_rate: 6.25
    cache_write_1h_rate: 10
    output_rate: 25
  - provider: anthropic
    model_prefix: claude-opus-4-6
    effective_from: "2026-03-13T00:00:00Z"
    region: us
    per: 1_000_000
    input_rate: 5.5
    cache_read_rate: 0.55
    cache_write_rate: 6.875
    cache_write_1h_rate: 11
    output_rate: 27.5
  - {provider: anthropic, model_prefix: claude-haiku-4-5, per: 1_000_000, input_rate: 1, cache_read_rate: 0.1,
     cache_write_rate: 1.25, cache_write_1h_rate: 2, output_rate: 5}
  - {provider: anthropic, model_prefix: claude-haiku-4-5, service_tier: batch, per: 1_000_000,
     input_rate: 0.5, cache_read_rate: 0.05, cache_write_rate: 0.625, cache_write_1h_rate: 1,
     output_rate: 2.5}
"""
GOOGLE = """
rules:
  - provider: google
    match: {and: [{starts_with: gemini-2.5-pro}, {regex: "^(?!.*-tts)"}]}
    per: 1_000_000
    input_rate: 1.25
    cache_read_rate: 0.125
    output_rate: 10
    context_tiers: [{above: 200_000, input_rate: 2.5, cache_read_rate: 0.25, output_rate: 15}]
    units: {web_searches: {rate: 35, per: 1_000}}
  - provider: google
    match: {or: [{equals: gemini-2.5-flash}, {equals: gemini-2.5-flash-latest}]}
    per: 1_000_000
    input_rate: 0.3
    cache_read_rate: 0.03
    output_rate: 2.5
    input_audio_rate: 1
    cache_read_audio_rate: 0.1
  - {provider: google, model: gemini-2.5-flash-image, per: 1_000_000, input_rate: 0.3, output_rate: 2.5,
     output_image_rate: 30}
  - {provider: google, model: gemini-2.0-flash, per: 1_000_000, input_rate: 0.1, cache_read_rate: 0.025,
     output_rate: 0.4, input_audio_rate: 0.7, cache_read_audio_rate: 0.175}
"""
OTHERS = """
rules:
  - {provider: deepseek, model_prefix: deepseek-chat, per: 1_000_000, input_rate: 0.27,
     cache_read_rate: 0.07, output_rate: 1.1}
  - {provider: deepseek, model_prefix: deepseek-chat, time_of_day: {from: "16:30", until: "00:30"},
     per: 1_000_000, input_rate: 0.135, cache_read_rate: 0.035, output_rate: 0.55}
  - provider: x-ai
    model: grok-4.3
    per: 1_000_000
    input_rate: 1.25
    cache_read_rate: 0.2
    output_rate: 2.5
    context_tiers: [{from: 200_000, input_rate: 2.5, cache_read_rate: 0.4, output_rate: 5}]
"""
FILES = [("openai", OPENAI), ("anthropic", ANTHROPIC), ("google", GOOGLE), ("others", OTHERS)]
CARD = compile_card(load_settings("pricing: {cards: [cards]}", FILES).pricing.rules)


def tokens(prompt: int, completion: int, **more: int) -> dict[str, Any]:
    return {
        "input_tokens": prompt,
        "output_tokens": completion,
        **{f"{name}_tokens": count for name, count in more.items()},
    }


def units(**counts: int) -> dict[str, Any]:
    return {"attributes": {f"unit.{name}": str(count) for name, count in counts.items()}}


@pytest.mark.parametrize(
    ("model", "used", "cost"),
    [
        # 2.5 x 0.0008 M + 1.25 x 0.0002 M + 10 x 0.0001 M = 0.002 + 0.00025 + 0.001
        ("openai gpt-4o", tokens(1000, 100, cache_read=200), "0.00325"),
        ("openai gpt-4o-2024-11-20", tokens(1000, 100, cache_read=200), "0.00325"),
        # ... + 2 x 0.01 + 3 x 0.0025
        (
            "openai gpt-4o",
            tokens(1000, 100, cache_read=200) | units(web_searches=2, storage_searches=3),
            "0.03075",
        ),
        # 5 x 0.001 M + 15 x 0.0001 M: an old version, which names no price for cached tokens
        ("openai gpt-4o-2024-05-13", tokens(1000, 100, cache_read=200), "0.0065"),
        # 0.15 x 0.001 M + 0.075 x 0.001 M + 0.6 x 0.001 M
        ("openai gpt-4o-mini-2024-07-18", tokens(2000, 1000, cache_read=1000), "0.000825"),
        # 2 x 0.01 M + 8 x 0.001 M
        ("openai gpt-4.1-2025-04-14", tokens(10_000, 1000), "0.028"),
        # 1.25 x 0.006 M + 0.125 x 0.004 M + 10 x 0.002 M; of the completion 1500 are reasoning, at its price
        ("openai gpt-5", tokens(10_000, 2000, cache_read=4000, reasoning=1500), "0.028"),
        # Half of it, and twice it.
        ("openai gpt-5", tokens(10_000, 2000, cache_read=4000) | {"service_tier": "flex"}, "0.014"),
        ("openai gpt-5", tokens(10_000, 2000, cache_read=4000) | {"service_tier": "batch"}, "0.014"),
        ("openai gpt-5", tokens(10_000, 2000, cache_read=4000) | {"service_tier": "priority"}, "0.056"),
        ("openai gpt-5", tokens(10_000, 2000, cache_read=4000) | {"service_tier": "default"}, "0.028"),
        # 2.5 x 0.272 M + 15 x 0.001 M; one token more doubles the input and makes the output 22.5
        ("openai gpt-5.4", tokens(272_000, 1000), "0.695"),
        # 5 x 0.272001 M + 22.5 x 0.001 M
        ("openai gpt-5.4", tokens(272_001, 1000), "1.382505"),
        # 5 x 0.2 M + 0.5 x 0.1 M + 22.5 x 0.001 M: cached tokens count for the length
        ("openai gpt-5.4", tokens(300_000, 1000, cache_read=100_000), "1.0725"),
        # text 4 x 0.0002 M, audio 32 x 0.0006 M, cached text 0.4 x 0.0001 M, cached audio 0.4 x 0.0001 M,
        # output text 16 x 0.0001 M, output audio 64 x 0.0004 M
        # = 0.0008 + 0.0192 + 0.00004 + 0.00004 + 0.0016 + 0.0256
        (
            "openai gpt-realtime",
            tokens(1000, 500, cache_read=200)
            | units(input_audio_tokens=700, cache_read_audio_tokens=100, output_audio_tokens=400),
            "0.04728",
        ),
        # 4 x 0.0007 M + 5 x 0.0003 M
        ("openai gpt-realtime-2025-08-28", tokens(1000, 0) | units(input_image_tokens=300), "0.0043"),
        # 3 x 0.001 M + 0.3 x 0.006 M + 3.75 x 0.002 M + 6 x 0.001 M + 15 x 0.0008 M
        # = 0.003 + 0.0018 + 0.0075 + 0.006 + 0.012
        (
            "anthropic claude-sonnet-4-5-20250929",
            tokens(10_000, 800, cache_read=6000, cache_write=3000, cache_write_1h=1000),
            "0.0303",
        ),
        # 6 x 0.1 M + 0.6 x 0.1 M + 12 x 0.01 M + 22.5 x 0.001 M, and one search
        (
            "anthropic claude-sonnet-4.5",
            tokens(210_000, 1000, cache_read=100_000, cache_write=10_000, cache_write_1h=10_000)
            | units(web_searches=1),
            "0.8125",
        ),
        # 10 x 0.25 M + 37.5 x 0.001 M before 13 March 2026, 5 x 0.25 M + 25 x 0.001 M since
        ("anthropic claude-opus-4-6", tokens(250_000, 1000) | {"at": "2026-03-12T23:59:59.999Z"}, "2.5375"),
        ("anthropic claude-opus-4-6", tokens(250_000, 1000) | {"at": "2026-03-13T00:00:00Z"}, "1.275"),
        # In the United States a tenth more.
        (
            "anthropic claude-opus-4-6",
            tokens(250_000, 1000) | {"at": "2026-03-13T00:00:00Z", "region": "us"},
            "1.4025",
        ),
        # 1 x 0.002 M + 0.1 x 0.001 M + 5 x 0.001 M; half of it in a batch
        ("anthropic claude-haiku-4-5", tokens(3000, 1000, cache_read=1000), "0.0071"),
        (
            "anthropic claude-haiku-4-5",
            tokens(3000, 1000, cache_read=1000) | {"service_tier": "batch"},
            "0.00355",
        ),
        # 1.25 x 0.2 M + 10 x 0.001 M; 2.5 x 0.200001 M + 15 x 0.001 M
        ("google gemini-2.5-pro", tokens(200_000, 1000), "0.26"),
        ("google gemini-2.5-pro", tokens(200_001, 1000), "0.5150025"),
        # 1.25 x 0.001 M + 10 x 0.001 M + 2 x 0.035
        ("google gemini-2.5-pro-preview", tokens(1000, 1000) | units(web_searches=2), "0.08125"),
        # text 0.3 x 0.005 M, audio 1 x 0.003 M, cached text 0.03 x 0.001 M, cached audio 0.1 x 0.001 M,
        # output 2.5 x 0.001 M = 0.0015 + 0.003 + 0.00003 + 0.0001 + 0.0025
        (
            "google gemini-2.5-flash",
            tokens(10_000, 1000, cache_read=2000)
            | units(input_audio_tokens=4000, cache_read_audio_tokens=1000),
            "0.00713",
        ),
        # 0.3 x 0.0001 M + 30 x 0.00129 M: one picture
        ("google gemini-2.5-flash-image", tokens(100, 1290) | units(output_image_tokens=1290), "0.03873"),
        # 0.1 x 0.001 M + 0.7 x 0.001 M + 0.4 x 0.001 M
        ("google gemini-2.0-flash", tokens(2000, 1000) | units(input_audio_tokens=1000), "0.0012"),
        # o3 became cheaper in the middle of a year: 10 x 0.001 M + 40 x 0.001 M, then 2 x and 8 x.
        ("openai o3", tokens(1000, 1000) | {"at": "2025-06-09T23:59:59.999Z"}, "0.05"),
        ("openai o3", tokens(1000, 1000) | {"at": "2025-06-10T00:00:00Z"}, "0.01"),
        # 0.27 x 0.001 M + 1.1 x 0.001 M by day, half of it by night
        ("deepseek deepseek-chat", tokens(1000, 1000) | {"at": "2025-06-02T16:29:59Z"}, "0.00137"),
        ("deepseek deepseek-chat", tokens(1000, 1000) | {"at": "2025-06-02T16:30:00Z"}, "0.000685"),
        ("deepseek deepseek-chat", tokens(1000, 1000) | {"at": "2025-06-03T00:30:00Z"}, "0.00137"),
        # The limit itself is long already: 1.25 x 0.199999 M, 2.5 x 0.2 M
        ("x-ai grok-4.3", tokens(199_999, 0), "0.24999875"),
        ("x-ai grok-4.3", tokens(200_000, 0), "0.5"),
    ],
)
def test_what_a_call_costs(model: str, used: dict[str, Any], cost: str) -> None:
    provider, name = model.split(" ")
    at = timestamp_ms(used.pop("at", "2026-06-01T12:00:00Z"))
    (found,) = priced(CARD, {"provider": provider, "model": name, "timestamp_ms": at, **used})
    assert not isinstance(found, InvalidEvent), found
    assert found[0] == found[1] == Decimal(cost)


@pytest.mark.parametrize(
    ("model", "used"),
    [
        ("openai gpt-4o-audio-preview", {}),
        ("openai gpt-5", {"service_tier": "scale"}),
        ("openai gpt-4.1", {"service_tier": "priority"}),
        ("openai gpt-5", units(code_executions=1)),
        ("openai gpt-4o-mini", units(input_audio_tokens=1)),
        ("anthropic claude-sonnet-4", {}),
        ("anthropic claude-haiku-4-5", {"service_tier": "priority"}),
        ("google gemini-2.5-pro-preview-tts", {}),
        ("azure gpt-4o", {}),
        (" gpt-4o", {}),
    ],
)
def test_what_nobody_has_written_down_has_no_price(model: str, used: dict[str, Any]) -> None:
    provider, name = model.split(" ")
    (found,) = priced(CARD, {"provider": provider, "model": name, **tokens(1000, 100), **used})
    assert isinstance(found, InvalidEvent)
    assert found.reason.value == "unpriced"
