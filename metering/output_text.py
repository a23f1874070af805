"""What could be seen of an answer, put together from a stream: for counting where a provider says nothing."""

from __future__ import annotations

OUTPUT_TEXT_CHARS_MAX = 1024 * 1024
"""So many characters of an answer are kept: more than 128,000 tokens of English, which few models exceed."""


class OutputText:
    """Texts in the order in which they came. `chars` counts all of them, `text` holds the first.

    Text, refusals, reasoning that is shown and the arguments of tool calls alike: all are output tokens.
    """

    __slots__ = ("_parts", "chars")

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.chars = 0

    def add(self, part: object) -> None:
        """Append a text; what is no string is none."""
        if not isinstance(part, str) or not part:
            return
        room = OUTPUT_TEXT_CHARS_MAX - self.chars
        if room > 0:
            self._parts.append(part[:room])
        self.chars += len(part)

    @property
    def text(self) -> str:
        """The first `OUTPUT_TEXT_CHARS_MAX` characters."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""
