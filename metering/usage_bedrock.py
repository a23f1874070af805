"""Usage from Amazon Bedrock's Converse and ConverseStream.

Facts from the service model that botocore 1.44.8 ships (`bedrock-runtime`, 2023-09-30), from AWS's page on
prompt caching, and from earendil-works/pi issue 8752.

`inputTokens` is net for Claude, Nova and the rest: cache reads and writes stand beside it, and are added
here. For models of OpenAI's family it is gross, as far as it can be: where it is less than its parts, it is
net after all, as some of their answers are. `totalTokens` sums everything either way and decides nothing.
The answer does not name its model, so the reader is told what was asked for; a prompt router names the one
that it chose.
"""

from __future__ import annotations

import re

from metering.bounded_text import BoundedText
from metering.payload import counts, get, identifier, items, name_in, path, replace_counts
from metering.served_tier import tier_with_speed
from metering.usage import Usage

_ARN = re.compile(r"arn:[\w-]*:bedrock:([\w-]*):\d*:(?:[\w-]+/)?(.+)", re.ASCII)
_PLACE = re.compile(r"(?:[a-z]{2,6}(?:-gov)?|global)\.(?=[a-z0-9]+\.)")


def model_and_region(model_id: str) -> tuple[str, str]:
    """The name that rate cards know, and the region, of a model's id or ARN. Account numbers are left out."""
    match = _ARN.fullmatch(model_id)
    return (match[2], match[1]) if match else (model_id, "")


def is_of_openai(model: str) -> bool:
    """Whether a model is of the family whose input counts are gross; the place that a profile names aside."""
    return _PLACE.sub("", model, count=1).startswith("openai.")


class ConverseReader:
    """Events of a ConverseStream, or all of an answer, in; its usage out.

    `model` is the id that was asked for, or "". The response that holds the stream may be fed too: it alone
    has the request's id.
    """

    def __init__(self, provider: str, output: BoundedText, model: str) -> None:
        self._provider = provider
        self._output = output
        self._asked = model_and_region(model)[0]
        self._model = ""
        self._region = ""
        self._id = ""
        self._tier = ""
        self._latency = ""
        self._counts: dict[str, int] = {}
        self.is_complete = False

    def feed(self, event: object) -> None:
        """Take over what an event, or the answer itself, says."""
        self._id = self._id or identifier(get(event, "ResponseMetadata"), "RequestId")
        metadata = get(event, "metadata")
        if metadata is not None or get(event, "usage") is not None:
            self._read_metadata(event if metadata is None else metadata)
        if get(event, "messageStop", "stopReason") is not None:
            self.is_complete = True
        self._output.add(path(event, "contentBlockStart", "start", "toolUse", "name"))
        delta = path(event, "contentBlockDelta", "delta")
        self._output.add(get(delta, "text"))
        self._output.add(path(delta, "toolUse", "input"))
        self._output.add(path(delta, "reasoningContent", "text"))
        for block in items(path(event, "output", "message", "content")):
            self._output.add(get(block, "text"))
            self._output.add(path(block, "reasoningContent", "reasoningText", "text"))
            self._output.add(path(block, "toolUse", "name"))
            self._output.add_json(path(block, "toolUse", "input"))

    def _read_metadata(self, metadata: object) -> None:
        usage = get(metadata, "usage")
        later = counts(
            usage,
            input="inputTokens",
            output="outputTokens",
            cache_read=("cacheReadInputTokens", "cacheReadInputTokenCount"),
            cache_write=("cacheWriteInputTokens", "cacheWriteInputTokenCount"),
        )
        for detail in items(get(usage, "cacheDetails")):
            if get(detail, "ttl") == "1h":
                later |= counts(detail, cache_write_1h="inputTokens")
            elif get(detail, "ttl") == "5m":
                later |= counts(detail, cache_write_5m="inputTokens")
        replace_counts(self._counts, later)
        self._tier = name_in(get(metadata, "serviceTier"), "type") or self._tier
        self._latency = name_in(get(metadata, "performanceConfig"), "latency") or self._latency
        invoked = identifier(path(metadata, "trace", "promptRouter"), "invokedModelId")
        if invoked:
            self._model, self._region = model_and_region(invoked)
        if "output" in later:
            self.is_complete = True

    def usages(self) -> list[Usage]:
        """The one leg of an answer: a prompt router asks one model."""
        told = self._counts
        read = told.get("cache_read", 0)
        split = told.get("cache_write_5m", 0) + told.get("cache_write_1h", 0)
        written = told.get("cache_write", split)
        said = told.get("input")
        is_gross = is_of_openai(self._model or self._asked) and said is not None and said >= read + written
        usage = Usage(
            provider=self._provider or "aws",
            model=self._model,
            region=self._region,
            # A latency that was optimised has a price of its own, so it is part of what served.
            service_tier=tier_with_speed(self._tier, self._latency),
            response_id=self._id,
            input_tokens=said if said is None or is_gross else said + read + written,
            output_tokens=told.get("output"),
            cache_read_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=told.get("cache_write_1h", 0),
        )
        return [usage]
