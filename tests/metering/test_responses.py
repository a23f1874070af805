"""Each recorded payload and the events it comes to. The payloads stand in `payloads/`, with their sources.

A case has a `response` or the `chunks` of a stream, and its events without what every event of the call has.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from metering import responses
from metering.call import Call, Ending, events_of
from metering.event import InvalidEvent, parse_line
from metering.responses import StreamReader, usages_of
from metering.served_tier import tier_with_speed
from metering.usage import Usage
from pricing.card_values import STANDARD_TIERS
from pricing.usage_units import read_units

CALL = Call(tenant_id="acme", model="asked", started_ms=1_790_000_000_000)
ALWAYS = {
    "tenant_id": "acme",
    "feature_id": "unknown",
    "timestamp": CALL.started_ms,
    "latency_ms": 1,
    "cache_status": "miss",
    "status": "success",
    "usage_source": "provider",
}

CASES: dict[str, dict[str, Any]] = {
    f"{path.stem}: {case['name']}": case
    for path in sorted((Path(__file__).parent / "payloads").glob("*.json"))
    for case in json.loads(path.read_bytes(), parse_float=Decimal)
}
STREAMS = {name: case for name, case in CASES.items() if "chunks" in case}


class AnyModel(BaseModel):
    """Like an SDK's models: whatever fields it is given are attributes, and objects in it are such too."""

    model_config = ConfigDict(extra="allow")


def as_is(payload: Any) -> Any:
    return payload


def as_models(payload: Any) -> Any:
    if isinstance(payload, dict):
        return AnyModel.model_construct(**{key: as_models(value) for key, value in payload.items()})
    return [as_models(item) for item in payload] if isinstance(payload, list) else payload


def as_objects(payload: Any) -> Any:
    if isinstance(payload, dict):
        return SimpleNamespace(**{key: as_objects(value) for key, value in payload.items()})
    return tuple(as_objects(item) for item in payload) if isinstance(payload, list) else payload


def as_floats(payload: Any) -> Any:
    """As `json.loads` reads it, costs as floats among it."""
    return json.loads(json.dumps(payload, default=float))


def read_case(case: dict[str, Any], shape: Callable[[Any], Any]) -> list[Usage]:
    provider, model = case.get("provider", ""), case.get("model", "")
    if "chunks" not in case:
        return usages_of(shape(case["response"]), provider, model)
    reader = StreamReader(provider, model)
    for chunk in case["chunks"]:
        reader.feed(shape(chunk))
    return reader.usages()


def events(usages: list[Usage]) -> list[dict[str, object]]:
    numbers = count(1)
    return events_of(CALL, usages, Ending(latency_ms=1), lambda: f"new-{next(numbers)}")


def told(event: dict[str, object]) -> dict[str, object]:
    """What is particular to an event: no field that says the same as its default, the two counts aside."""
    assert {name: event[name] for name in ALWAYS} == ALWAYS
    return {
        name: value
        for name, value in event.items()
        if name not in ALWAYS and (value not in ("", 0) or name in ("input_tokens", "output_tokens"))
    }


@pytest.mark.parametrize("shape", [as_is, as_models, as_objects, as_floats])
@pytest.mark.parametrize("name", CASES)
def test_a_payload_and_its_events(name: str, shape: Callable[[Any], Any]) -> None:
    case = CASES[name]
    found = events(read_case(case, shape))
    assert [told(event) for event in found] == case["events"]
    for event in found:
        if event["input_tokens"] is None or event["output_tokens"] is None:
            continue  # counted before it is an event
        line = json.dumps(event).encode()
        if "refused" in case:
            with pytest.raises(InvalidEvent, match=case["refused"]):
                parse_line(line)
        else:
            assert parse_line(line)[1] == ()


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_says_what_was_seen_of_it(name: str) -> None:
    case = STREAMS[name]
    reader = StreamReader()
    for chunk in case["chunks"]:
        reader.feed(chunk)
    assert reader.is_complete is not case.get("is_cut", False)
    assert reader.output_text == case["output_text"]
    assert reader.output_chars == len(case["output_text"])


@pytest.mark.parametrize("name", CASES)
def test_units_have_the_names_that_rate_cards_price(name: str) -> None:
    for usage in read_case(CASES[name], as_is):
        units = read_units({f"unit.{unit}": str(number) for unit, number in usage.units.items()})
        assert units.counts.keys() <= {"web_searches", "storage_searches"}


@pytest.mark.parametrize("standard", STANDARD_TIERS)
def test_a_speed_in_the_standard_tier_is_a_tier_that_cards_name(standard: str) -> None:
    assert tier_with_speed(standard, "fast") == "fast"
    assert tier_with_speed("flex", standard) == "flex"


def test_a_whole_answer_says_what_was_seen_of_it() -> None:
    for name, case in CASES.items():
        if isinstance(case.get("response"), dict) and "custom_id" not in case["response"]:
            reader = StreamReader()
            reader.feed(case["response"])
            assert reader.is_complete, name


ROUND: dict[str, Any] = {}
ROUND["again"] = ROUND


@pytest.mark.parametrize("arguments", [{"city": "Köln"}, {}, None, ROUND])
@pytest.mark.parametrize(
    "answer",
    [
        lambda arguments: {
            "type": "message",
            "content": [
                {"type": "text", "text": "Hi."},
                {"type": "tool_use", "name": "f", "input": arguments},
            ],
            "usage": {"input_tokens": 7, "output_tokens": 3},
        },
        lambda arguments: {
            "output": {
                "message": {"content": [{"text": "Hi."}, {"toolUse": {"name": "f", "input": arguments}}]}
            },
            "usage": {"inputTokens": 7, "outputTokens": 3},
        },
        lambda arguments: {
            "candidates": [
                {"content": {"parts": [{"text": "Hi."}, {"functionCall": {"name": "f", "args": arguments}}]}}
            ],
            "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3},
        },
    ],
    ids=["anthropic", "converse", "gemini"],
)
def test_the_arguments_of_a_tool_call_are_seen_of_a_whole_answer_too(
    answer: Callable[[object], object], arguments: object
) -> None:
    reader = StreamReader()
    reader.feed(answer(arguments))
    seen = "" if arguments is None or arguments is ROUND else json.dumps(arguments, ensure_ascii=False)
    assert reader.output_text == f"Hi.f{seen}"
    assert [(usage.input_tokens, usage.output_tokens) for usage in reader.usages()] == [(7, 3)]


def test_the_text_of_an_answer_is_bounded_and_its_length_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "OUTPUT_TEXT_CHARS_MAX", 5)
    reader = StreamReader()
    for text in ("abcd", "efgh", "ijkl"):
        reader.feed({"choices": [{"delta": {"content": text}}]})
    assert (reader.output_text, reader.output_chars) == ("abcde", 12)


def test_many_small_parts_are_the_text_that_they_make() -> None:
    reader = StreamReader()
    reader.feed({"choices": []})
    for number in range(10_000):
        reader.feed({"choices": [{"delta": {"content": f"{number} "}}]})
    assert reader.output_text == "".join(f"{number} " for number in range(10_000))


def test_every_case_has_a_source_and_a_name_of_its_own() -> None:
    assert all(case["source"] for case in CASES.values())
    assert len(CASES) == sum(
        len(json.loads(path.read_bytes())) for path in (Path(__file__).parent / "payloads").glob("*.json")
    )
