"""Which encoding counts a model's tokens, and what that count may be called."""

import pytest
from tiktoken.model import MODEL_PREFIX_TO_ENCODING, MODEL_TO_ENCODING

from metering.model_tokens import ModelTokens, bare_name, tokens_of

# Models that are not served any more: they are counted as unknown models of OpenAI's.
RETIRED_ENCODINGS = {"p50k_base", "p50k_edit", "r50k_base", "gpt2"}


@pytest.mark.parametrize(
    ("model", "encoding", "is_exact"),
    [
        ("gpt-5", "o200k_base", True),
        ("gpt-5.6", "o200k_base", True),
        ("gpt-5-mini-2025-08-07", "o200k_base", True),
        ("gpt-50", "o200k_base", False),
        ("o1", "o200k_base", True),
        ("o1-preview", "o200k_base", True),
        ("o3-mini-2025-01-31", "o200k_base", True),
        ("o4-mini", "o200k_base", True),
        ("gpt-4o", "o200k_base", True),
        ("gpt-4o-2024-08-06", "o200k_base", True),
        ("chatgpt-4o-latest", "o200k_base", True),
        ("gpt-4.1-nano", "o200k_base", True),
        ("gpt-oss-120b", "o200k_base", True),  # o200k_harmony has the same tokens for text
        ("gpt-4", "cl100k_base", True),
        ("gpt-4-turbo-2024-04-09", "cl100k_base", True),
        ("gpt-4-32k", "cl100k_base", True),
        ("gpt-3.5-turbo-0125", "cl100k_base", True),
        ("gpt-35-turbo", "cl100k_base", True),
        ("text-embedding-3-small", "cl100k_base", True),
        ("text-embedding-4-large", "o200k_base", False),
        # Names that tiktoken does not know: the newest encoding, and no claim that it is theirs.
        ("gpt-6", "o200k_base", False),
        ("gpt-6-mini", "o200k_base", False),
        ("codex-mini", "o200k_base", False),
        ("codex-mini-latest", "o200k_base", False),
        ("gpt-realtime", "o200k_base", False),
        ("gpt-audio-mini", "o200k_base", False),
        ("computer-use-preview", "o200k_base", False),
        ("o5", "o200k_base", False),
        ("text-davinci-003", "o200k_base", False),
        # Fine-tuned, routed, and Bedrock's.
        ("ft:gpt-5:acme::a1", "o200k_base", True),
        ("ft:gpt-4o-mini-2024-07-18:acme:support:b2", "o200k_base", True),
        ("ft:gpt-3.5-turbo-0125:acme::c3", "cl100k_base", True),
        ("ft:gpt-6:acme::d4", "o200k_base", False),
        ("openai/gpt-5", "o200k_base", True),
        ("azure/gpt-4", "cl100k_base", True),
        ("openrouter/openai/gpt-4o", "o200k_base", True),
        ("GPT-4o", "o200k_base", True),
        ("openai.gpt-oss-120b-1:0", "o200k_base", True),
        ("us.openai.gpt-oss-20b-1:0", "o200k_base", True),
        # Other makers': a stand-in.
        ("claude-sonnet-4-5", "o200k_base", False),
        ("gemini-2.5-pro", "o200k_base", False),
        ("my-own-model", "o200k_base", False),
        ("", "o200k_base", False),
    ],
)
def test_the_encoding_of_a_model(model: str, encoding: str, is_exact: bool) -> None:
    tokens = tokens_of(model)
    assert (tokens.encoding, tokens.is_exact) == (encoding, is_exact)
    assert (tokens.error_percent == 0) == is_exact


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        *MODEL_TO_ENCODING.items(),
        *(
            (f"{prefix}x" if prefix[-1] == "-" else prefix, of)
            for prefix, of in MODEL_PREFIX_TO_ENCODING.items()
        ),
    ],
)
def test_what_tiktoken_knows_is_known(model: str, encoding: str) -> None:
    tokens = tokens_of(model)
    if encoding in RETIRED_ENCODINGS:
        assert not tokens.is_exact
    else:
        assert tokens.is_exact
        assert tokens.encoding == encoding.replace("o200k_harmony", "o200k_base")


CLAUDE_TO_4_6, CLAUDE = tokens_of("claude-3-opus"), tokens_of("claude")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("claude-2.1", CLAUDE_TO_4_6),
        ("claude-3-5-sonnet-20241022", CLAUDE_TO_4_6),
        ("claude-3-7-sonnet@20250219", CLAUDE_TO_4_6),
        ("claude-sonnet-4-20250514", CLAUDE_TO_4_6),
        ("claude-opus-4", CLAUDE_TO_4_6),
        ("claude-opus-4-6", CLAUDE_TO_4_6),
        ("claude-opus-4-5@20251101", CLAUDE_TO_4_6),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", CLAUDE_TO_4_6),
        ("anthropic.claude-sonnet-4-20250514-v1:0", CLAUDE_TO_4_6),
        ("claude-opus-4-7", CLAUDE),
        ("claude-opus-4-8-20260401", CLAUDE),
        ("claude-sonnet-5", CLAUDE),
        ("global.anthropic.claude-opus-5-v1:0", CLAUDE),
    ],
)
def test_claude_has_more_tokens_since_4_7(model: str, expected: ModelTokens) -> None:
    assert CLAUDE_TO_4_6.percent < CLAUDE.percent
    assert tokens_of(model) == expected


@pytest.mark.parametrize("provider", ["openai", "azure"])
def test_a_deployment_of_any_name_is_one_of_openai(provider: str) -> None:
    assert tokens_of("our-chat", provider) == tokens_of("gpt-6")
    assert tokens_of("our-chat", "groq") == tokens_of("nobody-knows")


@pytest.mark.parametrize(
    ("model", "may_think"),
    [
        ("gpt-4o", False),
        ("gpt-4.1", False),
        ("gpt-4", False),
        ("o3", True),
        ("gpt-5", True),
        ("gpt-oss-20b", True),
    ],
)
def test_models_that_think_may_be_billed_for_what_is_not_seen(model: str, may_think: bool) -> None:
    assert tokens_of(model).may_think is may_think


@pytest.mark.parametrize(
    ("model", "bare"),
    [
        ("publishers/google/models/gemini-2.5-pro", "gemini-2.5-pro"),
        (
            "arn:aws:bedrock:us-east-1::foundation-model/meta.llama3-1-8b-instruct-v1:0",
            "llama3-1-8b-instruct-v1:0",
        ),
        ("apac.amazon.nova-lite-v1:0", "nova-lite-v1:0"),
        ("gpt-4.1", "gpt-4.1"),
        ("ft:gpt-5:acme::a1", "gpt-5"),
        (" O3 ", "o3"),
        ("x" * 1_000, "x" * 256),
    ],
)
def test_a_name_without_what_stands_around_it(model: str, bare: str) -> None:
    assert bare_name(model) == bare
