"""What a provider's answer used, whichever API it came from: whole, or chunk by chunk.

The API is recognised by the payload's own shape, never by its type, so that an SDK's objects of any version,
plain objects and parsed JSON are read alike. A payload of no known shape has no usage, and its caller counts.

`provider` is who was called, as rate cards name them. Where it is "", the payload's own home stands in: AWS
for Converse, Google for Gemini, Anthropic for a model named `claude…`, OpenAI for one of its names; others
are left unknown, because an API that many speak does not say who is paid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from metering.bounded_text import BoundedText
from metering.mishaps import note
from metering.payload import get, items, path
from metering.usage import Usage
from metering.usage_anthropic import AnthropicReader
from metering.usage_bedrock import ConverseReader
from metering.usage_gemini import GeminiReader
from metering.usage_openai import ChatReader
from metering.usage_openai_responses import ResponsesReader

OUTPUT_TEXT_CHARS_MAX = 1024 * 1024
"""So many characters of an answer are kept: more than 128,000 tokens of English, which few models exceed."""

_ANTHROPIC_EVENTS = (
    *("message", "message_start", "message_delta", "message_stop"),
    *("content_block_start", "content_block_delta", "content_block_stop"),
)
_CONVERSE_EVENTS = (
    *("messageStart", "messageStop"),
    *("contentBlockStart", "contentBlockDelta", "contentBlockStop"),
)
_ANTHROPIC_COUNTS = ("cache_read_input_tokens", "cache_creation_input_tokens")
_GEMINI_COUNTS = (
    *("promptTokenCount", "prompt_token_count", "totalTokenCount", "total_token_count"),
    *("candidatesTokenCount", "candidates_token_count", "trafficType", "traffic_type"),
)


class _Reader(Protocol):
    @property
    def is_complete(self) -> bool: ...

    def feed(self, chunk: object) -> None: ...

    def usages(self) -> list[Usage]: ...


def usages_of(response: object, provider: str = "", model: str = "") -> list[Usage]:
    """The legs of a whole answer, its own first; none if its shape is not known. Never raises.

    A line of the results of a batch is read as the answer in it. OpenAI's answers in one say tier `default`,
    and are `batch` all the same. A list is read as the chunks of one answer, as Gemini sends one.

    Args:
        model: What was asked for: of use for Converse, whose answers do not name their model.
    """
    body = path(response, "response", "body")
    is_batch = body is not None and get(response, "custom_id") is not None
    if is_batch:
        response = body
    elif get(response, "custom_id") is not None:
        response = path(response, "result", "message")
    reader = StreamReader(provider, model)
    for chunk in items(response) or [response]:
        reader.feed(chunk)
    usages = reader.usages()
    return [replace(usage, service_tier="batch") for usage in usages] if is_batch else usages


class StreamReader:
    """Chunks of one answer in, as its stream brings them; what it used out, at any moment. Never raises.

    Cumulative usage is replaced, never summed, and chunks without any change nothing. What a stream that was
    cut has not told is None. `is_complete` says that the answer's end was seen, told usage or not. A whole
    answer may be fed too, for its `output_text`.
    """

    __slots__ = ("_model", "_output", "_provider", "_reader")

    def __init__(self, provider: str = "", model: str = "") -> None:
        self._provider = provider
        self._model = model
        self._output = BoundedText(OUTPUT_TEXT_CHARS_MAX)
        self._reader: _Reader | None = None

    def feed(self, chunk: object) -> None:
        """Take over what a chunk says, or a whole answer."""
        try:
            if self._reader is None:
                self._reader = self._reader_for(chunk)
            if self._reader is not None:
                self._reader.feed(chunk)
        except Exception as exc:  # noqa: BLE001 - the chunk may be anything; its stream is the caller's
            note("payload_unread", "a chunk of an answer could not be read", exc)

    def usages(self) -> list[Usage]:
        """The legs as far as they are told, the answer's own first; none if no shape was recognised."""
        try:
            return [] if self._reader is None else self._reader.usages()
        except Exception as exc:  # noqa: BLE001 - as in feed
            note("payload_unread", "the usage of an answer could not be read", exc)
            return []

    @property
    def is_complete(self) -> bool:
        """Whether the end of the answer was seen."""
        return self._reader is not None and self._reader.is_complete

    @property
    def output_text(self) -> str:
        """What could be seen of the answer so far, up to `OUTPUT_TEXT_CHARS_MAX` characters.

        Text, refusals, reasoning that is shown and the arguments of tool calls alike: all are output tokens.
        """
        return self._output.text

    @property
    def output_chars(self) -> int:
        """How many characters could be seen so far, those beyond the bound of `output_text` among them."""
        return self._output.chars

    @property
    def size_bytes(self) -> int:
        """About how much is kept of them."""
        return min(self._output.chars, OUTPUT_TEXT_CHARS_MAX)

    def _reader_for(self, chunk: object) -> _Reader | None:
        kind = get(chunk, "type")
        usage = get(chunk, "usage")
        if _is_of_converse(chunk, usage):
            return ConverseReader(self._provider, self._output, self._model)
        if kind in _ANTHROPIC_EVENTS:
            return AnthropicReader(self._provider, self._output)
        gemini = get(chunk, "usageMetadata", "usage_metadata")
        if get(gemini, *_GEMINI_COUNTS) is not None or items(get(chunk, "candidates")):
            return GeminiReader(self._provider, self._output)
        if kind == "chunk" or get(chunk, "choices") is not None:
            return ChatReader(self._provider, self._output)
        if get(usage, "prompt_tokens", "completion_tokens") is not None:
            return ChatReader(self._provider, self._output)
        if get(chunk, "object") == "response" or (isinstance(kind, str) and kind.startswith("response.")):
            return ResponsesReader(self._provider, self._output)
        if kind is None and get(usage, *_ANTHROPIC_COUNTS) is not None:
            return AnthropicReader(self._provider, self._output)
        if kind is None and get(usage, "input_tokens", "output_tokens") is not None:
            return ResponsesReader(self._provider, self._output)
        return None


def _is_of_converse(chunk: object, usage: object) -> bool:
    if get(usage, "inputTokens", "outputTokens") is not None or get(chunk, *_CONVERSE_EVENTS) is not None:
        return True
    is_answer = get(chunk, "ResponseMetadata") is not None and get(chunk, "stream", "output") is not None
    return is_answer or path(chunk, "metadata", "usage") is not None
