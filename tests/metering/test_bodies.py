"""Bodies that pass by are kept within bounds, and say the same whether they were kept or read on the way."""

from __future__ import annotations

import json

import pytest

from metering import bodies, mishaps
from metering.bodies import STREAM_BYTES_MAX, Body
from metering.usage import Usage
from tests.metering.fake_answers import Answer, chat

ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "say some words"}], "max_tokens": 2000}
STREAM = b"".join(chat.stream(Answer.of("chatcmpl-1", ASK), {"stream_options": {"include_usage": True}}))
SSE, JSON = "text/event-stream", "application/json"


def kept_bytes(body: Body) -> int:
    return sum(map(len, body._kept))  # noqa: SLF001  # the bound is the point


@pytest.mark.parametrize("part_bytes", [100, 10_000, STREAM_BYTES_MAX, len(STREAM)])
def test_of_a_stream_no_more_is_kept_than_its_bound(part_bytes: int) -> None:
    assert len(STREAM) > 2 * STREAM_BYTES_MAX
    body = Body(SSE, "", "openai", "")
    for start in range(0, len(STREAM), part_bytes):
        body.feed(STREAM[start : start + part_bytes])
        assert kept_bytes(body) <= STREAM_BYTES_MAX
    [usage], text, is_complete = body.told()
    assert (usage.input_tokens, usage.output_tokens, is_complete) == (3, 2007, True)
    assert text.startswith("word0 word1 ")
    assert kept_bytes(body) == 0


def test_of_json_no_more_is_kept_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_BYTES_MAX", 1000)
    body = Body(JSON, "", "openai", "")
    for _ in range(20):
        body.feed(b" " * 100)
    assert kept_bytes(body) == 0
    before = mishaps.counts()["response_unread"]
    assert body.told() == ([], "", True)
    assert mishaps.counts()["response_unread"] == before + 1


@pytest.mark.parametrize(
    ("media_type", "coding", "is_read"),
    [
        (JSON, "", True),
        ("Application/JSON; charset=utf-8", "identity", True),
        ("application/vnd.api+json", "", True),
        (JSON, "gzip", False),
        ("text/plain", "", False),
        ("", "", False),
    ],
)
def test_only_plain_json_and_events_are_read(media_type: str, coding: str, is_read: bool) -> None:
    body = Body(media_type, coding, "", "")
    body.feed(json.dumps(chat(Answer.of("chatcmpl-1", ASK), ASK)).encode())
    usages, _, _ = body.told()
    assert [usage.output_tokens for usage in usages] == [2007] * is_read


def test_a_last_event_without_its_blank_line_is_read_too() -> None:
    body = Body(SSE, "", "openai", "")
    body.feed(STREAM.removesuffix(b"data: [DONE]\n\n").rstrip(b"\n"))
    assert body.told()[0][0].output_tokens == 2007


def test_of_a_stream_in_the_middle_what_was_told_is_known() -> None:
    body = Body(SSE, "", "openai", "")
    body.feed(STREAM[: len(STREAM) // 2])
    assert body.usages() == [Usage(provider="openai", model="gpt-4o", response_id="chatcmpl-1")]
    assert not body.is_complete
    body.feed(STREAM[len(STREAM) // 2 :])  # and nothing is lost of the event in which it was asked
    assert body.usages()[0].output_tokens == 2007
    assert body.is_complete
    assert body.output_text == "".join(f"word{number} " for number in range(2000))
    assert body.output_chars == len(body.output_text) > 0
