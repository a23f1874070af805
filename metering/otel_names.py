"""OpenTelemetry's words for a call to a model, and ours: what a span says read as usage, and written. Pure.

Names are those of the GenAI conventions (`open-telemetry/semantic-conventions-genai`,
docs/gen-ai/gen-ai-spans.md; all of them still in development), after them what came before and what
instrumentations say instead: the older conventions and OpenLLMetry (`gen_ai.system`, `…prompt_tokens`,
`llm.usage.*`, `llm.request.type`), and OpenInference (`llm.token_count.*`, `openinference.span.kind`). The
first name that holds a value of the right type counts.

By the conventions `gen_ai.usage.input_tokens` includes cached tokens. Not all heed that. It is taken not to
where that is certain: more is cached than there is input, `total_tokens` says so, or the scope is one that is
known for it. Then the cached tokens are added, and the event says so (`input_tokens_said: net`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metering.call import Call, Ending
from metering.usage import Status, Usage

Attributes = Mapping[str, object]

MARK = "meterline.recorded"
"""Set on spans of calls that are recorded by other means: the bridge passes them over."""

OPERATIONS = frozenset(
    {"chat", "completion", "embedding", "embeddings", "generate_content", "llm", "text_completion"}
)
"""Operations that are one call of a model. Others (`invoke_agent`, `execute_tool`, `fetch_response`, a chain)
repeat what the calls within them used, or what was used before."""

NET_INPUT_SCOPES = frozenset({"opentelemetry.instrumentation.bedrock"})
"""Instrumentations whose input tokens leave out cached ones: traceloop/openllmetry, issue 4449 (open,
September 2026).
"""

_OPERATION = ("gen_ai.operation.name", "llm.request.type", "openinference.span.kind")
_PROVIDER = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system")
_REQUEST_MODEL = (
    *("gen_ai.request.model", "llm.request.model_name", "llm.model_name"),
    "embedding.model_name",  # OpenInference
)
_RESPONSE_MODEL = ("gen_ai.response.model", "llm.response.model_name")
_RESPONSE_ID = ("gen_ai.response.id",)
_TIER = ("openai.response.service_tier", "gen_ai.openai.response.service_tier")
_INPUT = (
    *("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
    *("llm.usage.prompt_tokens", "llm.token_count.prompt"),
)
_OUTPUT = (
    *("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
    *("llm.usage.completion_tokens", "llm.token_count.completion"),
)
_CACHE_READ = (
    *("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens"),
    "llm.token_count.prompt_details.cache_read",
)
_CACHE_WRITE = (
    *("gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_creation_input_tokens"),
    "gen_ai.usage.cache_write.input_tokens",  # the spans of Anthropic's own SDK (anthropic 2.14.0)
    "llm.token_count.prompt_details.cache_write",
)
_REASONING = (
    *("gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.reasoning_tokens"),
    "llm.token_count.completion_details.reasoning",
)
_TOTAL = ("gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total")
_MODALITIES = {
    f"{way}_{modality}_tokens": f"gen_ai.usage.{modality}.{way}_tokens"
    for modality in ("audio", "image", "video")
    for way in ("input", "output")
}
_FIRST_CHUNK_SECONDS = "gen_ai.response.time_to_first_chunk"

# Providers as the conventions name them, older names first, and as rate cards do; the last of ours is what is
# written.
_PROVIDERS = {
    "aws_bedrock": "aws",
    "bedrock": "aws",
    "aws.bedrock": "aws",
    "az.ai.inference": "azure",
    "az.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "gcp.gen_ai": "google",
    "gemini": "google",
    "vertex_ai": "google",
    "vertexai": "google",
    "gcp.vertex_ai": "google",
    "gcp.gemini": "google",
    "mistralai": "mistral",
    "mistral_ai": "mistral",
    "moonshot_ai": "moonshotai",
    "xai": "x-ai",
    "x_ai": "x-ai",
}
_TOLD_PROVIDERS = {ours: theirs for theirs, ours in _PROVIDERS.items()}
_GONE_AWAY = ("CancelledError", "GeneratorExit", "ClientDisconnect")
"""Ends of `error.type` that say that the caller went away: no error of the call, and the provider bills
it.
"""


@dataclass(frozen=True, slots=True)
class SpanFacts:
    """A finished span, as far as it matters here. Times are epoch nanoseconds."""

    attributes: Attributes
    scope: str
    started_ns: int
    ended_ns: int
    is_error: bool


@dataclass(frozen=True, slots=True)
class SpanUsage:
    """One call of a model, as its span tells it. `error` is its type or status, or ""."""

    model: str
    usage: Usage
    ending: Ending
    error: str = ""


def operation_of(attributes: Attributes) -> str:
    """What a span says it is, in small letters; "" where it says nothing that we know."""
    return _text(attributes, _OPERATION).lower()


def response_id_of(attributes: Attributes) -> str:
    """The provider's id of the response, or ""."""
    return _text(attributes, _RESPONSE_ID)


