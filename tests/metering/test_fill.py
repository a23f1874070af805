"""What a provider told stays; what it did not tell is counted, and says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.call import Call
from metering.count import OwnCounter, TokenCounter
from metering.fill import Texts, filled
from metering.usage import Usage

CALL = Call(tenant_id="acme", model="gpt-4o", started_ms=1, provider="openai")
# One token for each character, so that the figures below can be worked out by eye; `exact` claims to be
# right.
EXACT = TokenCounter({"gpt-": OwnCounter(len, 0), "o3": OwnCounter(len, 0), "own": OwnCounter(len, 0)})
ROUGH = TokenCounter({"": OwnCounter(len, 20)})
BOTH = Texts(input_texts=("abcde",), output_text="xyz")
EXACT_BY = {"counted_by": "own counter gpt-", "counted_error_percent": "0"}


@pytest.mark.parametrize(
    ("usage", "texts", "expected"),
    [
        # Told: not touched, whatever the texts are.
        (Usage(input_tokens=7, output_tokens=0), BOTH, Usage(input_tokens=7, output_tokens=0)),
        (
            Usage(input_tokens=7),
            BOTH,
            Usage(
                input_tokens=7,
                output_tokens=3,
                usage_source="tokenizer",
                attributes={"counted": "output", **EXACT_BY},
            ),
        ),
        (
            Usage(output_tokens=7),
            BOTH,
            Usage(
                input_tokens=5,
                output_tokens=7,
                usage_source="tokenizer",
                attributes={"counted": "input", **EXACT_BY},
            ),
        ),
        # Nothing to count: unknown stays unknown.
        (Usage(), Texts(), Usage()),
        (Usage(input_tokens=7), Texts(input_texts=("abc",)), Usage(input_tokens=7)),
        (Usage(input_tokens=0), Texts(output_text=""), Usage(input_tokens=0)),
        # A chat: 4 tokens around each of the two messages, and 3 before the answer.
        (
            Usage(output_tokens=0),
            Texts(input_texts=("ab", "cde"), message_count=2),
            Usage(
                input_tokens=5 + 2 * 4 + 3,
                output_tokens=0,
                usage_source="tokenizer",
                attributes={"counted": "input", **EXACT_BY},
            ),
        ),
        # The same, joined: close, but not what the provider saw.
        (
            Usage(output_tokens=0),
            Texts(input_texts=("ab\ncde",), message_count=2),
            Usage(
                input_tokens=6 + 2 * 4 + 3,
                output_tokens=0,
                usage_source="estimate",
                attributes={"counted": "input", **EXACT_BY, "counted_error_percent": "10"},
            ),
        ),
        # One message, and tools with it.
        (
            Usage(output_tokens=0),
            Texts(input_texts=("ab\ncde",), message_count=1, is_joined=True),
            Usage(
                input_tokens=6 + 4 + 3,
                output_tokens=0,
                usage_source="estimate",
                attributes={"counted": "input", **EXACT_BY, "counted_error_percent": "10"},
            ),
        ),
        # Images are in the input too.
        (
            Usage(output_tokens=0),
            Texts(input_texts=("abc",), uncountable=("images", "tools")),
            Usage(
                input_tokens=3,
                output_tokens=0,
                usage_source="estimate",
                attributes={
                    "counted": "input",
                    **EXACT_BY,
                    "counted_at_least": "input",
                    "not_counted": "images,tools",
                },
            ),
        ),
        # Parts that the provider told are no larger than their whole.
        (
            Usage(cache_read_tokens=8, cache_write_tokens=4, reasoning_tokens=9),
            BOTH,
            Usage(
                input_tokens=12,
                output_tokens=3 + 9,
                cache_read_tokens=8,
                cache_write_tokens=4,
                reasoning_tokens=9,
                usage_source="tokenizer",
                attributes={"counted": "input,output", **EXACT_BY},
            ),
        ),
        # Only the beginning was kept.
        (
            Usage(input_tokens=1),
            Texts(output_text="abcd", output_chars=8),
            Usage(
                input_tokens=1,
                output_tokens=8,
                usage_source="estimate",
                attributes={"counted": "output", **EXACT_BY, "counted_error_percent": "50"},
            ),
        ),
        (
            Usage(output_tokens=1),
            Texts(input_texts=("ab", "cd"), input_chars=10),
            Usage(
                input_tokens=10,
                output_tokens=1,
                usage_source="estimate",
                attributes={"counted": "input", **EXACT_BY, "counted_error_percent": "50"},
            ),
        ),
        # What was known of it otherwise is kept.
        (
            Usage(response_id="r", input_tokens=1, units={"web_searches": 2}, attributes={"geo": "us"}),
            BOTH,
            Usage(
                response_id="r",
                input_tokens=1,
                output_tokens=3,
                units={"web_searches": 2},
                usage_source="tokenizer",
                attributes={"geo": "us", "counted": "output", **EXACT_BY},
            ),
        ),
    ],
)
def test_only_what_is_unknown_is_counted(usage: Usage, texts: Texts, expected: Usage) -> None:
    assert filled([usage], EXACT, CALL, texts, is_cut=False) == [expected]


@pytest.mark.parametrize(
    ("model", "is_cut", "source", "at_least"),
    [
        ("gpt-4o", False, "tokenizer", None),
        ("gpt-4o", True, "estimate", "output"),  # more may have been generated than was seen
        ("o3", False, "estimate", "output"),  # thoughts are billed and not shown
        ("own-model", False, "estimate", "output"),  # who knows
    ],
)
def test_an_output_that_may_be_longer_than_what_was_seen_is_an_estimate(
    model: str, is_cut: bool, source: str, at_least: str | None
) -> None:
    [usage] = filled([Usage(input_tokens=1)], EXACT, replace(CALL, model=model), BOTH, is_cut=is_cut)
    assert (usage.output_tokens, usage.usage_source) == (3, source)
    assert usage.attributes.get("counted_at_least") == at_least


def test_the_weaker_source_marks_what_is_part_known() -> None:
    [usage] = filled([Usage(input_tokens=7)], ROUGH, CALL, BOTH, is_cut=False)
    assert (usage.input_tokens, usage.output_tokens, usage.usage_source) == (7, 3, "estimate")
    known_badly = Usage(input_tokens=7, usage_source="estimate")
    [usage] = filled([known_badly], EXACT, CALL, BOTH, is_cut=False)
    assert usage.usage_source == "estimate"


def test_the_model_that_answered_decides_how_it_is_counted() -> None:
    counter = TokenCounter({"gpt-": OwnCounter(len, 0), "claude-": OwnCounter(lambda _: 100, 10)})
    [usage] = filled([Usage(model="claude-opus-5")], counter, CALL, BOTH, is_cut=False)
    assert (usage.input_tokens, usage.attributes["counted_by"]) == (100, "own counter claude-")


def test_only_the_response_itself_is_counted_not_those_who_answered_within_it() -> None:
    legs = [
        Usage(leg=0),
        Usage(leg=1, model="claude-haiku-4-5"),
        Usage(leg=2, input_tokens=1, output_tokens=1),
    ]
    first, second, third = filled(legs, EXACT, CALL, BOTH, is_cut=False)
    assert (first.input_tokens, first.output_tokens) == (5, 3)
    assert (second, third) == tuple(legs[1:])
    assert filled(legs[1:], EXACT, CALL, BOTH, is_cut=False) == legs[1:]


def test_no_usage_at_all_is_one_of_which_nothing_is_known() -> None:
    [usage] = filled([], EXACT, CALL, BOTH, is_cut=False)
    assert (usage.input_tokens, usage.output_tokens, usage.leg) == (5, 3, 0)
    assert filled([], EXACT, CALL, Texts(), is_cut=True) == [Usage()]


def test_texts_are_not_in_a_repr() -> None:
    assert "abcde" not in repr(BOTH)


COUNTS = st.none() | st.integers(0, 2**40)
TEXT = st.text(max_size=20)


@given(
    st.lists(st.builds(Usage, input_tokens=COUNTS, output_tokens=COUNTS, leg=st.integers(0, 2)), max_size=3),
    st.builds(
        Texts,
        input_texts=st.lists(TEXT, max_size=3).map(tuple),
        output_text=TEXT,
        input_chars=st.integers(0, 50),
        output_chars=st.integers(0, 50),
        message_count=st.integers(0, 3),
    ),
    st.booleans(),
)
def test_nothing_that_the_provider_said_is_lost(usages: list[Usage], texts: Texts, is_cut: bool) -> None:
    found = filled(usages, EXACT, CALL, texts, is_cut=is_cut)
    assert len(found) == max(len(usages), 1)
    for before, after in zip(usages, found, strict=False):
        assert before.input_tokens in (None, after.input_tokens)
        assert before.output_tokens in (None, after.output_tokens)
        if (before.input_tokens, before.output_tokens) == (after.input_tokens, after.output_tokens):
            assert before == after
        else:
            assert after.usage_source != "provider"
            assert "counted" in after.attributes
