"""What importing a module of ours does, seen in a process of its own: nothing to network, files or screen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_architecture import ARROWS, HEAVY_PACKAGES, ROOT, SDK_OPTIONAL_PACKAGES, modules

# argv: a JSON object {import, warm, absent}. Reports what an import must not do, as the exit message.
PROBE = """
import importlib, json, os, sys, threading
asked = json.loads(sys.argv[1])
found = []
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
FORBIDDEN = {"socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.system",
             "os.posix_spawn", "sqlite3.connect", "os.mkdir", "os.remove", "os.rename"}
def watch(event, args):
    if event in FORBIDDEN:
        found.append(event)
    elif event == "open" and isinstance(args[2], int) and args[2] & WRITES:
        found.append(f"opens {args[0]} to write")
for name in asked["warm"]:
    importlib.import_module(name)
threads = threading.active_count()
sys.addaudithook(watch)
for name in asked["import"]:
    importlib.import_module(name)
if threading.active_count() != threads:
    found.append("starts a thread")
found += [f"pulls in {name}" for name in asked["absent"] if name in sys.modules]
sys.exit("; ".join(found) or 0)
"""


def what_an_import_does(
    names: list[str], *, root: Path, warm: tuple[str, ...] = (), absent: tuple[str, ...] = ()
) -> tuple[int, str]:
    """Exit code and everything written when the modules are imported in a process of their own.

    Args:
        names: Modules to import.
        root: Where they are, and the working directory.
        warm: Other people's packages, imported before anybody watches: what they do is theirs.
        absent: Packages that must not have been imported in the end.
    """
    asked = json.dumps({"import": names, "warm": warm, "absent": absent})
    done = subprocess.run(
        [sys.executable, "-B", "-c", PROBE, asked],  # -B: the interpreter's own caches are no finding
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_importing_our_modules_connects_to_nothing_writes_nothing_and_prints_nothing() -> None:
    names = [name for name in modules(*ARROWS) if not name.endswith("__main__")]
    warm = ("bytewax.dataflow", "clickhouse_connect", "confluent_kafka", "httpx", "polars", "pyarrow", "yaml")
    assert what_an_import_does(names, root=ROOT, warm=warm) == (0, "")


def test_importing_the_sdk_loads_nothing_heavy() -> None:
    names = [name for name in modules("metering") if not name.endswith("__main__")]
    absent = (*HEAVY_PACKAGES, *SDK_OPTIONAL_PACKAGES)
    assert what_an_import_does(names, root=ROOT, absent=absent) == (0, "")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("print('hello')", "hello"),
        ("open('left-behind', 'w').close()", "opens left-behind to write"),
        ("import sqlite3; sqlite3.connect(':memory:').close()", "sqlite3.connect"),
        ("import socket; socket.socket().bind(('127.0.0.1', 0))", "socket.bind"),
        (
            "import threading; threading.Thread(target=threading.Event().wait, args=(1,)).start()",
            "starts a thread",
        ),
        ("import yaml", "pulls in yaml"),
    ],
)
def test_the_import_probe_can_fail(tmp_path: Path, source: str, expected: str) -> None:
    (tmp_path / "bad.py").write_text(source, encoding="utf-8")
    code, output = what_an_import_does(["bad"], root=tmp_path, absent=("yaml",))
    assert (code, output) != (0, "")
    assert expected in output
