"""Reading one mapping of the settings key by key: what each kind of value must be, and what is said if not.

A reader of a value takes the text that was written and returns the value, or raises `Unfit` with a
sentence. Readers of addresses and of secrets never repeat what they were given.
"""

from __future__ import annotations

import difflib
import functools
import re
import zoneinfo
from collections.abc import Callable, Iterable
from datetime import date
from decimal import Decimal
from typing import TypeVar
from urllib.parse import urlsplit

from pricing.settings_yaml import SHOWN_CHARS_MAX, Problem, Tree, key_path, shown

T = TypeVar("T")
D = TypeVar("D")

_DIGITS = r"(?:0|[1-9](?:_?[0-9])*)"
_WHOLE = re.compile(rf"[-+]?{_DIGITS}", re.ASCII)
# Four digits of exponent say more than any setting needs, and keep the conversion exact whatever the context.
_NUMBER = re.compile(rf"[-+]?(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{{1,4}})?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CRON_NAMES = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "day of the week": ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}
_CRON_FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 7),
)
_NAME_ONLY = "must be the name of {}, not the secret itself"


class Unfit(ValueError):
    """A value that a key cannot take. The message is a sentence without a subject."""


class Section:
    """One mapping of the file. What is wrong goes to `problems`, and reading goes on with a stand-in.

    `finish` comes last: a key that nobody asked for by then is unknown. When `is_mapping` is false that
    has been said, and what is missing in it is not said again.
    """

    __slots__ = ("_asked", "_problems", "_refused", "_values", "is_mapping", "path")

    def __init__(self, path: str, tree: Tree, problems: list[Problem]) -> None:
        self.path = path
        self._problems = problems
        self._asked: list[str] = []
        self._refused: set[str] = set()
        self._values = tree if isinstance(tree, dict) else {}
        self.is_mapping = isinstance(tree, dict | None)
        if not self.is_mapping:
            self.problem(None, f"must be a mapping, got {_kind(tree)}")

    def problem(self, key: str | None, sentence: str) -> None:
        """Add what is wrong with `key`, or with the whole section when that is None."""
        path = self.path if key is None else key_path(self.path, key)
        self._problems.append(Problem(path or "the file", sentence))

    def optional(self, key: str, read: Callable[[str], T], default: D) -> T | D:
        """The value of `key`; `default` when it is absent, null or wrong."""
        value = self._ask(key)
        return default if value is None else self._read(key_path(self.path, key), value, read, default)

    def required(self, key: str, read: Callable[[str], T], stand_in: T) -> T:
        """As `optional`, but absence is a problem too."""
        return stand_in if self.missing(key) else self.optional(key, read, stand_in)

    def several(
        self, key: str, read: Callable[[str], T], default: tuple[T, ...], *, count_max: int
    ) -> tuple[T, ...]:
        """The values of `key`, which is one value or a list of 1 to `count_max`."""
        value = self._ask(key)
        if value is None:
            return default
        items = value if isinstance(value, list) else [value]
        if not 1 <= len(items) <= count_max:
            self.problem(key, f"must have 1 to {count_max} entries, got {len(items)}")
            return default
        path = key_path(self.path, key)
        paths = [f"{path}[{index}]" for index in range(len(items))] if isinstance(value, list) else [path]
        read_items = [self._read(at, item, read, None) for at, item in zip(paths, items, strict=True)]
        return tuple(item for item in read_items if item is not None)

    def section(self, key: str) -> Section:
        """The mapping under `key`; an empty one when it is absent or wrong."""
        return Section(key_path(self.path, key), self._ask(key), self._problems)

    def sections(self, key: str, *, count_min: int = 0) -> list[Section]:
        """The mappings in the list under `key`; none when it is absent or wrong."""
        value = self._ask(key)
        if value is None:
            return []
        path = key_path(self.path, key)
        if not isinstance(value, list):
            self.problem(key, f"must be a list, got {_kind(value)}")
            return []
        if len(value) < count_min:
            self.problem(key, f"must have {count_min} or more entries, got {len(value)}")
        # An item without anything is a slip of the pen, where a section without anything means its defaults.
        return [
            Section(f"{path}[{index}]", "" if item is None else item, self._problems)
            for index, item in enumerate(value)
        ]

    def entries(self, key: str, read_name: Callable[[str], str]) -> list[tuple[str, Section]]:
        """The mappings under `key` by the names that they are given there."""
        value = self._ask(key)
        if not isinstance(value, dict | None):
            self.problem(key, f"must be a mapping, got {_kind(value)}")
        found = []
        for name, tree in value.items() if isinstance(value, dict) else ():
            path = key_path(key_path(self.path, key), name)
            self._read(path, name, read_name, None)
            found.append((name, Section(path, tree, self._problems)))
        return found

    def lists(self, key: str, read_name: Callable[[str], str]) -> list[tuple[str, list[Section]]]:
        """The lists of mappings under `key` by the names that they are given there."""
        named = self.section(key)
        value = self._ask(key)
        names = list(value) if isinstance(value, dict) else []
        for name in names:
            self._read(key_path(named.path, name), name, read_name, None)
        return [(name, named.sections(name)) for name in names]

    def given(self, key: str) -> bool:
        """Whether `key` is there and not null."""
        return self._ask(key) is not None

    def missing(self, key: str) -> bool:
        """Whether `key` is absent or null, which is then a problem."""
        absent = self._ask(key) is None
        if absent and self.is_mapping:
            self.problem(key, "is missing")
        return absent

    def refuse(self, key: str, sentence: str) -> bool:
        """Whether `key` is there although it must not be, which is then a problem."""
        present = key in self._values
        if present:
            self._refused.add(key)
            self.problem(key, sentence)
        return present

    def finish(self) -> None:
        """Name the keys that mean nothing here, and what they were probably meant to be."""
        for key in self._values:
            if key not in self._asked and key not in self._refused:
                hint = closest(key, self._asked) or "; known here: " + ", ".join(self._asked)
                self.problem(key, f"is not a known key{hint}")

    def _ask(self, key: str) -> Tree:
        if key not in self._asked:
            self._asked.append(key)
        return self._values.get(key)

    def _read(self, path: str, value: Tree, read: Callable[[str], T], default: D) -> T | D:
        if not isinstance(value, str):
            self._problems.append(Problem(path, f"must be a single value, got {_kind(value)}"))
            return default
        try:
            return read(value)
        except Unfit as unfit:
            self._problems.append(Problem(path, str(unfit)))
            return default


