"""What functions and blocks that are metered by hand answer, and what is counted of it."""

from __future__ import annotations

from tests.metering.collecting import CollectingMeter

ANSWER = {
    "id": "chatcmpl-0000000000000009",
    "object": "chat.completion",
    "model": "gpt-4o",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "some words"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}


def failing() -> None:
    raise AssertionError


class Refused(Exception):
    status_code = 429


def counted(meter: CollectingMeter) -> tuple[str, int, int]:
    event = meter.event()
    return event.idempotency_key, event.input_tokens, event.output_tokens
