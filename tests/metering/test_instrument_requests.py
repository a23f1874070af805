"""What an instrumented client reads off a request and adds to it: usage is asked for, where that is known."""

from __future__ import annotations

import gc
from typing import Any

import openai
import pytest

from metering import instrumentation, mishaps
from metering.instrumentation import instrument
from tests.metering.asking import ASK, TEXT, said
from tests.metering.collecting import CollectingMeter
from tests.metering.fake_provider import FakeProvider, Fault


def by_body(stream_options: dict[str, object]) -> dict[str, Any]:
    return {"extra_body": {"stream_options": stream_options, "seed": 7}}


@pytest.mark.parametrize(
    ("asks", "stream_usage", "sent", "chunks", "is_told"),
    [
        ({}, "where_known", {"include_usage": True}, 7, True),
        ({}, "always", {"include_usage": True}, 7, True),
        ({}, "never", None, 7, False),
        ({"stream_options": {"include_usage": True}}, "where_known", {"include_usage": True}, 8, True),
        ({"stream_options": {"include_usage": False}}, "always", {"include_usage": False}, 7, False),
        ({"stream_options": {"x": 1}}, "always", {"x": 1, "include_usage": True}, 7, True),
        (by_body({"include_usage": True}), "where_known", {"include_usage": True}, 8, True),
        (by_body({"include_usage": False}), "always", {"include_usage": False}, 7, False),
        (by_body({"x": 1}), "where_known", {"x": 1, "include_usage": True}, 7, True),
    ],
)
def test_usage_is_asked_for_and_what_comes_of_it_is_kept_from_who_has_not_asked(
    provider: FakeProvider,
    meter: CollectingMeter,
    asks: dict[str, Any],
    stream_usage: Any,
    sent: object,
    chunks: int,
    is_told: bool,
) -> None:
    with openai.OpenAI(base_url=provider.openai_url, api_key="none") as client:
        instrument(client, meter, tenant_id="acme", provider="openai", stream_usage=stream_usage)
        assert len(list(client.chat.completions.create(**ASK, **asks, stream=True))) == chunks
    assert provider.asked[0].get("stream_options") == sent
    assert (meter.event().usage_source == "provider") is is_told


def test_who_stops_at_the_end_of_an_answer_has_had_its_usage_told(
    client: Any, provider: FakeProvider, meter: CollectingMeter
) -> None:
    for chunk in client.chat.completions.create(**ASK, stream=True):
        if chunk.choices[0].finish_reason:
            break
    said(provider, meter)


def test_a_host_that_nobody_knows_is_not_asked_for_usage(
    provider: FakeProvider, meter: CollectingMeter
) -> None:
    with openai.OpenAI(base_url=provider.openai_url, api_key="none") as client:
        instrument(client, meter, tenant_id="acme")
        list(client.chat.completions.create(**ASK, stream=True))
    assert "stream_options" not in provider.asked[0]
    assert meter.event().usage_source != "provider"


def test_who_reads_bytes_is_sent_none_that_were_not_asked_for(
    client: Any, provider: FakeProvider, meter: CollectingMeter
) -> None:
    raw = client.chat.completions.with_raw_response.create(**ASK, stream=True)
    assert len(list(raw.parse())) == 7
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as raw:
        assert len([line for line in raw.iter_lines() if line]) == 8
    assert ["stream_options" in asked for asked in provider.asked] == [False, False]
    assert [event.idempotency_key for event in meter.events()] == [
        f"{line.response_id}-1" for line in provider.ledger
    ]


def test_what_the_application_says_next_is_no_part_of_what_it_asked(
    client: Any, meter: CollectingMeter
) -> None:
    counts = []
    for more in (0, 500):
        body: dict[str, Any] = {"model": "gpt-4o", "messages": list(ASK["messages"]), "stream": True}
        stream = client.post(
            "/chat/completions",
            body={**body, "stream_options": {"include_usage": False}},
            cast_to=object,
            stream=True,
            stream_cls=openai.Stream[Any],
        )
        list(stream)
        body["messages"] += [{"role": "user", "content": "more " * more}]
        counts.append(meter.events()[-1].input_tokens)
    assert counts[0] == counts[1] > 0


def test_what_is_asked_by_a_further_body_is_what_was_asked(
    provider: FakeProvider, meter: CollectingMeter
) -> None:
    with openai.OpenAI(base_url=provider.openai_url, api_key="none") as client:
        instrument(client, meter, tenant_id="acme", stream_usage="never")
        for further in (None, {"messages": [{"role": "user", "content": "say " * 100}]}):
            list(client.chat.completions.create(**ASK, stream=True, extra_body=further))
        provider.faults.append(Fault(status=400))
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**ASK, extra_body={"model": "another"})
    short, long, refused = meter.events()
    assert (short.input_tokens < 20, long.input_tokens > 100) == (True, True)
    assert refused.model == "another"


def test_a_request_whose_body_is_made_of_bytes_is_metered_too(
    client: Any, provider: FakeProvider, meter: CollectingMeter
) -> None:
    """Of openai 1.109 and later."""
    stream = client.post(
        "/chat/completions",
        content=b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "a"}], "stream": true}',
        cast_to=object,
        stream=True,
        stream_cls=openai.Stream[Any],
        options={"headers": {"content-type": "application/json"}},
    )
    assert len(list(stream)) > 1
    assert [fields["idempotency_key"] for fields in meter.fields()] == [f"{provider.ledger[0].response_id}-1"]


def test_a_request_that_cannot_be_read_leaves_and_is_counted(
    client: Any, meter: CollectingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: str) -> str:
        raise RuntimeError("made to fail")

    monkeypatch.setattr(instrumentation, "_operation", fails)
    before = mishaps.counts()["request_unread"]
    assert client.chat.completions.create(**ASK).choices[0].message.content == TEXT
    assert mishaps.counts()["request_unread"] == before + 1
    gc.collect()
    assert meter.records == []
