"""The real SDKs, over HTTP: in whatever way a client is used, the events say what was served."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from metering.contexts import context
from tests.metering.asking import ASK, ASK_MESSAGE, ASK_RESPONSE, TEXT, joined_chunks, run_async, said
from tests.metering.collecting import CollectingMeter
from tests.metering.fake_provider import FakeProvider


def helper_text(client: Any) -> str:
    with client.chat.completions.stream(**ASK) as stream:
        events = list(stream)
        assert events
        final = stream.get_final_completion()
        assert final.usage is None  # as without metering: the caller has not asked for it
        return str(final.choices[0].message.content)


def response_helper_text(client: Any) -> str:
    with client.responses.stream(**ASK_RESPONSE) as stream:
        return str(stream.get_final_response().output_text)


def response_deltas(client: Any) -> str:
    stream = client.responses.create(**ASK_RESPONSE, stream=True)
    return "".join(event.delta for event in stream if event.type == "response.output_text.delta")


def raw_lines(client: Any) -> str:
    with client.responses.with_streaming_response.create(**ASK_RESPONSE, stream=True) as raw:
        assert sum(line.startswith("event:") for line in raw.iter_lines()) == 9
    return TEXT


def streamed_json(client: Any) -> str:
    with client.chat.completions.with_streaming_response.create(**ASK) as raw:
        return str(raw.json()["choices"][0]["message"]["content"])


def streamed_parse(client: Any) -> str:
    with client.chat.completions.with_streaming_response.create(**ASK) as raw:
        return str(raw.parse().choices[0].message.content)


def raw_stream(client: Any) -> str:
    raw = client.responses.with_raw_response.create(**ASK_RESPONSE, stream=True)
    return "".join(event.delta for event in raw.parse() if event.type == "response.output_text.delta")


def raw_bytes(client: Any) -> str:
    def response() -> Any:
        return client.responses.with_raw_response.create(**ASK_RESPONSE, stream=True).http_response

    parts = response().iter_bytes()  # which alone holds the response
    gc.collect()
    assert b"response.completed" in b"".join(parts)
    return TEXT


WAYS: list[Callable[[Any], str]] = [
    lambda client: client.chat.completions.create(**ASK).choices[0].message.content,
    lambda client: client.chat.completions.parse(**ASK).choices[0].message.content,
    lambda client: joined_chunks(client.chat.completions.create(**ASK, stream=True)),
    helper_text,
    lambda client: client.with_options(timeout=9).chat.completions.create(**ASK).choices[0].message.content,
    lambda client: client.copy().copy().chat.completions.create(**ASK).choices[0].message.content,
    lambda client: client.chat.completions.with_raw_response.create(**ASK).parse().choices[0].message.content,
    streamed_json,
    streamed_parse,
    lambda client: client.responses.create(**ASK_RESPONSE).output_text,
    response_deltas,
    response_helper_text,
    raw_lines,
    raw_stream,
    raw_bytes,
]


@pytest.mark.parametrize("way", WAYS)
def test_in_whatever_way_openai_is_called_the_event_says_what_was_served(
    way: Callable[[Any], str], client: Any, provider: FakeProvider, meter: CollectingMeter
) -> None:
    assert way(client) == TEXT
    [event] = said(provider, meter)
    assert event[1:] == ("gpt-4o", 3, 12)


def test_embeddings_have_no_output_and_no_id(
    client: Any, provider: FakeProvider, meter: CollectingMeter
) -> None:
    client.embeddings.create(model="text-embedding-3-small", input="say some words")
    event = meter.event()
    assert (event.model, event.input_tokens, event.output_tokens) == ("text-embedding-3-small", 3, 0)
    assert len(event.idempotency_key) == 36
    assert len(provider.ledger) == 1


def message_text(claude: Any) -> str:
    return str(claude.messages.create(**ASK_MESSAGE).content[0].text)


def message_deltas(claude: Any) -> str:
    stream = claude.messages.create(**ASK_MESSAGE, stream=True)
    return "".join(event.delta.text for event in stream if event.type == "content_block_delta")


def message_text_stream(claude: Any) -> str:
    with claude.messages.stream(**ASK_MESSAGE) as stream:
        return "".join(stream.text_stream)


def message_final(claude: Any) -> str:
    with claude.messages.stream(**ASK_MESSAGE) as stream:
        return str(stream.get_final_message().content[0].text)


def beta_message(claude: Any) -> str:
    return str(claude.beta.messages.create(**ASK_MESSAGE, betas=["made-up"]).content[0].text)


@pytest.mark.parametrize(
    "way", [message_text, message_deltas, message_text_stream, message_final, beta_message]
)
def test_in_whatever_way_anthropic_is_called_the_event_says_what_was_served(
    way: Callable[[Any], str], claude: Any, provider: FakeProvider, meter: CollectingMeter
) -> None:
    assert way(claude) == "word0 word1 word2 word3 "
    [event] = said(provider, meter)
    assert event[1:] == ("claude-made-up", 3, 11)


async def many_asynchronous_ways(client: Any, claude: Any) -> None:
    await client.chat.completions.create(**ASK)
    async for chunk in await client.chat.completions.create(**ASK, stream=True):
        assert chunk.choices
    async with client.chat.completions.stream(**ASK) as stream:
        assert [event async for event in stream]
    async with client.responses.stream(**ASK_RESPONSE) as stream:
        assert (await stream.get_final_response()).output_text == TEXT
    raw = await client.with_options(timeout=9).chat.completions.with_raw_response.create(**ASK)
    assert raw.parse().choices[0].message.content == TEXT
    async with client.responses.with_streaming_response.create(**ASK_RESPONSE, stream=True) as raw:
        assert [line async for line in raw.iter_lines()]
    async with client.responses.with_streaming_response.create(**ASK_RESPONSE) as raw:
        assert (await raw.json())["id"].startswith("resp_")
    await claude.messages.create(**ASK_MESSAGE)
    async with claude.messages.stream(**ASK_MESSAGE) as stream:
        assert "".join([text async for text in stream.text_stream]) == "word0 word1 word2 word3 "


def test_asynchronous_clients_are_the_same(provider: FakeProvider, meter: CollectingMeter) -> None:
    run_async(provider, meter, many_asynchronous_ways)
    assert len(said(provider, meter)) == 9


def test_a_stream_that_is_left_in_a_loop_leaves_no_trouble_to_the_event_loop(
    provider: FakeProvider, meter: CollectingMeter
) -> None:
    troubles: list[Any] = []

    async def leave(client: Any) -> None:
        async for _ in await client.chat.completions.create(**ASK, stream=True):
            break

    async def use(client: Any, _: Any) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))
        await leave(client)
        gc.collect()
        await asyncio.sleep(0.01)  # for what the loop closes by tasks of its own

    run_async(provider, meter, use)
    assert troubles == []
    assert len(meter.records) == 1


def test_many_streams_at_once_are_as_many_right_events(
    provider: FakeProvider, meter: CollectingMeter
) -> None:
    async def read(client: Any, number: int) -> None:
        with context(tenant_id=f"tenant-{number}", feature_id=str(number)):
            stream = await client.chat.completions.create(**ASK, max_tokens=number + 1, stream=True)
            async for _ in stream:
                await asyncio.sleep(0)

    async def use(client: Any, _: Any) -> None:
        await asyncio.gather(*(read(client, number) for number in range(60)))

    run_async(provider, meter, use)
    by_tenant = {event.tenant_id: event for event in meter.events()}
    assert len(meter.records) == 60
    served = {f"{line.response_id}-1": line for line in provider.ledger}
    for number in range(60):
        event = by_tenant[f"tenant-{number}"]
        assert (event.feature_id, event.output_tokens) == (str(number), number + 1 + 7)
        assert served[event.idempotency_key].output_tokens == event.output_tokens
