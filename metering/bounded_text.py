"""Text put together from parts, of which no more than a bound is kept."""

from __future__ import annotations


class BoundedText:
    """Texts in the order in which they came. `chars` counts all of them, `text()` gives the first of them."""

    __slots__ = ("_chars_max", "_parts", "chars")

    def __init__(self, chars_max: int) -> None:
        self._chars_max = chars_max
        self._parts: list[str] = []
        self.chars = 0

    def add(self, part: object) -> None:
        """Append a text; what is no string is none."""
        if not isinstance(part, str) or not part:
            return
        room = self._chars_max - self.chars
        if room > 0:
            self._parts.append(part[:room])
        self.chars += len(part)

    def text(self, separator: str = "") -> str:
        """What was kept, with a separator between two parts."""
        return separator.join(self._parts)
