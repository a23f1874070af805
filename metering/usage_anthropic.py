"""Usage from Anthropic's Messages, wherever they are served: Anthropic, Bedrock, Vertex, gateways.

Facts from the types of the package anthropic 2.14.0 (`types/usage.py`, `types/message_delta_usage.py`,
`types/beta/beta_usage.py` and its iterations) and from Anthropic's page "Refusals and fallback".

`input_tokens` is net: what was read from and written to the cache stands beside it, and is added here.
Thinking is part of `output_tokens`. `message_start` has all details of the input, and an `output_tokens`
that is only the first of them; `message_delta` has cumulative counts, without the split by time to live,
tier, speed and place. Some gateways put zeros into one of the two, so a zero replaces no count.

`iterations` tells what was billed, attempt by attempt. The usage around it is of the attempt that made the
message: its sampling iterations and, after a fallback, that of the model that served. Not in it, and so legs
of their own, are compactions, what an advising model used, and attempts that declined after they had begun
to answer; those that declined before are not billed, and no leg. Whether a refusal without output is billed
depends on its category: the message's own leg is told as it is reported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from metering.bounded_text import BoundedText
from metering.mishaps import note
from metering.payload import counts, get, identifier, items, name_in, path, replace_counts
from metering.served_tier import tier_with_speed
from metering.usage import Usage

_DATED = re.compile(r"-\d{8}$|-latest$")
_PLACELESS = ("not_available",)


@dataclass(slots=True)
class _Words:
    """What a message says of itself besides counts: the last word on each."""

    model: str = ""
    tier: str = ""
    speed: str = ""
    place: str = ""

    def read(self, usage: object) -> None:
        self.tier = name_in(usage, "service_tier") or self.tier
        self.speed = name_in(usage, "speed") or self.speed
        self.place = name_in(usage, "inference_geo") or self.place


def read_counts(usage: object) -> dict[str, int]:
    """The counts that a usage, or one of its iterations, says."""
    found = counts(
        usage,
        input="input_tokens",
        output="output_tokens",
        cache_read="cache_read_input_tokens",
        cache_write="cache_creation_input_tokens",
    )
    found |= counts(
        get(usage, "cache_creation"),
        cache_write_5m="ephemeral_5m_input_tokens",
        cache_write_1h="ephemeral_1h_input_tokens",
    )
    found |= counts(get(usage, "output_tokens_details"), reasoning="thinking_tokens")
    # Pages that were fetched are not told: Anthropic bills them as the input tokens that they become.
    found |= counts(get(usage, "server_tool_use"), web_searches="web_search_requests")
    return found


def usage_of_counts(told: dict[str, int]) -> Usage:
    """Gross counts out of Anthropic's net ones; who, what and where is still to be said."""
    read = told.get("cache_read", 0)
    split = told.get("cache_write_5m", 0) + told.get("cache_write_1h", 0)
    written = told.get("cache_write", split)
    net = told.get("input")
    searches = told.get("web_searches", 0)
    return Usage(
        input_tokens=None if net is None else net + read + written,
        output_tokens=told.get("output"),
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=told.get("cache_write_1h", 0),
        reasoning_tokens=told.get("reasoning", 0),
        units={"web_searches": searches} if searches else {},
    )


def _home_provider(response_id: str, model: str) -> str:
    """Who is paid where nobody said who was called: the clouds mark the ids of messages that they serve."""
    if response_id.startswith("msg_bdrk_"):
        return "aws"
    if response_id.startswith("msg_vrtx_"):
        return "google"
    return "anthropic" if model.startswith("claude") else ""


