"""Whose call it is: what was said nearest counts, over tasks and generators, in the contract's lengths."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import UserDict
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import mishaps
from metering.contexts import (
    APP_ATTRIBUTES_MAX,
    Labels,
    MissingTenant,
    OnMissingTenant,
    Policy,
    context,
    current,
    label,
    labels,
)


class Unwritable(int):
    def __str__(self) -> str:
        raise RuntimeError


class Incomparable:
    """As an array is: `==` gives no truth."""

    def __eq__(self, other: object) -> Any:
        raise RuntimeError

    __hash__ = object.__hash__


class Changing(UserDict[str, str]):
    """As if another thread changed it at each step."""

    def __iter__(self) -> Iterator[str]:
        for key in self.data:
            self.data[key + "'"] = ""
            yield key


def call_of(policy: Policy, said: Labels | None = None) -> Any:
    return policy.call(said or Labels(), model="m", provider="", started_ms=1)


def test_an_inner_context_says_what_it_says_and_the_outer_one_the_rest() -> None:
    with context(tenant_id="acme", feature_id="chat", attributes={"team": "a", "stage": "test"}):
        with context(feature_id="summary", attributes={"team": "b"}):
            assert current() == Labels("acme", "summary", None, {"team": "b", "stage": "test"})
        assert current() == Labels("acme", "chat", None, {"team": "a", "stage": "test"})
    assert current() == Labels()


@pytest.mark.parametrize(
    ("at_the_call", "around_it", "at_set_up", "tenant_id"),
    [
        ("call", "context", "setup", "call"),
        (None, "context", "setup", "context"),
        (None, None, "setup", "setup"),
        ("", "", "setup", "setup"),
        (None, 7, "setup", "7"),
    ],
)
def test_the_call_wins_over_the_context_and_that_over_the_set_up(
    at_the_call: str | None, around_it: str | int | None, at_set_up: str, tenant_id: str
) -> None:
    policy = Policy.of(labels(at_set_up), None)
    with context(tenant_id=around_it):
        assert call_of(policy, labels(at_the_call)).tenant_id == tenant_id


def test_a_call_without_a_tenant_is_what_was_chosen() -> None:
    before = mishaps.counts()["missing_tenant"]
    assert call_of(Policy.of(labels(), "anonymous")).tenant_id == "anonymous"
    assert call_of(Policy.of(labels(), "skip")) is None
    assert mishaps.counts()["missing_tenant"] == before + 2
    with pytest.raises(MissingTenant, match="nobody said whose call this is"):
        call_of(Policy.of(labels(), "reject"))


@pytest.mark.parametrize("choice", [None, "drop", ""])
def test_there_is_no_default_for_a_missing_tenant(choice: Any) -> None:
    with pytest.raises(ValueError, match="say what becomes of a call without a tenant"):
        Policy.of(labels(), choice)


def test_what_nobody_said_has_the_contracts_defaults() -> None:
    policy: OnMissingTenant = "anonymous"
    call = Policy.of(labels(), policy).call(Labels(), model="", provider="", started_ms=5)
    assert call is not None
    assert (call.feature_id, call.model, call.started_ms, dict(call.attributes)) == ("unknown", "", 5, {})
    with context(model="llama"):
        assert call_of(Policy.of(labels("t"), None)).model == "m"
        named = Policy.of(labels("t"), None).call(Labels(), model="", provider="", started_ms=5)
        assert named is not None
        assert named.model == "llama"


@pytest.mark.parametrize(
    ("value", "expected", "mishap"),
    [
        ("acme", "acme", None),
        ("a" * 128, "a" * 128, None),
        ("a" * 129, "sha256-" + hashlib.sha256(b"a" * 129).hexdigest(), "label_too_long"),
        (42, "42", None),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007", None),
        pytest.param(10**5000, None, "label_unreadable", id="an integer that Python does not write"),
        (None, None, None),
        ("", None, None),
        (True, None, "label_unreadable"),
        (1.5, None, "label_unreadable"),
        (b"acme", None, "label_unreadable"),
        pytest.param(Unwritable(), None, "label_unreadable", id="unwritable"),
        (Incomparable(), None, "label_unreadable"),
    ],
)
def test_a_label_is_within_the_contract_or_named_by_its_hash(
    value: object, expected: str | None, mishap: str | None
) -> None:
    before = mishaps.counts()
    assert label(value, "tenant_id") == expected
    changed = {name for name, count in mishaps.counts().items() if count != before[name]}
    assert changed == ({mishap} if mishap else set())


@given(st.one_of(st.text(), st.integers(), st.none(), st.binary(), st.floats()))
def test_no_label_raises_or_is_too_long(value: object) -> None:
    found = label(value, "tenant_id")
    assert found is None or 1 <= len(found) <= 128


def test_nor_does_a_number_of_more_digits_than_python_writes() -> None:
    found = labels(10**5000, attributes={"a": 10**5000})
    assert found.tenant_id is None or len(found.tenant_id) <= 128
    assert not found.attributes


@pytest.mark.parametrize(
    ("attributes", "kept", "left_out"),
    [
        ({"a": "x", "b": 3, "c": None}, {"a": "x", "b": "3"}, 0),
        ({"a": "x" * 1024, "b": "x" * 1025}, {"a": "x" * 1024}, 1),
        ({"k" * 129: "x", "": "x", 5: "x", "ok": "x"}, {"ok": "x"}, 3),
        ({"a": ["list"], "b": ""}, {}, 2),
        ([("a", "b")], {}, 1),
        pytest.param({"a": Unwritable(), "c": "x"}, {"c": "x"}, 1, id="unwritable"),
        (Changing({"a": "x", "b": "y"}), {}, 1),
    ],
)
def test_attributes_fit_the_contract_and_what_does_not_is_counted(
    attributes: Any, kept: dict[str, str], left_out: int
) -> None:
    before = mishaps.counts()["attribute_left_out"]
    assert labels(attributes=attributes).attributes == kept
    assert mishaps.counts()["attribute_left_out"] == before + left_out


def test_there_is_room_left_for_the_sdks_own_attributes() -> None:
    many = {f"key{number}": "x" for number in range(100)}
    assert len(labels(attributes=many).attributes) == APP_ATTRIBUTES_MAX == 40


def test_tasks_inherit_it_and_do_not_disturb_each_other() -> None:
    shared = context(tenant_id="shared")

    async def one(name: str) -> tuple[str | None, str | None]:
        with shared, context(feature_id=name):
            await asyncio.sleep(0)
            within = current().feature_id
        return within, current().tenant_id

    async def run() -> list[tuple[str | None, str | None]]:
        with context(tenant_id="outer"):
            assert await asyncio.to_thread(lambda: current().tenant_id) == "outer"
            return await asyncio.gather(*(one(str(number)) for number in range(20)))

    assert asyncio.run(run()) == [(str(number), "outer") for number in range(20)]


def test_a_bare_thread_starts_without_one() -> None:
    found: list[Labels] = []
    with context(tenant_id="acme"):
        thread = threading.Thread(target=lambda: found.append(current()))
        thread.start()
        thread.join()
    assert found == [Labels()]


def test_as_a_decorator_it_is_around_each_run_of_any_kind_of_function() -> None:
    within = context(tenant_id="acme")

    @within
    def plain() -> str | None:
        return current().tenant_id

    @within
    async def awaited() -> str | None:
        await asyncio.sleep(0)
        return current().tenant_id

    @within
    def steps() -> Iterator[str | None]:
        yield current().tenant_id
        yield current().tenant_id

    @within
    async def async_steps() -> AsyncIterator[str | None]:
        yield current().tenant_id
        await asyncio.sleep(0)
        yield current().tenant_id

    async def run() -> tuple[str | None, list[str | None]]:
        found = []
        async for tenant_id in async_steps():
            assert current() == Labels()
            found.append(tenant_id)
        return await awaited(), found

    assert plain() == "acme"
    for tenant_id in steps():
        assert tenant_id == "acme"
        assert current() == Labels()  # what the generator sees does not leak to who reads it
    assert asyncio.run(run()) == ("acme", ["acme", "acme"])
    assert plain.__name__ == "plain"


def test_a_context_that_is_left_where_it_was_never_entered_changes_nothing() -> None:
    entered = context(tenant_id="acme")
    thread = threading.Thread(target=entered.__enter__)
    thread.start()
    thread.join()
    with context(tenant_id="other"):
        entered.__exit__(None, None, None)
        assert current().tenant_id == "other"
