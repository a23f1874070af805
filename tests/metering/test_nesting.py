"""An answer that two see is recorded once; two answers are recorded twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metering.nesting import SEEN_MAX, Boundary, Inside, current
from metering.usage import Usage


class Running:
    """A call that is not over."""

    def __init__(self, told: Usage) -> None:
        self._told = told

    def usages_so_far(self) -> list[Usage]:
        return [self._told]


CALL = Running(Usage())
INNER = Usage(response_id="r1", input_tokens=10, output_tokens=5)


@pytest.mark.parametrize(
    ("outer", "is_repeat"),
    [
        ([INNER], True),
        ([Usage(response_id="r1", input_tokens=10)], True),  # the same id, told less
        ([Usage(response_id="gw-7", input_tokens=10, output_tokens=5)], True),  # a gateway's own id
        ([Usage(input_tokens=10, output_tokens=5)], True),
        ([Usage(response_id="r2", input_tokens=11, output_tokens=5)], False),
        ([Usage(response_id="r2", input_tokens=10, output_tokens=5, cache_read_tokens=1)], False),
        ([INNER, Usage(response_id="r2", input_tokens=1, output_tokens=1)], False),
        ([Usage()], False),
        ([], True),  # nothing could be read, and somebody inside has recorded
    ],
)
def test_a_repeat_has_the_id_or_the_counts_of_what_was_recorded_inside(
    outer: list[Usage], is_repeat: bool
) -> None:
    boundary = Boundary(None)
    boundary.opened(CALL)
    boundary.ended(CALL, [INNER])
    assert boundary.covers(outer) is is_repeat


@pytest.mark.parametrize(
    ("outer", "inner", "is_repeat"),
    [
        (Usage(model="gpt-4o", response_id="gw-7"), Usage(model="gpt-4o", response_id="r1"), True),
        (Usage(response_id="gw-7"), Usage(model="gpt-4o", response_id="r1"), True),
        (Usage(model="gpt-4o", response_id="gw-7"), Usage(model="guard", response_id="r1"), False),
        (Usage(input_tokens=3), Usage(input_tokens=3), True),
        (Usage(input_tokens=3), Usage(), False),
    ],
)
def test_of_two_answers_that_were_cut_the_same_model_is_the_same(
    outer: Usage, inner: Usage, is_repeat: bool
) -> None:
    boundary = Boundary(None)
    boundary.ended(CALL, [inner])
    assert boundary.covers([outer]) is is_repeat


@pytest.mark.parametrize(
    ("outer_model", "inner_model", "is_repeat"),
    [
        ("gpt-5", "gpt-5", True),
        ("gpt-5", "gpt-4o-mini", False),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4", "gpt-4.1", False),
        ("gpt-3.5-turbo", "gpt-3.5-turbo-0125", True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gpt-4o-2024-05-13", "gpt-4o", True),
        ("openai/gpt-4o", "gpt-4o-2024-08-06", True),
        ("openai/gpt-4o", "openai/gpt-4o-mini", False),
        ("claude-sonnet-4-5", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", True),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5@20250929", True),
        ("claude-sonnet-4-5", "claude-sonnet-4-0", False),
        ("mistral-large-latest", "mistral-large-2411", True),
        ("", "gpt-4o-mini", True),
        ("gpt-5", "", True),
    ],
)
def test_the_same_counts_under_another_id_are_a_repeat_of_the_same_model(
    outer_model: str, inner_model: str, is_repeat: bool
) -> None:
    boundary = Boundary(None)
    boundary.ended(CALL, [Usage(model=inner_model, response_id="r1", input_tokens=1, output_tokens=12)])
    outer = Usage(model=outer_model, response_id="gw-7", input_tokens=1, output_tokens=12)
    assert boundary.covers([outer]) is is_repeat
    # Who has no id, or an inner one's, is a repeat under any name.
    assert boundary.covers([replace(outer, response_id="")])
    assert boundary.covers([replace(outer, response_id="r1")])


@pytest.mark.parametrize(
    ("so_far", "is_repeat"),
    [
        (Usage(response_id="r1", model="served"), True),
        (Usage(response_id="gw-7", model="gpt-4o"), True),
        (Usage(model=""), True),
        (Usage(response_id="r7", model="guard"), False),  # another's, that goes on in the background
    ],
)
def test_a_call_that_is_still_open_will_report_itself(so_far: Usage, is_repeat: bool) -> None:
    boundary, call = Boundary(None), Running(so_far)
    boundary.opened(call)
    answer = Usage(response_id="r1", model="gpt-4o", input_tokens=10, output_tokens=5)
    assert boundary.covers([answer]) is is_repeat
    assert boundary.covers([])
    boundary.ended(call, None)
    assert not boundary.covers([answer])
    assert not boundary.covers([])


def test_a_call_that_is_forgotten_is_not_held() -> None:
    boundary, call = Boundary(None), Running(INNER)
    boundary.opened(call)
    del call
    assert not boundary.covers([INNER])


def test_those_further_out_learn_of_it_too() -> None:
    outer = Boundary(None)
    Boundary(outer).ended(CALL, [INNER])
    assert outer.covers([INNER])


def test_what_is_remembered_has_a_bound() -> None:
    boundary = Boundary(None)
    for number in range(SEEN_MAX + 1):
        boundary.ended(CALL, [Usage(response_id=f"r{number}", input_tokens=number, output_tokens=0)])
    assert not boundary.covers([Usage(response_id="r0", input_tokens=0, output_tokens=0)])
    assert boundary.covers([Usage(response_id="r1", input_tokens=1, output_tokens=0)])


def test_it_is_current_inside_alone() -> None:
    outer, inner = Boundary(None), Boundary(None)
    inner.parent = outer
    with Inside(outer):
        with Inside(inner):
            assert current() is inner
        assert current() is outer
        Inside(inner).__exit__()  # never entered here
        assert current() is outer
    assert current() is None
