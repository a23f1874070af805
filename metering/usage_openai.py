"""Usage from OpenAI's Chat Completions, and from whoever speaks it: gateways, Groq, DeepSeek, xAI, ….

Facts from the types of the package openai 3.57.0 (`types/completion_usage.py`, `types/chat/`), and from what
genai-prices 0.2.3 reads of the others.

Counts are gross as they come: cached and written tokens are parts of `prompt_tokens`, reasoning is part of
`completion_tokens`. xAI alone adds reasoning to the total beside the completion; where the three sum to the
total that was told, that is what they are. Rejected predictions are part of the completion, and billed.

A stream tells usage in a last chunk without choices, if `stream_options.include_usage` asked for it; other
chunks say `null`. Some gateways tell it in every chunk, cumulatively: the last word counts.
"""

from __future__ import annotations

import re
from decimal import Decimal

from metering.bounded_text import BoundedText
from metering.payload import (
    ITEMS_MAX,
    count,
    counts,
    get,
    identifier,
    items,
    name_in,
    path,
    replace_counts,
    usd,
)
from metering.served_tier import openai_tier
from metering.usage import Usage

_OF_OPENAI = re.compile(r"(ft:)?(gpt-(?!oss)|chatgpt-|o\d|codex-|computer-use-|text-embedding-)")


def home_provider(model: str) -> str:
    """Who is paid for a model of this name where nobody said who was called: OpenAI, or unknown ("")."""
    return "openai" if _OF_OPENAI.match(model) else ""


class ChatReader:
    """Chunks of a chat completion, or all of one, in; its usage out."""

    def __init__(self, provider: str, output: BoundedText) -> None:
        self._provider = provider
        self._output = output
        self._id = ""
        self._model = ""
        self._tier = ""
        self._counts: dict[str, int] = {}
        self._cost: Decimal | None = None
        self._open_choices: set[object] = set()
        self._ended_choices: set[object] = set()
        self._is_embedding = False

    def feed(self, chunk: object) -> None:
        """Take over what a chunk says."""
        if get(chunk, "type") == "chunk":
            chunk = get(chunk, "chunk")  # as OpenAI's `chat.completions.stream()` wraps it
        self._id = self._id or identifier(chunk, "id")
        self._model = name_in(chunk, "model") or self._model
        self._tier = openai_tier(name_in(chunk, "service_tier")) or self._tier
        choices = items(get(chunk, "choices"))
        for choice in choices:
            self._read_choice(choice)
        usage = get(chunk, "usage")
        if usage is None:
            usage = path(chunk, "x_groq", "usage")
        if usage is not None:
            self._read_usage(usage)
        if not choices and get(chunk, "object") == "list":
            self._is_embedding = True

    def _read_choice(self, choice: object) -> None:
        index = count(choice, "index") or 0
        if len(self._open_choices) < ITEMS_MAX:
            self._open_choices.add(index)
        if get(choice, "finish_reason") is not None and index in self._open_choices:
            self._ended_choices.add(index)
        said = get(choice, "delta", "message")
        content = get(said, "content")
        for part in (content, get(said, "refusal"), *(get(part, "text") for part in items(content))):
            self._output.add(part)
        self._output.add(get(said, "reasoning_content", "reasoning"))
        self._output.add(path(said, "audio", "transcript"))
        self._output.add(get(choice, "text"))
        for call in (*items(get(said, "tool_calls")), {"function": get(said, "function_call")}):
            self._output.add(path(call, "function", "name"))
            self._output.add(path(call, "function", "arguments"))

    def _read_usage(self, usage: object) -> None:
        prompt = get(usage, "prompt_tokens_details")
        completion = get(usage, "completion_tokens_details")
        later = counts(
            usage,
            input="prompt_tokens",
            output="completion_tokens",
            total="total_tokens",
            # Beside OpenAI's own details: those of DeepSeek, Moonshot, Perplexity, and gateways to Anthropic.
            cache_read=("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens"),
            cache_write="cache_creation_input_tokens",
            reasoning="reasoning_tokens",
            web_searches="num_search_queries",
        )
        later |= counts(
            prompt,
            cache_read="cached_tokens",
            cache_write=("cache_write_tokens", "cache_creation_tokens"),
            input_audio="audio_tokens",
            input_image="image_tokens",
        )
        later |= counts(completion, reasoning="reasoning_tokens", output_audio="audio_tokens")
        replace_counts(self._counts, later)
        cost = get(usage, "cost")
        for amount in (usd(get(cost, "total_cost")), usd(cost)):
            self._cost = self._cost if amount is None else amount

    @property
    def is_complete(self) -> bool:
        """Whether every choice that began has said why it ended."""
        if self._is_embedding:
            return True
        return bool(self._ended_choices) and self._open_choices == self._ended_choices

    def usages(self) -> list[Usage]:
        """The one leg of a completion."""
        told = self._counts
        output = told.get("output")
        reasoning = told.get("reasoning", 0)
        if output is not None and told.get("total") == told.get("input", 0) + output + reasoning:
            output += reasoning
        if output is None and self._is_embedding and told.get("total") == told.get("input"):
            output = 0  # it has no field for output, and its total is the input
        units = {
            "web_searches": told.get("web_searches", 0),
            "input_audio_tokens": told.get("input_audio", 0),
            "input_image_tokens": told.get("input_image", 0),
            "output_audio_tokens": told.get("output_audio", 0),
        }
        usage = Usage(
            provider=self._provider or home_provider(self._model),
            model=self._model,
            service_tier=self._tier,
            response_id=self._id,
            input_tokens=told.get("input"),
            output_tokens=output,
            cache_read_tokens=told.get("cache_read", 0),
            cache_write_tokens=told.get("cache_write", 0),
            reasoning_tokens=reasoning,
            units={name: number for name, number in units.items() if number},
            provider_cost=self._cost,
        )
        return [usage]
