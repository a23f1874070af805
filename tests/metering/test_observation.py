"""What was seen of a call, expanded later into events that the job takes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from metering.call import Call, Ending
from metering.count import OwnCounter, TokenCounter
from metering.event import InvalidEvent, QuarantineReason, parse_line
from metering.observation import Observation
from metering.usage import Usage

CALL = Call(tenant_id="acme", model="gpt-4o", started_ms=1_770_000_000_000, provider="openai")
ENDING = Ending(latency_ms=250)
COUNTER = TokenCounter({"gpt-": OwnCounter(len, 0)})


def test_what_the_provider_told_is_the_event() -> None:
    told = Usage(
        provider="openai", model="gpt-4o-2024-08-06", response_id="r" * 16, input_tokens=9, output_tokens=4
    )
    [fields] = Observation(CALL, [told], ENDING).events()
    event, _ = parse_line(json.dumps(fields).encode())
    assert (event.idempotency_key, event.input_tokens, event.output_tokens) == ("r" * 16 + "-1", 9, 4)
    assert (event.usage_source, event.attributes) == ("provider", {})


def test_a_stream_that_was_cut_before_its_usage_is_estimated() -> None:
    observation = Observation(
        CALL,
        [Usage(response_id="r" * 16, input_tokens=9)],
        Ending(latency_ms=250, first_token_latency_ms=40, is_cut=True),
        input_text="never counted",
        output_text="half",
        counter=COUNTER,
    )
    [fields] = observation.events()
    event, _ = parse_line(json.dumps(fields).encode())
    assert (event.input_tokens, event.output_tokens, event.usage_source) == (9, 4, "estimate")
    assert event.attributes == {
        "counted": "output",
        "counted_by": "own counter gpt-",
        "counted_error_percent": "0",
        "counted_at_least": "output",
        "first_token_latency_ms": "40",
        "stream": "cut",
    }


def test_messages_of_a_chat_are_counted_one_by_one() -> None:
    [fields] = Observation(
        CALL, [], ENDING, input_text=("ab", "cde"), output_text="xyz", message_count=2, counter=COUNTER
    ).events()
    assert (fields["input_tokens"], fields["output_tokens"]) == (16, 3)
    assert fields["usage_source"] == "tokenizer"


@pytest.mark.parametrize(("count", "source"), [(0, "tokenizer"), (1, "estimate"), (2, "estimate")])
def test_one_text_of_a_chat_is_not_what_the_provider_saw(count: int, source: str) -> None:
    told = Usage(output_tokens=1)
    [fields] = Observation(
        CALL, [told], ENDING, input_text="ab\ncd", message_count=count, counter=COUNTER
    ).events()
    assert fields["usage_source"] == source


def test_nothing_known_and_no_text_waits_in_quarantine() -> None:
    [fields] = Observation(CALL, [], ENDING, counter=COUNTER).events()
    assert (fields["input_tokens"], fields["output_tokens"]) == (None, None)
    with pytest.raises(InvalidEvent) as caught:
        parse_line(json.dumps(fields).encode())
    assert caught.value.reason is QuarantineReason.MISSING_FIELD


def test_it_has_the_same_keys_whenever_it_is_expanded() -> None:
    legs = [Usage(leg=leg, input_tokens=1, output_tokens=1) for leg in (0, 1, 2)]
    observation = Observation(CALL, legs, ENDING)
    keys = [fields["idempotency_key"] for fields in observation.events()]
    assert len(set(keys)) == 3
    assert [fields["idempotency_key"] for fields in observation.events()] == keys
    assert keys[0] != Observation(CALL, legs, ENDING).events()[0]["idempotency_key"]


def test_what_was_said_is_not_in_its_repr() -> None:
    observation = Observation(CALL, [], ENDING, input_text="secret-in", output_text="secret-out")
    assert "secret" not in repr(observation)


WITHOUT_TIKTOKEN = """
import sys
from metering.call import Call, Ending
from metering.observation import Observation
from metering.usage import Usage
call = Call(tenant_id="t", model="gpt-4o", started_ms=1)
Observation(call, [Usage(input_tokens=1, output_tokens=1)], Ending(latency_ms=1)).events()
sys.exit("tiktoken" in sys.modules)
"""


def test_nothing_is_loaded_for_counting_while_providers_tell() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TIKTOKEN], check=True, timeout=60)
