"""An answer that a plain function gives to be awaited is metered as any other, once it is there."""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import openai
import pytest

from metering.decorate import meter_call, metered
from metering.instrumentation import instrument
from tests.metering.asking import ASK, ASK_RESPONSE
from tests.metering.collecting import CollectingMeter
from tests.metering.fake_provider import FakeProvider, Fault
from tests.metering.hand_calls import ANSWER, Refused
from tests.metering.stream_sources import CHUNKS


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """As many a decorator of others leaves it: nobody sees any more that it is a coroutine's."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


async def whole() -> Any:
    await asyncio.sleep(0)
    return ANSWER


async def stream() -> Any:
    async def chunks() -> AsyncIterator[Any]:
        for chunk in CHUNKS:
            yield chunk

    return chunks()


class Ask:
    """No coroutine, but awaitable."""

    def __await__(self) -> Any:
        return whole().__await__()


async def use(asked: Awaitable[Any]) -> None:
    answer = await asked
    if hasattr(answer, "__anext__"):
        assert [chunk async for chunk in answer] == CHUNKS
    else:
        assert answer is ANSWER


@pytest.mark.parametrize("make", [whole, stream, Ask, lambda: asyncio.ensure_future(whole())])
@pytest.mark.parametrize("is_by_hand", [False, True])
def test_what_is_awaited_is_metered_when_it_is_there(make: Callable[[], Any], is_by_hand: bool) -> None:
    meter = CollectingMeter()

    async def run() -> None:
        if is_by_hand:
            with meter_call(meter, tenant_id="acme") as call:
                await use(call.response(make()))
        else:
            await use(metered(meter, tenant_id="acme")(plain(make))())
        await asyncio.sleep(0)  # a future tells when the loop comes round

    asyncio.run(run())
    event = meter.event()
    assert (event.input_tokens, event.output_tokens, event.status) == (10, 5, "success")


def test_a_task_stays_one() -> None:
    async def run() -> None:
        made = asyncio.ensure_future(whole())
        assert metered(CollectingMeter(), tenant_id="acme")(lambda: made)() is made
        await made

    asyncio.run(run())


async def refused() -> Any:
    raise Refused


@pytest.mark.parametrize("make", [refused, lambda: asyncio.ensure_future(refused())])
def test_what_it_raises_is_raised(make: Callable[[], Any]) -> None:
    meter = CollectingMeter()

    async def run() -> None:
        with pytest.raises(Refused):
            await metered(meter, tenant_id="acme", model="m")(plain(make))()
        await asyncio.sleep(0)

    asyncio.run(run())
    event = meter.event()
    assert (event.status, event.output_tokens) == ("error", 0)


@pytest.mark.filterwarnings("ignore:coroutine")
def test_what_nobody_awaits_was_no_call() -> None:
    meter = CollectingMeter()
    made = metered(meter, tenant_id="acme")(plain(whole))()
    del made
    gc.collect()
    assert meter.records == []


def test_a_client_inside_is_recorded_once_and_one_that_another_tool_has_wrapped_is_metered() -> None:
    meter = CollectingMeter()

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="none") as client:
            client.request = plain(client.request)  # type: ignore[method-assign]
            instrument(client, meter, tenant_id="acme", provider="openai")
            provider.faults += [Fault(status=500)]
            create = functools.partial(client.chat.completions.create, **ASK)
            await metered(meter, tenant_id="acme")(plain(create))()
            made = await client.responses.create(**ASK_RESPONSE, background=True)
            await client.responses.retrieve(made.id)

    with FakeProvider() as provider:
        asyncio.run(run())
        chat, background = meter.events()
        assert chat.idempotency_key == f"{provider.ledger[0].response_id}-2"
        assert background.output_tokens == 12
