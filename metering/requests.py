"""What a request asked for, of the keyword arguments of an SDK's call or of a parsed body.

Read are OpenAI's Chat Completions (`messages`, `tools`, …) and Responses (`input`, `instructions`),
Anthropic's Messages (`system`, `messages`), Gemini's generateContent (`contents`, `config`) and Bedrock's
Converse (`system`, `messages`, `toolConfig`), after the types of openai 3.57.0, anthropic 2.14.0,
google-genai 3.6.1 and botocore 1.44.8. The shape decides, never the type. Nothing is consumed, so an
iterator is uncountable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from metering.bounded_text import BoundedText
from metering.mishaps import note
from metering.payload import get, items, name_in, path, text

INPUT_TEXT_CHARS_MAX = 4 * 1024 * 1024
"""So many characters of a request are kept: a million tokens of English, as much as a model takes."""

NESTING_MAX = 16
"""Contents nest so deep and no deeper: a tool's result in a message in a list needs half of it."""

MODEL_ID_CHARS_MAX = 2048
"""A longer id of a model is none; the ARN of an inference profile has a tenth of it."""

_PLACES: tuple[tuple[str, ...], ...] = (
    *(("system",), ("instructions",), ("system_instruction",), ("systemInstruction",)),
    *(("config", "system_instruction"), ("config", "systemInstruction")),
    *(("messages",), ("input",), ("prompt",), ("contents",)),
)
_TOOL_PLACES: tuple[tuple[str, ...], ...] = (
    *(("tools",), ("functions",), ("config", "tools"), ("toolConfig", "tools")),
    *(("response_format",), ("text", "format"), ("output_format",), ("config", "response_schema")),
)
_HELD_ELSEWHERE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("previous_response_id", ("previous_response_id",)),
    ("conversation", ("conversation",)),
    ("prompt_template", ("prompt", "id")),
    ("cached_content", ("config", "cached_content")),
    ("cached_content", ("cachedContent",)),
)
_TEXTS = ("name", "text", "thinking", "arguments", "refusal")
_NESTED = (
    *(
        "content",
        "parts",
        "summary",
        "output",
        "tool_calls",
        "function",
        "function_call",
        "function_response",
    ),
    *("functionCall", "functionResponse", "toolUse", "toolResult", "reasoningContent", "reasoningText"),
)
_JSON = ("input", "args", "response", "json")
_MEDIA_TYPES = {
    **dict.fromkeys(("image", "image_url", "input_image", "computer_screenshot"), "image"),
    **dict.fromkeys(("input_audio", "audio"), "audio"),
    **dict.fromkeys(("video", "video_url"), "video"),
    **dict.fromkeys(("file", "input_file", "document", "container_upload"), "document"),
}
_MEDIA_FIELDS = ("image", "audio", "video", "document")
_NOT_GIVEN = ("NotGiven", "Omit")
"""Types whose objects OpenAI's and Anthropic's SDKs have for arguments that nobody gave, in `_types.py`."""
_DATA_FIELDS = ("inline_data", "inlineData", "file_data", "fileData")


@dataclass(frozen=True, slots=True)
class RequestInput:
    """What of a request counts as input.

    `text` holds its first `INPUT_TEXT_CHARS_MAX` characters, one part a line; `chars` counts all of them.
    `messages` is how many there are. `uncountable` names, in order of the alphabet, what text does not say:
    images and the like, and what the provider holds, such as an earlier response.
    """

    text: str = ""
    chars: int = 0
    messages: int = 0
    uncountable: tuple[str, ...] = ()


@dataclass(slots=True)
class _Found:
    text: BoundedText = field(default_factory=lambda: BoundedText(INPUT_TEXT_CHARS_MAX, "\n"))
    uncountable: set[str] = field(default_factory=set)


def asked_model(kwargs: object) -> str:
    """The model that a request names, as it names it: a name, an id or an ARN; "" where it names none."""
    return text(get(kwargs, "model", "modelId"), MODEL_ID_CHARS_MAX)


def read_input(kwargs: object) -> RequestInput:
    """What of a request counts as input: system, messages, tools and schemas. Never raises."""
    found = _Found()
    try:
        for place in _PLACES:
            _walk(_said(kwargs, place), found, NESTING_MAX)
        for place in _TOOL_PLACES:
            value = _said(kwargs, place)
            for tool in items(value) or ([] if value is None else [value]):
                _add_json(tool, found)
        for name, place in _HELD_ELSEWHERE:
            if _said(kwargs, place) is not None:
                found.uncountable.add(name)
    except Exception as exc:  # noqa: BLE001 - the request is the caller's, whatever it is
        note("payload_unread", "the input of a request could not be read", exc)
        found.uncountable.add("unreadable")
    messages = max(len(items(get(kwargs, name))) for name in ("messages", "input", "contents"))
    uncountable = tuple(sorted(found.uncountable))
    return RequestInput(found.text.text, found.text.chars, messages, uncountable)


def _said(kwargs: object, place: tuple[str, ...]) -> object:
    """What stands at a place of a request; None where nothing does, or that nothing was said."""
    value = path(kwargs, *place)
    return None if type(value).__name__ in _NOT_GIVEN else value


def _walk(value: object, found: _Found, depth: int) -> None:
    """Add the texts in a content, whatever API it is of."""
    if value is None:
        return
    if depth == 0:
        found.uncountable.add("nested")
    elif isinstance(value, str):
        found.text.add(value)
    elif isinstance(value, (list, tuple)):
        for item in items(value):
            _walk(item, found, depth - 1)
    else:
        _walk_fields(value, found, depth)


def _walk_fields(value: object, found: _Found, depth: int) -> None:
    media = _media_in(value)
    if media:
        found.uncountable.add(media)
    is_known = bool(media) or isinstance(value, Mapping)
    for name in _TEXTS:
        part = get(value, name)
        is_known = is_known or part is not None
        found.text.add(part)
    for name in _NESTED:
        part = get(value, name)
        is_known = is_known or part is not None
        _walk(part, found, depth - 1)
    for name in _JSON:
        part = get(value, name)
        if part is not None:
            _add_json(part, found)
    if path(value, "source", "type") == "text":
        found.text.add(path(value, "source", "data"))
    if not is_known:
        found.uncountable.add("other")


def _media_in(value: object) -> str:
    """What a content is that is no text; "" if it is one."""
    for name in _DATA_FIELDS:
        data = get(value, name)
        if data is not None:
            kind = name_in(data, "mime_type", "mimeType").partition("/")[0]
            return kind if kind in ("image", "audio", "video") else "document"
    if path(value, "source", "type") == "text":
        return ""  # a document that is text
    kind = name_in(value, "type")
    if kind in _MEDIA_TYPES:
        return _MEDIA_TYPES[kind]
    return next((name for name in _MEDIA_FIELDS if get(value, name) is not None), "")


def _add_json(value: object, found: _Found) -> None:
    """Add a value as the JSON that it is sent as."""
    if isinstance(value, str):
        found.text.add(value)
        return
    try:
        found.text.add(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain))
    except Exception as exc:  # noqa: BLE001 - a value of the caller's, with methods of its own
        note("payload_unread", "a tool of a request could not be read", exc)
        found.uncountable.add("tool")


def _plain(value: object) -> object:
    """An SDK's object as what JSON takes."""
    dump = get(value, "model_dump")
    if callable(dump):
        return dump(mode="json", exclude_none=True)
    raise TypeError
