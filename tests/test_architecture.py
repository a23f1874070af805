"""The house's arrows and its pure core, read from the source: who may import what, who knows no clock.

Each rule is a function from (module, source) to findings, and each is shown to fail on a bad source.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ARROWS = {
    "metering": ("metering",),
    "pricing": ("pricing", "metering.event"),
    "sinks": ("sinks", "pricing", "metering.event"),
    "dataflows": ("dataflows", "sinks", "pricing", "metering.event"),
    "dashboard": ("dashboard", "pricing"),
}

# An AI app installs the SDK beside its own packages: each name here is a version conflict that it may meet.
# tiktoken_ext is the part of tiktoken that names its encodings.
SDK_PACKAGES = {
    *("confluent_kafka", "pydantic", "pydantic_core", "tiktoken", "tiktoken_ext", "typing_extensions"),
}
# Loaded inside a function, by those who ask for what needs them: never by importing the SDK.
SDK_OPTIONAL_PACKAGES = {
    "opentelemetry": "the bridge from spans is for applications that trace themselves with it (extra `otel`)",
}
HEAVY_PACKAGES = ("bytewax", "chdb", "clickhouse_connect", "numpy", "pandas", "polars", "pyarrow", "yaml")

# What the pure core may use: an allow-list, so that a module with IO in it has to be argued for here.
PURE_PACKAGES = {
    *("__future__", "abc", "array", "base64", "binascii", "bisect", "calendar", "collections", "contextlib"),
    *("copy", "dataclasses", "datetime", "decimal", "difflib", "enum", "fractions", "functools", "graphlib"),
    *("hashlib", "heapq", "itertools", "json", "keyword", "math", "numbers", "operator", "re", "statistics"),
    *("string", "struct", "textwrap", "types", "typing", "typing_extensions", "unicodedata", "zlib"),
    "urllib.parse",
    "zoneinfo",  # reads the zone table, which is data of the language as month lengths are
    *("numpy", "polars", "polars_hash", "pyarrow", "pydantic", "pydantic_core", "yaml"),
}
IMPURE_NAMES = {"__import__", "breakpoint", "eval", "exec", "input", "open", "print"}
IMPURE_ATTRIBUTES = {
    *("now", "today", "utcnow", "environ", "getenv"),
    *("random", "shuffle", "sample"),
    *("fromfile", "genfromtxt", "loadtxt", "memmap", "savez", "tofile", "read_bytes", "read_text"),
}
IMPURE_PREFIXES = (
    "read_csv",
    "read_ipc",
    "read_json",
    "read_ndjson",
    "read_parquet",
    "scan_",
    "sink_",
    "write_",
)

LINES_MAX = 400
FUNCTION_LINES_MAX = 70


def modules(*packages: str) -> dict[str, str]:
    """Dotted name → source of every module of the packages that exist."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path.read_text(encoding="utf-8")
    return found


