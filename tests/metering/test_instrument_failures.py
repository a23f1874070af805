"""The real SDKs when things fail: what was used is what is known, and a caller who leaves is no error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest

from metering.contexts import context
from metering.instrumentation import instrument
from tests.metering.asking import ASK, ASK_MESSAGE
from tests.metering.collecting import CollectingMeter
from tests.metering.fake_provider import FakeProvider, Fault


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_retries_within_the_sdk_are_one_call_that_counts_them(
    client: Any, claude: Any, provider: FakeProvider, meter: CollectingMeter, failures: int
) -> None:
    for call, ask in ((client.chat.completions.create, ASK), (claude.messages.create, ASK_MESSAGE)):
        provider.faults += [Fault(status=429), Fault(status=500)][:failures]
        call(**ask)
    for event, line in zip(meter.events(), provider.ledger, strict=True):
        assert (event.retry_count, event.status) == (failures, "success")
        assert event.idempotency_key == f"{line.response_id}-{failures + 1}"


def test_retries_of_the_application_are_calls_of_their_own(
    client: Any, provider: FakeProvider, meter: CollectingMeter
) -> None:
    for _ in range(2):
        client.chat.completions.create(**ASK)
    first, second = meter.events()
    assert (first.retry_count, second.retry_count) == (0, 0)
    assert {first.idempotency_key, second.idempotency_key} == {f"{s.response_id}-1" for s in provider.ledger}


@pytest.mark.parametrize(
    ("status", "tries", "error", "tokens"),
    [
        (401, 1, openai.AuthenticationError, (0, 0)),
        (404, 1, openai.NotFoundError, (0, 0)),
        (429, 3, openai.RateLimitError, (0, 0)),
        (500, 3, openai.InternalServerError, (0, 0)),
        (504, 3, openai.InternalServerError, None),
        (408, 3, openai.APIStatusError, None),
    ],
)
def test_what_was_refused_used_nothing_and_what_ran_out_of_time_is_unknown(
    client: Any,
    provider: FakeProvider,
    meter: CollectingMeter,
    status: int,
    tries: int,
    error: type[Exception],
    tokens: tuple[int, int] | None,
) -> None:
    provider.faults += [Fault(status=status)] * tries
    with pytest.raises(error):
        client.chat.completions.create(**ASK)
    [fields] = meter.fields()
    assert (fields["status"], fields["retry_count"]) == ("error", tries - 1)
    assert fields["attributes"]["http_status"] == str(status)
    assert fields["attributes"]["error"] == error.__name__ or status == 408
    if tokens is None:
        assert fields["input_tokens"] > 0  # counted: what was asked is known
        assert fields["output_tokens"] is None  # the job keeps it in quarantine: unknown is never zero
    else:
        assert (fields["input_tokens"], fields["output_tokens"]) == tokens


def test_where_nobody_listens_nothing_was_used(meter: CollectingMeter) -> None:
    with FakeProvider() as gone:
        url = gone.openai_url
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        instrument(client, meter, tenant_id="acme", provider="openai")
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(**ASK)
    event = meter.event()
    assert (event.status, event.input_tokens, event.output_tokens) == ("error", 0, 0)


def test_a_request_that_the_sdk_itself_refuses_never_left_and_is_no_call(
    client: Any, meter: CollectingMeter
) -> None:
    with pytest.raises(TypeError):
        client.chat.completions.create(model="gpt-4o")
    assert meter.records == []


@pytest.mark.parametrize("cut_after", [1, 3, 6])
def test_a_connection_that_breaks_in_a_stream_is_an_error_with_what_was_told(
    client: Any, provider: FakeProvider, meter: CollectingMeter, cut_after: int
) -> None:
    provider.faults.append(Fault(cut_after=cut_after))
    stream = client.chat.completions.create(**ASK, stream=True)
    with pytest.raises(Exception) as raised:  # noqa: PT011  # httpx's own: the SDK's versions differ in it
        list(stream)
    [fields] = meter.fields()
    assert fields["status"] == "error"
    assert fields["attributes"]["stream"] == "cut"
    assert fields["attributes"]["error"] == type(raised.value).__name__
    assert fields["idempotency_key"] == f"{provider.ledger[0].response_id}-1"
    assert fields["usage_source"] != "provider"


def test_of_a_message_that_breaks_the_input_is_told_and_the_output_counted(
    claude: Any, provider: FakeProvider, meter: CollectingMeter
) -> None:
    provider.faults.append(Fault(cut_after=4))
    with pytest.raises(Exception), claude.messages.stream(**ASK_MESSAGE) as stream:  # noqa: B017, PT011  # as above
        list(stream.text_stream)
    event = meter.event()
    assert (event.status, event.input_tokens, event.usage_source) == ("error", 3, "estimate")
    assert event.output_tokens > 1  # and not the 1 of the beginning


def leave_a_loop(client: Any) -> None:
    for number, _ in enumerate(client.chat.completions.create(**ASK, stream=True)):
        if number == 2:
            break


def leave_a_block(client: Any) -> None:
    with client.chat.completions.create(**ASK, stream=True) as stream:
        next(stream)


def leave_a_helper(client: Any) -> None:
    with client.chat.completions.stream(**ASK) as stream:
        for number, _ in enumerate(stream):
            if number == 2:
                break


def close(client: Any) -> None:
    stream = client.chat.completions.create(**ASK, stream=True)
    next(stream)
    stream.close()


def test_an_answer_that_is_closed_unread_is_recorded_when_it_is_closed(
    client: Any, meter: CollectingMeter
) -> None:
    with client.chat.completions.with_streaming_response.create(**ASK) as raw:
        assert meter.records == []
    [fields] = meter.fields()
    assert (fields["status"], fields["output_tokens"]) == ("success", None)
    assert raw.is_closed


@pytest.mark.parametrize("leave", [leave_a_loop, leave_a_block, leave_a_helper, close])
def test_a_caller_who_leaves_a_stream_is_no_error_of_the_call(
    client: Any, provider: FakeProvider, meter: CollectingMeter, leave: Callable[[Any], None]
) -> None:
    leave(client)
    [fields] = meter.fields()
    assert fields["status"] == "success"
    assert fields["attributes"]["stream"] == "cut"
    assert fields["idempotency_key"] == f"{provider.ledger[0].response_id}-1"


def test_a_task_that_is_cancelled_in_a_stream_leaves_one_event(
    provider: FakeProvider, meter: CollectingMeter
) -> None:
    hold = threading.Event()
    provider.faults.append(Fault(hold=hold, hold_after=3))

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="none") as client:
            instrument(client, meter, tenant_id="acme", provider="openai")
            seen: asyncio.Queue[object] = asyncio.Queue()

            async def read() -> None:
                with context(tenant_id="other"):
                    async for chunk in await client.chat.completions.create(**ASK, stream=True):
                        seen.put_nowait(chunk)

            task = asyncio.create_task(read())
            for _ in range(3):
                await seen.get()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    hold.set()
    event = meter.event()
    assert (event.tenant_id, event.status) == ("other", "success")
    assert (event.attributes or {})["stream"] == "cut"


def test_a_task_that_is_cancelled_while_it_waits_for_an_answer_leaves_what_was_asked(
    provider: FakeProvider, meter: CollectingMeter
) -> None:
    hold = threading.Event()
    provider.faults.append(Fault(hold=hold))

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="none") as client:
            instrument(client, meter, tenant_id="acme", provider="openai")
            task = asyncio.create_task(client.chat.completions.create(**ASK))
            while not provider.ledger:  # noqa: ASYNC110  # it is written in another thread
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    hold.set()
    [fields] = meter.fields()
    assert fields["status"] == "success"
    assert fields["input_tokens"] > 0
    assert fields["output_tokens"] is None
