"""What a step, source or sink raised first, kept for whoever explains how a run ended.

With several workers Bytewax (0.21) loses it. The thread that raised ends, and `cli_main` hears only from the
one that sends to the other workers, which could not go on either: "Send thread panic", without a cause and
without a word on standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from weakref import WeakMethod

from bytewax.dataflow import Dataflow, Operator
from bytewax.inputs import FixedPartitionedSource
from bytewax.outputs import FixedPartitionedSink

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_WORK = {
    "source": ("next_batch", "snapshot"),
    "builder": ("on_batch", "snapshot"),
    "sink": ("write_batch", "snapshot", "close"),
}
"""Fields of Bytewax's steps that build what works, and which of its methods fail a run when they raise.

Not `next_awake`, which runs whenever a worker waits; nor a source's `close`, whose error Bytewax drops.
"""

_ENDS = (KeyboardInterrupt, SystemExit)
"""Somebody asked for the end: nothing failed."""


class FirstCause:
    """Of one run: `error` is what was raised first, None as long as nothing was."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def watch(self, flow: Dataflow) -> Dataflow:
        """The same flow, whose steps note here what they raise before Bytewax has it.

        Watched are mappers, stateful steps, and sources and sinks of fixed partitions.
        """
        for step in _steps(flow.substeps):
            if step.substeps:
                continue  # Bytewax runs these
            fields = vars(step)  # which can be written to, frozen as steps are
            if "mapper" in fields:
                fields["mapper"] = self._noting(_at_once(fields["mapper"]))
            if "builder" in fields:
                fields["builder"] = self._building(fields["builder"], _WORK["builder"])
            for name in ("source", "sink"):
                kind = fields.get(name)
                if isinstance(kind, (FixedPartitionedSource, FixedPartitionedSink)):
                    vars(kind)["list_parts"] = self._noting(_weakly(kind.list_parts))
                    vars(kind)["build_part"] = self._building(_weakly(kind.build_part), _WORK[name])
        return flow

    def _building(
        self, build: Callable[Arguments, Result], names: tuple[str, ...]
    ) -> Callable[Arguments, Result]:
        def built(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            worker = build(*args, **kwargs)
            for name in names:
                ends = (*_ENDS, StopIteration) if name == "next_batch" else _ENDS
                vars(worker)[name] = self._noting(_weakly(getattr(worker, name)), ends)
            return worker

        return self._noting(built)

    def _noting(
        self, work: Callable[Arguments, Result], ends: tuple[type[BaseException], ...] = _ENDS
    ) -> Callable[Arguments, Result]:
        @wraps(work)
        def noted(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            try:
                return work(*args, **kwargs)
            except ends:
                raise
            except BaseException as error:  # a panic of Polars is no Exception
                self.error = self.error or error
                raise

        return noted


def _weakly(method: Callable[..., Result]) -> Callable[..., Result]:
    """The method, for its own object to keep without a cycle, which would keep its memory after a run."""
    found = WeakMethod(method)

    def call(*args: Any) -> Result:
        return found()(*args)  # type: ignore[misc]  # who calls has the object

    return call


def _at_once(mapper: Callable[[Any], Iterable[Result]]) -> Callable[[Any], list[Result]]:
    """A lazy mapper raises later, within Bytewax. What it makes is a few items of thousands of events."""
    return lambda items: list(mapper(items))


def _steps(substeps: Sequence[Operator]) -> Iterator[Operator]:
    for step in substeps:
        yield step
        yield from _steps(step.substeps)
