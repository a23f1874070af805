"""Middleware for every ASGI framework: whose request this is, and what it used where it is an inference.

    app.add_middleware(MeteringMiddleware, meter=meter, tenant=header("x-tenant"), on_missing_tenant="reject")

Around each HTTP request it opens a `context` with what the resolvers say, so that instrumented clients inside
know whose call they make. Messages pass as they are, one by one: no task, no buffer; only headers that are no
list become one. WebSockets, lifespan and OPTIONS pass untouched, without a context: calls in a WebSocket's
handler need one of its own, and a browser that asks by OPTIONS what it may send (CORS) tells no tenant.

Routes that are an inference boundary themselves, because a gateway hands a provider's answer on, are named by
`inference`. Their response body, JSON or server-sent events, is read once the bytes are on their way, and
makes one event: also when the client goes away, or the application raises, in the middle. What an
instrumented client inside has recorded is not recorded again (`metering/nesting.py`).

Put it inside of what compresses responses: a compressed body is not read, which is counted, and makes an
event that the job keeps in quarantine, since nobody knows what was used.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from metering.bodies import Body
from metering.call import Call
from metering.contexts import (
    ANONYMOUS,
    NOTHING_SAID,
    MissingTenant,
    OnMissingTenant,
    Policy,
    context,
    current,
    label,
    labels,
)
from metering.failures import is_refusal
from metering.mishaps import note
from metering.nesting import Boundary, Inside
from metering.nesting import current as current_boundary
from metering.observe import OngoingCall, checked_meter
from metering.recorder import Recorder
from metering.resolvers import Resolver, constant, resolved
from metering.responses import StreamReader
from metering.usage import Usage

# Mappings, in truth: each framework has types of its own for them, of which none fits another's.
Scope = Any
Message = Any
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_BYTES_MAX = 1024 * 1024
"""Of a request's body so much is kept, to count what was asked where the answer does not tell; of a longer
one nothing."""

_BAD_REQUEST = 400


class MeteringMiddleware:
    """Says whose request it is, and meters the routes that are inferences.

    Args:
        tenant, feature, model: A resolver (`metering/resolvers.py`), or the label itself.
        on_missing_tenant: What a request is that no resolver tells the tenant of. `reject` answers it with
            400 and a sentence in JSON; with `skip` the calls inside it do as they were told.
        exempt: Paths that need no tenant, such as those of health checks: nothing is rejected there.
        inference: Paths of routes that answer as a provider does. Only what is posted to them is an
            inference. Both are given with `*` for anything, or as a function of the path.

    Raises:
        TypeError: one of these is something else.
        ValueError: it is open what a request without a tenant is.
    """

    def __init__(  # noqa: PLR0913  # all but the application go by name
        self,
        app: App,
        meter: Recorder,
        *,
        tenant: Resolver | str | None = None,
        feature: Resolver | str | None = None,
        model: Resolver | str | None = None,
        on_missing_tenant: OnMissingTenant | None = None,
        exempt: Callable[[str], bool] | Sequence[str] = (),
        inference: Callable[[str], bool] | Sequence[str] = (),
        provider: str = "",
    ) -> None:
        self.app = app
        self._meter = checked_meter(meter)
        self._tenant = _resolver(tenant, "tenant")
        self._feature = _resolver(feature, "feature")
        self._model = _resolver(model, "model")
        defaults = labels(tenant if isinstance(tenant, str) else None)
        self._policy = Policy.of(defaults, on_missing_tenant)
        self._is_exempt = exempt if callable(exempt) else _paths(exempt, "exempt")
        self._is_inference = inference if callable(inference) else _paths(inference, "inference")
        self._provider = provider

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or whatever the scope is."""
        if scope["type"] != "http" or scope.get("method") == "OPTIONS":
            await self.app(scope, receive, send)
            return
        said = labels(
            resolved(self._tenant, scope), resolved(self._feature, scope), resolved(self._model, scope)
        )
        if said.over(current()).tenant_id is None:
            if self._policy.on_missing_tenant == "reject" and not _fits(self._is_exempt, scope):
                note("missing_tenant", "a request without a tenant was rejected")
                await _reject(send)
                return
            if self._policy.on_missing_tenant == "anonymous":
                note("missing_tenant", f"a request without a tenant is one of the tenant {ANONYMOUS!r}")
                said = said.over(labels(ANONYMOUS))
        with context.of(said):
            exchange = self._begin(receive, send) if self._asks(scope) else None
            if exchange is None:
                await self.app(scope, receive, send)
            else:
                await exchange.run(self.app, scope)

    def _asks(self, scope: Scope) -> bool:
        return scope.get("method") == "POST" and _fits(self._is_inference, scope)

    def _begin(self, receive: Receive, send: Send) -> _Exchange | None:
        try:
            call = self._policy.call(
                NOTHING_SAID, model="", provider=self._provider, started_ms=time.time_ns() // 1_000_000
            )
        except MissingTenant:
            call = None
            note("missing_tenant", "an inference at an exempt path, of no tenant, is not metered")
        return None if call is None else _Exchange(self._meter, call, receive, send)


