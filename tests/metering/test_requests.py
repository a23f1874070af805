"""What a request asked for, of each API, and what of it counts as input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anthropic
import openai
import pytest
from hypothesis import given
from pydantic import BaseModel

from metering import mishaps, requests
from metering.requests import (
    RequestInput,
    asked_model,
    read_input,
)
from tests.metering.test_responses_properties import VALUES

CASES = json.loads((Path(__file__).parent / "payloads" / "requests" / "requests.json").read_bytes())
PROFILE = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude-sonnet-4-5"


@pytest.mark.parametrize(
    ("kwargs", "model"),
    [
        ({"model": "gpt-5.6"}, "gpt-5.6"),
        ({"modelId": "anthropic.claude-sonnet-4-5"}, "anthropic.claude-sonnet-4-5"),
        ({"modelId": PROFILE}, PROFILE),
        ({"model": None}, ""),
        ({"model": ["gpt-5.6"]}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_model_that_was_asked_for(kwargs: object, model: str) -> None:
    assert asked_model(kwargs) == model


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_what_counts_as_input(case: dict[str, Any]) -> None:
    found = read_input(case["request"])
    assert sorted(found.text.split("\n")) == sorted(case["lines"])
    assert list(found.uncountable) == case["uncountable"]
    assert found.chars == sum(len(line) for line in case["lines"])


class Tool(BaseModel):
    name: str
    description: str | None = None


def test_objects_are_read_as_mappings_are() -> None:
    message = SimpleNamespace(role="user", content=[SimpleNamespace(type="text", text="Hi")])
    found = read_input(SimpleNamespace(messages=[message], tools=[Tool(name="find")]))
    assert found == RequestInput(text='Hi\n{"name":"find"}', chars=17, messages=1)


@pytest.mark.parametrize(
    ("kwargs", "uncountable"),
    [
        ({"contents": [object()]}, ("other",)),
        ({"tools": [len]}, ("tool",)),
        ({"prompt": {"id": "pmpt_1"}}, ("prompt_template",)),
        ({"conversation": "conv_1", "cachedContent": "c"}, ("cached_content", "conversation")),
        ({"messages": json.loads("[" * 40 + "]" * 40)}, ("nested",)),
        ({"messages": iter(["Hi"])}, ("other",)),
        ({"messages": [{"role": "user", "content": None}]}, ()),
        ({}, ()),
    ],
)
def test_what_text_does_not_say(kwargs: dict[str, Any], uncountable: tuple[str, ...]) -> None:
    found = read_input(kwargs)
    assert (found.text, found.uncountable) == ("", uncountable)


@pytest.mark.parametrize("marker", [openai.NotGiven(), openai.Omit(), anthropic.NotGiven(), anthropic.Omit()])
def test_what_an_sdk_marks_as_not_given_is_not_asked(marker: object) -> None:
    before = mishaps.counts()["payload_unread"]
    names = ("system", "tools", "response_format", "output_format", "previous_response_id", "config")
    found = read_input({"messages": ["Hi"], **dict.fromkeys(names, marker)})
    assert found == RequestInput(text="Hi", chars=2, messages=1)
    assert mishaps.counts()["payload_unread"] == before


def test_an_iterator_is_the_caller_s_to_consume() -> None:
    messages: Iterator[str] = iter(["Hi"])
    read_input({"messages": messages})
    assert next(messages) == "Hi"


def test_the_text_is_bounded_and_its_length_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "INPUT_TEXT_CHARS_MAX", 5)
    found = read_input({"messages": ["abcd", "efgh", "ijkl"]})
    assert (found.text, found.chars) == ("abcd\ne", 12)


@given(VALUES)
def test_nothing_raises_whatever_the_request_is(value: Any) -> None:
    for kwargs in (value, {"messages": value, "tools": value}, {"contents": [value], "config": value}):
        read_input(kwargs)
        asked_model(kwargs)
