"""What tests of instrumented clients ask the fake provider, and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anthropic
import openai

from metering.instrumentation import instrument
from tests.metering.collecting import CollectingMeter
from tests.metering.fake_provider import FakeProvider

ASK: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "say some words"}]}
ASK_RESPONSE: dict[str, Any] = {"model": "gpt-4o", "input": "say some words"}
ASK_MESSAGE: dict[str, Any] = {**ASK, "model": "claude-made-up", "max_tokens": 4}
TEXT = "word0 word1 word2 word3 word4 "


def run_async(
    provider: FakeProvider, meter: CollectingMeter, use: Callable[[Any, Any], Any], **options: Any
) -> Any:
    """`use` an asynchronous client of both SDKs."""

    async def run() -> Any:
        async with (
            openai.AsyncOpenAI(base_url=provider.openai_url, api_key="none", **options) as client,
            anthropic.AsyncAnthropic(base_url=provider.url, api_key="none", **options) as claude,
        ):
            instrument(client, meter, tenant_id="acme", provider="openai")
            instrument(claude, meter, tenant_id="acme", provider="anthropic")
            return await use(client, claude)

    return asyncio.run(run())


def said(provider: FakeProvider, meter: CollectingMeter) -> list[tuple[str, str, int, int]]:
    """The events, once they are seen to be what the ledger says."""
    events = [(e.idempotency_key, e.model, e.input_tokens, e.output_tokens) for e in meter.events()]
    served = [(f"{s.response_id}-1", s.model, s.input_tokens, s.output_tokens) for s in provider.ledger]
    assert events == served
    assert {e.usage_source for e in meter.events()} == {"provider"}
    assert {(e.tenant_id, e.status) for e in meter.events()} == {("acme", "success")}
    assert not any("stream" in (e.attributes or {}) for e in meter.events())
    return events


def joined_chunks(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)