def closest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for the known word that looks most like `word`, or nothing."""
    matches = difflib.get_close_matches(word[:SHOWN_CHARS_MAX], known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def decimal(low: str, high: str, *, places: int) -> Callable[[str], Decimal]:
    """A number from `low` to `high` with at most `places` digits after the point that are not just zeros."""
    lowest, highest = Decimal(low), Decimal(high)
    too_low = "must be positive (zero is allowed)" if lowest == 0 else f"must be at least {low}"

    def read(text: str) -> Decimal:
        if not _NUMBER.fullmatch(text):
            raise Unfit(f"must be a number, got {shown(text)}")
        value = Decimal(text.replace("_", ""))
        if value < lowest:
            raise Unfit(f"{too_low}, got {shown(text)}")
        if value > highest:
            raise Unfit(f"must be at most {high}, got {shown(text)}")
        if _places(value) > places:
            raise Unfit(f"must have at most {places} digits after the point, got {shown(text)}")
        return value.copy_abs() if value == 0 else value

    return read


def fraction(text: str) -> Decimal:
    """A number above 0 and at most 1, with at most 6 digits after the point."""
    value = decimal("0", "1", places=6)(text)
    if value == 0:
        raise Unfit(f"must be more than 0 and at most 1, got {shown(text)}")
    return value


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number from `low` to `high`."""

    def read(text: str) -> int:
        # The length keeps int() within the digits that Python converts.
        if not _WHOLE.fullmatch(text) or len(text) > 40 or not low <= int(text) <= high:
            raise Unfit(f"must be a whole number from {low} to {high}, got {shown(text)}")
        return int(text)

    return read


def flag(text: str) -> bool:
    """`true` or `false`; `yes` and `on` are words like any other."""
    if text.lower() not in {"true", "false"}:
        raise Unfit(f"must be true or false, got {shown(text)}")
    return text.lower() == "true"


def one_of(*words: str) -> Callable[[str], str]:
    """One of a few words."""

    def read(text: str) -> str:
        if text not in words:
            raise Unfit(f"must be {' or '.join(words)}, got {shown(text)}")
        return text

    return read


def label(low: int, high: int) -> Callable[[str], str]:
    """Text of `low` to `high` characters, none of which is a control character."""

    def read(text: str) -> str:
        if not low <= len(text) <= high:
            raise Unfit(f"must have {low} to {high} characters, got {len(text)}")
        if _CONTROL.search(text):
            raise Unfit(f"must not hold control characters, got {shown(text)}")
        return text

    return read


