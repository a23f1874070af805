"""`instrument(client, meter)`: a client of OpenAI's or Anthropic's SDK, metered as it is used.

All calls of such a client, of any resource and helper (`create`, `stream`, `parse`, `with_raw_response`,
`beta`), go through its one method `request`. That is wrapped, on the instance: no class and no other client
is touched, and clients that `with_options` or `copy` make of it are metered too. Nothing of the packages is
imported. Tried with openai 1.3, 1.40, 1.109, 2.54 and 3.57, and anthropic 0.60, 0.125 and 2.14; of anthropic
0.34 the helper `messages.stream` reads past us, so that its events tell no output and wait in quarantine.

What is metered: calls of `ENDPOINTS`. A call of anything else that might cost is counted as a mishap
(`endpoint_not_metered`). Where a call fails, `metering/failures.py` says what it has used. Retries within the
SDK are one call with a `retry_count`; retries of the application are calls of their own.
"""

from __future__ import annotations

import contextvars
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from metering.background import answered_later, created, fetched
from metering.contexts import Labels, MissingTenant, OnMissingTenant, Policy, labels
from metering.instrument_openai import StreamUsage, body_of, hides_usage, is_usage_chunk, with_usage
from metering.mishaps import LOG, note
from metering.observe import OngoingCall, checked_meter
from metering.raw_answers import is_raw, watch_raw
from metering.recorder import Recorder
from metering.seen import AsItIsNow
from metering.streams import nothing_hidden
from metering.taking import taken, taken_later

Client = TypeVar("Client")

ENDPOINTS = (
    *("/chat/completions", "/completions", "/responses", "/responses/compact", "/embeddings"),
    *("/v1/messages", "/v1/complete"),
)
"""Ends of the paths that are inferences, when posted to."""

FREE_ENDPOINTS = (
    *(
        "/v1/messages/count_tokens",
        "/responses/input_tokens",
        "/moderations",
        "/cancel",
        "/files",
        "/uploads",
    ),
    *("/parts", "/complete", "/realtime/client_secrets"),
)
"""Ends of paths that are posted to without a token being used."""

_WRAPPED = ("request", "_prepare_request", "copy", "with_options")
_MARK = "_metered_by"

_HOSTS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "openrouter.ai": "openrouter",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "x-ai",
    "api.together.xyz": "together",
    "api.fireworks.ai": "fireworks",
    "generativelanguage.googleapis.com": "google",
}
"""Providers by the host that is called, in the names of genai-prices 0.2.3, which rate cards are made of."""

_attempts: contextvars.ContextVar[list[int] | None] = contextvars.ContextVar(
    "metering_attempts", default=None
)


@dataclass(frozen=True, slots=True)
class Instrumentation:
    """What was said when a client was instrumented. `provider` is None where the host tells it."""

    meter: Recorder
    policy: Policy
    provider: str | None
    stream_usage: StreamUsage

    def provider_at(self, client: object, options: object) -> str:
        """Who is called, with these options of a request."""
        if self.provider is not None:
            return self.provider
        return provider_of(client, str(getattr(options, "url", "")))


@dataclass(frozen=True, slots=True)
class _Planned:
    """One call that is about to be made: with which arguments, and how its answer is watched."""

    call: OngoingCall
    options: Any
    attempts: list[int]
    hides: Literal["nothing", "usage"]


