"""What holds of every payload: splits and repeats change nothing, oddities are not said, nothing raises."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.event import InvalidEvent, parse_line
from metering.responses import StreamReader, usages_of
from metering.sse import SseReader
from tests.metering.test_responses import CASES, STREAMS, events

QUIET: list[Any] = [
    None,
    {},
    {"type": "ping"},
    {"usage": None},
    [],
    "data",
    5,
    {"type": "error", "error": {}},
]
STREAM_NAMES = st.sampled_from(sorted(STREAMS))


def read_chunks(case: Mapping[str, Any], chunks: list[Any]) -> StreamReader:
    reader = StreamReader(case.get("provider", ""), case.get("model", ""))
    for chunk in chunks:
        reader.feed(chunk)
    return reader


def events_of_chunks(case: Mapping[str, Any], chunks: list[Any]) -> list[dict[str, object]]:
    return events(read_chunks(case, chunks).usages())


@given(STREAM_NAMES, st.lists(st.tuples(st.integers(0, 20), st.sampled_from(QUIET)), max_size=8))
def test_chunks_without_usage_change_nothing(name: str, quiet: list[tuple[int, Any]]) -> None:
    case = STREAMS[name]
    chunks = list(case["chunks"])
    for position, chunk in quiet:
        chunks.insert(position % (len(chunks) + 1), chunk)
    found, expected = read_chunks(case, chunks), read_chunks(case, case["chunks"])
    assert events(found.usages()) == events(expected.usages())
    assert (found.is_complete, found.output_text) == (expected.is_complete, expected.output_text)


@pytest.mark.parametrize("name", STREAMS)
def test_a_chunk_that_comes_twice_counts_once(name: str) -> None:
    case = STREAMS[name]
    twice = [chunk for chunk in case["chunks"] for _ in range(2)]
    assert events_of_chunks(case, twice) == events_of_chunks(case, case["chunks"])


@given(STREAM_NAMES, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 5000), max_size=20))
def test_any_split_of_a_stream_s_bytes_gives_the_same_events(name: str, end: str, cuts: list[int]) -> None:
    case = STREAMS[name]
    texts = [json.dumps(chunk, default=str, ensure_ascii=False) for chunk in case["chunks"]]
    data = "".join(f": hi{end}event: e{end}data: {text}{end}{end}" for text in (*texts, "[DONE]")).encode()
    reader = SseReader()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    chunks = [chunk for start, stop in pairwise(edges) for chunk in reader.feed(data[start:stop])]
    assert reader.is_done
    assert events_of_chunks(case, chunks) == events_of_chunks(case, case["chunks"])


@pytest.mark.parametrize("name", STREAMS)
def test_what_a_model_is_said_to_have_used_never_shrinks(name: str) -> None:
    case = STREAMS[name]
    so_far: dict[object, tuple[int, int]] = {}
    for length in range(len(case["chunks"]) + 1):
        for usage in read_chunks(case, case["chunks"][:length]).usages()[:1]:
            before = so_far.get(usage.model, (0, 0))
            now = (usage.input_tokens or 0, usage.output_tokens or 0)
            assert now[0] >= before[0]
            assert now[1] >= before[1]
            so_far[usage.model] = now


INPUTS_AND_OUTPUTS = [
    ({"object": "chat.completion", "choices": []}, "usage", "prompt_tokens", "completion_tokens"),
    ({"object": "response"}, "usage", "input_tokens", "output_tokens"),
    ({"type": "message"}, "usage", "input_tokens", "output_tokens"),
    ({"ResponseMetadata": {}, "output": {"message": {}}}, "usage", "inputTokens", "outputTokens"),
    ({"candidates": [{"finishReason": "STOP"}]}, "usageMetadata", "promptTokenCount", "candidatesTokenCount"),
]


@pytest.mark.parametrize("wrong", ["5", True, -1, 5.0, [5], {"tokens": 5}, None, 2**63, float("nan")])
@pytest.mark.parametrize(("payload", "usage", "input_name", "output_name"), INPUTS_AND_OUTPUTS)
def test_a_count_of_another_type_is_not_said(
    payload: dict[str, Any], usage: str, input_name: str, output_name: str, wrong: object
) -> None:
    [found] = usages_of({**payload, usage: {input_name: wrong, output_name: 7}})
    assert (found.input_tokens, found.output_tokens) == (None, 7)
    [found] = usages_of({**payload, usage: {input_name: 7, output_name: wrong}})
    assert (found.input_tokens, found.output_tokens) == (7, None)


@pytest.mark.parametrize(("payload", "usage", "input_name", "output_name"), INPUTS_AND_OUTPUTS)
def test_an_explicit_zero_is_not_missing(
    payload: dict[str, Any], usage: str, input_name: str, output_name: str
) -> None:
    [found] = usages_of({**payload, usage: {input_name: 0, output_name: 0}})
    assert (found.input_tokens, found.output_tokens) == (0, 0)
    [found] = usages_of({**payload, usage: {}})
    assert (found.input_tokens, found.output_tokens) == (None, None)


@pytest.mark.parametrize(
    "unknown",
    [
        *(None, "", "text", b"bytes", 5, [], {}, {"usage": {}}, {"usage": 5}, {"type": "x"}),
        *({"detail": "Not Found"}, {"error": {"message": "no"}}, {"usage": {"tokens": 5}}),
        {"usage_metadata": {"input_tokens": 5}},
        {"ResponseMetadata": {"RequestId": "r"}, "body": "of InvokeModel"},
        {"object": "model", "id": "gpt-5.6"},
    ],
)
def test_an_unknown_shape_has_no_usage(unknown: object) -> None:
    assert usages_of(unknown) == []


class Odd:
    """Raises at every attribute but the few that it has, and these are odd too."""

    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)


class OddMapping(dict[str, object]):
    def get(self, key: str, default: object = None) -> object:
        raise KeyError(key, default)


WORDS = sorted(
    {
        *json.dumps([case.get("chunks", case.get("response")) for case in CASES.values()], default=str)
        .replace("\\", "")
        .split('"')[1::2]
    }
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
        | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3).map(lambda fields: Odd(**fields))
        | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3).map(OddMapping)
    ),
    max_leaves=12,
)


def changed(payload: Any, data: st.DataObject) -> Any:
    """A payload with something else somewhere in it."""
    if isinstance(payload, dict) and payload and data.draw(st.integers(0, 3)):
        key = data.draw(st.sampled_from(sorted(payload)))
        return {**payload, key: changed(payload[key], data)}
    if isinstance(payload, list) and payload and data.draw(st.integers(0, 3)):
        position = data.draw(st.integers(0, len(payload) - 1))
        return [*payload[:position], changed(payload[position], data), *payload[position + 1 :]]
    return data.draw(VALUES)


def refusal(line: bytes) -> str:
    try:
        parse_line(line)
    except InvalidEvent as exc:
        return exc.reason.value
    return ""


def check(found: list[dict[str, object]]) -> None:
    """Each is an event that is only to be counted, or that JSON carries to a job that takes or refuses it."""
    for event in found:
        assert refusal(json.dumps(event).encode()) in (
            "",
            "missing_field",
            "inconsistent_usage",
            "out_of_range",
        )


@given(VALUES, st.lists(VALUES, max_size=3))
def test_nothing_raises_whatever_the_payload_is(response: object, chunks: list[object]) -> None:
    check(events(usages_of(response)))
    check(events_of_chunks({}, chunks))


@given(st.sampled_from(sorted(CASES)), st.data())
def test_nothing_raises_whatever_is_wrong_in_a_payload(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    if "chunks" in case:
        check(events_of_chunks(case, [changed(chunk, data) for chunk in case["chunks"]]))
    else:
        check(events(usages_of(changed(case["response"], data))))


COUNTS = st.fixed_dictionaries(
    {
        "input_tokens": st.integers(0, 10**6),
        "output_tokens": st.integers(1, 10**6),
        "cache_read_input_tokens": st.integers(0, 10**6),
        "cache_creation_input_tokens": st.integers(0, 10**6),
    }
)


def total(entries: list[dict[str, Any]]) -> int:
    return sum(entry[name] for entry in entries for name in entry if name.endswith("tokens"))


@given(
    st.lists(COUNTS, max_size=3),
    st.lists(COUNTS, max_size=2),
    st.lists(COUNTS, max_size=2),
    COUNTS,
    st.data(),
)
def test_the_legs_of_a_message_are_what_is_billed(
    declined: list[dict[str, Any]],
    compactions: list[dict[str, Any]],
    advised: list[dict[str, Any]],
    served: dict[str, Any],
    data: st.DataObject,
) -> None:
    iterations = [
        *({"type": "message", "model": "claude-fable-5", **entry} for entry in declined),
        *({"type": "compaction", **entry} for entry in compactions),
        *({"type": "advisor_message", "model": "claude-opus-5", **entry} for entry in advised),
        {"type": "fallback_message", "model": "claude-opus-4-8", **served},
    ]
    iterations = data.draw(st.permutations(iterations))
    usage = {**served, "iterations": iterations}
    legs = usages_of({"type": "message", "model": "claude-opus-4-8", "content": [], "usage": usage})
    billed = [*declined, *compactions, *advised, served]
    assert sum((leg.input_tokens or 0) + (leg.output_tokens or 0) for leg in legs) == total(billed)
    assert [leg.leg for leg in legs] == list(range(len(billed)))
    assert legs[0].model == "claude-opus-4-8"
