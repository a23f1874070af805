"""Plots as PNG files, where Matplotlib is installed (`make bench` installs it)."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from benchmarks.report import Plot


def draw(plots: Iterable[Plot], directory: Path) -> list[Path]:
    """Draw every plot into `directory`; nothing where Matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return []
    return [_draw_one(plot, directory / f"{plot.name}.png") for plot in plots]


def _draw_one(plot: Plot, path: Path) -> Path:
    from matplotlib.figure import Figure  # noqa: PLC0415  # optional, and slow to import

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, x_values, y_values in plot.series:
        axes.plot(x_values, y_values, marker="o", label=label)
    axes.set_xscale(plot.log_x)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    return path
