from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.settings import InvalidSettings, Settings, load_settings
from pricing.settings_yaml import NODES_MAX, TEXT_BYTES_MAX, Problem, Tree, read_tree

WHOLE = """\
pricing:
  rules:
    - model: "gpt-4o"
      input_rate: 0.000005
      output_rate: 0.000015
limits:
  tenant: &caps {daily_cap: 50.00}
  overrides:
    tenants: {acme: *caps}
alerts:
  webhooks:
    - url: https://example.com
      secret_env: [NEW, OLD]
"""
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 20)
)
TOO_MANY = f"the file holds more than {NODES_MAX} values, its aliases written out"
ALIAS = "an alias must name an anchor that is complete before it"
TAGS = "YAML tags (words that begin with '!') are not read here"


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("", None),
        ("# nothing but a comment", None),
        ("---", None),
        ("null", None),
        ("'null'", "null"),
        ("a: ", {"a": None}),
        ("a: ''", {"a": ""}),
        ("a: 0.10", {"a": "0.10"}),
        (
            "a: [yes, off, 1_000, 5e-6, 1:30, 010, 2026-01-01]",
            {"a": ["yes", "off", "1_000", "5e-6", "1:30", "010", "2026-01-01"]},
        ),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": "1"}, "c": {"b": "1"}}),
        ("a: &x 1\nb: [*x, *x]", {"a": "1", "b": ["1", "1"]}),
        ("a: &x ~\nb: *x", {"a": None, "b": None}),
        ("null: 1\n~: 2", {"null": "1", "~": "2"}),
        ("a: |\n  b\n", {"a": "b\n"}),
        ("a: 1\r\nb: 2\r\n", {"a": "1", "b": "2"}),
        ("\ufeffa: 1", {"a": "1"}),
    ],
)
def test_every_value_is_the_text_that_was_written(text: str, tree: Tree) -> None:
    problems: list[Problem] = []
    assert read_tree(text, problems) == tree
    assert problems == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "pricing: is missing"),
        ("# nothing but a comment", "pricing: is missing"),
        ("limits: {}", "pricing: is missing"),
        ("- a", "the file: must be a mapping, got a list"),
        ("text", "the file: must be a mapping, got a single value"),
        (
            "a: 1\nb: [1,\nc: 2",
            "line 3: is not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
        ),
        ("a: 1\n  b: 2", "line 2: is not YAML: mapping values are not allowed here"),
        (
            "a:\n\tb: 1",
            "line 2: is not YAML: while scanning for the next token, found character '\\t' that cannot",
        ),
        ("a: 'open", "line 1: is not YAML: while scanning a quoted scalar, found unexpected end of stream"),
        ("a: 1\n---\nb: 2", "line 2: is not YAML: expected a single document in the stream"),
        ("a: &x 1\nb: &x 2", "line 2: is not YAML: found duplicate anchor 'x'"),
        ("a: 1\nb: \x00", "line 2: holds a character that YAML does not allow"),
        ("a: \ud800", "line 1: holds a character that YAML does not allow"),
        ('a: "\\UFFFFFFFF"', "the file: is not YAML: a number in an escape or a directive is out of range"),
        (
            "%YAML 1." + "9" * 5000 + "\n---\na: 1",
            "the file: is not YAML: a number in an escape or a directive",
        ),
        ("a: 1\nb: *nowhere", f"line 2: {ALIAS}"),
        ("a: &a [*a]", f"line 1: {ALIAS}"),
        ("a: &a {b: *a}", f"line 1: {ALIAS}"),
        ("a: !!python/object/apply:os.system [id]", f"line 1: {TAGS}"),
        ("a: !!float 1", f"line 1: {TAGS}"),
        ("a: 1\nb: !secret [x]", f"line 2: {TAGS}"),
        ("! a: 1", f"line 1: {TAGS}"),
        ("[" * 100_000, "line 1: lists and mappings may nest 32 deep"),
        ("? " * 100_000, "line 1: lists and mappings may nest 32 deep"),
        (LAUGHS, f"line 6: {TOO_MANY}"),
        ("a: '" + "é" * (TEXT_BYTES_MAX // 2) + "'", "the file: must be at most 1048576 bytes"),
    ],
)
def test_text_that_is_not_a_settings_file(text: str, problem: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(text)
    (found,) = caught.value.problems
    assert str(found).startswith(problem)


@pytest.mark.parametrize(
    ("text", "problem", "kept"),
    [
        ("a: 1\nb: 2\na: 3", "a: is given twice, on lines 1 and 3", {"a": "1", "b": "2"}),
        ("a: 1\n'a': 3", "a: is given twice, on lines 1 and 2", {"a": "1"}),
        ("p:\n  - {}\n  - a.b: 1\n    a.b: 2", "p[1]['a.b']: is given twice, on lines 3 and 4", None),
        ("a: {b: {c: 1, c: 1}}", "a.b.c: is given twice, on lines 1 and 1", {"a": {"b": {"c": "1"}}}),
        ("x: &x {b: 1}\na:\n  <<: *x", "a: has a merge key (<<) on line 3; write its keys out", None),
        ("a:\n  [b, c]: 1", "a: has a key that is not a word, on line 2", {"a": {}}),
        ("a: 1\n{b: c}: 1", "the file: has a key that is not a word, on line 2", {"a": "1"}),
        ("'': 1", "the file: has a key that is not a word, on line 1", {}),
    ],
)
def test_a_key_that_cannot_count_is_named_and_left_out(text: str, problem: str, kept: Tree) -> None:
    problems: list[Problem] = []
    tree = read_tree(text, problems)
    assert [str(found) for found in problems] == [problem]
    assert kept is None or tree == kept


def test_as_many_values_as_a_file_may_hold() -> None:
    ten = "&ten [" + ", ".join("x" * 9) + "]"
    thousand = f"[{ten}" + ", *ten" * 99 + "]"
    repeats = NODES_MAX // 1001
    fitting = f"a: &k {thousand}\nb: [" + ", ".join(["*k"] * (repeats - 2)) + "]"
    problems: list[Problem] = []
    assert isinstance(read_tree(fitting, problems), dict)
    with pytest.raises(InvalidSettings, match="more than"):
        read_tree(fitting + "\nc: [*k, *k]", problems)


def test_a_repeated_part_has_its_problems_wherever_it_stands() -> None:
    text = WHOLE.replace("50.00", "-1")
    with pytest.raises(InvalidSettings) as caught:
        load_settings(text)
    assert [problem.path for problem in caught.value.problems] == [
        "limits.tenant.daily_cap",
        "limits.overrides.tenants.acme.daily_cap",
    ]


def test_the_error_travels_between_processes() -> None:
    error = InvalidSettings((Problem("a.b", "is missing"), Problem("c", "is missing")))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert copy.problems == error.problems
    assert str(copy) == "a.b: is missing\nc: is missing"


SPLINTERS = st.text(" \t\r\n'\"{}[]:?|>%@&*!#,<~-ax01.\\U\x00\x85\u2028\ufeff\ud800", max_size=6)


@given(st.lists(st.tuples(st.integers(0, len(WHOLE)), st.integers(0, 12), SPLINTERS), max_size=5))
def test_any_damage_is_read_or_named(damage: list[tuple[int, int, str]]) -> None:
    text = WHOLE
    for start, removed, splinter in damage:
        text = text[:start] + splinter + text[start + removed :]
    try:
        found: Settings | InvalidSettings = load_settings(text)
    except InvalidSettings as error:
        found = error
    if isinstance(found, Settings):
        assert found.pricing.rules
    else:
        assert found.problems
        assert len(str(found).splitlines()) == len(found.problems)


@given(st.text())
def test_any_text_at_all_is_read_or_named(text: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(text)
    assert len(str(caught.value).splitlines()) == len(caught.value.problems)
