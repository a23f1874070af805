"""YAML text to a tree in which every value is still the text that was written.

YAML would guess a type for `5e-6`, `no`, `1:30`, `010` and `1234567.10`, and money would pass through a
float. Here nothing is guessed: a scalar stays text until the key that it belongs to says what it is, so a
number keeps each of its digits and a tenant may be called `no`, `on` or `007`. Only an unquoted `null`,
`~` or nothing at all is already None.

The text may come from anybody: its size, its depth and what its aliases grow to are bounded, tags and
merge keys are refused, and the same key twice in one mapping is a problem rather than a silent choice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

import yaml
from yaml.reader import ReaderError

TEXT_BYTES_MAX = 1024 * 1024
"""A larger text is not read."""

NODES_MAX = 200_000
"""Keys, values and collections in one text, counted as often as aliases repeat them."""

DEPTH_MAX = 32
"""How deep mappings and lists may nest."""

SHOWN_CHARS_MAX = 60
"""How much of a key or a value a problem repeats."""

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})

Tree: TypeAlias = "str | list[Tree] | dict[str, Tree] | None"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct: where it is (`pricing.rules[2].input_rate`) and a sentence without a subject."""

    path: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.path}: {self.sentence}"


class InvalidSettings(ValueError):
    """Settings that cannot be used. The text of this error is every problem, one a line."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def shown(text: str) -> str:
    """A value as a problem repeats it: numbers bare, the rest quoted, on one line and not too long."""
    if len(text) > SHOWN_CHARS_MAX:
        text = text[: SHOWN_CHARS_MAX - 3] + "..."
    return text if re.fullmatch(r"[-+.0-9]\S*", text, re.ASCII) and text.isprintable() else repr(text)


def key_path(path: str, key: str) -> str:
    """The path of `key` within the mapping at `path`; "" is the path of the file."""
    if not re.fullmatch(r"\w[\w-]*", key, re.ASCII) or len(key) > SHOWN_CHARS_MAX:
        text = key if len(key) <= SHOWN_CHARS_MAX else key[: SHOWN_CHARS_MAX - 3] + "..."
        return f"{path}[{text!r}]"
    return f"{path}.{key}" if path else key


def read_tree(text: str, problems: list[Problem]) -> Tree:
    """The one document in `text`, or None when there is none.

    Keys that are given twice or cannot be read are added to `problems` and left out.

    Raises:
        InvalidSettings: the text is too large, is not YAML, or breaks a bound; nothing more can be said.
    """
    if len(text.encode(errors="surrogatepass")) > TEXT_BYTES_MAX:
        raise InvalidSettings((Problem("the file", f"must be at most {TEXT_BYTES_MAX} bytes"),))
    try:
        node = _Loader(text).get_single_node()
    except _BoundExceeded as error:
        problem = Problem(_line(error.problem_mark), str(error.problem))
    except yaml.MarkedYAMLError as error:
        sentence = ", ".join(part for part in (error.context, error.problem) if part)
        problem = Problem(_line(error.problem_mark), f"is not YAML: {sentence}")
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = Problem(f"line {line}", "holds a character that YAML does not allow")
    except (ValueError, OverflowError):
        # PyYAML converts the digits of an escape such as "\UFFFFFFFF" without looking at them.
        problem = Problem("the file", "is not YAML: a number in an escape or a directive is out of range")
    else:
        return None if node is None else _tree(node, "", problems)
    raise InvalidSettings((problem,))


class _BoundExceeded(yaml.MarkedYAMLError):
    """Something that is YAML, and that settings do not need."""


class _Loader(yaml.SafeLoader):
    """Composes nodes, never objects, and stops as soon as a bound is exceeded."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0
        self._nodes_by_anchor: dict[str, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call] # PyYAML's stubs leave this one out
        nodes_before = self._nodes
        self._depth += 1
        if isinstance(event, yaml.AliasEvent):
            # Missing too while the anchor's own node is still being read, so that none contains itself.
            if event.anchor not in self._nodes_by_anchor:
                raise _refused("an alias must name an anchor that is complete before it", event)
            self._nodes += self._nodes_by_anchor[event.anchor]
        else:
            self._nodes += 1
            if event.tag is not None:
                raise _refused("YAML tags (words that begin with '!') are not read here", event)
        if self._depth > DEPTH_MAX:
            raise _refused(f"lists and mappings may nest {DEPTH_MAX} deep", event)
        if self._nodes > NODES_MAX:
            raise _refused(f"the file holds more than {NODES_MAX} values, its aliases written out", event)
        node = super().compose_node(parent, index)
        if event.anchor is not None and not isinstance(event, yaml.AliasEvent):
            self._nodes_by_anchor[event.anchor] = self._nodes - nodes_before
        self._depth -= 1
        return node


def _refused(sentence: str, event: yaml.NodeEvent) -> _BoundExceeded:
    return _BoundExceeded(problem=sentence, problem_mark=event.start_mark)  # type: ignore[arg-type] # stub


def _line(mark: yaml.Mark | None) -> str:
    return "the file" if mark is None else f"line {mark.line + 1}"


def _tree(node: yaml.Node, path: str, problems: list[Problem]) -> Tree:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, problems)
    if isinstance(node, yaml.SequenceNode):
        return [_tree(item, f"{path}[{index}]", problems) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and node.style is None and node.value in _NULLS:
        return None
    return str(node.value)


def _mapping(node: yaml.MappingNode, path: str, problems: list[Problem]) -> dict[str, Tree]:
    values: dict[str, Tree] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or not key:
            problems.append(Problem(path or "the file", f"has a key that is not a word, on line {line}"))
        elif key == "<<":
            problems.append(
                Problem(path or "the file", f"has a merge key (<<) on line {line}; write its keys out")
            )
        elif key in lines:
            sentence = f"is given twice, on lines {lines[key]} and {line}"
            problems.append(Problem(key_path(path, key), sentence))
        else:
            lines[key] = line
            values[key] = _tree(value_node, key_path(path, key), problems)
    return values
