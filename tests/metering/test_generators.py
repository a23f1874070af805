"""A generator whose steps run inside a context manager is otherwise the same generator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from metering.generators import stepped, stepped_async


def echo(log: list[str]) -> Generator[Any, Any, str]:
    value = yield "first"
    while True:
        try:
            value = yield value
        except KeyError:
            value = "caught"
        except GeneratorExit:
            log.append("closed")
            raise
        if value == "end":
            return "returned"


def test_values_errors_and_the_end_pass_through() -> None:
    log: list[str] = []
    steps = stepped(echo(log), nullcontext)
    assert next(steps) == "first"
    assert steps.send("a") == "a"
    assert steps.throw(KeyError()) == "caught"
    with pytest.raises(ValueError, match="not caught"):
        steps.throw(ValueError("not caught"))
    steps = stepped(echo(log), nullcontext)
    assert [next(steps), next(steps)] == ["first", None]
    with pytest.raises(StopIteration) as end:
        steps.send("end")
    assert end.value.value == "returned"
    steps = stepped(echo(log), nullcontext)
    assert [next(steps), next(steps)] == ["first", None]
    steps.close()
    assert log == ["closed"]


def test_the_context_is_around_each_step_and_no_longer() -> None:
    log: list[str] = []

    @contextmanager
    def around() -> Generator[None, None, None]:
        log.append("in")
        yield
        log.append("out")

    def source() -> Generator[int, None, None]:
        log.append("step")
        yield 1
        log.append("step")

    steps = stepped(source(), around)
    for _ in steps:
        log.append("read")  # noqa: PERF401  # the order of things is the point
    assert log == ["in", "step", "out", "read", "in", "step", "out"]


async def async_echo(log: list[str]) -> AsyncGenerator[Any, Any]:
    value = yield "first"
    while value != "end":
        try:
            value = yield value
        except KeyError:
            value = "caught"
        except GeneratorExit:
            log.append("closed")
            raise


def test_an_asynchronous_one_is_the_same_too() -> None:
    log: list[str] = []

    async def run() -> None:
        steps = stepped_async(async_echo(log), nullcontext)
        assert await steps.__anext__() == "first"
        assert await steps.asend("a") == "a"
        assert await steps.athrow(KeyError()) == "caught"
        with pytest.raises(StopAsyncIteration):
            await steps.asend("end")
        steps = stepped_async(async_echo(log), nullcontext)
        await steps.__anext__()
        await steps.asend("a")
        await steps.aclose()
        with pytest.raises(ValueError, match="not caught"):
            await stepped_async(async_echo(log), nullcontext).athrow(ValueError("not caught"))

    asyncio.run(run())
    assert log == ["closed"]
