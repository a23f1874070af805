"""The middleware: every message passes as it is, and what runs inside knows whose request it is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import fastapi
import litestar
import litestar.response
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from metering import mishaps
from metering.asgi import MeteringMiddleware
from metering.contexts import context, current
from metering.resolvers import first_of, header, path
from tests.metering.asgi_exchange import Exchange, Message
from tests.metering.collecting import CollectingMeter

TENANT = header("x-tenant")


def serve(app: Any, exchange: Exchange) -> Exchange:
    return asyncio.run(exchange.run(app))


def around(app: Any, **options: Any) -> MeteringMiddleware:
    return MeteringMiddleware(
        app, CollectingMeter(), **{"tenant": TENANT, "on_missing_tenant": "skip", **options}
    )


def whose() -> str:
    said = current()
    return f"{said.tenant_id} {said.feature_id} {said.model}"


async def tells_whose(_: Any, __: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": whose().encode()})


async def starlette_plain(_: Any) -> Any:
    return PlainTextResponse(whose())


def starlette_sync(_: Any) -> Any:
    return PlainTextResponse(whose())


async def starlette_thread(_: Any) -> Any:
    return PlainTextResponse(await run_in_threadpool(whose))


async def starlette_stream(_: Any) -> Any:
    async def parts() -> AsyncIterator[str]:
        yield whose()

    return StreamingResponse(parts())


async def starlette_sync_stream(_: Any) -> Any:
    def parts() -> Iterator[str]:
        yield whose()

    return StreamingResponse(parts())


def starlette_app() -> Any:
    ways = (starlette_plain, starlette_sync, starlette_thread, starlette_stream, starlette_sync_stream)
    app = Starlette(routes=[Route(f"/{way.__name__}", way, methods=["POST"]) for way in ways])
    app.add_middleware(
        MeteringMiddleware, meter=CollectingMeter(), tenant=TENANT, feature="chat", on_missing_tenant="reject"
    )
    return app


def fastapi_app() -> Any:
    app = fastapi.FastAPI()
    app.add_middleware(
        MeteringMiddleware, meter=CollectingMeter(), tenant=TENANT, feature="chat", on_missing_tenant="reject"
    )

    @app.post("/fastapi_async")
    async def fastapi_async() -> Any:
        return PlainTextResponse(whose())

    @app.post("/fastapi_sync")
    def fastapi_sync() -> Any:
        return PlainTextResponse(whose())

    @app.post("/fastapi_dependency")
    def fastapi_dependency(found: Annotated[str, fastapi.Depends(whose)]) -> Any:
        return PlainTextResponse(found)

    return app


def litestar_app() -> Any:
    @litestar.post("/litestar_async", media_type="text/plain", status_code=200)
    async def litestar_async() -> str:
        return whose()

    @litestar.post("/litestar_sync", media_type="text/plain", status_code=200, sync_to_thread=True)
    def litestar_sync() -> str:
        return whose()

    @litestar.post("/litestar_stream", status_code=200)
    async def litestar_stream() -> litestar.response.Stream:
        async def parts() -> AsyncIterator[str]:
            yield whose()

        return litestar.response.Stream(parts())

    metering = DefineMiddleware(
        MeteringMiddleware, meter=CollectingMeter(), tenant=TENANT, feature="chat", on_missing_tenant="reject"
    )
    return litestar.Litestar([litestar_async, litestar_sync, litestar_stream], middleware=[metering])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((starlette_app, name) for name in ("starlette_plain", "starlette_sync", "starlette_thread")),
        *((starlette_app, name) for name in ("starlette_stream", "starlette_sync_stream")),
        *((fastapi_app, name) for name in ("fastapi_async", "fastapi_sync", "fastapi_dependency")),
        *((litestar_app, name) for name in ("litestar_async", "litestar_sync", "litestar_stream")),
    ],
)
def test_every_framework_knows_inside_whose_request_it_is(make: Callable[[], Any], name: str) -> None:
    exchange = serve(make(), Exchange(path=f"/{name}", headers=[("x-tenant", "acme")]))
    assert (exchange.status, exchange.content) == (200, b"acme chat None")
    assert serve(make(), Exchange(path=f"/{name}")).status == 400


@pytest.mark.parametrize(
    ("options", "headers", "request_path", "expected"),
    [
        ({}, [("x-tenant", "acme")], "/", b"acme None None"),
        ({"feature": path("/{feature}/*"), "model": "gpt"}, [("x-tenant", "a")], "/chat/1", b"a chat gpt"),
        ({"tenant": first_of(TENANT, path("/t/{tenant}"))}, [], "/t/acme", b"acme None None"),
        ({"tenant": "acme", "on_missing_tenant": None}, [], "/", b"acme None None"),
        ({"tenant": lambda scope: scope["path"][1:]}, [], "/acme", b"acme None None"),
        ({"on_missing_tenant": "skip"}, [], "/", b"None None None"),
        ({"on_missing_tenant": "reject", "exempt": ["/health*"]}, [], "/healthz", b"None None None"),
        ({"on_missing_tenant": "anonymous"}, [], "/", b"anonymous None None"),
        ({"tenant": lambda scope: scope["missing"], "on_missing_tenant": "skip"}, [], "/", b"None None None"),
    ],
)
def test_the_resolvers_say_whose_request_it_is(
    options: dict[str, Any], headers: list[tuple[str, str]], request_path: str, expected: bytes
) -> None:
    exchange = Exchange(headers=headers, path=request_path)
    assert serve(around(tells_whose, **options), exchange).content == expected
    assert whose() == "None None None"


@pytest.mark.parametrize("on_missing_tenant", ["reject", "anonymous", "skip"])
def test_what_an_outer_context_says_stands_where_the_request_says_nothing(on_missing_tenant: str) -> None:
    before = mishaps.counts()["missing_tenant"]
    with context(tenant_id="outer"):
        exchange = serve(around(tells_whose, on_missing_tenant=on_missing_tenant), Exchange())
    assert exchange.content == b"outer None None"
    assert mishaps.counts()["missing_tenant"] == before


def test_a_request_without_a_tenant_is_counted() -> None:
    before = mishaps.counts()["missing_tenant"]
    serve(around(tells_whose, on_missing_tenant="anonymous"), Exchange())
    assert mishaps.counts()["missing_tenant"] == before + 1


def test_a_request_that_is_rejected_does_not_reach_the_application() -> None:
    async def fails(*_: Any) -> None:
        raise AssertionError

    exchange = serve(around(fails, on_missing_tenant="reject"), Exchange())
    assert exchange.status == 400
    assert (
        exchange.content == b'{"error": "This request names no tenant, so it is not known who pays for it."}'
    )


def test_there_is_no_default_for_a_missing_tenant() -> None:
    with pytest.raises(ValueError, match="say what becomes of a call without a tenant"):
        around(tells_whose, on_missing_tenant=None)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"tenant": 5}, r"tenant is a resolver, such as header\(…\), or a text, not int"),
        ({"feature": b"chat"}, "feature is a resolver"),
        ({"inference": 5}, "inference is a list of paths"),
        ({"exempt": [5]}, "exempt is a list of paths"),
        ({"meter": None}, "a meter has a method `record`, and NoneType has none"),
    ],
)
def test_what_cannot_be_used_is_refused_at_set_up(said: dict[str, Any], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        MeteringMiddleware(
            **{"app": tells_whose, "meter": CollectingMeter(), "on_missing_tenant": "skip", **said}
        )


@pytest.mark.parametrize(
    "scope", [{"type": "websocket"}, {"type": "lifespan"}, {"type": "http", "method": "OPTIONS", "path": "/"}]
)
def test_websockets_lifespan_and_preflights_are_not_touched(scope: Any) -> None:
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.extend(arguments)

    receive: Any = object()
    send: Any = object()
    asyncio.run(around(app, on_missing_tenant="reject")(scope, receive, send))
    assert seen == [scope, receive, send]
    assert seen[0] is scope


bodies = st.lists(st.binary(max_size=20), max_size=5)
media_types = st.sampled_from([b"application/json", b"text/event-stream", b"text/html", b""])


@given(bodies, bodies, media_types, st.booleans(), st.integers(100, 599))
def test_every_message_passes_as_it_is(
    asked: list[bytes], answered: list[bytes], media_type: bytes, is_inference: bool, status: int
) -> None:
    sent: list[Message] = [
        {"type": "http.response.start", "status": status, "headers": [(b"content-type", media_type)]},
        *({"type": "http.response.body", "body": part, "more_body": True} for part in answered),
        {"type": "http.response.body"},
    ]
    received: list[bytes] = []

    async def app(_: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            received.append(message["body"])
            if not message["more_body"]:
                break
        for message in sent:
            await send(message)

    wrapped = around(app, on_missing_tenant="anonymous", inference=["*"] if is_inference else [])
    exchange = serve(wrapped, Exchange(body=asked or [b""]))
    assert received == (asked or [b""])
    assert [id(message) for message in exchange.sent] == [id(message) for message in sent]


def test_a_part_of_a_stream_is_on_its_way_before_the_next_is_made() -> None:
    order: list[str] = []

    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            order.append(f"made {number}")
            await send({"type": "http.response.body", "body": b"x", "more_body": number < 2})

    class Watching(Exchange):
        async def send(self, message: Message) -> None:
            order.append(f"sent {message['type'].rpartition('.')[2]}")

    serve(around(app, inference=["*"], on_missing_tenant="anonymous"), Watching())
    assert order == ["sent start", *(f"{what}" for n in range(3) for what in (f"made {n}", "sent body"))]


def test_no_task_is_started() -> None:
    async def run() -> None:
        tasks: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            tasks.append(len(asyncio.all_tasks()))
            await tells_whose(scope, receive, send)

        await Exchange().run(around(app, inference=["*"], on_missing_tenant="anonymous"))
        assert tasks == [1]

    asyncio.run(run())


def test_what_the_application_raises_is_raised() -> None:
    async def app(*_: Any) -> None:
        raise KeyError("of the application")

    for inference in ([], ["*"]):
        wrapped = around(app, inference=inference, on_missing_tenant="anonymous")
        with pytest.raises(KeyError, match="of the application"):
            serve(wrapped, Exchange())
    with contextlib.suppress(KeyError):
        serve(around(app, on_missing_tenant="anonymous"), Exchange())
    assert whose() == "None None None"
