"""Server-sent events, read as bytes arrive, into the JSON values that their data are.

After the event stream format of the HTML standard (section 9.2.6, "Interpreting an event stream"): lines end
in LF, CR or CRLF, a blank line ends an event, several `data` lines are one text. The same bytes give the same
values however they are split. `data: [DONE]`, with which OpenAI's streams end, is no value.

Bounds: an event of more than `EVENT_BYTES_MAX` is passed over, and counted in `skipped`, as is one that is no
JSON. Fractions are read as `Decimal`: no cost passes through a float.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal

from metering.mishaps import note

EVENT_BYTES_MAX = 16 * 1024 * 1024
"""The last event of some streams repeats the whole answer and its request; this is many times the largest."""

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_json(data: bytes | bytearray | str) -> object:
    """A JSON text with its fractions as `Decimal`.

    Raises:
        ValueError: it is none. (RecursionError: it nests too deep.)
    """
    return json.loads(data, parse_float=Decimal)


class SseReader:
    """Bytes in, JSON values out. `is_done` says that `[DONE]` was read."""

    __slots__ = ("_data", "_data_bytes", "_follows_cr", "_is_first_line", "_line", "is_done", "skipped")

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._follows_cr = False
        self._is_first_line = True
        self.is_done = False
        self.skipped = 0

    def feed(self, data: bytes) -> list[object]:
        """The values of the events that these bytes complete."""
        if self._follows_cr and data[:1] == b"\n":
            data = data[1:]
            self._follows_cr = False
        if not data:
            return []
        found: list[object] = []
        start = 0
        for end in _LINE_END.finditer(data):
            self._extend(data[start : end.start()])
            self._end_line(found)
            start = end.end()
        self._extend(data[start:])
        self._follows_cr = data[-1:] == b"\r"
        return found

    def close(self) -> list[object]:
        """The value of an event that the end of the bytes cut off before its blank line, if it is whole."""
        found: list[object] = []
        self._end_line(found)
        if self._data:
            self._end_event(found)
        return found

    def _extend(self, part: bytes) -> None:
        room = EVENT_BYTES_MAX + 1 - len(self._line)  # one byte more tells that it is too long
        self._line += part[:room]

    def _end_line(self, found: list[object]) -> None:
        line = bytes(self._line)
        self._line.clear()
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            if self._data:
                self._end_event(found)
            return
        name, _, value = line.partition(b":")
        if name != b"data":
            return  # a comment, or the event's name, id or retry time: the data say all that we need
        self._data_bytes += len(line)
        if self._data_bytes > EVENT_BYTES_MAX:
            self._data = [b""]  # what is left of it: that there was an event
        else:
            self._data.append(value.removeprefix(b" "))

    def _end_event(self, found: list[object]) -> None:
        data = b"\n".join(self._data)
        is_too_long = self._data_bytes > EVENT_BYTES_MAX
        self._data = []
        self._data_bytes = 0
        if is_too_long:
            self.skipped += 1
            note("payload_unread", "an event of a stream is too long")
        elif data.strip() == b"[DONE]":
            self.is_done = True
        elif data.strip():
            try:
                found.append(read_json(data))
            except Exception as exc:  # noqa: BLE001 - whatever the bytes are, the caller's stream goes on
                self.skipped += 1
                note("payload_unread", "an event of a stream could not be read", exc)