def imports(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a module imports, anywhere in it."""
    is_package = (ROOT.joinpath(*module.split(".")) / "__init__.py").is_file()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".") + ["__init__"] * is_package
                base = ".".join([*here[: -node.level], *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def against_the_arrows(module: str, source: str) -> list[str]:
    allowed = ARROWS[module.split(".", maxsplit=1)[0]]
    return [
        f"{module}:{line} imports {name}"
        for line, name in imports(module, source)
        if any(is_within(name, package) for package in ("tests", "benchmarks", *ARROWS))
        and not any(is_within(name, prefix) for prefix in allowed)
    ]


# The flow that Meterline is measured against is written for Bytewax too.
PER_EVENT_FLOW = "benchmarks.naive_flow"


def bytewax_outside_its_rooms(module: str, source: str) -> list[str]:
    if module.split(".", maxsplit=1)[0] in ("dataflows", "sinks") or module == PER_EVENT_FLOW:
        return []
    return [
        f"{module}:{line} imports {name}"
        for line, name in imports(module, source)
        if is_within(name, "bytewax")
    ]


def heavy_in_the_sdk(module: str, source: str) -> list[str]:
    allowed = SDK_PACKAGES | sys.stdlib_module_names | {"metering"}
    outermost = {node.lineno for node in ast.parse(source).body}
    return [
        f"{module}:{line} imports {name}"
        for line, name in imports(module, source)
        if (package := name.split(".", maxsplit=1)[0]) not in allowed
        and (package not in SDK_OPTIONAL_PACKAGES or line in outermost)
    ]


def impure(module: str, source: str) -> list[str]:
    found = [
        (line, f"imports {name}")
        for line, name in imports(module, source)
        if not any(is_within(name, package) for package in (*PURE_PACKAGES, *ARROWS))
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id in IMPURE_NAMES:
            found.append((node.lineno, f"uses {node.id}"))
        elif isinstance(node, ast.Attribute) and (
            node.attr in IMPURE_ATTRIBUTES or node.attr.startswith(IMPURE_PREFIXES)
        ):
            found.append((node.lineno, f"uses .{node.attr}"))
        elif isinstance(node, ast.Call):
            found += [(node.lineno, reads) for reads in process_dependent(node)]
    return [f"{module}:{line} {what}" for line, what in sorted(found)]


def process_dependent(call: ast.Call) -> list[str]:
    """Calls whose answer depends on the process and not on their arguments alone."""
    arguments = len(call.args) + len(call.keywords)
    if isinstance(call.func, ast.Name) and call.func.id == "hash":
        return ["uses hash(), which differs between processes"]
    if isinstance(call.func, ast.Attribute):
        if call.func.attr == "astimezone" and arguments == 0:
            return ["uses the host's time zone in .astimezone()"]
        if call.func.attr == "fromtimestamp" and arguments == 1:
            return ["uses the host's time zone in .fromtimestamp()"]
    return []


def too_long(module: str, source: str) -> list[str]:
    found = []
    lines = source.count("\n")
    if lines > LINES_MAX:
        found.append(f"{module} has {lines} lines")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                found.append(f"{module}:{node.lineno} {node.name} has {length} lines")
    return found


# Where machine code is kept is no part of what the code computes.
COMPILER = "dataflows.compiled"


def pure_core() -> dict[str, str]:
    """pricing/, the event contract, the dedupe index, and all of ours that they import but the compiler."""
    everything = modules(*ARROWS)
    waiting = [
        name
        for name in everything
        if is_within(name, "pricing") or name == "metering.event" or name.startswith("dataflows.dedupe")
    ]
    core: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name in core or name == COMPILER:
            continue
        core[name] = everything[name]
        for _, imported in imports(name, everything[name]):
            waiting += [found for found in (imported, imported.rpartition(".")[0]) if found in everything]
    return core


def findings(rule: object, found: dict[str, str]) -> list[str]:
    assert callable(rule)
    return [line for module, source in found.items() for line in rule(module, source)]


def test_imports_follow_the_arrows() -> None:
    assert findings(against_the_arrows, modules(*ARROWS)) == []


def test_bytewax_lives_in_dataflows_and_sinks_alone() -> None:
    assert findings(bytewax_outside_its_rooms, modules(*ARROWS, "benchmarks")) == []


def test_the_sdk_imports_nothing_heavy() -> None:
    assert findings(heavy_in_the_sdk, modules("metering")) == []


def test_the_core_knows_no_io_clock_environment_logging_or_randomness() -> None:
    assert findings(impure, pure_core()) == []


def test_the_core_is_what_it_should_be() -> None:
    assert {"pricing.money", "pricing.cap", "metering.event"} <= pure_core().keys()


def test_modules_and_functions_stay_short() -> None:
    assert findings(too_long, modules(*ARROWS, "benchmarks")) == []


def test_no_room_is_a_grab_bag() -> None:
    names = [name.rpartition(".")[2] for name in modules(*ARROWS, "benchmarks", "tests")]
    assert {"utils", "util", "helpers", "common", "misc"}.isdisjoint(names)


@pytest.mark.parametrize(
    ("rule", "module", "source", "expected"),
    [
        (
            against_the_arrows,
            "pricing.bad",
            "import sinks.clickhouse",
            "pricing.bad:1 imports sinks.clickhouse",
        ),
        (against_the_arrows, "pricing.bad", "from sinks import x", "pricing.bad:1 imports sinks.x"),
        (
            against_the_arrows,
            "pricing.bad",
            "from metering import client",
            "pricing.bad:1 imports metering.client",
        ),
        (against_the_arrows, "pricing.bad", "from ..sinks import x", "pricing.bad:1 imports sinks.x"),
        (against_the_arrows, "pricing", "from ..sinks import x", "pricing:1 imports sinks.x"),
        (against_the_arrows, "sinks.bad", "def f():\n    import dataflows", "sinks.bad:2 imports dataflows"),
        (
            against_the_arrows,
            "metering.bad",
            "from pricing.cap import Cap",
            "metering.bad:1 imports pricing.cap.Cap",
        ),
        (
            against_the_arrows,
            "dashboard.bad",
            "import dataflows.cli",
            "dashboard.bad:1 imports dataflows.cli",
        ),
        (
            against_the_arrows,
            "dataflows.bad",
            "import tests.auditor",
            "dataflows.bad:1 imports tests.auditor",
        ),
        (against_the_arrows, "sinks.good", "from metering.event import TOKENS_MAX", None),
        (against_the_arrows, "sinks.good", "from metering import event", None),
        (against_the_arrows, "pricing.good", "from . import money", None),
        (against_the_arrows, "pricing.good", "import pricing_tables", None),
        (
            bytewax_outside_its_rooms,
            "pricing.bad",
            "import bytewax.inputs",
            "pricing.bad:1 imports bytewax.inputs",
        ),
        (
            bytewax_outside_its_rooms,
            "benchmarks.bad",
            "import bytewax.inputs",
            "benchmarks.bad:1 imports bytewax.inputs",
        ),
        (bytewax_outside_its_rooms, PER_EVENT_FLOW, "import bytewax.inputs", None),
        (bytewax_outside_its_rooms, "sinks.good", "from bytewax.outputs import DynamicSink", None),
        (heavy_in_the_sdk, "metering.bad", "def f():\n    import polars", "metering.bad:2 imports polars"),
        (heavy_in_the_sdk, "metering.good", "import json, pydantic", None),
        (heavy_in_the_sdk, "metering.bad", "import opentelemetry", "metering.bad:1 imports opentelemetry"),
        (heavy_in_the_sdk, "metering.good", "def f():\n    import opentelemetry", None),
        (impure, "pricing.bad", "import os", "pricing.bad:1 imports os"),
        (impure, "pricing.bad", "import logging", "pricing.bad:1 imports logging"),
        (impure, "pricing.bad", "from time import monotonic", "pricing.bad:1 imports time.monotonic"),
        (impure, "pricing.bad", "import random", "pricing.bad:1 imports random"),
        (impure, "pricing.bad", "now = datetime.now(timezone.utc)", "pricing.bad:1 uses .now"),
        (impure, "pricing.bad", "clock = datetime.datetime.utcnow", "pricing.bad:1 uses .utcnow"),
        (impure, "pricing.bad", "open('card.yaml')", "pricing.bad:1 uses open"),
        (impure, "pricing.bad", "np.random.default_rng()", "pricing.bad:1 uses .random"),
        (impure, "pricing.bad", "pl.scan_csv('x')", "pricing.bad:1 uses .scan_csv"),
        (
            impure,
            "pricing.bad",
            "hash('tenant')",
            "pricing.bad:1 uses hash(), which differs between processes",
        ),
        (
            impure,
            "pricing.bad",
            "at.astimezone()",
            "pricing.bad:1 uses the host's time zone in .astimezone()",
        ),
        (
            impure,
            "pricing.good",
            "from datetime import datetime\nat.astimezone(zone)\nhashlib.sha256(b'')",
            None,
        ),
        (too_long, "pricing.bad", "\n" * 401, "pricing.bad has 401 lines"),
        (too_long, "pricing.bad", "def f():\n" + "    x = 1\n" * 70, "pricing.bad:1 f has 71 lines"),
        (too_long, "pricing.good", "def f():\n" + "    x = 1\n" * 69, None),
    ],
)
def test_each_rule_can_fail(rule: object, module: str, source: str, expected: str | None) -> None:
    assert findings(rule, {module: source}) == ([expected] if expected else [])
