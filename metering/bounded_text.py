"""Text put together from parts, of which no more than a bound is kept."""

from __future__ import annotations

import json

from metering.mishaps import note

PARTS_MAX = 4096
"""So many parts are kept apart before they become one: a part alone costs fifty times a character."""


class BoundedText:
    """Texts in the order in which they came. `chars` counts all of them, `text` has the first of them."""

    __slots__ = ("_chars_max", "_parts", "_separator", "chars")

    def __init__(self, chars_max: int, separator: str = "") -> None:
        self._chars_max = chars_max
        self._separator = separator
        self._parts: list[str] = []
        self.chars = 0

    def add(self, part: object) -> None:
        """Append a text; what is no string is none."""
        if not isinstance(part, str) or not part:
            return
        room = self._chars_max - self.chars
        self.chars += len(part)
        if room <= 0:
            return
        self._parts.append(part[:room])
        if len(self._parts) > PARTS_MAX:
            self._parts = [self.text]

    def add_json(self, value: object) -> None:
        """Append an object or a list as the JSON that a model writes, such as a tool call's arguments."""
        if not isinstance(value, (dict, list)):
            return
        try:
            self.add(json.dumps(value, ensure_ascii=False, default=str))
        except Exception as exc:  # noqa: BLE001 - nested without end, or with an object that raises
            note("payload_unread", "the arguments of a tool call could not be read", exc)

    @property
    def text(self) -> str:
        """What was kept, with the separator between two parts."""
        return self._separator.join(self._parts)