def usage_of(span: SpanFacts, net_input_scopes: frozenset[str] = NET_INPUT_SCOPES) -> SpanUsage:
    """What the call of a model used that a span tells of; counts that it does not tell are None."""
    said = span.attributes
    read, write = _count(said, _CACHE_READ) or 0, _count(said, _CACHE_WRITE) or 0
    input_tokens, output_tokens = _count(said, _INPUT), _count(said, _OUTPUT)
    if output_tokens is None and operation_of(said).startswith("embedding"):
        output_tokens = 0  # embeddings have none, which is known and need not be said
    attributes = {"otel_scope": span.scope[:128]} if span.scope else {}
    if input_tokens is not None and _is_net(
        input_tokens,
        output_tokens,
        read + write,
        _count(said, _TOTAL),
        is_known=span.scope in net_input_scopes,
    ):
        input_tokens += read + write
        attributes["input_tokens_said"] = "net"
    named = _text(said, _PROVIDER).lower()
    usage = Usage(
        provider=_PROVIDERS.get(named, named),
        model=_text(said, _RESPONSE_MODEL),
        service_tier=_text(said, _TIER),
        response_id=response_id_of(said),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=read,
        cache_write_tokens=write,
        reasoning_tokens=_count(said, _REASONING) or 0,
        units={unit: count for unit, name in _MODALITIES.items() if (count := _count(said, (name,)))},
        attributes=attributes,
    )
    return SpanUsage(_text(said, _REQUEST_MODEL) or usage.model, usage, _ending(span), _error(span))


def _is_net(
    input_tokens: int, output_tokens: int | None, cached: int, total: int | None, *, is_known: bool
) -> bool:
    if not cached:
        return False
    said_by_total = total is not None and total == input_tokens + cached + (output_tokens or 0)
    return is_known or cached > input_tokens or said_by_total


def _error(span: SpanFacts) -> str:
    return _text(span.attributes, ("error.type",))


def _ending(span: SpanFacts) -> Ending:
    error = _error(span)
    is_cut = error.endswith(_GONE_AWAY)
    status: Status = "error" if (span.is_error or error) and not is_cut else "success"
    seconds = span.attributes.get(_FIRST_CHUNK_SECONDS)
    first_ms = None
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 <= seconds < 1e6:
        first_ms = round(seconds * 1_000)
    latency_ms = max(span.ended_ns - span.started_ns, 0) // 1_000_000
    return Ending(latency_ms=latency_ms, status=status, first_token_latency_ms=first_ms, is_cut=is_cut)


def span_attributes(
    call: Call, usage: Usage, ending: Ending, operation: str
) -> dict[str, str | int | float | bool]:
    """One leg of a call in the conventions' words, with `MARK`. What is not known is left out."""
    provider = usage.provider or call.provider
    told: dict[str, str | int | float | None] = {
        _OPERATION[0]: operation,
        _PROVIDER[0]: _TOLD_PROVIDERS.get(provider, provider),
        _REQUEST_MODEL[0]: call.model,
        _RESPONSE_MODEL[0]: usage.model,
        _RESPONSE_ID[0]: usage.response_id,
        _INPUT[0]: usage.input_tokens,
        _OUTPUT[0]: usage.output_tokens,
        _CACHE_READ[0]: usage.cache_read_tokens or None,
        _CACHE_WRITE[0]: usage.cache_write_tokens or None,
        _REASONING[0]: usage.reasoning_tokens or None,
    }
    if provider in ("openai", "azure"):
        told[_TIER[0]] = usage.service_tier
    if ending.first_token_latency_ms is not None:
        told[_FIRST_CHUNK_SECONDS] = ending.first_token_latency_ms / 1_000
    told |= {name: usage.units.get(unit) for unit, name in _MODALITIES.items()}
    return {MARK: True} | {name: value for name, value in told.items() if value is not None and value != ""}


def _text(attributes: Attributes, names: tuple[str, ...]) -> str:
    for name in names:
        value = attributes.get(name)
        if isinstance(value, str) and value:
            return value
    return ""


def _count(attributes: Attributes, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = attributes.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
