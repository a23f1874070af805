"""A benchmark in a process of its own, so that none inherits another's memory, threads or caches."""

from __future__ import annotations

import importlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from benchmarks.report import Section, Size


def run_alone(name: str, size: Size) -> Section:
    """Run one benchmark in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, name, size).result()


# Not in __main__: a spawned process imports by name, and has a __main__ of its own.
def _run(name: str, size: Size) -> Section:
    section: Section = importlib.import_module(f"benchmarks.{name}").run(size)
    return section
