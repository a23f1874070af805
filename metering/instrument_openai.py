"""Usage in streams of chat completions: OpenAI tells it only if it is asked to.

Without it, tokens have to be counted, and hidden reasoning cannot be. So it is asked for
(`stream_options.include_usage`), and the further chunk that then comes, last, with usage and without choices,
is kept from the caller, whose `chunk.choices[0]` would fail on it. A caller who asks for usage, or says not
to want it, has its way.

OpenAI has had this since May 2024. Others who speak its API may refuse a field that they do not know, and an
application must not break because it is metered: so `where_known` asks OpenAI alone. Say `always` for servers
that are known to take it (vLLM, LiteLLM, OpenRouter, and Azure from API version 2024-09-01-preview on),
`never` to count.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

StreamUsage = Literal["where_known", "always", "never"]

_KNOWN = ("openai",)
_RAW_HEADER = "x-stainless-raw-response"


def hides_usage(
    choice: StreamUsage, provider: str, path: str, options: Any, asked: Mapping[str, Any]
) -> bool:
    """Whether to ask for usage in this stream, and to hide that it came."""
    if choice == "never" or (choice == "where_known" and provider not in _KNOWN):
        return False
    if not path.endswith(("/chat/completions", "/completions")):
        return False
    if not isinstance(getattr(options, "json_data", None), Mapping):
        return False  # a body of bytes, made by the application
    stream_options = asked.get("stream_options")
    if isinstance(stream_options, Mapping) and "include_usage" in stream_options:
        return False
    headers = getattr(options, "headers", None)
    # Whoever takes the answer as HTTP reads bytes, of which nothing is hidden.
    return not (isinstance(headers, Mapping) and any(str(name).lower() == _RAW_HEADER for name in headers))


def with_usage(options: Any, asked: Mapping[str, Any]) -> Any:
    """The same request, asking for usage. The caller's own options stay as they are."""
    stream_options = asked.get("stream_options")
    told = dict(stream_options) if isinstance(stream_options, Mapping) else {}
    changed = copy.copy(options)
    changed.json_data = {**options.json_data, "stream_options": {**told, "include_usage": True}}
    further = getattr(options, "extra_json", None)
    if isinstance(further, Mapping) and "stream_options" in further:
        changed.extra_json = {name: value for name, value in further.items() if name != "stream_options"}
    return changed


def body_of(options: Any) -> object:
    """What is sent: `extra_body` of the caller, which the SDK lays over the body that it has made itself."""
    body, further = getattr(options, "json_data", None), getattr(options, "extra_json", None)
    if not isinstance(further, Mapping):
        return body
    return {**body, **further} if isinstance(body, Mapping) else further


def is_usage_chunk(chunk: object) -> bool:
    """Whether it is the chunk that comes for `include_usage` alone."""
    choices = getattr(chunk, "choices", None)
    return isinstance(choices, list) and not choices and getattr(chunk, "usage", None) is not None
