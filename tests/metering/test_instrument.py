"""The real SDKs, over HTTP: in whatever way a client is used, the events say what was served."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel

from metering import background, instrumentation, mishaps
from metering.contexts import MissingTenant, context
from metering.instrumentation import instrument, provider_of, uninstrument
from metering.nesting import Boundary, Inside
from metering.usage import Usage
from tests.metering.collecting import CollectingMeter
from tests.metering.fake_answers import CREATED
from tests.metering.fake_provider import FakeProvider, Fault

ASK: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "say some words"}]}
ASK_RESPONSE: dict[str, Any] = {"model": "gpt-4o", "input": "say some words"}
ASK_MESSAGE: dict[str, Any] = {**ASK, "model": "claude-made-up", "max_tokens": 4}
TEXT = "word0 word1 word2 word3 word4 "


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def provider(shared_provider: FakeProvider) -> FakeProvider:
    shared_provider.faults.clear()
    shared_provider.ledger.clear()
    shared_provider.asked.clear()
    return shared_provider


@pytest.fixture
def meter() -> CollectingMeter:
    return CollectingMeter()


@pytest.fixture
def client(provider: FakeProvider, meter: CollectingMeter) -> Iterator[Any]:
    with openai.OpenAI(base_url=provider.openai_url, api_key="none") as made:
        yield instrument(made, meter, tenant_id="acme", provider="openai")


@pytest.fixture
def claude(provider: FakeProvider, meter: CollectingMeter) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=provider.url, api_key="none") as made:
        yield instrument(made, meter, tenant_id="acme", provider="anthropic")


def run_async(
    provider: FakeProvider, meter: CollectingMeter, use: Callable[[Any, Any], Any], **options: Any
) -> Any:
    """`use` an asynchronous client of both SDKs."""

    async def run() -> Any:
        async with (
            openai.AsyncOpenAI(base_url=provider.openai_url, api_key="none", **options) as client,
            anthropic.AsyncAnthropic(base_url=provider.url, api_key="none", **options) as claude,
        ):
            instrument(client, meter, tenant_id="acme", provider="openai")
            instrument(claude, meter, tenant_id="acme", provider="anthropic")
            return await use(client, claude)

    return asyncio.run(run())


def said(provider: FakeProvider, meter: CollectingMeter) -> list[tuple[str, str, int, int]]:
    """The events, once they are seen to be what the ledger says."""
    events = [(e.idempotency_key, e.model, e.input_tokens, e.output_tokens) for e in meter.events()]
    served = [(f"{s.response_id}-1", s.model, s.input_tokens, s.output_tokens) for s in provider.ledger]
    assert events == served
    assert {e.usage_source for e in meter.events()} == {"provider"}
    assert {(e.tenant_id, e.status) for e in meter.events()} == {("acme", "success")}
    assert not any("stream" in (e.attributes or {}) for e in meter.events())
    return events


class Answer(BaseModel):
    """What a parsed answer is to be; the fake provider's words are not."""


