"""An instrumented client: set up once or refused, undone, its provider told, no harm where metering fails."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import anthropic
import openai
import pytest

from metering import mishaps
from metering.contexts import MissingTenant, context
from metering.instrumentation import instrument, provider_of, uninstrument
from metering.nesting import Boundary, Inside
from metering.usage import Usage
from tests.metering.asking import ASK, TEXT, joined_chunks
from tests.metering.collecting import CollectingMeter
from tests.metering.fake_provider import FakeProvider, Fault


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
