"""Usage from Gemini's generateContent, in the Gemini API and in Vertex AI.

Facts from the types of the package google-genai 3.6.1 (`GenerateContentResponseUsageMetadata`,
`TrafficType`), and from genai-prices 0.2.3 for what a document and a search count as.

`promptTokenCount` is gross: cached content is part of it. Thoughts are not part of `candidatesTokenCount`,
and what tools gave back to the model is not part of the prompt: both are added here. A stream's chunks tell
cumulative counts, of which the last are right. JSON has camelCase names, the SDK snake_case ones.
"""

from __future__ import annotations

from metering.bounded_text import BoundedText
from metering.payload import count, counts, get, identifier, items, name_in, path, replace_counts
from metering.usage import Usage

_TIERS = {
    "on_demand": "",
    "on_demand_priority": "priority",
    "on_demand_flex": "flex",
    "on_demand_offpeak": "offpeak",
    "traffic_type_unspecified": "",
    "unspecified": "",
}
"""Vertex's kinds of traffic, and what the catalogue calls them; others keep their names, in small letters."""

_MODALITIES = {"audio": "audio", "image": "image", "video": "video", "document": "image"}
"""By a payload's names; pages of documents are priced as images. Text is what is left."""

_BILLED_PER_PROMPT = ("gemini-1", "gemini-2")
"""Models that bill a grounded prompt once; later ones bill each of its searches."""


def _details(usage: object, *names: str) -> dict[str, int]:
    """Tokens by modality, of a list with one entry for each."""
    found: dict[str, int] = {}
    for entry in items(get(usage, *names)):
        modality = _MODALITIES.get(name_in(entry, "modality").lower())
        tokens = count(entry, "tokenCount", "token_count")
        if modality is not None and tokens is not None:
            found[modality] = found.get(modality, 0) + tokens
    return found


class GeminiReader:
    """Chunks of an answer, or all of one, in; its usage out."""

    def __init__(self, provider: str, output: BoundedText) -> None:
        self._provider = provider
        self._output = output
        self._id = ""
        self._model = ""
        self._tier = ""
        self._counts: dict[str, int] = {}
        self._searches = 0
        self.is_complete = False

    def feed(self, chunk: object) -> None:
        """Take over what a chunk says."""
        self._id = self._id or identifier(chunk, "responseId", "response_id")
        named = name_in(chunk, "modelVersion", "model_version")
        self._model = named.rpartition("/")[2] or self._model
        self._read_usage(get(chunk, "usageMetadata", "usage_metadata"))
        if get(get(chunk, "promptFeedback", "prompt_feedback"), "blockReason", "block_reason") is not None:
            self.is_complete = True
        for candidate in items(get(chunk, "candidates")):
            if get(candidate, "finishReason", "finish_reason") is not None:
                self.is_complete = True
            grounding = get(candidate, "groundingMetadata", "grounding_metadata")
            searches = len(items(get(grounding, "webSearchQueries", "web_search_queries")))
            self._searches = max(self._searches, searches)
            for part in items(path(candidate, "content", "parts")):
                self._read_part(part)

    def _read_part(self, part: object) -> None:
        self._output.add(get(part, "text"))
        self._output.add(get(get(part, "executableCode", "executable_code"), "code"))
        call = get(part, "functionCall", "function_call")
        self._output.add(get(call, "name"))
        self._output.add_json(get(call, "args"))

    def _read_usage(self, usage: object) -> None:
        tier = name_in(usage, "trafficType", "traffic_type") or name_in(usage, "serviceTier", "service_tier")
        self._tier = _TIERS.get(tier.lower(), tier.lower()) or self._tier
        later = counts(
            usage,
            prompt=("promptTokenCount", "prompt_token_count"),
            cache_read=("cachedContentTokenCount", "cached_content_token_count"),
            candidates=("candidatesTokenCount", "candidates_token_count"),
            thoughts=("thoughtsTokenCount", "thoughts_token_count"),
            tool_use=("toolUsePromptTokenCount", "tool_use_prompt_token_count"),
            total=("totalTokenCount", "total_token_count"),
        )
        prompt = _details(usage, "promptTokensDetails", "prompt_tokens_details")
        tools = _details(usage, "toolUsePromptTokensDetails", "tool_use_prompt_tokens_details")
        for modality in {*prompt, *tools}:
            later[f"input_{modality}"] = prompt.get(modality, 0) + tools.get(modality, 0)
        for whole, names in (
            ("cache_read", ("cacheTokensDetails", "cache_tokens_details")),
            ("output", ("candidatesTokensDetails", "candidates_tokens_details")),
        ):
            later |= {f"{whole}_{name}": tokens for name, tokens in _details(usage, *names).items()}
        replace_counts(self._counts, later)

    def usages(self) -> list[Usage]:
        """The one leg of an answer."""
        told = self._counts
        prompt, tool_use, thoughts = told.get("prompt"), told.get("tool_use", 0), told.get("thoughts", 0)
        candidates = told.get("candidates")
        if candidates is None and self.is_complete and prompt is not None and "total" in told:
            # JSON made from protocol buffers leaves zeros out; the total is the sum of the four.
            rest = told["total"] - prompt - tool_use - thoughts
            candidates = rest if rest >= 0 else None
        units = {name: told.get(name.removesuffix("_tokens"), 0) for name in _UNITS}
        units["web_searches"] = min(self._searches, 1) if self._bills_prompts() else self._searches
        usage = Usage(
            provider=self._provider or "google",
            model=self._model,
            service_tier=self._tier,
            response_id=self._id,
            input_tokens=None if prompt is None else prompt + tool_use,
            output_tokens=None if candidates is None else candidates + thoughts,
            cache_read_tokens=told.get("cache_read", 0),
            # Of an output that is not known to its end no part is told: a count may stand in that is smaller.
            reasoning_tokens=0 if candidates is None else thoughts,
            units={name: number for name, number in units.items() if number},
        )
        return [usage]

    def _bills_prompts(self) -> bool:
        return self._model.startswith(_BILLED_PER_PROMPT)


_UNITS = [
    f"{whole}_{modality}_tokens"
    for whole in ("input", "cache_read", "output")
    for modality in ("audio", "image", "video")
]