def instrument(
    client: Client,
    meter: Recorder,
    *,
    tenant_id: str | None = None,
    feature_id: str | None = None,
    attributes: Mapping[str, object] | None = None,
    on_missing_tenant: OnMissingTenant | None = None,
    provider: str | None = None,
    stream_usage: StreamUsage = "where_known",
) -> Client:
    """Meter all calls of this client, and of those that are made of it.

    A second time changes nothing; where it says something else, that is logged.

    Args:
        client: `OpenAI`, `AsyncOpenAI`, `AzureOpenAI`, `Anthropic`, `AsyncAnthropic` and the like.
        tenant_id: For calls outside of any `context` that says one; so are `feature_id` and `attributes`.
        on_missing_tenant: What a call is that nobody has said the tenant of. Required without `tenant_id`.
        provider: As rate cards name it. By default the host tells it that is called, at each call.
        stream_usage: Whether to ask OpenAI for usage in streams of chat completions; see `instrument_openai`.

    Returns:
        The same client.

    Raises:
        TypeError: it is none of these clients, or the meter is none.
        ValueError: it is open what a call without a tenant is, or `stream_usage` is none of its words.
    """
    if isinstance(client, type):
        raise TypeError(f"{client.__name__} is a class: instrument a client, {client.__name__}(…)")
    if not callable(getattr(client, "request", None)) or not callable(getattr(client, "post", None)):
        raise TypeError(
            f"{type(client).__name__} is no client of OpenAI's or Anthropic's SDK: no `request`, no `post`"
        )
    if stream_usage not in get_args(StreamUsage):
        raise ValueError(f'stream_usage is "where_known", "always" or "never", not {stream_usage!r}')
    policy = Policy.of(labels(tenant_id, feature_id, None, attributes), on_missing_tenant)
    said = Instrumentation(checked_meter(meter), policy, provider, stream_usage)
    if vars(client).get(_MARK, said) != said:
        LOG.warning(
            "a client is instrumented already, with other arguments, which stay: `uninstrument` it first"
        )
    _wrap(client, said)
    return client


def uninstrument(client: Client) -> Client:
    """Undo it. Clients that were made of this one stay metered; a client that was not is left as it is."""
    if _MARK in vars(client):
        for name in (*_WRAPPED, _MARK):
            vars(client).pop(name, None)
    return client


def provider_of(client: object, url: str = "") -> str:
    """Who is called, as rate cards name it; "" if the host is nobody's that we know.

    Args:
        url: Of a request: it may have a host of its own.
    """
    kind = type(client).__name__
    for part, name in (("Azure", "azure"), ("Bedrock", "aws"), ("Vertex", "google")):
        if part in kind:
            return name
    host = urlsplit(url).hostname or urlsplit(str(getattr(client, "base_url", ""))).hostname or ""
    for suffix, name in ((".azure.com", "azure"), (".api.openai.com", "openai")):  # eu.api.openai.com
        if host.endswith(suffix):
            return name
    return _HOSTS.get(host, "")


def _wrap(client: Any, said: Instrumentation) -> None:
    if _MARK in vars(client):
        return
    request, prepare = client.request, getattr(client, "_prepare_request", None)
    client.request = (
        _async_request(request, client, said)
        if inspect.iscoroutinefunction(request)
        else _sync_request(request, client, said)
    )
    if callable(prepare):
        client._prepare_request = _counting(prepare)  # noqa: SLF001  # the SDKs' own hook, once a try
    for name in ("copy", "with_options"):
        made = getattr(client, name, None)
        if callable(made):
            setattr(client, name, _instrumenting(made, said))
    setattr(client, _MARK, said)


class _Counting:
    """`with _Counting(attempts):` the tries of the SDK are counted in there."""

    __slots__ = ("_attempts", "_outer")

    def __init__(self, attempts: list[int]) -> None:
        self._attempts = attempts
        self._outer: list[int] | None = None

    def __enter__(self) -> None:
        self._outer = _attempts.get()
        _attempts.set(self._attempts)

    def __exit__(self, *_: object) -> None:
        _attempts.set(self._outer)


def _fetched(answer: Any, options: Any, client: Any, said: Instrumentation) -> Any:
    return fetched(answer, options, said.meter, said.policy, partial(said.provider_at, client, options))


async def _fetched_later(answer: Awaitable[Any], options: Any, client: Any, said: Instrumentation) -> Any:
    return _fetched(await answer, options, client, said)


