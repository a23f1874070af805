"""Spans of a real OpenTelemetry SDK become usage events, each call once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import Tracer

from metering import otel_bridge
from metering.call import Call, Ending
from metering.event import UsageEvent, parse_line
from metering.otel import EVENT_NAME, annotate
from metering.otel_bridge import SpanBridge, SpanLabels
from metering.otel_names import MARK
from metering.usage import Usage
from tests.metering.test_otel_names import CHAT

LONG = "t" * 129
LONG_NAMED = "sha256-" + hashlib.sha256(LONG.encode()).hexdigest()
ANONYMOUS = SpanLabels(missing_tenant="anonymous")
WITHOUT_ID = {name: value for name, value in CHAT.items() if name != "gen_ai.response.id"}


class Collecting:
    """A meter that keeps what it is given."""

    def __init__(self) -> None:
        self.fields: list[Any] = []
        self.flushed_seconds: float | None = None

    def record(self, event: Any) -> None:
        self.fields.append(event)

    def flush(self, timeout_seconds: float) -> bool:
        self.flushed_seconds = timeout_seconds
        return True

    def events(self) -> list[UsageEvent]:
        return [parse_line(json.dumps(fields).encode())[0] for fields in self.fields]


def by(scope: str, tracer_of: SpanBridge) -> Tracer:
    """A tracer of another instrumentation, whose spans the same bridge looks at."""
    provider = TracerProvider(sampler=ALWAYS_ON)
    tracer_of.attach(provider)
    return provider.get_tracer(scope)


def traced(labels: SpanLabels = ANONYMOUS) -> tuple[Tracer, Collecting, SpanBridge]:
    provider, meter = TracerProvider(sampler=ALWAYS_ON), Collecting()
    bridge = SpanBridge(meter, labels)
    bridge.attach(provider)
    return provider.get_tracer("tests"), meter, bridge


@contextmanager
def baggage_of(**items: str) -> Iterator[None]:
    held = context.get_current()
    for name, value in items.items():
        held = baggage.set_baggage(name, value, held)
    token = context.attach(held)
    yield
    context.detach(token)


def test_a_call_of_a_model_is_an_event() -> None:
    tracer, meter, bridge = traced()
    with tracer.start_as_current_span("GET /answer"), tracer.start_as_current_span("chat gpt-4o") as span:
        span.set_attributes({**CHAT, "meterline.tenant_id": "acme", "meterline.feature_id": "search"})
    [event] = meter.events()
    assert (event.tenant_id, event.feature_id, event.idempotency_key) == (
        "acme",
        "search",
        "chatcmpl-0000000000000001-1",
    )
    assert (event.provider, event.model, event.service_tier) == ("openai", "gpt-4o-2024-08-06", "flex")
    assert (event.input_tokens, event.output_tokens, event.cache_read_tokens) == (100, 20, 60)
    assert event.usage_source == "provider"
    assert isinstance(span, ReadableSpan)
    assert span.start_time is not None
    assert event.timestamp_ms == span.start_time // 1_000_000
    assert event.attributes == {
        "first_token_latency_ms": "125",
        "otel_scope": "tests",
        "unit.input_audio_tokens": "5",
    }
    assert bridge.counts == {"recorded": 1, "not_a_call": 1}


@pytest.mark.parametrize("told", [WITHOUT_ID, {**CHAT, "gen_ai.response.id": "chatcmpl-7"}])
def test_without_a_unique_response_id_the_key_is_of_trace_and_span(told: dict[str, Any]) -> None:
    tracer, meter, bridge = traced()
    with tracer.start_as_current_span("chat") as span:
        span.set_attributes(told)
    assert isinstance(span, ReadableSpan)
    bridge.ended(span)  # processed again
    where = span.get_span_context()
    assert {event.idempotency_key for event in meter.events()} == {
        f"{trace.format_trace_id(where.trace_id)}-{trace.format_span_id(where.span_id)}"
    }
    assert len(meter.fields) == 2


@pytest.mark.parametrize(
    ("outer", "inner", "ids", "count"),
    [
        # An agent, a tool, a fetch of an old response: what they say of usage was used within, or before.
        (("invoke_agent", ""), [("chat", "a"), ("chat", "b")], ["a", "b"], "not_a_call"),
        (("execute_tool", ""), [("chat", "a")], ["a"], "not_a_call"),
        (("fetch_response", "a"), [], [], "not_a_call"),
        ((None, "a"), [], [], "not_a_call"),
        # A framework's span around the client's.
        (("chat", "a"), [("chat", "a")], ["a"], "repeats_one_inside"),
        (("chat", ""), [("chat", "a")], ["a"], "repeats_one_inside"),
        (("chat", "a"), [("invoke_agent", "")], ["a"], "not_a_call"),
        # Two calls, one in the course of the other.
        (("chat", "a"), [("chat", "b")], ["b", "a"], "recorded"),
        (("chat", "a"), [("embeddings", "b"), ("chat", "a")], ["b", "a"], "repeats_one_inside"),
    ],
)
def test_spans_that_repeat_others_are_passed_over(
    outer: tuple[str | None, str], inner: list[tuple[str, str]], ids: list[str], count: str
) -> None:
    tracer, meter, bridge = traced()

    def told(operation: str | None, response_id: str) -> dict[str, Any]:
        said = {**CHAT, "gen_ai.operation.name": operation, "gen_ai.response.id": response_id * 16}
        return {name: value for name, value in said.items() if value}

    with tracer.start_as_current_span("outer", attributes=told(*outer)):
        for one in inner:
            with tracer.start_as_current_span("between"), tracer.start_as_current_span("inner") as span:
                span.set_attributes(told(*one))
    assert [event.idempotency_key for event in meter.events()] == [f"{one * 16}-1" for one in ids]
    assert bridge.counts[count] >= 1


@pytest.mark.parametrize(("response_id", "count"), [("b" * 16, 1), ("b", 0), ("", 0)])
def test_a_call_that_we_recorded_inside_repeats_one_that_may_be_it(response_id: str, count: int) -> None:
    # With a unique id it cannot be billed twice: if it is the same call, it has the same key.
    tracer, meter, _ = traced()
    said = {name: value for name, value in {**CHAT, "gen_ai.response.id": response_id}.items() if value}
    with (
        tracer.start_as_current_span("outer", attributes=said),
        tracer.start_as_current_span("agent", attributes={MARK: True}),
    ):
        pass
    assert len(meter.fields) == count


def test_a_call_without_id_inside_is_repeated_by_the_one_around_it() -> None:
    tracer, meter, bridge = traced()
    with (
        tracer.start_as_current_span("outer", attributes=CHAT),
        tracer.start_as_current_span("inner", attributes=WITHOUT_ID),
    ):
        pass
    assert len(meter.fields) == 1
    assert bridge.counts == {"recorded": 1, "repeats_one_inside": 1}


EMBEDDING = {**WITHOUT_ID, "gen_ai.operation.name": "embeddings"}
OF_ANOTHER = {**WITHOUT_ID, "gen_ai.provider.name": "anthropic"}


@pytest.mark.parametrize(
    ("spans", "scopes", "recorded"),
    [
        # Side by side, one of them without ids: it may repeat the other.
        ([("sdk", CHAT), ("other", WITHOUT_ID)], None, ["sdk"]),
        ([("sdk", CHAT), ("sdk", WITHOUT_ID)], None, ["sdk", "sdk"]),
        ([("other", WITHOUT_ID), ("other", WITHOUT_ID)], None, ["other", "other"]),
        ([("sdk", CHAT), ("other", EMBEDDING)], None, ["sdk", "other"]),
        ([("sdk", CHAT), ("other", OF_ANOTHER)], None, ["sdk", "other"]),
        # With ids their keys tell them apart, or not.
        ([("sdk", CHAT), ("other", CHAT)], None, ["sdk", "other"]),
        # Who is heard has been said.
        ([("sdk", CHAT), ("other", WITHOUT_ID)], {"other"}, ["other"]),
        ([("sdk", CHAT), ("other", WITHOUT_ID)], {"sdk", "other"}, ["sdk", "other"]),
        ([("sdk", CHAT), ("other", WITHOUT_ID)], set(), []),
    ],
)
def test_two_instrumentations_side_by_side(
    spans: list[tuple[str, dict[str, Any]]],
    scopes: set[str] | None,
    recorded: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    meter = Collecting()
    bridge = SpanBridge(meter, ANONYMOUS, scopes=None if scopes is None else frozenset(scopes))
    for scope, attributes in spans * 2:
        with by(scope, bridge).start_as_current_span("span", attributes=attributes):
            pass
    assert [event.attributes["otel_scope"] for event in meter.events()] == recorded * 2
    assert sum(bridge.counts.values()) == len(spans) * 2
    told = (
        "Calls of openai are told by sdk and, without their ids, by other: the latter are passed over, "
        "unless SpanBridge is told by `scopes` whom to hear."
    )
    expected = [told] if bridge.counts.get("may_repeat_another") else []
    assert [record.getMessage() for record in caplog.records] == expected
    assert {record.name for record in caplog.records} <= {"meterline"}


@pytest.mark.parametrize(
    ("attributes", "carried", "labels", "expected"),
    [
        ({"tenant.id": "acme"}, {}, ANONYMOUS, ("acme", "unknown")),
        ({"tenant.id": 42}, {}, ANONYMOUS, ("42", "unknown")),
        ({}, {"tenant_id": "acme", "feature_id": "chat"}, ANONYMOUS, ("acme", "chat")),
        ({"tenant.id": "span"}, {"tenant_id": "baggage"}, ANONYMOUS, ("span", "unknown")),
        ({"org": "acme"}, {}, SpanLabels("anonymous", tenant_attributes=["org"]), ("acme", "unknown")),
        ({}, {"org": "acme"}, SpanLabels("anonymous", tenant_baggage=["org"]), ("acme", "unknown")),
        ({}, {}, ANONYMOUS, ("anonymous", "unknown")),
        ({"tenant.id": LONG}, {"feature_id": LONG}, ANONYMOUS, (LONG_NAMED, LONG_NAMED)),
        ({}, {}, SpanLabels(missing_tenant=None), None),
    ],
)
def test_who_is_billed(
    attributes: dict[str, Any], carried: dict[str, str], labels: SpanLabels, expected: tuple[str, str] | None
) -> None:
    tracer, meter, bridge = traced(labels)
    with baggage_of(**carried), tracer.start_as_current_span("chat", attributes={**CHAT, **attributes}):
        pass
    found = [(event.tenant_id, event.feature_id) for event in meter.events()]
    assert found == ([expected] if expected else [])
    assert bridge.counts == {"recorded" if expected else "missing_tenant": 1}


def test_a_meter_that_raises_is_not_noticed(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Collecting):
        def record(self, event: Any) -> None:
            raise RuntimeError(str(event))

    provider = TracerProvider(sampler=ALWAYS_ON)
    bridge = SpanBridge(Broken(), ANONYMOUS)
    bridge.attach(provider)
    for _ in range(3):
        with provider.get_tracer("tests").start_as_current_span("chat", attributes=CHAT):
            pass
    assert bridge.counts == {"unreadable": 3}
    assert [record.getMessage() for record in caplog.records] == [
        "A span could not be metered (RuntimeError)."
    ]


def test_spans_that_never_end_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel_bridge, "OPEN_SPANS_MAX", 3)
    tracer, meter, _ = traced()
    with baggage_of(tenant_id="acme"):
        spans = [tracer.start_span("chat", attributes=CHAT) for _ in range(5)]
    for span in spans:
        span.end()
    assert [event.tenant_id for event in meter.events()] == ["anonymous"] * 2 + ["acme"] * 3


def test_flushing_the_spans_flushes_the_meter() -> None:
    provider, meter = TracerProvider(sampler=ALWAYS_ON), Collecting()
    SpanBridge(meter, ANONYMOUS).attach(provider)
    assert provider.force_flush(2_500)
    assert meter.flushed_seconds == pytest.approx(2.5, abs=0.5)


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        (TracerProvider(sampler=ALWAYS_ON), []),
        (
            TracerProvider(sampler=ALWAYS_OFF),
            ["Calls whose spans are not sampled are not metered; the sampler is AlwaysOffSampler."],
        ),
    ],
)
def test_a_sampler_that_keeps_calls_away_is_told(
    provider: TracerProvider, expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    SpanBridge(Collecting(), ANONYMOUS).attach(provider)
    assert [record.getMessage() for record in caplog.records] == expected


# What we tell OpenTelemetry ourselves

CALL = Call(tenant_id="acme", model="gpt-4o", started_ms=1, provider="openai")
USAGE = Usage(model="gpt-4o-2024-08-06", response_id="r1", input_tokens=9, output_tokens=4)
ENDING = Ending(latency_ms=5)


@pytest.fixture
def exported() -> tuple[Tracer, InMemorySpanExporter, SpanBridge]:
    """A tracer, what it exports, and a bridge that looks at the same spans."""
    provider, exporter = TracerProvider(sampler=ALWAYS_ON), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    bridge = SpanBridge(Collecting(), ANONYMOUS)
    bridge.attach(provider)
    return provider.get_tracer("tests"), exporter, bridge


Exported = tuple[Tracer, InMemorySpanExporter, SpanBridge]


def test_the_current_span_is_told_and_not_metered_again(exported: Exported) -> None:
    tracer, exporter, bridge = exported
    with tracer.start_as_current_span("GET /answer"):
        annotate(CALL, [USAGE], ENDING)
    [span] = exporter.get_finished_spans()
    assert dict(span.attributes or {}) == {
        MARK: True,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.response.id": "r1",
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 4,
    }
    assert bridge.counts == {"recorded_elsewhere": 1}


def test_a_second_call_and_a_further_leg_are_events_of_the_span(exported: Exported) -> None:
    tracer, exporter, _ = exported
    second = Usage(response_id="r2", input_tokens=1, output_tokens=2)
    leg = Usage(response_id="r2", leg=1, model="gpt-4o-mini", input_tokens=3, output_tokens=4)
    with tracer.start_as_current_span("GET /answer"):
        annotate(CALL, [USAGE], ENDING)
        annotate(CALL, [second, leg], ENDING)
    [span] = exporter.get_finished_spans()
    assert (span.attributes or {})["gen_ai.usage.input_tokens"] == 9
    told = [(event.name, (event.attributes or {})["gen_ai.usage.input_tokens"]) for event in span.events]
    assert told == [(EVENT_NAME, 1), (EVENT_NAME, 3)]


def test_two_calls_alike_are_two(exported: Exported) -> None:
    tracer, exporter, _ = exported
    unnamed = Usage(input_tokens=1, output_tokens=2)
    with tracer.start_as_current_span("GET /answer"):
        annotate(CALL, [unnamed], ENDING)
        annotate(CALL, [unnamed], ENDING)
    [span] = exporter.get_finished_spans()
    assert len(span.events) == 1


def test_what_a_span_says_already_is_not_overwritten(exported: Exported) -> None:
    tracer, exporter, bridge = exported
    with tracer.start_as_current_span("agent", attributes={"gen_ai.operation.name": "invoke_agent"}):
        annotate(CALL, [USAGE], ENDING)
    [span] = exporter.get_finished_spans()
    assert (span.attributes or {})["gen_ai.operation.name"] == "invoke_agent"
    assert len(span.events) == 1
    assert bridge.counts == {"recorded_elsewhere": 1}


def test_the_span_of_the_call_itself_can_be_named(exported: Exported) -> None:
    tracer, exporter, _ = exported
    span = tracer.start_span("chat")
    annotate(CALL, [USAGE], ENDING, span=span)
    span.end()
    [finished] = exporter.get_finished_spans()
    assert (finished.attributes or {})["gen_ai.usage.output_tokens"] == 4


def test_without_a_span_that_records_nothing_happens(
    exported: Exported, caplog: pytest.LogCaptureFixture
) -> None:
    tracer, exporter, _ = exported
    annotate(CALL, [USAGE], ENDING)
    span = tracer.start_span("over")
    span.end()
    annotate(CALL, [USAGE], ENDING, span=span)
    [finished] = exporter.get_finished_spans()
    assert dict(finished.attributes or {}) == {}
    assert caplog.records == []
