"""Of several who see one answer one records it, also where its body is read in the meter's thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from metering.asgi import MeteringMiddleware
from metering.decorate import metered
from metering.instrumentation import instrument
from metering.seen import Later
from metering.usage import Usage
from tests.metering.collecting import CollectingMeter
from tests.metering.fake_provider import FakeProvider, Fault
from tests.metering.test_asgi_inference import ASK, JSON_TYPE, WHOLE, ask, sends


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as made:
        yield made


def raw(client: Any) -> Any:
    return client.chat.completions.with_raw_response.create(**ASK).parse()


def streaming(client: Any) -> Any:
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        return response.parse()


@pytest.mark.parametrize("way", [raw, streaming])
@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("is_renamed", [False, True])
def test_a_function_around_a_client_whose_answer_is_taken_as_http(
    provider: FakeProvider, way: Any, retries: int, is_renamed: bool
) -> None:
    provider.ledger.clear()
    provider.faults += [Fault(status=500)] * retries
    meter = CollectingMeter()
    with openai.OpenAI(base_url=provider.openai_url, api_key="none") as client:
        instrument(client, meter, tenant_id="acme", provider="openai")

        @metered(meter, tenant_id="acme")
        def answer() -> Any:
            found = way(client).model_dump()
            return {**found, "id": "gateway-7"} if is_renamed else found

        answer()
    [served] = provider.ledger
    assert [event.idempotency_key for event in meter.events()] == [f"{served.response_id}-{retries + 1}"]


@pytest.mark.parametrize("is_renamed", [False, True])
@pytest.mark.parametrize("middlewares", [1, 2])
def test_a_gateway_whose_client_takes_answers_as_http(
    provider: FakeProvider, is_renamed: bool, middlewares: int
) -> None:
    provider.ledger.clear()
    meter = CollectingMeter()

    async def serve() -> None:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="none") as client:
            instrument(client, meter, tenant_id="acme", provider="openai")

            async def complete(request: Any) -> Any:
                answer = await client.chat.completions.with_raw_response.create(**await request.json())
                found = json.loads(answer.content)
                return JSONResponse({**found, "id": "gateway-7"} if is_renamed else found)

            app: Any = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
            for _ in range(middlewares):
                app = MeteringMiddleware(app, meter, tenant="acme", inference=["/v1/*"])
            await ask().run(app)

    asyncio.run(serve())
    [served] = provider.ledger
    assert [event.idempotency_key for event in meter.events()] == [f"{served.response_id}-1"]


def test_a_middleware_within_another() -> None:
    meter = CollectingMeter()
    app = sends([WHOLE.replace(b'"chatcmpl-1"', b'""')], JSON_TYPE)
    for _ in range(2):
        app = MeteringMiddleware(app, meter, tenant="acme", inference=["/v1/*"])
    asyncio.run(ask().run(app))
    assert len(meter.fields()) == 1


def test_a_record_that_is_expanded_twice_says_the_same() -> None:
    meter = CollectingMeter()
    body = b'{"id": "r", "choices": [{"message": {"content": "Hello"}}], "object": "chat.completion"}'
    asyncio.run(ask().run(MeteringMiddleware(sends([body], JSON_TYPE), meter, tenant="a", inference=["*"])))
    assert meter.fields() == meter.fields()
    assert meter.records[0].later() == ([Usage(response_id="r")], "Hello", True)


def test_an_answer_that_cannot_be_read_is_read_once() -> None:
    asked = []

    def told() -> Any:
        asked.append(1)
        raise KeyError

    later = Later(told)
    assert [later(), later()] == [((), "", False)] * 2
    assert (len(asked), later.usages()) == (1, (Usage(),))
