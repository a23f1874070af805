"""Usage from OpenAI's Responses, and from whoever speaks it.

Facts from the types of the package openai 3.57.0 (`types/responses/response.py`, `response_usage.py`).

Counts are gross as they come: cached and written tokens are parts of `input_tokens`, reasoning is part of
`output_tokens`. What was written for 12 hours is a write like others: the contract has no class for it, and
no catalogue a price. A stream's events wrap the response: `response.created` has no usage yet, and one of
`response.completed`, `.incomplete` and `.failed` ends it and has all.

Hosted tools are told beside the usage. Images are made by another model, whose tokens are a leg of its own.
Searches are those that OpenAI says are billable, or, where it does not say, the calls in the output.
"""

from __future__ import annotations

from collections import Counter
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
from metering.usage_openai import home_provider

UNNAMED_IMAGE_MODEL = "image_generation"
"""The model of a leg that made images where the response does not name it: one that no rate card prices."""

_ENDS = (
    "response.completed",
    "response.incomplete",
    "response.failed",
    "response.cancelled",
    "response.done",
)
_OPEN_STATUSES = ("queued", "in_progress")


class ResponsesReader:
    """Events of a response's stream, or all of a response, in; its usage out."""

    def __init__(self, provider: str, output: BoundedText) -> None:
        self._provider = provider
        self._output = output
        self._id = ""
        self._model = ""
        self._tier = ""
        self._counts: dict[str, int] = {}
        self._image_counts: dict[str, int] = {}
        self._image_model = ""
        self._billable_searches: int | None = None
        self._calls: dict[str, str] = {}
        self._cost: Decimal | None = None
        self.is_complete = False

    def feed(self, event: object) -> None:
        """Take over what an event, or the response itself, says."""
        kind = get(event, "type")
        if kind is None and get(event, "object", "usage", "output") is not None:
            self._read_response(event)
            self._read_output_text(event)
            self.is_complete = self.is_complete or get(event, "status") not in _OPEN_STATUSES
        if not isinstance(kind, str) or not kind.startswith("response."):
            return
        self.is_complete = self.is_complete or kind in _ENDS
        response = get(event, "response")
        if response is not None:
            self._read_response(response)
        if kind == "response.output_item.done":
            self._read_call(get(event, "item"))
        elif kind.endswith(".delta") and ("audio" not in kind or "transcript" in kind):
            self._output.add(get(event, "delta"))

    def _read_response(self, response: object) -> None:
        self._id = self._id or identifier(response, "id")
        self._model = name_in(response, "model") or self._model
        self._tier = openai_tier(name_in(response, "service_tier")) or self._tier
        usage = get(response, "usage")
        inputs = get(usage, "input_tokens_details", "input_token_details")
        outputs = get(usage, "output_tokens_details", "output_token_details")
        later = counts(usage, input="input_tokens", output="output_tokens")
        later |= counts(
            inputs,
            cache_read=("cached_tokens", "cache_read_input_tokens"),
            cache_write="cache_write_tokens",
            input_audio="audio_tokens",
            input_image="image_tokens",
        )
        later |= counts(
            get(inputs, "cached_tokens_details"), cache_audio="audio_tokens", cache_image="image_tokens"
        )
        later |= counts(
            outputs, reasoning="reasoning_tokens", output_audio="audio_tokens", output_image="image_tokens"
        )
        replace_counts(self._counts, later)
        cost = usd(get(usage, "cost"))
        self._cost = cost if cost is not None else self._cost
        self._read_tools(response)

    def _read_tools(self, response: object) -> None:
        searches = count(path(response, "tool_usage", "web_search"), "num_requests")
        self._billable_searches = self._billable_searches if searches is None else searches
        images = path(response, "tool_usage", "image_gen")
        later = counts(images, input="input_tokens", output="output_tokens", cache_read="cached_tokens")
        later |= counts(get(images, "input_tokens_details"), input_image="image_tokens")
        later |= counts(get(images, "cached_tokens_details"), cache_image="cached_image_tokens")
        later |= counts(get(images, "output_tokens_details"), output_image="image_tokens")
        replace_counts(self._image_counts, later)
        for tool in items(get(response, "tools")):
            if get(tool, "type") == "image_generation":
                self._image_model = name_in(tool, "model") or self._image_model
        output = items(get(response, "output"))
        if output:
            self._calls = {}  # it repeats the items that came one by one
        for item in output:
            self._read_call(item)

    def _read_call(self, item: object) -> None:
        """Note the unit, if any, that an item of the output is billed by."""
        kind = get(item, "type")
        key = identifier(item, "id") or str(len(self._calls))
        if len(self._calls) >= ITEMS_MAX:
            return
        if kind == "file_search_call":
            self._calls[key] = "storage_searches"
        elif kind == "web_search_call" and path(item, "action", "type") in (None, "search"):
            self._calls[key] = "web_searches"

    def _read_output_text(self, response: object) -> None:
        for item in items(get(response, "output")):
            for name in ("name", "arguments", "input"):
                self._output.add(get(item, name))
            for part in (*items(get(item, "content")), *items(get(item, "summary"))):
                self._output.add(get(part, "text", "refusal", "transcript"))

    def usages(self) -> list[Usage]:
        """The response's own leg, and that of a model that made images for it."""
        told = self._counts
        provider = self._provider or home_provider(self._model)
        calls = Counter(self._calls.values())
        if self._billable_searches is not None:
            calls["web_searches"] = self._billable_searches
        own = Usage(
            provider=provider,
            model=self._model,
            service_tier=self._tier,
            response_id=self._id,
            input_tokens=told.get("input"),
            output_tokens=told.get("output"),
            cache_read_tokens=told.get("cache_read", 0),
            cache_write_tokens=told.get("cache_write", 0),
            reasoning_tokens=told.get("reasoning", 0),
            units=_units(told) | {name: number for name, number in calls.items() if number},
            provider_cost=self._cost,
        )
        if not any(self._image_counts.values()):
            return [own]
        made = self._image_counts
        images = Usage(
            provider=provider,
            model=self._image_model or UNNAMED_IMAGE_MODEL,
            response_id=self._id,
            leg=1,
            input_tokens=made.get("input"),
            output_tokens=made.get("output"),
            cache_read_tokens=made.get("cache_read", 0),
            units=_units(made),
        )
        return [own, images]


def _units(told: dict[str, int]) -> dict[str, int]:
    """Tokens that are not text, of what was told."""
    units = {
        "input_audio_tokens": told.get("input_audio", 0),
        "input_image_tokens": told.get("input_image", 0),
        "cache_read_audio_tokens": told.get("cache_audio", 0),
        "cache_read_image_tokens": told.get("cache_image", 0),
        "output_audio_tokens": told.get("output_audio", 0),
        "output_image_tokens": told.get("output_image", 0),
    }
    return {name: number for name, number in units.items() if number}
