"""What the process of a benchmark runs; not in `__main__`, from which a spawned process cannot import."""

from __future__ import annotations

import importlib

from benchmarks.report import Section, Size


def run_one(name: str, size: Size) -> Section:
    """One benchmark, in this process."""
    section: Section = importlib.import_module(f"benchmarks.{name}").run(size)
    return section
