"""A span's attributes read as usage: today's names, yesterday's, and other people's; and ours written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.call import Call, Ending
from metering.otel_names import MARK, SpanFacts, SpanUsage, operation_of, span_attributes, usage_of
from metering.usage import Usage


def read(attributes: dict[str, Any], scope: str = "", *, is_error: bool = False) -> SpanUsage:
    return usage_of(SpanFacts(attributes, scope, 5_000_000_000, 5_250_000_000, is_error))


CHAT: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.response.model": "gpt-4o-2024-08-06",
    "gen_ai.response.id": "chatcmpl-0000000000000001",
    "gen_ai.usage.input_tokens": 100,
    "gen_ai.usage.output_tokens": 20,
    "gen_ai.usage.cache_read.input_tokens": 60,
    "gen_ai.usage.cache_creation.input_tokens": 10,
    "gen_ai.usage.reasoning.output_tokens": 7,
    "gen_ai.usage.audio.input_tokens": 5,
    "gen_ai.response.time_to_first_chunk": 0.125,
    "openai.response.service_tier": "flex",
}


def test_the_conventions_of_today() -> None:
    assert read(CHAT) == SpanUsage(
        model="gpt-4o",
        usage=Usage(
            provider="openai",
            model="gpt-4o-2024-08-06",
            response_id="chatcmpl-0000000000000001",
            service_tier="flex",
            input_tokens=100,
            output_tokens=20,
            cache_read_tokens=60,
            cache_write_tokens=10,
            reasoning_tokens=7,
            units={"input_audio_tokens": 5},
        ),
        ending=Ending(latency_ms=250, first_token_latency_ms=125),
    )


@pytest.mark.parametrize(
    ("attributes", "operation", "provider", "model", "counts"),
    [
        (
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.system": "openai",
                "gen_ai.request.model": "gpt-4",
                "gen_ai.usage.prompt_tokens": 9,
                "gen_ai.usage.completion_tokens": 4,
            },
            *("chat", "openai", "gpt-4", (9, 4, 0, 0, 0)),
        ),
        (
            {
                "llm.request.type": "completion",
                "gen_ai.system": "Anthropic",
                "gen_ai.request.model": "claude-3-opus",
                "gen_ai.usage.prompt_tokens": 9,
                "llm.usage.completion_tokens": 4,
                "gen_ai.usage.cache_read_input_tokens": 2,
                "gen_ai.usage.cache_creation_input_tokens": 1,
            },
            *("completion", "anthropic", "claude-3-opus", (9, 4, 2, 1, 0)),
        ),
        (
            {
                "openinference.span.kind": "LLM",
                "llm.system": "anthropic",
                "llm.provider": "aws",
                "llm.model_name": "claude-sonnet-4-5",
                "llm.token_count.prompt": 9,
                "llm.token_count.completion": 4,
                "llm.token_count.prompt_details.cache_read": 2,
                "llm.token_count.prompt_details.cache_write": 1,
                "llm.token_count.completion_details.reasoning": 3,
            },
            *("llm", "aws", "claude-sonnet-4-5", (9, 4, 2, 1, 3)),
        ),
        # OpenInference's embeddings, and the spans that Anthropic's SDK makes by itself.
        (
            {
                "openinference.span.kind": "EMBEDDING",
                "llm.provider": "openai",
                "embedding.model_name": "text-embedding-3-small",
                "llm.token_count.prompt": 5,
                "llm.token_count.total": 5,
            },
            *("embedding", "openai", "text-embedding-3-small", (5, 0, 0, 0, 0)),
        ),
        (
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "anthropic",
                "gen_ai.request.model": "claude-sonnet-4-5",
                "gen_ai.usage.input_tokens": 100,
                "gen_ai.usage.output_tokens": 4,
                "gen_ai.usage.cache_read.input_tokens": 50,
                "gen_ai.usage.cache_write.input_tokens": 40,
                "gen_ai.usage.reasoning_tokens": 3,
            },
            *("chat", "anthropic", "claude-sonnet-4-5", (100, 4, 50, 40, 3)),
        ),
        # The newer name counts where both stand.
        (
            {
                "gen_ai.usage.input_tokens": 9,
                "gen_ai.usage.prompt_tokens": 8,
                "gen_ai.usage.output_tokens": 0,
            },
            *("", "", "", (9, 0, 0, 0, 0)),
        ),
        # An embedding has no output, said or not.
        (
            {"gen_ai.operation.name": "embeddings", "gen_ai.usage.input_tokens": 9},
            *("embeddings", "", "", (9, 0, 0, 0, 0)),
        ),
        # Not said, or not as a count: unknown.
        ({"gen_ai.operation.name": "chat"}, *("chat", "", "", (None, None, 0, 0, 0))),
        (
            {"gen_ai.usage.input_tokens": "9", "gen_ai.usage.output_tokens": True},
            *("", "", "", (None, None, 0, 0, 0)),
        ),
        (
            {"gen_ai.usage.input_tokens": 9.0, "gen_ai.usage.output_tokens": -1},
            *("", "", "", (None, None, 0, 0, 0)),
        ),
    ],
)
def test_older_names_and_those_of_others(
    attributes: dict[str, Any], operation: str, provider: str, model: str, counts: tuple[int | None, ...]
) -> None:
    found = read(attributes)
    usage = found.usage
    assert operation_of(attributes) == operation
    assert (usage.provider, found.model) == (provider, model)
    told = (usage.input_tokens, usage.output_tokens)
    assert (*told, usage.cache_read_tokens, usage.cache_write_tokens, usage.reasoning_tokens) == counts


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("aws.bedrock", "aws"),
        ("gcp.vertex_ai", "google"),
        ("gcp.gemini", "google"),
        ("gcp.gen_ai", "google"),
        ("vertex_ai", "google"),
        ("vertexai", "google"),
        ("azure.ai.openai", "azure"),
        ("az.ai.inference", "azure"),
        ("mistral_ai", "mistral"),
        ("x_ai", "x-ai"),
        ("openai", "openai"),
        ("deepseek", "deepseek"),
        ("somebody.new", "somebody.new"),
    ],
)
def test_providers_have_the_names_of_rate_cards(theirs: str, ours: str) -> None:
    assert read({"gen_ai.provider.name": theirs}).usage.provider == ours


@pytest.mark.parametrize(
    ("scope", "total", "input_tokens", "cached", "expected"),
    [
        ("", None, 100, 60, 100),  # as the conventions have it
        ("", None, 60, 60, 60),
        ("", None, 59, 60, 119),  # more cached than there is
        ("", 120, 100, 60, 100),  # the total is of input and output
        ("", 180, 100, 60, 160),  # the total has the cache besides
        ("opentelemetry.instrumentation.bedrock", None, 100, 60, 160),
        ("opentelemetry.instrumentation.bedrock", None, 100, 0, 100),
        ("opentelemetry.instrumentation.anthropic", None, 100, 60, 100),
    ],
)
def test_cached_tokens_are_part_of_the_input(
    scope: str, total: int | None, input_tokens: int, cached: int, expected: int
) -> None:
    said = {
        "gen_ai.usage.input_tokens": input_tokens,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": cached,
        "gen_ai.usage.total_tokens": total,
    }
    usage = read(said, scope).usage
    assert usage.input_tokens == expected
    assert usage.attributes.get("input_tokens_said") == ("net" if expected != input_tokens else None)
    assert usage.attributes.get("otel_scope", "") == scope


@pytest.mark.parametrize(
    ("error", "is_error", "expected"),
    [
        ("", False, ("success", False)),
        ("", True, ("error", False)),
        ("openai.RateLimitError", True, ("error", False)),
        ("429", False, ("error", False)),
        # The caller went away; the provider bills it.
        ("asyncio.exceptions.CancelledError", True, ("success", True)),
        ("GeneratorExit", True, ("success", True)),
    ],
)
def test_how_it_ended(error: str, is_error: bool, expected: tuple[str, bool]) -> None:
    ending = read({"error.type": error}, is_error=is_error).ending
    assert (ending.status, ending.is_cut) == expected


@pytest.mark.parametrize(
    ("seconds", "expected_ms"),
    [(0.0, 0), (0.1234, 123), (2, 2_000), (True, None), ("1", None), (-1.0, None), (1e300, None)]
    + [(float(odd), None) for odd in ("nan", "inf")],
)
def test_the_time_to_the_first_chunk(seconds: object, expected_ms: int | None) -> None:
    ending = read({"gen_ai.response.time_to_first_chunk": seconds}).ending
    assert ending.first_token_latency_ms == expected_ms


CALL = Call(tenant_id="acme", model="gpt-4o", started_ms=5_000, provider="openai")


def test_what_is_written_is_what_is_read() -> None:
    told = read(CHAT)
    assert span_attributes(CALL, told.usage, told.ending, "chat") == {**CHAT, MARK: True}


def test_what_is_not_known_is_not_written() -> None:
    assert span_attributes(CALL, Usage(), Ending(latency_ms=1), "chat") == {
        MARK: True,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
    }


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("aws", "aws.bedrock"),
        ("google", "gcp.gemini"),
        ("azure", "azure.ai.openai"),
        ("x-ai", "x_ai"),
        ("groq", "groq"),
    ],
)
def test_providers_are_written_as_the_conventions_name_them(ours: str, theirs: str) -> None:
    told = span_attributes(CALL, Usage(provider=ours), Ending(latency_ms=1), "chat")
    assert told["gen_ai.provider.name"] == theirs


VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers())
)
NAMES = st.sampled_from([*CHAT, "error.type", "llm.request.type", "gen_ai.usage.total_tokens"])


@given(st.dictionaries(NAMES, VALUES))
def test_no_value_makes_it_raise_or_a_count_of_what_is_none(attributes: dict[str, Any]) -> None:
    usage = read(attributes).usage
    assert usage.input_tokens is None or usage.input_tokens >= 0
    assert usage.output_tokens is None or usage.output_tokens >= 0