_NO_ANSWER = StreamReader()
"""What an exchange has read before its response begins. Never fed."""


class _Exchange:
    """One request to a route that is an inference, and its response, as they pass by.

    A server has thousands open at once, and Python's garbage collector runs as often as objects are made: so
    each has few, and parts of a body leave none.
    """

    __slots__ = (
        *("_asked", "_body", "_boundary", "_call", "_has_begun", "_has_gone", "_is_finished", "_receive"),
        *("_send", "_status"),
    )

    def __init__(self, meter: Recorder, call: Call, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._boundary = Boundary(current_boundary())
        self._asked = _Asked()
        self._call = OngoingCall(meter, call, self._asked, _NO_ANSWER, self._boundary)
        self._body: Body | None = None
        self._has_begun = False
        self._status = 0
        self._has_gone = False
        self._is_finished = False

    async def run(self, app: App, scope: Scope) -> None:
        """Let the application serve it, and record what was seen."""
        try:
            with Inside(self._boundary):
                await app(scope, self._receiving, self._sending)
        except BaseException as error:
            self._over(error)
            raise
        if not self._is_finished:
            self._over(None)

    async def _receiving(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._asked.feed(message.get("body", b""))
        elif message["type"] == "http.disconnect" and not self._is_finished:
            self._has_gone = True
        return message

    async def _sending(self, message: Message) -> None:
        # Looked at before it passes on: who compresses further on changes the message itself, and its list of
        # headers.
        kind, data, status = message.get("type"), message.get("body"), message.get("status")
        is_last = not message.get("more_body", False)
        headers: list[tuple[bytes, bytes]] = []
        if kind == "http.response.start":
            said = message.get("headers")
            headers = list(said or ())
            if not isinstance(said, (list, tuple, type(None))):
                message = {**message, "headers": headers[:]}  # they may be such as can be gone through once
        try:
            await self._send(message)
        except OSError:  # what servers raise when the client has gone (ASGI 2.4)
            self._has_gone = True
            raise
        finally:
            if kind == "http.response.body":
                self._sent(data)
                if is_last:
                    self._is_finished = True
                    self._over(None)  # what the application does after its answer is no part of it
            elif kind == "http.response.start":
                self._started(status, headers)

    def _started(self, status: Any, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The head of the response is on its way. Never raises."""
        media_type = coding = ""
        try:
            for name, value in headers:
                lower = bytes(name).lower()
                if lower == b"content-type":
                    media_type = bytes(value).decode("latin-1")
                elif lower == b"content-encoding":
                    coding = bytes(value).decode("latin-1")
            self._status = int(status)
            self._body = Body(media_type, coding, self._call.call.provider, self._call.call.model)
            self._call.reader = self._body
        except Exception as error:  # noqa: BLE001  # a request must not notice
            note("response_unread", "the head of a response could not be read", error)

    def _sent(self, data: bytes | None) -> None:
        """A part of the body is on its way. Never raises."""
        try:
            body = self._body
            if not data or body is None or self._call.is_over:  # its meter reads what is over
                return
            if not self._has_begun and body.is_stream:
                self._call.began()
            self._has_begun = True
            body.feed(data)
        except Exception as error:  # noqa: BLE001  # a request must not notice
            note("response_unread", "a part of a response could not be read", error)

    def _over(self, error: BaseException | None) -> None:
        """The application is done with it. Never raises."""
        try:
            self._record(error)
        except Exception as failure:  # noqa: BLE001  # a request must not notice
            note("not_recorded", "a response could not be recorded", failure)

    def _record(self, error: BaseException | None) -> None:
        call, body = self._call, self._body
        if call.is_over:
            return
        if isinstance(error, GeneratorExit):
            call.collected()
        elif body is not None and self._status >= _BAD_REQUEST:
            self._refused()
        elif error is not None and not self._has_gone:
            call.failed(error)
        elif body is None or not (self._is_finished or body.is_stream):
            call.stopped()
        else:
            call.end(body.told, "", "success")

    def _refused(self) -> None:
        """It was answered with an error: the provider's, or the gateway's own."""
        call, told = self._call, {"http_status": str(self._status)}
        if is_refusal(self._status, call.call.provider):
            call.end(partial(_used_nothing, self._asked, call.call.model), "", "error", told=told)
        else:
            call.end((), "", "error", is_cut=True, told=told)


def _used_nothing(asked: _Asked, model: str) -> tuple[Sequence[Usage], str, bool] | None:
    """What a refused request used; None where it called no model. In the meter's thread."""
    found = asked.model()
    if not (found or model):
        note("refused", "an answer with an error status, to a request that names no model")
        return None
    return [Usage(model=found, input_tokens=0, output_tokens=0)], "", True


class _Asked:
    """The body of a request, as far as it is kept."""

    __slots__ = ("_bytes", "_parts")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._bytes = 0

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        self._bytes += len(data)
        if self._bytes > REQUEST_BYTES_MAX:
            self._parts.clear()
        elif data:
            self._parts.append(data)

    @property
    def size_bytes(self) -> int:
        """How much is kept."""
        return self._bytes if self._parts else 0

    def __call__(self) -> Mapping[str, Any]:
        """What was asked; nothing where it was too long, or is no JSON object."""
        if not self._parts:
            return {}
        try:
            found = json.loads(b"".join(self._parts))
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def model(self) -> str:
        """The model that was asked for; "" where it cannot be told."""
        found = self().get("model")
        return label(found, "model") or "" if isinstance(found, str) else ""


def _fits(is_wanted: Callable[[str], bool], scope: Scope) -> bool:
    try:
        return is_wanted(scope.get("path", ""))
    except Exception as error:  # noqa: BLE001  # an application's own function
        note("resolver_failed", "a function of the path raised", error)
        return False


async def _reject(send: Send) -> None:
    """Answer that nobody said whose request it is."""
    body = b'{"error": "This request names no tenant, so it is not known who pays for it."}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": _BAD_REQUEST, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _resolver(said: Resolver | str | None, name: str) -> Resolver | None:
    if isinstance(said, str):
        return constant(said)
    if said is not None and not callable(said):
        raise TypeError(f"{name} is a resolver, such as header(…), or a text, not {type(said).__name__}")
    return said


def _paths(patterns: Any, name: str) -> Callable[[str], bool]:
    """Whether a path fits one of the patterns, in which `*` stands for anything."""
    found = [patterns] if isinstance(patterns, str) else patterns
    found = list(found) if isinstance(found, Iterable) else [None]
    if not all(isinstance(one, str) for one in found):
        raise TypeError(f"{name} is a list of paths, such as /v1/*, or a function of the path")
    fitting = [re.compile(".*".join(map(re.escape, one.split("*"))), re.DOTALL) for one in found]
    return lambda path: any(one.fullmatch(path) for one in fitting)
