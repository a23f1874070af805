"""Routes that answer as a provider does: one event for each, however the answer ends, and none twice."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from metering import asgi, bodies, mishaps
from metering.asgi import REQUEST_BYTES_MAX, MeteringMiddleware
from metering.instrumentation import instrument
from tests.metering.asgi_exchange import Exchange
from tests.metering.collecting import CollectingMeter
from tests.metering.fake_answers import Answer, chat, message, response
from tests.metering.fake_provider import FakeProvider
from tests.metering.turned_clock import Clock

ASK: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "say some words"}]}
ASK_STREAM = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
ANSWER = Answer.of("chatcmpl-0000000000000001", ASK)
WHOLE = json.dumps(chat(ANSWER, ASK)).encode()
EVENTS = list(chat.stream(ANSWER, ASK_STREAM))
JSON_TYPE, SSE_TYPE = "application/json", "text/event-stream; charset=utf-8"


def sends(
    parts: Iterable[bytes],
    media_type: str,
    *,
    status: int = 200,
    coding: str = "",
    fail_after: int | None = None,
    error: BaseException | None = None,
) -> Any:
    """An application that reads its request and sends these parts; it may fail in the middle."""

    async def app(_: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        if fail_after == -1:
            raise error or KeyError
        headers = [(b"Content-Type", media_type.encode()), (b"content-encoding", coding.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, part in enumerate(parts):
            if number == fail_after:
                raise error or KeyError
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def run(app: Any, exchange: Exchange | None = None, **options: Any) -> CollectingMeter:
    """Serve one request, and give what was recorded."""
    meter = CollectingMeter()
    wrapped = MeteringMiddleware(app, meter, tenant="acme", **{"inference": ["/v1/*"], **options})
    exchange = exchange or ask()
    with contextlib.suppress(KeyError, OSError, asyncio.CancelledError):
        asyncio.run(exchange.run(wrapped))
    return meter


def ask(asked: dict[str, Any] | bytes = ASK, **options: Any) -> Exchange:
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    return Exchange(**{"path": "/v1/chat/completions", "body": [body[:20], body[20:]], **options})


def told(meter: CollectingMeter) -> tuple[str, int, int, str]:
    event = meter.event()
    return event.idempotency_key, event.input_tokens, event.output_tokens, event.status


def halves(data: bytes) -> list[bytes]:
    return [data[: len(data) // 2], data[len(data) // 2 :]]


@pytest.mark.parametrize(
    ("parts", "media_type"),
    [
        ([WHOLE], JSON_TYPE),
        (halves(WHOLE), "application/json; charset=utf-8"),
        (EVENTS, SSE_TYPE),
        (halves(b"".join(EVENTS)), SSE_TYPE),
    ],
)
def test_an_answer_that_passes_by_is_read(parts: list[bytes], media_type: str) -> None:
    meter = run(sends(parts, media_type))
    assert told(meter) == ("chatcmpl-0000000000000001-1", 3, 12, "success")
    assert (meter.event().model, meter.event().usage_source) == ("gpt-4o", "provider")
    assert ("first_token_latency_ms" in (meter.event().attributes or {})) is (media_type == SSE_TYPE)


def test_the_first_token_of_a_stream_is_its_first_part_however_much_of_it_follows(clock: Clock) -> None:
    long = [EVENTS[1]] * (2 * bodies.STREAM_BYTES_MAX // len(EVENTS[1]))

    def timed() -> Iterator[bytes]:
        for part in [*long, *EVENTS]:
            clock.now += 0.5
            yield part

    meter = run(sends(timed(), SSE_TYPE))
    assert meter.event().latency_ms == 500 * len([*long, *EVENTS])
    assert (meter.event().attributes or {})["first_token_latency_ms"] == "500"


def test_other_providers_answers_too() -> None:
    claude = Answer.of("msg_0000000000000001", {**ASK, "model": "claude-made-up"})
    for parts in ([json.dumps(message(claude, ASK)).encode()], list(message.stream(claude, ASK))):
        media_type = JSON_TYPE if len(parts) == 1 else SSE_TYPE
        assert told(run(sends(parts, media_type))) == ("msg_0000000000000001-1", 3, 12, "success")
    assert told(run(sends(list(response.stream(ANSWER, {})), SSE_TYPE)))[0] == "chatcmpl-0000000000000001-1"


@given(st.lists(st.integers(0, len(b"".join(EVENTS))), max_size=8))
def test_however_a_stream_is_split_the_event_is_the_same(cuts: list[int]) -> None:
    data = b"".join(EVENTS)
    at = [0, *sorted(cuts), len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(at)]
    assert told(run(sends(parts, SSE_TYPE))) == ("chatcmpl-0000000000000001-1", 3, 12, "success")


@pytest.mark.parametrize(
    ("method", "path", "inference", "is_one"),
    [
        ("POST", "/v1/chat/completions", ["/v1/*"], True),
        ("POST", "/v1/chat/completions", ["/v1/chat/completions"], True),
        ("POST", "/v1/chat/completions", lambda path: path.endswith("completions"), True),
        ("POST", "/v1/chat/completions", lambda _: 1 / 0, False),
        ("POST", "/v1/chat/completions", ["/v1/messages", "/v2/*"], False),
        ("POST", "/v1/chat/completions", (), False),
        ("GET", "/v1/chat/completions", ["/v1/*"], False),
    ],
)
def test_only_what_is_posted_to_a_route_that_was_named_is_an_inference(
    method: str, path: str, inference: Any, is_one: bool
) -> None:
    meter = run(sends([WHOLE], JSON_TYPE), ask(method=method, path=path), inference=inference)
    assert len(meter.records) == is_one


CUT = ("chatcmpl-0000000000000001-1", "cut")


@pytest.mark.parametrize(
    ("exchange", "options", "status"),
    [
        ({"gone_after": 5}, {}, "success"),  # the server's `send` says that the client has gone
        ({}, {"fail_after": 4}, "error"),  # the application fails
        ({}, {"fail_after": 4, "error": asyncio.CancelledError()}, "success"),  # the server cancels it
    ],
)
def test_a_stream_that_does_not_reach_its_end_is_recorded_as_cut(
    exchange: dict[str, Any], options: dict[str, Any], status: str
) -> None:
    meter = run(sends(EVENTS, SSE_TYPE, **options), ask(ASK_STREAM, **exchange))
    event = meter.event()
    assert (event.idempotency_key, (event.attributes or {})["stream"]) == CUT
    assert (event.status, event.model) == (status, "gpt-4o")
    assert event.usage_source != "provider"
    assert event.input_tokens > 0  # counted, of the request that passed by
    assert event.output_tokens > 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_client_that_goes_away_while_the_application_listens_is_no_error(fails: bool) -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", SSE_TYPE.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in EVENTS[:4]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        if fails:
            raise KeyError

    event = run(app, ask(ASK_STREAM)).event()
    assert (event.status, (event.attributes or {})["stream"]) == ("success", "cut")


@pytest.mark.parametrize(("parts", "media_type"), [([WHOLE], JSON_TYPE), (EVENTS, SSE_TYPE)])
def test_what_fails_after_the_answer_is_no_failure_of_it(parts: list[bytes], media_type: str) -> None:
    answer = sends(parts, media_type)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(scope, receive, send)
        raise KeyError  # a background task, or what a framework tears down

    assert told(run(app)) == told(run(answer))


@pytest.mark.parametrize("parts", [[WHOLE], halves(WHOLE)])
def test_compression_further_out_changes_nothing(parts: list[bytes]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(iter(parts), media_type=JSON_TYPE)(scope, receive, send)

    meter = CollectingMeter()
    metered = MeteringMiddleware(app, meter, tenant="acme", inference=["/v1/*"])
    exchange = ask(headers=[("accept-encoding", "gzip")])
    asyncio.run(exchange.run(GZipMiddleware(metered, minimum_size=1)))
    assert gzip.decompress(exchange.content) == WHOLE
    assert told(meter) == ("chatcmpl-0000000000000001-1", 3, 12, "success")


def test_of_json_that_does_not_reach_its_end_nothing_is_known() -> None:
    [fields] = run(sends(halves(WHOLE), JSON_TYPE), ask(gone_after=2)).fields()
    assert (fields["status"], fields["output_tokens"]) == ("success", None)
    assert fields["attributes"]["stream"] == "cut"


def test_an_application_that_fails_before_it_answers_leaves_an_error_of_which_nothing_is_known() -> None:
    [fields] = run(sends([], JSON_TYPE, fail_after=-1)).fields()
    assert (fields["status"], fields["output_tokens"], fields["model"]) == ("error", None, "gpt-4o")


@pytest.mark.parametrize(
    ("status", "asked", "expected"),
    [
        (429, ASK, [("error", 0, 0, "gpt-4o")]),
        (500, ASK, [("error", 0, 0, "gpt-4o")]),
        (504, ASK, [("error", "counted", None, "gpt-4o")]),
        (401, {}, []),  # no model was named, so none was called: counted alone
        (401, b"no json", []),
    ],
)
def test_an_error_that_passes_by_used_nothing_where_that_is_known(
    status: int, asked: Any, expected: list[tuple[Any, ...]]
) -> None:
    before = mishaps.counts()["refused"]
    meter = run(sends([b'{"error": {"message": "no"}}'], JSON_TYPE, status=status), ask(asked))
    found = [
        (f["status"], "counted" if f["input_tokens"] else f["input_tokens"], f["output_tokens"], f["model"])
        for f in meter.fields()
    ]
    assert found == expected
    assert mishaps.counts()["refused"] - before == (not expected)


def test_no_request_is_parsed_while_it_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[object] = []

    def loads(data: bytes) -> object:
        parsed.append(data)
        return json.loads(data)

    monkeypatch.setattr(asgi, "json", SimpleNamespace(loads=loads))
    meter = run(sends([b"{}"], JSON_TYPE, status=429))
    assert (len(parsed), len(meter.records)) == (0, 1)
    [fields] = meter.fields()
    assert (len(parsed), fields["model"]) == (1, "gpt-4o")


@pytest.mark.parametrize(
    ("parts", "media_type", "coding"),
    [
        ([gzip.compress(WHOLE)], JSON_TYPE, "gzip"),
        ([WHOLE], JSON_TYPE, "br"),  # whatever it is, it is not read
        ([WHOLE], "text/html", ""),
        ([b"{" + WHOLE], JSON_TYPE, ""),
        ([b"[" * 100_000], JSON_TYPE, ""),
        ([WHOLE, b" " * 300], JSON_TYPE, ""),  # too long, by the bound that the test sets
    ],
)
def test_a_body_that_is_not_read_is_counted_and_makes_an_event_that_says_so(
    parts: list[bytes], media_type: str, coding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_BYTES_MAX", 300_000 if len(parts) == 1 else len(WHOLE) + 299)
    before = mishaps.counts()["response_unread"]
    [fields] = run(sends(parts, media_type, coding=coding)).fields()
    assert (fields["status"], fields["output_tokens"]) == ("success", None)
    assert fields["input_tokens"] > 0
    assert mishaps.counts()["response_unread"] == before + 1


@pytest.mark.parametrize(
    ("parts", "media_type", "size_bytes"),
    [
        ([WHOLE], JSON_TYPE, len(WHOLE) + len(json.dumps(ASK))),
        (EVENTS, SSE_TYPE, len(b"".join(EVENTS)) + len(json.dumps(ASK))),
        ([WHOLE], "text/html", len(json.dumps(ASK))),  # not kept
    ],
)
def test_a_record_says_how_much_it_holds(parts: list[bytes], media_type: str, size_bytes: int) -> None:
    [record] = run(sends(parts, media_type)).records
    assert record.size_bytes == size_bytes


def test_of_a_request_that_is_too_long_nothing_is_counted() -> None:
    asked = {**ASK, "messages": [{"role": "user", "content": "word " * (REQUEST_BYTES_MAX // 4)}]}
    [fields] = run(sends([WHOLE], "text/html"), ask(asked)).fields()
    assert (fields["input_tokens"], fields["model"]) == (None, "")


# A gateway whose own client is instrumented.


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as made:
        yield made


def gateway(client: Any, *, rename: bool, guard: bool) -> Any:
    """Hands an answer on, whole or streamed; may give it an id of its own, and ask a guard's model before."""

    def renamed(answer: Any) -> dict[str, Any]:
        data = json.loads(answer.model_dump_json(exclude_unset=True))
        return {**data, "id": "gateway-0000000000000007"} if rename else data

    async def complete(request: Any) -> Any:
        asked = await request.json()
        if guard:
            await client.chat.completions.create(**{**ASK, "max_tokens": 1, "model": "guard"})
        if not asked.get("stream"):
            return JSONResponse(renamed(await client.chat.completions.create(**asked)))

        async def parts() -> AsyncIterator[bytes]:
            async for chunk in await client.chat.completions.create(**asked):
                yield b"data: " + json.dumps(renamed(chunk)).encode() + b"\n\n"
            yield b"data: [DONE]\n\n"

        return StreamingResponse(parts(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])


