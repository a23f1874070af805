"""An HTTP proxy in front of ClickHouse that misbehaves on command: refuses, dawdles, drops, answers errors.

It understands just enough HTTP/1.1 to see whole requests and whole answers, so that a fault falls exactly
before, during or after the moment at which ClickHouse takes an INSERT.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

IDLE_SECONDS_MAX = 60
SLOW_SECONDS = 0.7
READ_ONLY = (500, 164, "default: Cannot execute query in readonly mode. (READONLY)")
DISK_FULL = (500, 243, "Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE)")

FAULTS = ("refused", "slow", "dropped before", "dropped during", "dropped after", "read-only", "disk full")
"""What can happen to an INSERT. Until "dropped during" nothing of it stands; after "dropped after" all of it
does, and the client cannot know."""


_INSERT = re.compile(rb"(\?|&)query=INSERT|\r\n\r\n(?:[0-9a-f]+\r\n)?INSERT", re.IGNORECASE)


class _Dropped(Exception):
    """This connection is closed without another word."""


@dataclass
class MisbehavingProxy:
    """Forwards to `upstream` (a port on loopback); each INSERT draws a fault with probability `chance`."""

    upstream: int
    chance: float
    seed: int
    faults: tuple[str, ...] = FAULTS
    happened: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._turn = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def close(self) -> None:
        """Listen no more. Connections end with their clients."""
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                client.settimeout(IDLE_SECONDS_MAX)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(_Dropped, OSError):
            reading = client.makefile("rb")
            with socket.create_connection(("127.0.0.1", self.upstream), IDLE_SECONDS_MAX) as server:
                answers = server.makefile("rb")
                while True:
                    request = _message(reading)
                    fault = self._draw() if _INSERT.search(request) else ""
                    client.sendall(_ACTIONS.get(fault, _forward)(request, server, answers))

    def _draw(self) -> str:
        with self._turn:
            if self._random.random() >= self.chance:
                return ""
            fault = self._random.choice(self.faults)
            self.happened[fault] += 1
            return fault


def _message(stream: BinaryIO) -> bytes:
    """One request or answer, whole."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            raise _Dropped
        head += line
    fields = dict(line.split(b":", 1) for line in bytes(head).lower().split(b"\r\n")[1:] if b":" in line)
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        return bytes(head) + b"".join(_chunks(stream))
    return bytes(head) + stream.read(int(fields.get(b"content-length", b"0")))


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while True:
        size = stream.readline()
        if not size:
            raise _Dropped
        yield size + stream.read(int(size, 16) + 2)
        if int(size, 16) == 0:
            return


Action = Callable[[bytes, socket.socket, BinaryIO], bytes]


def _forward(request: bytes, server: socket.socket, answers: BinaryIO) -> bytes:
    server.sendall(request)
    return _message(answers)


def _drop(_: bytes, __: socket.socket, ___: BinaryIO) -> bytes:
    raise _Dropped


def _slow(request: bytes, server: socket.socket, answers: BinaryIO) -> bytes:
    time.sleep(SLOW_SECONDS)
    answer = _forward(request, server, answers)
    time.sleep(SLOW_SECONDS)
    return answer


def _drop_during(request: bytes, server: socket.socket, _: BinaryIO) -> bytes:
    server.sendall(request[: len(request) // 2])
    raise _Dropped


def _drop_after(request: bytes, server: socket.socket, answers: BinaryIO) -> bytes:
    _forward(request, server, answers)
    raise _Dropped


def _answer(status: int, code: int, text: str) -> Action:
    body = f"Code: {code}. DB::Exception: {text}\n".encode()
    head = f"HTTP/1.1 {status} Error\r\nX-ClickHouse-Exception-Code: {code}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    return lambda _, __, ___: head.encode() + body


_ACTIONS: dict[str, Action] = {
    "refused": _answer(503, 202, "Too many simultaneous queries. (TOO_MANY_SIMULTANEOUS_QUERIES)"),
    "slow": _slow,
    "dropped before": _drop,
    "dropped during": _drop_during,
    "dropped after": _drop_after,
    "read-only": _answer(*READ_ONLY),
    "disk full": _answer(*DISK_FULL),
}
