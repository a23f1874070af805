"""A gateway behind a real server, and a real client that leaves: what was served is one event."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import fastapi
import httpx
import litestar
import litestar.response
import openai
import pytest
import uvicorn
from fastapi.responses import StreamingResponse
from litestar.middleware import DefineMiddleware

from metering.asgi import MeteringMiddleware
from metering.instrumentation import instrument
from metering.resolvers import header
from tests.metering.collecting import CollectingMeter
from tests.metering.fake_provider import FakeProvider, Fault

ASK = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "say some words"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}


class RecordingMeter(CollectingMeter):
    """Tells when a record has come: the server ends a request in its own thread."""

    def __init__(self) -> None:
        super().__init__()
        self.has_recorded = threading.Event()

    def record(self, event: Any) -> None:
        super().record(event)
        self.has_recorded.set()


@contextmanager
def served(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


async def passed_on(provider: FakeProvider, asked: dict[str, Any]) -> AsyncIterator[bytes]:
    """A gateway that reads nothing: bytes in, bytes out."""
    async with (
        httpx.AsyncClient() as client,
        client.stream("POST", provider.openai_url + "/chat/completions", json=asked) as answer,
    ):
        async for data in answer.aiter_bytes():
            yield data


async def spoken(
    provider: FakeProvider, asked: dict[str, Any], meter: RecordingMeter
) -> AsyncIterator[bytes]:
    """A gateway with an instrumented client."""
    async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="none") as client:
        instrument(client, meter, on_missing_tenant="reject", provider="openai")
        async for chunk in await client.chat.completions.create(**asked):
            yield f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n".encode()


def fastapi_gateway(provider: FakeProvider, meter: RecordingMeter, speaks: object) -> Any:
    app = fastapi.FastAPI()
    app.add_middleware(
        MeteringMiddleware,
        meter=meter,
        tenant=header("x-tenant"),
        on_missing_tenant="reject",
        inference=["/v1/*"],
        provider="openai",
    )

    @app.post("/v1/chat/completions")
    async def complete(asked: dict[str, Any]) -> Any:
        parts = spoken(provider, asked, meter) if speaks else passed_on(provider, asked)
        return StreamingResponse(parts, media_type="text/event-stream")

    return app


def litestar_gateway(provider: FakeProvider, meter: RecordingMeter, speaks: object) -> Any:
    @litestar.post("/v1/chat/completions", status_code=200)
    async def complete(request: litestar.Request[Any, Any, Any]) -> litestar.response.Stream:
        asked = await request.json()
        parts = spoken(provider, asked, meter) if speaks else passed_on(provider, asked)
        return litestar.response.Stream(parts, media_type="text/event-stream")

    metering = DefineMiddleware(
        MeteringMiddleware,
        meter=meter,
        tenant=header("x-tenant"),
        on_missing_tenant="reject",
        inference=["/v1/*"],
        provider="openai",
    )
    return litestar.Litestar([complete], middleware=[metering])


@pytest.mark.parametrize("gateway", [fastapi_gateway, litestar_gateway])
@pytest.mark.parametrize("speaks", [False, True])
@pytest.mark.parametrize("leaves", [False, True])
def test_what_a_gateway_served_is_one_event_also_when_its_client_leaves(
    gateway: Any, speaks: bool, leaves: bool
) -> None:
    meter, hold = RecordingMeter(), threading.Event()
    with FakeProvider() as provider, served(gateway(provider, meter, speaks)) as url:
        if leaves:
            provider.faults.append(Fault(hold=hold, hold_after=4))
        headers = {"x-tenant": "acme"}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=ASK, headers=headers) as answer:
            data = b""
            for part in answer.iter_bytes():
                data += part
                if leaves and b"word1" in data:
                    break
        is_recorded = meter.has_recorded.wait(10)
        hold.set()
    assert is_recorded
    event = meter.event()
    assert event.idempotency_key == f"{provider.ledger[0].response_id}-1"
    assert (event.tenant_id, event.status, event.model) == ("acme", "success", "gpt-4o")
    if leaves:
        assert (event.attributes or {})["stream"] == "cut"
        assert event.output_tokens > 0
    else:
        assert (event.input_tokens, event.output_tokens, event.usage_source) == (3, 12, "provider")
        words = [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: {")]
        assert len(words) == 8
