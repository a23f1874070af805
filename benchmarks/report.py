"""What a benchmark hands back, and how it is shown: a table for people, JSON for programs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum


class Size(Enum):
    """How much a benchmark does: `SMOKE` takes seconds and shows that it works, `FULL` is for the claims."""

    SMOKE = "smoke"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio or a figure with the bound that it is held to; `met` is said, never asserted."""

    name: str
    measured: float
    bound: str
    met: bool

    @classmethod
    def at_least(cls, name: str, measured: float, bound: float) -> Target:
        """Met from `bound` on."""
        return cls(name, measured, f"≥ {bound:g}", measured >= bound)

    @classmethod
    def at_most(cls, name: str, measured: float, bound: float) -> Target:
        """Met up to `bound`."""
        return cls(name, measured, f"≤ {bound:g}", measured <= bound)


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines to draw: `series` holds (label, x values, y values)."""

    name: str
    x_label: str
    y_label: str
    series: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]
    log_x: str = "linear"
    """`linear` or `log`, as Matplotlib calls a scale."""


@dataclass(frozen=True, slots=True)
class Section:
    """The result of one benchmark: a table, the targets that it answers, and plots."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    targets: tuple[Target, ...] = ()
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = ()
    figures: dict[str, object] = field(default_factory=dict)
    """The raw figures, every repetition of them, for the JSON file."""


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, and in brackets the least and the greatest."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def as_markdown(sections: Iterable[Section], environment: dict[str, str]) -> str:
    """Everything as one page of Markdown."""
    return "\n".join(_lines(sections, environment)) + "\n"


def _lines(sections: Iterable[Section], environment: dict[str, str]) -> Iterator[str]:
    yield "# Benchmarks"
    yield ""
    yield " · ".join(f"{name} {value}" for name, value in environment.items())
    for section in sections:
        yield ""
        yield f"## {section.title}"
        yield ""
        yield from _table(section.columns, section.rows)
        if section.targets:
            yield ""
            rows = [
                (one.name, f"{one.measured:,.2f}", one.bound, "yes" if one.met else "NO")
                for one in section.targets
            ]
            yield from _table(("target", "measured", "bound", "met"), rows)
        for note in section.notes:
            yield ""
            yield note


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|---" + "|---:" * (len(columns) - 1) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def as_json(sections: Iterable[Section], environment: dict[str, str]) -> str:
    """Everything, the raw figures included."""
    content = {"environment": environment, "sections": [asdict(section) for section in sections]}
    return json.dumps(content, indent=1, default=str)
