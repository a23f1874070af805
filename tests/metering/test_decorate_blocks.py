"""Blocks that call a model by hand, and hits of a cache: each is one call with one answer."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from metering import mishaps, nesting
from metering.contexts import context
from metering.decorate import cache_hit, meter_call
from metering.usage import Usage
from tests.metering.collecting import CollectingMeter
from tests.metering.hand_calls import ANSWER, counted
from tests.metering.stream_sources import CHUNKS


def test_a_block_is_one_call(meter: CollectingMeter) -> None:
    with (
        context(tenant_id="around"),
        meter_call(meter, tenant_id="acme", model="llama", provider="aws", retry_count=2) as call,
    ):
        assert call.response(ANSWER) is ANSWER
    event = meter.event()
    assert (event.tenant_id, event.provider, event.retry_count) == ("acme", "aws", 2)
    assert event.idempotency_key == "chatcmpl-0000000000000009-3"


def test_a_block_tells_usage_by_hand_or_streams_or_ends_without_an_answer(meter: CollectingMeter) -> None:
    with meter_call(meter, tenant_id="acme", model="llama") as call:
        call.usage(Usage(input_tokens=3, output_tokens=4))
    with meter_call(meter, tenant_id="acme") as call:
        stream = call.response(iter(CHUNKS))
    assert list(stream) == CHUNKS
    with meter_call(meter, tenant_id="acme", model="llama"):
        pass
    with pytest.raises(KeyError), meter_call(meter, tenant_id="acme", model="llama"):
        raise KeyError
    told = [(fields["status"], fields["input_tokens"], fields["output_tokens"]) for fields in meter.fields()]
    assert told == [("success", 3, 4), ("success", 10, 5), ("success", None, None), ("error", None, None)]


SECOND = {**ANSWER, "id": "chatcmpl-0000000000000010"}


@pytest.mark.parametrize(
    ("tell", "recorded"),
    [
        (lambda call: (call.response(ANSWER), call.response(SECOND)), 10),
        (lambda call: (call.response(ANSWER), call.usage(Usage(input_tokens=3, output_tokens=4))), 10),
        (lambda call: (call.usage(Usage(input_tokens=3, output_tokens=4)), call.response(ANSWER)), 3),
        (lambda call: (list(call.response(iter(CHUNKS))), call.response(SECOND)), 10),
        (lambda call: (call.response(iter(CHUNKS)), call.response(SECOND)), None),
    ],
    ids=[
        "two answers",
        "an answer and usage",
        "usage and an answer",
        "a stream and an answer",
        "an open stream and an answer",
    ],
)
def test_a_second_answer_of_a_block_is_counted(
    meter: CollectingMeter, tell: Any, recorded: int | None
) -> None:
    before = mishaps.counts()["second_answer"]
    with meter_call(meter, tenant_id="acme", model="llama") as call:
        told = tell(call)
    assert told[1] in (SECOND, ANSWER, None)
    assert mishaps.counts()["second_answer"] == before + 1
    del told
    gc.collect()
    assert [fields["input_tokens"] for fields in meter.fields()] == [recorded]


def test_usage_of_a_stream_may_be_told_by_hand(meter: CollectingMeter) -> None:
    before = mishaps.counts()["second_answer"]
    with meter_call(meter, tenant_id="acme", model="llama") as call:
        stream = call.response(iter(CHUNKS))
        call.usage(Usage(input_tokens=3, output_tokens=4))
        list(stream)
    assert mishaps.counts()["second_answer"] == before
    assert [fields["input_tokens"] for fields in meter.fields()] == [3]


def test_what_runs_after_a_block_is_not_inside_of_it(meter: CollectingMeter) -> None:
    with meter_call(meter, tenant_id="acme") as call:
        assert nesting.current() is not None
        call.response(ANSWER)
    assert nesting.current() is None


def test_an_async_block_is_the_same(meter: CollectingMeter) -> None:
    async def run() -> None:
        async with meter_call(meter, tenant_id="acme") as call:
            call.response(ANSWER)

    asyncio.run(run())
    assert counted(meter) == ("chatcmpl-0000000000000009-1", 10, 5)


def test_a_hit_of_ones_own_cache_is_an_event_of_its_own(meter: CollectingMeter) -> None:
    for _ in range(2):
        cache_hit(meter, ANSWER, tenant_id="acme", feature_id="faq", provider="openai")
    first, second = meter.events()
    assert (first.cache_status, first.status, first.input_tokens, first.output_tokens) == (
        "hit",
        "success",
        10,
        5,
    )
    # The key of the answer itself would be a copy of the first event, which the job drops.
    assert len({first.idempotency_key, second.idempotency_key, "chatcmpl-0000000000000009-1"}) == 3
    assert (first.attributes or {})["cached_response_id"] == "chatcmpl-0000000000000009"
