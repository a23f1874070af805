"""Every span that ends is counted: recorded, or why not."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace

from metering.otel_names import MARK
from tests.metering.test_otel_bridge import traced
from tests.metering.test_otel_names import CHAT

ASKED = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}


@pytest.mark.parametrize(
    ("attributes", "count"),
    [
        (ASKED, "recorded"),  # quarantine will show it
        ({"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 1}, "missing_model"),
        ({**ASKED, "error.type": "429"}, "failed_without_usage"),
        ({**ASKED, "gen_ai.operation.name": "embeddings", "error.type": "429"}, "failed_without_usage"),
        ({**ASKED, "error.type": "httpx.ConnectError"}, "failed_without_usage"),
        ({**ASKED, "error.type": "httpx.ReadTimeout"}, "recorded"),  # the model may have gone on
        ({**ASKED, "error.type": "504"}, "recorded"),
        ({**ASKED, "error.type": "400"}, "failed_without_usage"),
        ({**ASKED, "error.type": "400", "gen_ai.provider.name": "azure.ai.openai"}, "recorded"),
        ({**CHAT, "error.type": "500"}, "recorded"),
        ({**CHAT, MARK: True}, "recorded_elsewhere"),
        ({}, "not_a_call"),
    ],
)
def test_every_span_that_ends_is_counted(attributes: dict[str, Any], count: str) -> None:
    tracer, meter, bridge = traced()
    with tracer.start_as_current_span("span", attributes=attributes):
        pass
    assert bridge.counts == {count: 1}
    assert len(meter.fields) == (count == "recorded")


class RateLimitError(Exception): ...


@pytest.mark.parametrize(
    ("error", "count"),
    [(RateLimitError(), "failed_without_usage"), (TimeoutError(), "recorded"), (GeneratorExit(), "recorded")],
)
def test_an_exception_that_a_span_holds_says_what_went_wrong(error: BaseException, count: str) -> None:
    tracer, meter, bridge = traced()
    span = tracer.start_span("span", attributes=ASKED)
    span.record_exception(error)
    span.set_status(trace.StatusCode.ERROR)
    span.end()
    assert bridge.counts == {count: 1}
    assert [fields["status"] for fields in meter.fields] == [
        "success" if isinstance(error, GeneratorExit) else "error" for _ in meter.fields
    ]
