"""Usage events from the spans of whatever instruments an application already.

A `SpanBridge` looks at every span that ends. One that is a call of a model becomes one event, through the
meter, at the end of the span and in its thread: a look into its attributes, no IO.

**What is metered once.** The idempotency key is made of the response's id, as our own instrumentation makes
it for a first try, so a call that both see is priced once; without an id that is unique (`keys.py`), of the
trace and span id, which are the same however often a span is processed. A span around another one that
repeats it (a framework's `chat` around the client's) is passed over: it has the same response id, or one of
them has none. So are spans that our own instrumentation has marked.

Two instrumentations of one client may stand side by side: Anthropic's SDK makes spans by itself (anthropic
2.14.0, scope `com.anthropic.sdk.python`), beside those of OpenLLMetry or OpenInference. Where both know the
response's id, and it is unique, the key is the same. One without ids, such as OpenInference's, is passed over
once another one is known to tell of the same provider's calls with theirs: that is counted, and said once.
Better: name the one to hear in `scopes`.

All the same, let either the bridge or our own instrumentation meter a client: a retried call has two keys,
and what a span does not tell (how long a cache is written for) makes the second of two copies an
`idempotency_conflict`.

**What is not seen.** A span that is not sampled never ends here, and its call is not metered: use a sampler
that records all. A framework's span that ends before the client's (a stream that is read later) is not known
to repeat it.

**Bounds.** Of spans that are open at most `OPEN_SPANS_MAX` are remembered, the newest; of one that was
forgotten the baggage, and what it surrounds, is lost. No lock is held, so none can be left locked by a fork.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from metering.call import Call, events_of
from metering.contexts import label
from metering.failures import is_told_to_have_used_nothing
from metering.keys import is_unique
from metering.otel_names import (
    MARK,
    NET_INPUT_SCOPES,
    OPERATIONS,
    SpanFacts,
    SpanUsage,
    operation_of,
    response_id_of,
    usage_of,
)
from metering.recorder import Recorder

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

logger = logging.getLogger("meterline")

OPEN_SPANS_MAX = 10_000
"""More than a process has open; some 3 MB."""

PROVIDERS_MAX = 100
"""Of so many providers it is remembered who tells of their calls: more are no providers but noise."""

NESTING_MAX = 64
"""So many spans around one are told of it."""


_UNTOLD_ID = "?"
"""Stands for the id of a call that was recorded by other means, under a span that does not tell it."""


class FlushedRecorder(Recorder, Protocol):
    """A recorder that can be waited for, as OpenTelemetry does: `metering.meter.Meter`."""

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until what was recorded is safe."""


@dataclass(frozen=True, slots=True)
class SpanLabels:
    """Where a span's tenant and feature are found: attributes in their order, then baggage.

    `missing_tenant` is who is billed where there is none; None leaves the call out, and counts it.
    """

    missing_tenant: str | None
    tenant_attributes: Sequence[str] = ("meterline.tenant_id", "tenant.id", "tenant_id")
    tenant_baggage: Sequence[str] = ("tenant_id",)
    feature_attributes: Sequence[str] = ("meterline.feature_id", "feature.id", "feature_id")
    feature_baggage: Sequence[str] = ("feature_id",)


@dataclass(slots=True)
class _Open:
    """A span that has not ended.

    `inside` are the response ids of calls recorded within it, "" for one without.
    """

    parent: int | None
    tenant_id: str
    feature_id: str
    inside: set[str] = field(default_factory=set)


