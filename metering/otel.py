"""Tells OpenTelemetry what a call used, where the application traces itself."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from typing import Any

from metering.call import Call, Ending
from metering.otel_names import MARK, span_attributes
from metering.usage import Usage

EVENT_NAME = "gen_ai.client.inference.operation.details"
"""The conventions' event for the details of a call of a model."""


_told: weakref.WeakSet[Any] = weakref.WeakSet()
"""Spans that tell of a call."""


def marked(span: Any) -> Any:
    """The span, with the mark that its call is recorded: when the call begins, for who knows how it ends."""
    if span is not None and span.is_recording():
        span.set_attribute(MARK, True)  # noqa: FBT003  # OpenTelemetry's own interface
    return span


def annotate(
    call: Call, usages: Sequence[Usage], ending: Ending, operation: str = "chat", span: Any = None
) -> None:
    """Put the facts of a call on a span that records, as `gen_ai.*` attributes.

    A span tells of one call. What does not fit there beside what the span says already (a second call within
    it, a further leg, the span of an agent) becomes an event of the span instead; nothing is overwritten.
    Only what the provider said is told, and is known when the call ends: not tokens that are to be counted,
    nor what a body says that is read later (a gateway's, one taken as HTTP). Of these the span bears the mark
    alone, by which `otel_bridge.SpanBridge` passes it over.

    Args:
        operation: As the conventions name it: `chat`, `embeddings`, `text_completion`, `generate_content`.
        span: The call's own, where it has one; else the current one. Without a span, or without OpenTelemetry
            in the process, nothing happens.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:  # nobody has imported it, so no span can be recording
        return
    target = trace.get_current_span() if span is None else span
    if not target.is_recording():
        return
    for usage in usages:
        told = span_attributes(call, usage, ending, operation)
        held = getattr(target, "attributes", None) or {}
        if target in _told or any(held.get(name, value) != value for name, value in told.items()):
            target.add_event(EVENT_NAME, {name: value for name, value in told.items() if name != MARK})
        else:
            target.set_attributes(told)
        _told.add(target)
    marked(target)
