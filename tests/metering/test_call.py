"""One call comes to one event for each leg, in the contract's fields, each with a key of its own."""

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from metering.call import Call, Ending, events_of
from metering.event import parse_line
from metering.usage import Usage

CALL = Call(tenant_id="acme", model="gpt-asked", started_ms=1_770_000_000_000, provider="openai")
PLAIN = Usage(
    provider="openai",
    model="gpt-served",
    response_id="resp_0000000000000001",
    input_tokens=10,
    output_tokens=5,
)


@pytest.mark.parametrize(
    ("usage", "retry_count", "key"),
    [
        (PLAIN, 0, "resp_0000000000000001-1"),
        (PLAIN, 2, "resp_0000000000000001-3"),
        (replace(PLAIN, leg=2), 0, "resp_0000000000000001-1/2"),
        (replace(PLAIN, response_id=""), 0, "made-up"),
        (replace(PLAIN, response_id="chatcmpl-7"), 0, "made-up"),
        (
            replace(PLAIN, response_id="r" * 255),
            0,
            "sha256-9abca337eae7bc230a482404d8a5e6905624b72de2df32b9442d0fa7cc0053b4",
        ),
    ],
)
def test_the_key_names_response_attempt_and_leg(usage: Usage, retry_count: int, key: str) -> None:
    call = Call(tenant_id="acme", model="m", started_ms=1, retry_count=retry_count)
    [event] = events_of(call, [usage], Ending(latency_ms=1), lambda: "made-up")
    assert event["idempotency_key"] == key


def test_what_was_served_stands_before_what_was_asked_for() -> None:
    [event] = events_of(CALL, [PLAIN], Ending(latency_ms=1), lambda: "k")
    assert (event["provider"], event["model"]) == ("openai", "gpt-served")
    [event] = events_of(CALL, [Usage(input_tokens=1, output_tokens=1)], Ending(latency_ms=1), lambda: "k")
    assert (event["provider"], event["model"]) == ("openai", "gpt-asked")


ARN = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude-sonnet-4-5"


@pytest.mark.parametrize(
    ("asked", "served", "model", "region"),
    [
        ({"model": "amazon.nova-pro"}, {}, "amazon.nova-pro", ""),
        ({"model": ARN}, {}, "eu.anthropic.claude-sonnet-4-5", "eu-west-1"),
        ({"model": ARN, "region": "eu-north-1"}, {}, "eu.anthropic.claude-sonnet-4-5", "eu-north-1"),
        ({"model": ARN}, {"region": "us"}, "eu.anthropic.claude-sonnet-4-5", "us"),
        ({"model": ARN}, {"model": "amazon.nova-pro"}, "amazon.nova-pro", "eu-west-1"),
    ],
)
def test_an_arn_comes_to_a_name_and_a_region_without_the_account(
    asked: dict[str, Any], served: dict[str, Any], model: str, region: str
) -> None:
    usage = Usage(input_tokens=1, output_tokens=1)
    [event] = events_of(replace(CALL, **asked), [replace(usage, **served)], Ending(1), lambda: "k")
    assert (event["model"], event["region"]) == (model, region)


def test_attributes_of_a_leg_stand_before_those_of_the_call() -> None:
    call = replace(CALL, attributes={"team": "search", "counted": "no"})
    usage = replace(PLAIN, attributes={"counted": "output"})
    [event] = events_of(call, [usage], Ending(latency_ms=1), lambda: "k")
    assert event["attributes"] == {"team": "search", "counted": "output"}


def test_every_event_is_one_that_the_contract_reads() -> None:
    usage = Usage(
        model="m",
        response_id="r",
        input_tokens=100,
        output_tokens=50,
        cache_read_tokens=10,
        cache_write_tokens=20,
        cache_write_1h_tokens=5,
        reasoning_tokens=7,
        units={"web_searches": 3, "input_audio_tokens": 0},
        provider_cost=Decimal("1E-9"),
    )
    ending = Ending(latency_ms=900, status="error", first_token_latency_ms=120, is_cut=True)
    [fields] = events_of(CALL, [usage], ending, lambda: "k")
    event, unknown = parse_line(json.dumps(fields).encode())
    assert unknown == ()
    assert event.timestamp_ms == CALL.started_ms
    assert event.provider_cost == Decimal("0.000000001")
    assert event.attributes == {"unit.web_searches": "3", "first_token_latency_ms": "120", "stream": "cut"}
