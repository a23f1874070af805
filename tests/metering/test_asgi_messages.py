"""Messages that others change or that are odd: what was sent is what is recorded, and nobody is disturbed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from metering.asgi import MeteringMiddleware
from metering.observe import end_open_calls
from tests.metering.asgi_exchange import Exchange, Message
from tests.metering.collecting import CollectingMeter
from tests.metering.fake_answers import Answer, chat

ASK: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "say some words"}]}
ANSWER = Answer.of("chatcmpl-0000000000000001", ASK)
WHOLE = json.dumps(chat(ANSWER, ASK)).encode()
EVENTS = list(chat.stream(ANSWER, {**ASK, "stream": True, "stream_options": {"include_usage": True}}))
JSON_TYPE, SSE_TYPE = b"application/json", b"text/event-stream"
BILLED = (3, 12, "success")
REFUSED = (0, 0, "error")


class Server(Exchange):
    """What stands further out does as it likes with each message, once it is here."""

    change: Callable[[Message], object] = staticmethod(lambda _: None)

    async def send(self, message: Message) -> None:
        await super().send({**message})
        self.change(message)


def start(status: int = 200, media_type: bytes = JSON_TYPE, **others: Any) -> Message:
    headers = [(b"content-type", media_type)]
    return {"type": "http.response.start", "status": status, "headers": headers, **others}


def part(data: Any, *, is_last: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": not is_last}


def serve(
    messages: list[Message], change: Callable[[Message], object] = lambda _: None
) -> tuple[CollectingMeter, Server]:
    """Serve one request with these messages; what the meter was told, and what the server has."""

    async def app(_: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        for message in messages:
            await send(message)

    meter = CollectingMeter()
    server = Server(path="/v1/chat/completions", body=[json.dumps(ASK).encode()])
    server.change = change
    asyncio.run(server.run(MeteringMiddleware(app, meter, tenant="acme", inference=["/v1/*"])))
    return meter, server


def billed(meter: CollectingMeter) -> tuple[int, int, str]:
    event = meter.event()
    return event.input_tokens, event.output_tokens, event.status


def cleared(message: Message) -> None:
    kind = message["type"]
    message.clear()
    message["type"] = kind


def released(message: Message) -> None:
    if isinstance(message.get("body"), memoryview):
        message["body"].release()


@pytest.mark.parametrize(
    ("status", "change", "expected"),
    [
        (200, lambda message: message.update(status=503), BILLED),
        (200, lambda message: message.pop("status", None), BILLED),
        (200, lambda message: message.update(body=b"", headers=[], more_body=False), BILLED),
        (200, lambda message: message.get("headers", []).clear(), BILLED),
        (200, cleared, BILLED),
        (429, lambda message: message.update(status=200), REFUSED),
    ],
)
def test_what_is_changed_further_out_changes_no_bill(
    status: int, change: Callable[[Message], object], expected: tuple[int, int, str]
) -> None:
    meter, _ = serve([start(status), part(WHOLE), part(b"", is_last=True)], change)
    assert billed(meter) == expected


def test_headers_that_can_be_gone_through_once_reach_the_server_and_are_read() -> None:
    headers = ((name, value) for name, value in [(b"content-type", JSON_TYPE), (b"set-cookie", b"a=b")])
    meter, server = serve([start(headers=headers), part(WHOLE, is_last=True)])
    assert list(server.sent[0]["headers"]) == [(b"content-type", JSON_TYPE), (b"set-cookie", b"a=b")]
    assert billed(meter) == BILLED


@pytest.mark.parametrize("odd", [memoryview(b"released by the server"), 7, "text", None])
def test_a_part_that_cannot_be_read_disturbs_nobody_and_what_follows_is_read(odd: Any) -> None:
    messages = [start(media_type=SSE_TYPE), part(odd), *map(part, EVENTS), part(b"", is_last=True)]
    meter, server = serve(messages, released)
    assert len(server.sent) == len(messages)
    assert billed(meter)[0:2] == BILLED[0:2]


def test_what_is_sent_after_the_process_has_ended_its_calls_is_no_part_of_them() -> None:
    meter = CollectingMeter()
    later = b"".join(EVENTS).replace(b'"completion_tokens": 12', b'"completion_tokens": 99')
    assert later != b"".join(EVENTS)

    async def app(_: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send(start(media_type=SSE_TYPE))
        for event in EVENTS:
            await send(part(event))
        end_open_calls()
        await send(part(later))

    server = Server(path="/v1/chat/completions", body=[json.dumps(ASK).encode()])
    asyncio.run(server.run(MeteringMiddleware(app, meter, tenant="acme", inference=["/v1/*"])))
    assert billed(meter) == BILLED
