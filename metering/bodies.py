"""The body of an HTTP response that is a provider's answer, JSON or server-sent events, as it passes by.

Its bytes are kept, and read when somebody asks what they say: in the meter's thread, not in the request's.

**Bounds.** Of JSON at most `BODY_BYTES_MAX` are kept. Of a stream at most `STREAM_BYTES_MAX`: what comes
beyond pushes out, and has read on the spot, what came first. A body that is compressed, of another kind or
too long is not read, and said to be.
"""

from __future__ import annotations

from collections import deque

from metering.mishaps import note
from metering.responses import StreamReader
from metering.sse import SseReader, read_json
from metering.usage import Usage

BODY_BYTES_MAX = 8 * 1024 * 1024
"""A long answer has a few hundred kilobytes; embeddings of a large batch a few megabytes."""


STREAM_BYTES_MAX = 128 * 1024
"""Some five hundred parts of a stream of chunks: most streams end before."""


class Body:
    """Bytes of a body in, usage out.

    Args:
        media_type: The header `content-type`.
        coding: The header `content-encoding`, "" where the bytes are plain.
    """

    __slots__ = ("_called", "_events", "_kept", "_kept_bytes", "_reader", "is_stream", "why_unread")

    def __init__(self, media_type: str, coding: str, provider: str, model: str) -> None:
        kind = media_type.partition(";")[0].strip().lower()
        self.is_stream = kind == "text/event-stream"
        self._called = (provider, model)
        self._reader: StreamReader | None = None  # both are made when the first bytes are read
        self._events: SseReader | None = None
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self.why_unread = ""
        if coding and coding.strip().lower() not in ("", "identity"):
            self.why_unread = "compressed"
        elif not (self.is_stream or kind == "application/json" or kind.endswith("+json")):
            self.why_unread = "neither JSON nor server-sent events"

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        if self.why_unread or not data:
            return
        self._kept.append(bytes(data))
        self._kept_bytes += len(data)
        if self.is_stream:
            while self._kept_bytes > STREAM_BYTES_MAX:
                self._read_first()
        elif self._kept_bytes > BODY_BYTES_MAX:
            self.why_unread = f"longer than {BODY_BYTES_MAX} bytes"
            self._kept.clear()
            self._kept_bytes = 0

    @property
    def size_bytes(self) -> int:
        """How much is kept, to be read yet, or as text."""
        return self._kept_bytes + (0 if self._reader is None else self._reader.size_bytes)

    def _readers(self) -> tuple[StreamReader, SseReader]:
        if self._reader is None or self._events is None:
            self._reader, self._events = StreamReader(*self._called), SseReader()
        return self._reader, self._events

    def _read_kept(self) -> None:
        while self._kept:
            self._read_first()

    def _read_first(self) -> None:
        reader, events = self._readers()
        data = self._kept.popleft()
        self._kept_bytes -= len(data)
        for chunk in events.feed(data):
            reader.feed(chunk)

    def told(self) -> tuple[list[Usage], str, bool]:
        """What the body says, now that it is over: usage, visible text, and whether it came to its end."""
        if self.why_unread:
            note("response_unread", f"the body of an answer is {self.why_unread}")
            return [], "", True
        reader, events = self._readers()
        if self.is_stream:
            self._read_kept()
            for chunk in events.close():
                reader.feed(chunk)
        else:
            try:
                reader.feed(read_json(b"".join(self._kept)))
            except (ValueError, RecursionError) as error:
                note("response_unread", "the body of an answer is not JSON", error)
        return reader.usages(), reader.output_text, not self.is_stream or self.is_complete

    @property
    def is_complete(self) -> bool:
        """Whether a stream's end was seen, once its usages were asked for."""
        reader, events = self._reader, self._events
        if reader is None or events is None:
            return False
        return self.is_stream and (reader.is_complete or events.is_done)

    @property
    def output_text(self) -> str:
        """What could be seen of a stream, once its usages were asked for."""
        return "" if self._reader is None else self._reader.output_text

    @property
    def output_chars(self) -> int:
        """How long that is."""
        return 0 if self._reader is None else self._reader.output_chars

    def usages(self) -> list[Usage]:
        """What a stream has told so far; of a part of JSON nothing is known."""
        if not self.is_stream:
            return []
        self._read_kept()
        return [] if self._reader is None else self._reader.usages()
