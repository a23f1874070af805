"""Functions that call a model by hand: each run is one call, and an answer is recorded once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import openai
import pytest

from metering import decorate, mishaps
from metering.contexts import MissingTenant, context
from metering.decorate import cache_hit, meter_call, metered
from metering.instrumentation import instrument
from metering.usage import Usage
from tests.metering.collecting import CollectingMeter
from tests.metering.fake_provider import FakeProvider
from tests.metering.hand_calls import ANSWER, Refused, counted, failing
from tests.metering.stream_sources import CHUNKS


def test_a_function_that_returns_an_answer_is_one_call(meter: CollectingMeter) -> None:
    @metered(meter, tenant_id="acme", feature_id="summary", provider="openai")
    def summarise(text: str) -> dict[str, Any]:
        """Says it shorter."""
        return {**ANSWER, "text": text}

    assert summarise("long")["text"] == "long"
    assert summarise.__doc__ == "Says it shorter."
    assert counted(meter) == ("chatcmpl-0000000000000009-1", 10, 5)
    assert (meter.event().tenant_id, meter.event().feature_id) == ("acme", "summary")


def test_an_async_function_too(meter: CollectingMeter) -> None:
    @metered(meter, on_missing_tenant="reject")
    async def ask() -> dict[str, Any]:
        await asyncio.sleep(0)
        return ANSWER

    async def run() -> None:
        with pytest.raises(MissingTenant):
            await ask()
        with context(tenant_id="acme"):
            await ask()

    asyncio.run(run())
    assert (counted(meter), meter.event().tenant_id) == (("chatcmpl-0000000000000009-1", 10, 5), "acme")


def test_generators_are_metered_for_who_called_and_not_for_who_reads(meter: CollectingMeter) -> None:
    @metered(meter, on_missing_tenant="anonymous")
    def chunks() -> Iterator[Any]:
        yield from CHUNKS

    @metered(meter, on_missing_tenant="anonymous")
    async def async_chunks() -> AsyncIterator[Any]:
        for chunk in CHUNKS:
            yield chunk

    async def read() -> list[Any]:
        return [chunk async for chunk in second]

    with context(tenant_id="acme"):
        first, second = chunks(), async_chunks()
    assert list(first) == CHUNKS
    assert asyncio.run(read()) == CHUNKS
    assert [(e.tenant_id, e.output_tokens) for e in meter.events()] == [("acme", 5), ("acme", 5)]


def test_a_generator_that_nobody_reads_was_no_call(meter: CollectingMeter) -> None:
    @metered(meter, tenant_id="acme")
    def chunks() -> Iterator[Any]:
        yield from CHUNKS

    unread = chunks()
    del unread
    gc.collect()
    assert meter.records == []
    read = chunks()
    next(read)
    del read
    assert meter.fields()[0]["attributes"]["stream"] == "cut"


def test_a_generator_that_is_called_wrongly_was_no_call(meter: CollectingMeter) -> None:
    @metered(meter, tenant_id="acme")
    def chunks(model: str) -> Iterator[Any]:
        yield model

    @metered(meter, tenant_id="acme")
    async def async_chunks(model: str) -> AsyncIterator[Any]:
        yield model

    functions: list[Any] = [chunks, async_chunks]
    for function in functions:
        with pytest.raises(TypeError):
            function(mode="gpt-4o")
    gc.collect()
    assert meter.records == []


def test_a_stream_that_is_returned_is_watched(meter: CollectingMeter) -> None:
    @metered(meter, tenant_id="acme")
    def ask() -> Iterator[Any]:
        return iter(CHUNKS)

    assert list(ask()) == CHUNKS
    assert counted(meter) == ("chatcmpl-0000000000000001-1", 10, 5)


def test_usage_of_a_kind_that_nobody_knows_is_read_by_a_function(meter: CollectingMeter) -> None:
    @metered(
        meter,
        tenant_id="acme",
        model="llama",
        usage=lambda answer: Usage(input_tokens=1, output_tokens=answer),
    )
    def ask() -> int:
        return 7

    @metered(
        meter,
        tenant_id="acme",
        model="llama",
        usage=lambda chunk: Usage(input_tokens=1, output_tokens=chunk) if chunk else None,
    )
    def chunks() -> Iterator[int]:
        yield from (0, 3, 6, 0)

    assert ask() == 7
    assert list(chunks()) == [0, 3, 6, 0]
    one, stream = meter.events()
    assert (one.model, one.input_tokens, one.output_tokens) == ("llama", 1, 7)
    assert stream.output_tokens == 6  # the last word counts; nothing is summed
    assert "stream" not in (stream.attributes or {})


def test_what_was_asked_is_read_off_the_arguments_where_nobody_tells_it(meter: CollectingMeter) -> None:
    @metered(meter, tenant_id="acme")
    def ask(model: str, messages: list[dict[str, Any]], **_: Any) -> dict[str, Any]:
        assert messages
        return {"usage": {"inputTokens": 3, "outputTokens": 4}} if model == "converse" else {}

    said = [{"role": "user", "content": "say some words"}]
    ask("gpt-4o", messages=said)
    said += [{"role": "user", "content": "more " * 500}]
    ask("converse", said)
    counted, told = meter.fields()
    assert (counted["model"], counted["output_tokens"]) == ("gpt-4o", None)
    assert 0 < counted["input_tokens"] < 20
    assert (told["model"], told["input_tokens"], told["output_tokens"]) == ("converse", 3, 4)


@pytest.mark.parametrize("change", ["append", "content", "part"])
def test_what_is_asked_among_further_arguments_is_read_as_it_was(meter: CollectingMeter, change: str) -> None:
    @metered(meter, tenant_id="acme")
    def ask(**kwargs: Any) -> dict[str, Any]:
        assert kwargs
        return {}

    said: list[dict[str, Any]] = [
        {"role": "user", "content": "say some words"},
        {"role": "user", "content": [{"type": "text", "text": "say more"}]},
    ]
    ask(model="gpt-4o", messages=said)
    more = "more " * 500
    if change == "append":
        said.append({"role": "user", "content": more})
    elif change == "content":
        said[0]["content"] += more
    else:
        said[1]["content"].append({"type": "text", "text": more})
    [counted] = meter.fields()
    assert counted["model"] == "gpt-4o"
    assert 0 < counted["input_tokens"] < 20


def test_a_record_says_how_much_it_holds(meter: CollectingMeter) -> None:
    @metered(meter, tenant_id="acme")
    def ask(messages: Any, *, is_told: bool) -> dict[str, Any]:
        assert messages
        return ANSWER if is_told else {}

    said = [{"role": "user", "content": [{"type": "text", "text": "word " * 1000}]}]
    ask(said, is_told=False)
    ask(messages=said, is_told=False)
    ask(said, is_told=True)
    assert [record.size_bytes for record in meter.records] == [5008, 5008, 0]


def test_a_function_for_usage_that_raises_leaves_the_call_unknown(meter: CollectingMeter) -> None:
    before = mishaps.counts()["resolver_failed"]

    @metered(meter, tenant_id="acme", usage=lambda answer: answer["missing"])
    def ask() -> dict[str, Any]:
        return {}

    assert ask() == {}
    assert mishaps.counts()["resolver_failed"] == before + 1
    assert meter.fields()[0]["input_tokens"] is None


def test_a_call_that_cannot_be_begun_runs_and_is_counted(
    meter: CollectingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> int:
        raise RuntimeError("made to fail")

    monkeypatch.setattr(decorate, "_now_ms", fails)
    before = mishaps.counts()["request_unread"]
    assert metered(meter, tenant_id="acme")(lambda: ANSWER)() is ANSWER
    assert (mishaps.counts()["request_unread"], meter.records) == (before + 1, [])


def test_what_a_function_raises_is_raised_and_is_an_error_of_the_call(meter: CollectingMeter) -> None:
    @metered(meter, tenant_id="acme", model="m")
    def ask(error: Exception) -> None:
        raise error

    with pytest.raises(Refused):
        ask(Refused())
    with pytest.raises(ValueError, match="unknown"):
        ask(ValueError("unknown"))
    refused, unknown = meter.fields()
    assert (refused["status"], refused["input_tokens"], refused["attributes"]["error"]) == (
        "error",
        0,
        "Refused",
    )
    assert (unknown["status"], unknown["input_tokens"]) == ("error", None)


def test_a_client_that_is_instrumented_inside_is_recorded_once() -> None:
    meter, before = CollectingMeter(), mishaps.counts()["already_metered"]
    with (
        FakeProvider() as provider,
        openai.OpenAI(base_url=provider.openai_url, api_key="none") as client,
    ):
        instrument(client, meter, tenant_id="acme", provider="openai")
        ask: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "say some words"}]}

        @metered(meter, tenant_id="acme")
        def whole() -> Any:
            return client.chat.completions.create(**ask)

        @metered(meter, tenant_id="acme")
        def text_alone() -> Any:
            return client.chat.completions.create(**ask).choices[0].message.content

        @metered(meter, tenant_id="acme")
        def streamed() -> Any:
            return client.chat.completions.create(**ask, stream=True)

        @metered(meter, tenant_id="acme")
        def yielded() -> Any:
            yield from client.chat.completions.create(**ask, stream=True)

        whole()
        text_alone()
        list(streamed())
        list(yielded())
        cut = yielded()
        for _ in range(3):
            next(cut)
        cut.close()
        with meter_call(meter, tenant_id="acme") as call:
            call.response(client.chat.completions.create(**ask))
        served = [f"{line.response_id}-1" for line in provider.ledger]
    assert [event.idempotency_key for event in meter.events()] == served
    assert len(served) == 6
    assert mishaps.counts()["already_metered"] == before + 6


def test_two_answers_in_one_function_are_two_events(meter: CollectingMeter) -> None:
    @metered(meter, tenant_id="acme")
    def inner() -> dict[str, Any]:
        return {
            **ANSWER,
            "id": "inner-0000000000000001",
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        }

    @metered(meter, tenant_id="acme")
    def outer() -> dict[str, Any]:
        inner()
        return ANSWER

    outer()
    assert [event.idempotency_key for event in meter.events()] == [
        "inner-0000000000000001-1",
        "chatcmpl-0000000000000009-1",
    ]


@pytest.mark.parametrize("by", [metered, meter_call, partial(cache_hit, answer=ANSWER)])
@pytest.mark.parametrize(
    ("meter", "told"),
    [
        (None, "a meter has a method `record`, and NoneType has none"),
        (CollectingMeter, r"CollectingMeter is a class: give a meter, CollectingMeter\(…\)"),
    ],
)
def test_what_is_no_meter_is_refused(by: Any, meter: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        by(meter=meter, tenant_id="acme")


def test_what_is_decorated_is_a_function(meter: CollectingMeter) -> None:
    decorator: Any = metered
    with pytest.raises(TypeError, match=r"metered is told a meter first: @metered\(meter, …\)"):
        decorator(failing)  # as `@metered` without parentheses
    with pytest.raises(TypeError, match="decorates functions, not int"):
        decorator(meter, tenant_id="acme")(5)


def test_a_call_that_is_skipped_runs_and_is_not_recorded(meter: CollectingMeter) -> None:
    @metered(meter, on_missing_tenant="skip")
    def ask() -> dict[str, Any]:
        return ANSWER

    assert ask() is ANSWER
    with meter_call(meter, on_missing_tenant="skip") as call:
        assert call.response(ANSWER) is ANSWER
        call.usage(Usage())
    cache_hit(meter, ANSWER, on_missing_tenant="skip")
    assert meter.records == []