def _counting(prepare: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def counting(request: Any) -> Any:
        attempts = _attempts.get()
        if attempts is not None:
            attempts[0] += 1
        return prepare(request)

    return counting


def _instrumenting(make: Callable[..., Any], said: Instrumentation) -> Callable[..., Any]:
    def instrumenting(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        _wrap(made, said)
        return made

    return instrumenting


def _sync_request(request: Callable[..., Any], client: Any, said: Instrumentation) -> Callable[..., Any]:
    def metered(cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        planned = _plan(client, said, options, kwargs)
        if planned is None:
            answer = request(cast_to, options, *args, **kwargs)
            if inspect.isawaitable(answer):
                return _fetched_later(answer, options, client, said)
            return _fetched(answer, options, client, said)
        try:
            with _Counting(planned.attempts):
                answer = request(cast_to, planned.options, *args, **kwargs)
        except BaseException as error:
            planned.call.failed(error)
            raise
        if inspect.isawaitable(answer):  # another tool has wrapped an asynchronous client's method
            return taken_later(
                answer, planned.call, partial(_taken, planned), partial(_Counting, planned.attempts)
            )
        return _taken(planned, answer)

    return metered


def _async_request(request: Callable[..., Any], client: Any, said: Instrumentation) -> Callable[..., Any]:
    async def metered(cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        """As in `_sync_request`, of a client whose answers are awaited."""
        planned = _plan(client, said, options, kwargs)
        if planned is None:
            answer = await request(cast_to, options, *args, **kwargs)
            return _fetched(answer, options, client, said)
        try:
            with _Counting(planned.attempts):
                answer = await request(cast_to, planned.options, *args, **kwargs)
        except BaseException as error:
            planned.call.failed(error)
            raise
        return _taken(planned, answer)

    return metered


def _plan(client: Any, said: Instrumentation, options: Any, kwargs: Mapping[str, Any]) -> _Planned | None:
    """How to meter this call; None where it is none, or is not to be metered.

    Raises:
        MissingTenant: where that was chosen, and nothing else.
    """
    try:
        return _planned(client, said, options, kwargs)
    except MissingTenant:
        raise
    except Exception as error:  # noqa: BLE001  # a caller must not notice
        note("request_unread", "a request could not be read, so its call is not metered", error)
        return None


def _planned(client: Any, said: Instrumentation, options: Any, kwargs: Mapping[str, Any]) -> _Planned | None:
    path = urlsplit(str(getattr(options, "url", ""))).path
    if str(getattr(options, "method", "")).lower() != "post":
        return None
    if not path.endswith(ENDPOINTS):
        if not path.endswith(FREE_ENDPOINTS):
            note("endpoint_not_metered", "an instrumented client called an endpoint that is not metered")
        return None
    asking = AsItIsNow(body_of(options))
    asked, provider = asking(), said.provider_at(client, options)
    call = said.policy.call(
        Labels(),
        model=_text(asked.get("model")),
        provider=provider,
        started_ms=time.time_ns() // 1_000_000,
    )
    if call is None:
        return None
    hides: Literal["nothing", "usage"] = "nothing"
    if kwargs.get("stream") and hides_usage(said.stream_usage, provider, path, options, asked):
        options, hides = with_usage(options, asked), "usage"
    operation, attempts = _operation(path), [0]
    ongoing = OngoingCall(said.meter, call, asking)
    ongoing.operation = operation
    ongoing.retries = lambda: max(0, attempts[0] - 1)
    return _Planned(ongoing, options, attempts, hides)


def _operation(path: str) -> str:
    """As OpenTelemetry's conventions name it."""
    if path.endswith("/embeddings"):
        return "embeddings"
    is_text = path.endswith(("/completions", "/complete")) and not path.endswith("/chat/completions")
    return "text_completion" if is_text else "chat"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _taken(planned: _Planned, answer: Any) -> Any:
    """The answer, watched if it is still to come."""
    call = planned.call
    try:
        if is_raw(answer):
            watch_raw(answer, call)
            return answer
        if answered_later(answer):
            call.forget()
            created(answer, call.call)
            note("answered_later", "a background response is metered when it is fetched, by the same client")
            return answer
    except Exception as error:  # noqa: BLE001  # a caller must not notice
        note("response_unread", "an answer could not be watched", error)
        call.stopped()
        return answer
    return taken(call, answer, is_usage_chunk if planned.hides == "usage" else nothing_hidden)