@pytest.mark.parametrize("asked", [ASK, ASK_STREAM])
@pytest.mark.parametrize("rename", [False, True])
@pytest.mark.parametrize("guard", [False, True])
@pytest.mark.parametrize("gone_after", [None, 5])
@pytest.mark.parametrize("is_instrumented", [True, False])
def test_an_answer_that_client_and_middleware_see_is_recorded_once(
    provider: FakeProvider,
    asked: dict[str, Any],
    rename: bool,
    guard: bool,
    gone_after: int | None,
    is_instrumented: bool,
) -> None:
    provider.ledger.clear()
    meter = CollectingMeter()

    async def serve() -> None:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="none") as client:
            if is_instrumented:
                instrument(client, meter, tenant_id="acme", provider="openai")
            app = MeteringMiddleware(
                gateway(client, rename=rename, guard=guard), meter, tenant="acme", inference=["/v1/*"]
            )
            try:
                await ask(asked, gone_after=gone_after).run(app)
            except Exception:  # noqa: BLE001  # Starlette's, of a client that has gone
                assert gone_after is not None

    asyncio.run(serve())
    keys = [event.idempotency_key for event in meter.events()]
    served = [f"{line.response_id}-1" for line in provider.ledger]
    if is_instrumented:
        assert keys == served
    else:  # the middleware sees the answer alone, and not the guard's
        assert keys == (["gateway-0000000000000007-1"] if rename else served[-1:])
