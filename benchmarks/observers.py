"""Who sees an event come out: a query that is asked again and again, and a receiver of webhooks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError

from benchmarks.paced_producer import PROBE_TENANT
from sinks.clickhouse import connect, parse_address

POLL_SECONDS = 0.1
"""A query takes some 10 ms: every 20 ms one kept a fifth of the core busy that ClickHouse shares."""
SLACK_MS = 2_000
"""Messages of several partitions fill at their own pace: a later probe may be stamped earlier, by so much."""

PROBES_QUERY = (
    "SELECT idempotency_key, toUnixTimestamp64Milli(timestamp) FROM usage "
    "WHERE tenant_id = {tenant:String} AND timestamp >= fromUnixTimestamp64Milli({since:Int64})"
)


class ProbeWatcher:
    """Asks `usage` for probes, and notes for each when an answer first held it.

    `seen` maps a key to (its own timestamp, the time of that answer), epoch milliseconds. The query names
    one tenant, with which the table's order begins, and only times from the oldest probe on that may be
    missing, so that it costs next to nothing.
    """

    def __init__(self, url: str, run: str) -> None:
        self.seen: dict[str, tuple[int, int]] = {}
        self._client = connect(parse_address(url))
        self._prefix = f"probe-{run}-"
        self._next = 0
        self._since_ms = 0
        self._failure: ClickHouseError | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more.

        Raises:
            ClickHouseError: a query failed, and none was asked after it.
        """
        self._done.set()
        self._thread.join()
        self._client.close()
        if self._failure is not None:
            raise self._failure

    def _watch(self) -> None:
        try:
            while not self._done.wait(POLL_SECONDS):
                self._ask()
        except ClickHouseError as exc:
            self._failure = exc

    def _ask(self) -> None:
        since = {"tenant": PROBE_TENANT, "since": self._since_ms}
        rows = self._client.query(PROBES_QUERY, parameters=since).result_rows
        now_ms = int(time.time() * 1000)
        for key, stamp_ms in rows:
            self.seen.setdefault(key, (stamp_ms, now_ms))
        self._move_on()

    def _move_on(self) -> None:
        """Ask from the oldest probe on that is missing; probes are numbered in the order of their sending."""
        while (found := self.seen.get(f"{self._prefix}{self._next}")) is not None:
            self._since_ms = found[0] - SLACK_MS
            self._next += 1


class WebhookReceiver:
    """Notes when each alert arrived first.

    `seen` maps its id to (the crossing event's timestamp, arrival), epoch milliseconds.
    """

    def __init__(self) -> None:
        self.seen: dict[str, tuple[int, int]] = {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                now_ms = int(time.time() * 1000)
                receiver.note(json.loads(self.rfile.read(int(self.headers["Content-Length"]))), now_ms)
                self.send_response(204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing on standard error."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server.server_address[1]}/alerts"

    def note(self, message: dict[str, Any], now_ms: int) -> None:
        """One webhook."""
        from_text = message["timestamp"].replace("Z", "+00:00")
        stamp_ms = round(datetime.fromisoformat(from_text).timestamp() * 1000)
        self.seen.setdefault(message["data"]["alert_id"], (stamp_ms, now_ms))


@contextmanager
def receiving_webhooks() -> Iterator[WebhookReceiver]:
    """A receiver until the end of the block."""
    receiver = WebhookReceiver()
    thread = threading.Thread(target=receiver.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()
