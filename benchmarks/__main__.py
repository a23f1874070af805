"""Run benchmarks, and write their table, JSON and plots.

    python -m benchmarks                       every one in full (make bench)
    python -m benchmarks throughput rating     some
    python -m benchmarks --smoke               small ones, to see that they work (make check)

Each benchmark is a module with `run(size) -> Section`, and runs in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.environment import environment
from benchmarks.isolation import run_alone
from benchmarks.plots import draw
from benchmarks.report import Section, Size, as_json, as_markdown

BENCHMARKS: tuple[str, ...] = (
    "throughput",
    "workers",
    "latency",
    "state",
    "rating",
    "queries",
    "simulate",
    "sdk_record",
    "sdk_overhead",
)
RESULTS = Path("bench-results")


def main() -> int:
    """The table on standard output; 1 if a benchmark fails. A target that is missed is no failure.

    One that fails is left out of the table, and does not take the results of the others with it.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--smoke", action="store_true", help="small sizes: does it work?")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a directory (bench-results)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}: there are {', '.join(BENCHMARKS)}")
    size = Size.SMOKE if options.smoke else Size.FULL
    # Compiled loops are made once for a checkout, and no benchmark is to measure that.
    subprocess.run([sys.executable, "-m", "benchmarks.event_way"], check=True)
    sections: list[Section] = []
    failed: list[str] = []
    table = ""
    for name in options.names or BENCHMARKS:
        started = time.monotonic()
        sys.stderr.write(f"{name} …\n")
        try:
            sections.append(run_alone(name, size))
        except Exception:  # noqa: BLE001  # whatever it was, it is told
            traceback.print_exc()
            failed.append(name)
        sys.stderr.write(f"{name}: {time.monotonic() - started:.0f} s\n")
        table = _keep(sections, options.out)
    plots = draw((plot for section in sections for plot in section.plots), options.out)
    sys.stdout.write(table)
    sys.stderr.write(f"{options.out}: results.json, results.md and {len(plots)} plots\n")
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed else 0


def _keep(sections: Sequence[Section], out: Path) -> str:
    """Write what there is so far, since all of it takes three quarters of an hour; returns the table."""
    found = environment()
    table = as_markdown(sections, found)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(as_json(sections, found))
    (out / "results.md").write_text(table)
    return table


if __name__ == "__main__":
    sys.exit(main())
