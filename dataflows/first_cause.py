"""What a step, source or sink raised first, kept for whoever explains how a run ended.

With several workers Bytewax (0.21) loses it. The thread that raised ends, and `cli_main` hears only from the
one that sends to the other workers, which could not go on either: "Send thread panic", without a cause and
without a word on standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from bytewax.dataflow import Dataflow, Operator

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_WORK = ("next_batch", "on_batch", "write_batch", "snapshot")
"""The methods of what was built that may raise. `next_awake` does not, and runs whenever a worker waits."""


class FirstCause:
    """Of one run: `error` is what was raised first, None as long as nothing was."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def watch(self, flow: Dataflow) -> Dataflow:
        """The same flow, whose steps note here what they raise before Bytewax has it."""
        for step in _steps(flow.substeps):
            if step.substeps:
                continue  # Bytewax runs these
            fields = vars(step)  # which can be written to, frozen as steps are
            if "mapper" in fields:
                fields["mapper"] = self._noting(_at_once(fields["mapper"]))
            if "builder" in fields:
                fields["builder"] = self._building(fields["builder"])
            for name in ("source", "sink"):
                if name in fields:
                    makes = fields[name]
                    vars(makes)["build_part"] = self._building(makes.build_part)
        return flow

    def _building(self, build: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        def built(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            worker = build(*args, **kwargs)
            for name in _WORK:
                if hasattr(worker, name):
                    vars(worker)[name] = self._noting(getattr(worker, name))
            return worker

        return self._noting(built)

    def _noting(self, work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @wraps(work)
        def noted(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            try:
                return work(*args, **kwargs)
            except StopIteration:  # the end of an input
                raise
            except Exception as error:
                self.error = self.error or error
                raise

        return noted


def _at_once(mapper: Callable[[Any], Iterable[Result]]) -> Callable[[Any], list[Result]]:
    """A lazy mapper raises later, within Bytewax. What it makes is a few items of thousands of events."""
    return lambda items: list(mapper(items))


def _steps(substeps: Sequence[Operator]) -> Iterator[Operator]:
    for step in substeps:
        yield step
        yield from _steps(step.substeps)
