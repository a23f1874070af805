"""What metering/README.md shows is Python, what it imports is there, and what it asserts is so."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

README = (Path(__file__).parents[2] / "metering" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?ms)^```python\n(.*?)^```$", README)


def test_what_it_imports_is_there() -> None:
    found = [
        node for block in BLOCKS for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)
    ]
    ours = [node for node in found if (node.module or "").startswith("metering")]
    assert len(ours) > 5
    for node in ours:
        for alias in node.names:
            assert hasattr(importlib.import_module(node.module or ""), alias.name), ast.unparse(node)


def test_what_it_asserts_is_so() -> None:
    shown = [block for block in BLOCKS if "assert" in block]
    assert len(shown) == 2
    exec("\n".join(shown), {})  # noqa: S102  # our own page; the second goes on where the first ends