class SpanBridge:
    """Turns finished spans into usage events.

    Args:
        meter: Where they go.
        labels: Who is billed, and for what; how a missing tenant is dealt with has to be said.
        operations: What is metered, see `otel_names.OPERATIONS`.
        scopes: The instrumentations whose spans are metered, by the name of their tracer; None for all of
            them.
        net_input_scopes: Instrumentations whose input tokens leave out cached ones.
    """

    def __init__(
        self,
        meter: FlushedRecorder,
        labels: SpanLabels,
        operations: frozenset[str] = OPERATIONS,
        scopes: frozenset[str] | None = None,
        net_input_scopes: frozenset[str] = NET_INPUT_SCOPES,
    ) -> None:
        self._meter = meter
        self._labels = labels
        self._operations = operations
        self._scopes = scopes
        self._net_input_scopes = net_input_scopes
        self._open: dict[int, _Open] = {}
        self._scopes_with_ids: dict[tuple[str, bool], set[str]] = {}
        self._counts: dict[str, int] = {}

    @property
    def counts(self) -> Mapping[str, int]:
        """What became of the spans that ended.

        `recorded`, or why not: `not_a_call`, `other_scope`, `recorded_elsewhere`, `repeats_one_inside`,
        `may_repeat_another`, `missing_tenant`, `missing_model`, `failed_without_usage` (the provider refused
        it, see `failures.py`, or it never left), `unreadable`. A call without a token count is `recorded` all
        the same, one that timed out too: the job keeps its event in quarantine.
        """
        return dict(self._counts)

    def attach(self, provider: TracerProvider) -> None:
        """Look at every span of a provider, and say so if its sampler may keep some away."""
        provider.add_span_processor(self.processor())
        sampler = provider.sampler.get_description()
        if sampler != "AlwaysOnSampler":
            logger.warning("Calls whose spans are not sampled are not metered; the sampler is %s.", sampler)

    def processor(self) -> SpanProcessor:
        """A span processor for `TracerProvider.add_span_processor`."""
        from opentelemetry.sdk.trace import SpanProcessor  # noqa: PLC0415  # optional: the extra `otel`

        bridge = self

        class Processor(SpanProcessor):
            def on_start(self, span: Any, parent_context: Any = None) -> None:
                bridge.started(span, parent_context)

            def on_end(self, span: ReadableSpan) -> None:
                bridge.ended(span)

            def force_flush(self, timeout_millis: int = 30_000) -> bool:
                return bridge._meter.flush(timeout_millis / 1_000)

        return Processor()

    def started(self, span: ReadableSpan, parent_context: Any = None) -> None:
        """Remember a span until it ends."""
        try:
            from opentelemetry import baggage  # noqa: PLC0415  # loaded, or there would be no span

            context = span.get_span_context()
            if context is None:
                return
            found = baggage.get_all(parent_context)
            opened = _Open(
                parent=span.parent.span_id if span.parent is not None else None,
                tenant_id=_first(found, self._labels.tenant_baggage),
                feature_id=_first(found, self._labels.feature_baggage),
            )
            while len(self._open) >= OPEN_SPANS_MAX:
                self._open.pop(next(iter(self._open)), None)
            self._open[context.span_id] = opened
        except Exception as exc:  # noqa: BLE001  # nothing of ours reaches the application
            self._count("unreadable", exc)

    def ended(self, span: ReadableSpan) -> None:
        """Record the call that a finished span tells of, if it does."""
        try:
            self._count(self._recorded(span))
        except Exception as exc:  # noqa: BLE001  # as above
            self._count("unreadable", exc)

    def _recorded(self, span: ReadableSpan) -> str:
        context = span.get_span_context()
        assert context is not None
        opened = self._open.pop(context.span_id, None) or _Open(None, "", "")
        said = span.attributes or {}
        response_id = response_id_of(said)
        if said.get(MARK):
            self._tell_parents(opened, response_id or _UNTOLD_ID)
            return "recorded_elsewhere"
        if operation_of(said) not in self._operations:
            return "not_a_call"
        if _is_repeat(response_id, opened.inside):
            return "repeats_one_inside"
        facts = _facts(span)
        if self._scopes is not None and facts.scope not in self._scopes:
            return "other_scope"
        found = usage_of(facts, self._net_input_scopes)
        if self._may_repeat(found, facts):
            return "may_repeat_another"
        told = (found.usage.input_tokens, found.usage.output_tokens)
        is_refused = is_told_to_have_used_nothing(found.error, found.usage.provider)
        if is_refused and told in ((None, None), (None, 0)):
            return "failed_without_usage"
        if not found.model:
            return "missing_model"
        tenant_id = _first(said, self._labels.tenant_attributes) or opened.tenant_id
        tenant_id = tenant_id or self._labels.missing_tenant or ""
        if not tenant_id:
            return "missing_tenant"
        feature_id = _first(said, self._labels.feature_attributes) or opened.feature_id
        call = Call(
            tenant_id=label(tenant_id, "tenant_id") or "",
            model=found.model,
            started_ms=facts.started_ns // 1_000_000,
            feature_id=label(feature_id, "feature_id") or "unknown",
        )
        self._record(call, found, f"{context.trace_id:032x}-{context.span_id:016x}")
        self._tell_parents(opened, response_id)
        return "recorded"

    def _may_repeat(self, found: SpanUsage, facts: SpanFacts) -> bool:
        """Whether other spans tell of the same provider's calls by their ids, and this one cannot."""
        if self._scopes is not None or len(self._scopes_with_ids) > PROVIDERS_MAX:
            return False
        is_embedding = operation_of(facts.attributes).startswith("embedding")
        known = self._scopes_with_ids.setdefault((found.usage.provider, is_embedding), set())
        if found.usage.response_id:
            known.add(facts.scope)
            return False
        others = sorted(known - {facts.scope})
        if others and not self._counts.get("may_repeat_another"):
            logger.warning(
                "Calls of %s are told by %s and, without their ids, by %s: the latter are passed over, "
                "unless SpanBridge is told by `scopes` whom to hear.",
                found.usage.provider or "an unnamed provider",
                " and ".join(others),
                facts.scope or "an unnamed instrumentation",
            )
        return bool(others)

    def _record(self, call: Call, found: SpanUsage, key: str) -> None:
        [event] = events_of(call, [found.usage], found.ending, lambda: key)
        self._meter.record(event)

    def _tell_parents(self, opened: _Open, response_id: str) -> None:
        parent = opened.parent
        for _ in range(NESTING_MAX):
            around = self._open.get(parent) if parent is not None else None
            if around is None:
                return
            around.inside.add(response_id)
            parent = around.parent

    def _count(self, what: str, exc: Exception | None = None) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1
        if exc is not None and self._counts[what] == 1:
            logger.warning("A span could not be metered (%s).", type(exc).__name__)


def _is_repeat(response_id: str, inside: set[str]) -> bool:
    """Whether a call was recorded within its span, or, where no key would tell, may have been."""
    if not response_id:
        return bool(inside)
    if not is_unique(response_id) and _UNTOLD_ID in inside:
        return True
    return not inside.isdisjoint(("", response_id))


def _facts(span: ReadableSpan) -> SpanFacts:
    scope = span.instrumentation_scope
    said = span.attributes or {}
    if not span.status.is_ok and not said.get("error.type"):
        thrown = [event.attributes or {} for event in span.events if event.name == "exception"]
        said = {**said, "error.type": _first(thrown[-1], ["exception.type"])} if thrown else said
    return SpanFacts(
        attributes=said,
        scope=scope.name if scope is not None else "",
        started_ns=span.start_time or 0,
        ended_ns=span.end_time or 0,
        is_error=not span.status.is_ok,
    )


def _first(values: Mapping[str, object], names: Sequence[str]) -> str:
    for name in names:
        value = values.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return ""