class AnthropicReader:
    """Events of a message's stream, or all of a message, in; its usage out."""

    def __init__(self, provider: str, output: BoundedText) -> None:
        self._provider = provider
        self._output = output
        self._id = ""
        self._words = _Words()
        self._counts: dict[str, int] = {}
        self._iterations: list[object] = []
        self.is_complete = False

    def feed(self, event: object) -> None:
        """Take over what an event, or the message itself, says."""
        kind = get(event, "type")
        if kind == "message" or (kind is None and get(event, "usage") is not None):
            self._read_message(event)
            self._read_usage(get(event, "usage"))
            self.is_complete = True
        elif kind == "message_start":
            self._read_message(get(event, "message"))
            self._read_usage(path(event, "message", "usage"))
            self._counts.pop("output", None)  # of the first tokens: the deltas tell the rest, or nobody
        elif kind == "message_delta":
            self._read_usage(get(event, "usage"))
            self.is_complete = self.is_complete or path(event, "delta", "stop_reason") is not None
        elif kind == "message_stop":
            self.is_complete = True
        elif kind == "content_block_start":
            self._read_block(get(event, "content_block"))
        elif kind == "content_block_delta":
            delta = get(event, "delta")
            self._output.add(get(delta, "text", "thinking", "partial_json"))

    def _read_message(self, message: object) -> None:
        self._id = self._id or identifier(message, "id")
        self._words.model = name_in(message, "model") or self._words.model
        for block in items(get(message, "content")):
            self._output.add(get(block, "text", "thinking"))
            self._output.add(get(block, "name"))
            self._output.add_json(get(block, "input"))

    def _read_usage(self, usage: object) -> None:
        self._words.read(usage)
        replace_counts(self._counts, read_counts(usage))
        self._iterations = items(get(usage, "iterations")) or self._iterations

    def _read_block(self, block: object) -> None:
        self._output.add(get(block, "name"))
        if get(block, "type") == "fallback":
            # The model so far has declined: its counts are told again, as an iteration, at the end.
            self._words.model = name_in(get(block, "to"), "model") or self._words.model
            self._counts = {}

    def usages(self) -> list[Usage]:
        """The message's own leg, and those that `iterations` adds to it."""
        served = [one for one in self._iterations if get(one, "type") == "fallback_message"]
        told = self._counts
        for one in served[-1:]:
            told = read_counts(one) | told
        words = self._words
        model = name_in(served[-1], "model") if served else words.model
        tier = tier_with_speed(words.tier, words.speed)
        own = replace(
            usage_of_counts(told),
            provider=self._provider or _home_provider(self._id, model),
            model=model or words.model,
            region="" if words.place in _PLACELESS else words.place,
            service_tier=tier,
            response_id=self._id,
        )
        others = _legs_besides(self._iterations, own.model, told)
        return [
            own,
            *(
                replace(
                    usage_of_counts(read_counts(entry)),
                    provider=own.provider,
                    model=name_in(entry, "model") or own.model,
                    region=own.region,
                    service_tier=tier,
                    response_id=self._id,
                    leg=number,
                )
                for number, entry in enumerate(others, start=1)
            ),
        ]


def _legs_besides(iterations: list[object], model: str, told: dict[str, int]) -> list[object]:
    """Those iterations whose tokens are billed and are not in the usage around them."""
    attempts = [one for one in iterations if get(one, "type") in ("message", "fallback_message")]
    is_all_told = _sum_to(attempts, told)
    kept = []
    for one in iterations:
        kind = get(one, "type")
        counted = read_counts(one)
        has_declined = kind == "message" and not is_all_told and _is_of_another(one, model)
        if kind in ("compaction", "advisor_message") or (has_declined and counted.get("output") != 0):
            if "input" in counted or "output" in counted:
                kept.append(one)
            else:
                note("payload_unread", "an iteration tells no counts")
    return kept


def _is_of_another(entry: object, model: str) -> bool:
    """Whether an iteration names a model that is not the one that served, a dated name aside."""
    named = name_in(entry, "model")
    return bool(named) and _DATED.sub("", named) != _DATED.sub("", model)


def _sum_to(entries: list[object], told: dict[str, int]) -> bool:
    """Whether the usage around them is the sum of these iterations: then none of them is missing from it."""
    names = ("input", "output", "cache_read", "cache_write")
    read = [read_counts(entry) for entry in entries]
    return all(sum(one.get(name, 0) for one in read) == told.get(name, 0) for name in names)