def matching(pattern: str, sentence: str) -> Callable[[str], str]:
    """Text that matches `pattern` as a whole; `sentence` says what that means."""
    compiled = re.compile(pattern, re.ASCII)

    def read(text: str) -> str:
        if not compiled.fullmatch(text):
            raise Unfit(f"{sentence}, got {shown(text)}")
        return text

    return read


def month(text: str) -> date:
    """The first day of a month that is written as `2026-11` or `2026-11-01`."""
    match = re.fullmatch(r"(20[0-9]{2})-(0[1-9]|1[0-2])(?:-01)?", text, re.ASCII)
    if match is None:
        raise Unfit(
            f"must be a whole month such as 2026-11 (nothing is prorated within one), got {shown(text)}"
        )
    return date(int(match[1]), int(match[2]), 1)


def timezone(text: str) -> str:
    """The IANA name of a time zone."""
    if text != "UTC" and text not in _timezones():
        hint = closest(text, sorted(_timezones()))
        raise Unfit(f"must be a time zone such as Europe/Vienna, got {shown(text)}{hint}")
    return text


@functools.cache
def _timezones() -> frozenset[str]:
    # zoneinfo reads the host's or tzdata's files, which is as near to IO as this package comes: they are
    # constants that Python chooses not to carry in its code. "localtime" is the one name among them that
    # means something else on every host, and "Factory" means that nobody has chosen yet.
    return frozenset(zoneinfo.available_timezones()) - {"localtime", "Factory"}


def cron(text: str) -> str:
    """A cron line: minute, hour, day, month and day of the week, with `*`, names, ranges, lists and steps."""
    fields = text.split()
    if len(fields) != len(_CRON_FIELDS):
        raise Unfit(f"must be a cron line of five fields, got {shown(text)}")
    for field, (name, low, high) in zip(fields, _CRON_FIELDS, strict=True):
        for item in field.split(","):
            if not _cron_item(item, name, low, high):
                raise Unfit(f"must have a {name} from {low} to {high} in cron's syntax, got {shown(item)}")
    return " ".join(fields)


def url(text: str) -> str:
    """An http:// or https:// address without credentials."""
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    # urlsplit drops line ends and takes spaces; what is checked here must be what is called later.
    if not is_address or len(text) > 2048 or re.search(r"[\s\\]", text) or _CONTROL.search(text):
        raise Unfit("must be an http:// or https:// address")
    if "@" in urlsplit(text).netloc:
        raise Unfit("must not hold a user name or password")
    return text


def variable_name(text: str) -> str:
    """The name of an environment variable."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", text) or text.startswith("whsec_"):
        raise Unfit(_NAME_ONLY.format("an environment variable"))
    return text


def file_name(text: str) -> str:
    """The path of a file. Whether it is there is for those to find out who open it."""
    if not 1 <= len(text) <= 4096 or _CONTROL.search(text) or text.startswith("whsec_"):
        raise Unfit(_NAME_ONLY.format("a file"))
    return text


def _kind(tree: Tree) -> str:
    if isinstance(tree, dict):
        return "a mapping"
    if isinstance(tree, list):
        return "a list"
    return "a single value" if tree else "nothing"


def _places(value: Decimal) -> int:
    _, digits, exponent = value.as_tuple()
    written = "".join(map(str, digits)).rstrip("0")
    if not written or not isinstance(exponent, int):
        return 0
    return max(0, -exponent - (len(digits) - len(written)))


def _cron_item(item: str, name: str, low: int, high: int) -> bool:
    match = re.fullmatch(r"(?:\*|(\w{1,3})(?:-(\w{1,3}))?)(?:/([0-9]{1,2}))?", item, re.ASCII)
    if match is None:
        return False
    first, last, step = match.groups()
    if step is not None and (not 1 <= int(step) <= high or (first is not None and last is None)):
        return False
    if first is None:
        return True
    start, end = _cron_value(first, name), _cron_value(first if last is None else last, name)
    return start is not None and end is not None and low <= start <= end <= high


def _cron_value(text: str, name: str) -> int | None:
    if re.fullmatch(r"[0-9]{1,2}", text):
        return int(text)
    names = _CRON_NAMES.get(name, ())
    if text.lower() not in names:
        return None
    return names.index(text.lower()) + (1 if name == "month" else 0)