def joined_chunks(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


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


def test_twice_is_once_and_undone_is_undone(
    client: Any, meter: CollectingMeter, caplog: pytest.LogCaptureFixture
) -> None:
    instrument(client, meter, tenant_id="acme", provider="openai")
    assert not caplog.records
    instrument(client, meter, tenant_id="other", provider="openai")
    assert ["instrumented already, with other arguments" in line for line in caplog.messages] == [True]
    client.chat.completions.create(**ASK)
    assert meter.event().tenant_id == "acme"
    assert uninstrument(uninstrument(client)) is client
    client.chat.completions.create(**ASK)
    client.with_options(timeout=9).chat.completions.create(**ASK)
    assert len(meter.records) == 1
    assert "request" not in vars(client)


@pytest.mark.parametrize(
    ("client", "name"),
    [
        (openai.OpenAI(api_key="none"), "openai"),
        (openai.OpenAI(api_key="none", base_url="https://eu.api.openai.com/v1"), "openai"),
        (openai.OpenAI(api_key="none", base_url="https://noapi.openai.com/v1"), ""),
        (openai.OpenAI(api_key="none", base_url="https://openrouter.ai/api/v1"), "openrouter"),
        (openai.OpenAI(api_key="none", base_url="https://api.openai.com.evil.example/v1"), ""),
        (openai.OpenAI(api_key="none", base_url="https://me.openai.azure.com/openai/v1"), "azure"),
        (openai.AzureOpenAI(api_key="none", api_version="1", azure_endpoint="https://x.example"), "azure"),
        (anthropic.Anthropic(api_key="none"), "anthropic"),
    ],
)
def test_who_is_called_tells_the_provider(client: Any, name: str) -> None:
    with closing(client):
        assert provider_of(client) == name


def moved(client: Any, url: str) -> Any:
    client.base_url = url
    return client


@pytest.mark.parametrize(
    "move",
    [
        lambda client, url: client.with_options(base_url=url),
        lambda client, url: client.copy(base_url=url),
        moved,
    ],
    ids=["with_options", "copy", "base_url"],
)
@pytest.mark.parametrize(("name", "told"), [(None, ""), ("openai", "openai")])
def test_the_host_that_is_called_tells_the_provider_unless_it_was_said(
    provider: FakeProvider, meter: CollectingMeter, move: Any, name: str | None, told: str
) -> None:
    with openai.OpenAI(api_key="none") as made:  # of OpenAI's own host
        client = move(instrument(made, meter, tenant_id="acme", provider=name), provider.openai_url)
        ask = {**ASK, "model": "llama-3.3"}
        client.chat.completions.create(**ask)
        list(client.chat.completions.create(**ask, stream=True))
    assert [event.provider for event in meter.events()] == [told, told]
    assert ["stream_options" in asked for asked in provider.asked] == [False, name is not None]


def test_a_request_to_another_host_is_of_that_one() -> None:
    client = openai.OpenAI(api_key="none")
    assert provider_of(client, "https://api.groq.com/openai/v1/chat/completions") == "groq"
    assert provider_of(client, "/chat/completions") == "openai"


def test_azures_paths_are_seen_too(provider: FakeProvider, meter: CollectingMeter) -> None:
    with openai.AzureOpenAI(api_key="none", api_version="1", azure_endpoint=provider.url) as client:
        instrument(client, meter, tenant_id="acme")
        client.chat.completions.create(**ASK)
    assert (meter.event().provider, meter.event().output_tokens) == ("azure", 12)


@pytest.mark.parametrize(
    ("thing", "told"),
    [
        (object(), "no client of OpenAI's or Anthropic's SDK"),
        ("client", "no client of OpenAI's or Anthropic's SDK"),
        ({}, "no client of OpenAI's or Anthropic's SDK"),
        (openai.OpenAI, "OpenAI is a class: instrument a client, OpenAI"),
    ],
)
def test_what_is_no_client_is_refused_at_set_up(thing: Any, told: str, meter: CollectingMeter) -> None:
    with pytest.raises(TypeError, match=told):
        instrument(thing, meter, tenant_id="acme")


def test_what_cannot_be_used_is_refused_at_set_up(meter: CollectingMeter) -> None:
    made: Any = openai.OpenAI(api_key="none")
    with pytest.raises(TypeError, match="a meter has a method `record`, and NoneType has none"):
        instrument(made, None, tenant_id="acme")  # type: ignore[arg-type]  # what is to be refused
    sometimes: Any = "sometimes"
    with pytest.raises(ValueError, match=r"stream_usage is .* not 'sometimes'"):
        instrument(made, meter, tenant_id="acme", stream_usage=sometimes)
    assert "request" not in vars(made)


def test_a_call_without_a_tenant_does_not_leave_where_that_was_chosen(
    provider: FakeProvider, meter: CollectingMeter
) -> None:
    with openai.OpenAI(base_url=provider.openai_url, api_key="none") as client:
        instrument(client, meter, on_missing_tenant="reject")
        with pytest.raises(MissingTenant):
            client.chat.completions.create(**ASK)
        assert provider.asked == []
        with context(tenant_id="acme"):
            client.chat.completions.create(**ASK)
    assert meter.event().tenant_id == "acme"


def test_a_background_response_is_metered_when_it_is_fetched_and_once_by_its_key(
    client: Any, meter: CollectingMeter
) -> None:
    made = client.responses.create(**ASK_RESPONSE, background=True)
    assert meter.records == []
    client.responses.retrieve(made.id)
    client.responses.cancel(made.id)
    first, again = meter.events()
    assert (first.idempotency_key, first.output_tokens) == (f"{made.id}-1", 12)
    assert first.timestamp_ms == CREATED * 1000
    assert again.model_copy(update={"latency_ms": first.latency_ms}) == first


@pytest.mark.parametrize("on_missing_tenant", ["anonymous", "reject", "skip"])
@pytest.mark.parametrize("is_created_here", [True, False])
def test_a_background_response_is_for_whom_it_was_created(
    provider: FakeProvider, on_missing_tenant: Any, is_created_here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = CollectingMeter()
    with openai.OpenAI(base_url=provider.openai_url, api_key="none") as client:
        instrument(client, meter, on_missing_tenant=on_missing_tenant, provider="openai")
        with context(tenant_id="acme", feature_id="chat"):
            made = client.responses.create(**ASK_RESPONSE, background=True)
        if not is_created_here:
            monkeypatch.setattr(background, "_created", {})
        before = mishaps.counts()["missing_tenant"]
        client.responses.retrieve(made.id)
        with context(tenant_id="acme", feature_id="poll"):
            client.responses.retrieve(made.id)
    found = [(event.tenant_id, event.feature_id) for event in meter.events()]
    assert found == ([("acme", "chat")] * 2 if is_created_here else [("acme", "poll")])
    assert mishaps.counts()["missing_tenant"] == before + (not is_created_here)


def test_what_is_remembered_of_background_responses_has_a_bound(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "CREATED_MAX", 2)
    monkeypatch.setattr(background, "_created", {})
    made = [client.responses.create(**ASK_RESPONSE, background=True).id for _ in range(3)]
    assert list(background._created) == made[1:]  # noqa: SLF001  # the bound is the point


def test_a_response_that_is_fetched_again_is_no_second_one(
    client: Any, provider: FakeProvider, meter: CollectingMeter
) -> None:
    made = client.responses.create(**ASK_RESPONSE)
    assert client.responses.retrieve(made.id).output_text == TEXT
    assert len(said(provider, meter)) == 1


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


def test_a_response_that_is_fetched_as_a_stream_is_counted(client: Any, meter: CollectingMeter) -> None:
    made = client.responses.create(**ASK_RESPONSE, background=True)
    before = mishaps.counts()["endpoint_not_metered"]
    client.responses.retrieve(made.id, stream=True).close()
    assert mishaps.counts()["endpoint_not_metered"] == before + 1
    assert meter.records == []


def test_an_endpoint_that_is_not_metered_is_counted(client: Any, provider: FakeProvider) -> None:
    before = mishaps.counts()["endpoint_not_metered"]
    provider.faults += [Fault(status=404)] * 2
    with pytest.raises(openai.NotFoundError):
        client.images.generate(prompt="a word")
    assert mishaps.counts()["endpoint_not_metered"] == before + 1
    with pytest.raises(openai.NotFoundError):
        client.moderations.create(input="a word")
    assert mishaps.counts()["endpoint_not_metered"] == before + 1


def test_those_around_learn_what_was_recorded(client: Any, provider: FakeProvider) -> None:
    boundary = Boundary(None)
    with Inside(boundary):
        stream = client.chat.completions.create(**ASK, stream=True)
        assert boundary.covers([])  # open still
        list(stream)
    [line] = provider.ledger
    assert boundary.covers([Usage(response_id=line.response_id)])
    assert not boundary.covers([Usage(response_id="other", input_tokens=1, output_tokens=1)])


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


def test_a_record_says_how_much_it_holds(client: Any, meter: CollectingMeter) -> None:
    raw = client.chat.completions.with_raw_response.create(**ASK)
    client.chat.completions.create(**ASK)
    asked = len("gpt-4o" + "user" + "say some words")
    assert [record.size_bytes for record in meter.records] == [len(raw.content) + asked, 0]


class Broken:
    """A meter that fails."""

    def record(self, _: object) -> None:
        raise RuntimeError("made to fail")


def test_a_meter_that_fails_is_not_noticed_by_the_application(provider: FakeProvider) -> None:
    before = mishaps.counts()["not_recorded"]
    with openai.OpenAI(base_url=provider.openai_url, api_key="none") as client:
        instrument(client, Broken(), tenant_id="acme", provider="openai")
        assert client.chat.completions.create(**ASK).choices[0].message.content == TEXT
        assert joined_chunks(client.chat.completions.create(**ASK, stream=True)) == TEXT
    assert mishaps.counts()["not_recorded"] == before + 2
