"""An end for an HTTP exchange as a whole."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress


class ConnectionDeadline:
    """The end of one exchange, and the connections that end with it. Made by `connection_deadline`."""

    def __init__(self, timeout_seconds: float) -> None:
        self._end = time.monotonic() + timeout_seconds
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._passed = False

    def remaining_seconds(self) -> float:
        """What is left; negative afterwards."""
        return self._end - time.monotonic()

    def passed(self) -> bool:
        """Whether the time is up."""
        return self._passed or self.remaining_seconds() <= 0

    def watch(self, event: str, info: Mapping[str, object]) -> None:
        """The hook for httpcore's `trace`: takes note of a connection before TLS begins on it."""
        if event != "connection.connect_tcp.complete":
            return
        stream = info["return_value"]
        # A duplicate, because TLS takes the socket over; shutting down either ends the connection.
        duplicate = stream.get_extra_info("socket").dup()  # type: ignore[attr-defined]  # typed as object
        with self._lock:
            self._sockets.append(duplicate)
        if self._passed:
            self.cut()

    def cut(self) -> None:
        """The time is up: end the connections that are open and those that open later."""
        with self._lock:
            self._passed = True
            for duplicate in self._sockets:
                with suppress(OSError):
                    duplicate.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Let go of the connections without ending them."""
        with self._lock:
            for duplicate in self._sockets:
                duplicate.close()
            self._sockets.clear()


@contextmanager
def connection_deadline(timeout_seconds: float) -> Iterator[ConnectionDeadline]:
    """Connections that are opened in this block, and watched, are cut after `timeout_seconds`.

    httpx's timeouts are for one read each: a receiver that sends a byte every few seconds would hold a
    worker for days.
    """
    deadline = ConnectionDeadline(timeout_seconds)
    timer = threading.Timer(timeout_seconds, deadline.cut)
    timer.daemon = True
    timer.start()
    try:
        yield deadline
    finally:
        timer.cancel()
        deadline.forget()
