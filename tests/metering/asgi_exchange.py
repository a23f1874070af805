"""One HTTP request to an ASGI application in this process, message by message, as a server would make it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass
class Exchange:
    """What the server hands in, and what the application has sent.

    Args:
        gone_after: The client goes away after so many messages of the response: `send` raises then.
    """

    body: Sequence[bytes] = (b"",)
    path: str = "/"
    method: str = "POST"
    headers: Sequence[tuple[str, str]] = ()
    gone_after: int | None = None
    sent: list[Message] = field(default_factory=list)
    scope: Message = field(init=False)

    def __post_init__(self) -> None:
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in self.headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self._waiting = [
            {"type": "http.request", "body": part, "more_body": number + 1 < len(self.body)}
            for number, part in enumerate(self.body)
        ]

    async def receive(self) -> Message:
        return self._waiting.pop(0) if self._waiting else {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if len(self.sent) == self.gone_after:
            raise OSError("the client has gone")
        self.sent.append(message)

    async def run(self, app: Any) -> Exchange:
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def content(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])
