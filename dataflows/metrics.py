"""`/metrics` for Prometheus and `/healthz`, one port a worker process, on loopback unless told otherwise.

Worker `n` listens on the configured port + `n`. Counters begin at nought when a worker starts, as Prometheus
expects; `meterline_restarts` says how often that was.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import make_wsgi_app
from prometheus_client.registry import Collector
from waitress import wasyncore
from waitress.server import create_server

from dataflows.connections import PlanError
from dataflows.counters import Counters
from dataflows.supervise import RESTARTS_ENV

WSGIEnvironment: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[[str, list[tuple[str, str]]], Any]

PORT_ENV = "METERLINE_METRICS_PORT"
HOST_ENV = "METERLINE_METRICS_HOST"
DEFAULT_HOST = "127.0.0.1"
PORT_MAX = 65535

STALLED_SECONDS_MIN = 60.0
STALLED_EPOCHS = 10
"""A worker whose last epoch closed longer ago than this many intervals (and a minute) is not healthy."""

_THREADS = 2
_CONNECTIONS_MAX = 16
_CLOSE_SECONDS_MAX = 5.0  # no longer than this for a page that is being answered
_PLAIN_COUNTERS = {
    "read": "Lines read.",
    "priced": "Events priced.",
    "duplicates": "Events that repeat a key of the last 24 hours.",
    "late": "Events priced outside the window of the cap that they would have counted for.",
    "alerts": "Cap alerts raised.",
    "published_rows": "Rows published to ClickHouse, of every table.",
    "sink_retries": "Inserts sent again after ClickHouse refused one or did not answer.",
    "snapshot_bytes": "Bytes of state written by snapshots.",
    "epochs": "Epochs closed.",
    "rate_cards_refused": "Changed rate cards that were refused.",
}


class CountersCollector(Collector):
    """The counters of a process, as Prometheus reads them."""

    def __init__(self, counters: Counters, restarts: int) -> None:
        self._counters = counters
        self._restarts = restarts

    def collect(self) -> Iterable[Metric]:
        """Every figure as it is now."""
        for name, text in _PLAIN_COUNTERS.items():
            yield CounterMetricFamily(f"meterline_{name}", text, value=getattr(self._counters, name))
        quarantined = CounterMetricFamily("meterline_quarantined", "Lines quarantined.", labels=["reason"])
        for reason, count in list(self._counters.quarantined.items()):
            quarantined.add_metric([reason], count)
        yield quarantined
        unknown = sum(list(self._counters.unknown_fields.values()))
        yield CounterMetricFamily(
            "meterline_unknown_fields", "Fields the contract does not know.", value=unknown
        )
        lag = GaugeMetricFamily(
            "meterline_lag_messages",
            "Messages that are there and not read yet.",
            labels=["topic", "partition"],
        )
        for (topic, partition), count in list(self._counters.lag.items()):
            lag.add_metric([topic, str(partition)], count)
        yield lag
        event_time = GaugeMetricFamily("meterline_event_time_seconds", "The latest event time read (Unix).")
        if self._counters.event_time_ms >= 0:
            event_time.add_metric([], self._counters.event_time_ms / 1000)
        yield event_time
        card = GaugeMetricFamily("meterline_rate_card", "The rate card in force.", labels=["version"])
        if self._counters.rate_card_version:
            card.add_metric([self._counters.rate_card_version], 1)
        yield card
        yield GaugeMetricFamily(
            "meterline_rate_card_is_refused",
            "1 while the rate card on the disk is refused, and the one before in force.",
            value=int(self._counters.rate_card_is_refused),
        )
        yield GaugeMetricFamily(
            "meterline_restarts", "Starts of this worker after the first.", value=self._restarts
        )
        yield from self._counters.epoch_seconds.collect()
        yield from self._counters.publish_seconds.collect()


class MetricsApp:
    """The two pages, as a WSGI application."""

    def __init__(self, counters: Counters, epoch_interval_seconds: float, restarts: int) -> None:
        self._counters = counters
        self._stalled_seconds = max(STALLED_SECONDS_MIN, STALLED_EPOCHS * epoch_interval_seconds)
        registry = CollectorRegistry()
        registry.register(CountersCollector(counters, restarts))
        self._metrics = make_wsgi_app(registry)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path = environ["PATH_INFO"]
        if path == "/metrics":
            page: Iterable[bytes] = self._metrics(environ, start_response)
            return page
        healthy, body = self.health(time.monotonic())
        if path == "/healthz":
            status = "200 OK" if healthy else "503 Service Unavailable"
        else:
            status, body = "404 Not Found", {"error": "the pages here are /metrics and /healthz"}
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(body).encode() + b"\n"]

    def health(self, now_seconds: float) -> tuple[bool, dict[str, object]]:
        """Whether epochs go on closing, and since when not. `now_seconds` is of the monotonic clock."""
        since = now_seconds - self._counters.epoch_closed_at
        healthy = self._counters.partitions == 0 or since <= self._stalled_seconds
        return healthy, {
            "status": "ok" if healthy else "stalled",
            "seconds_since_epoch": round(since, 1),
            "stalled_after_seconds": self._stalled_seconds,
        }


@contextmanager
def serving_metrics(
    environment: Mapping[str, str], worker: int, counters: Counters, epoch_interval_seconds: float
) -> Iterator[None]:
    """Serve the pages during the block, if a port is configured.

    Raises:
        PlanError: the port is not one, or is in use.
    """
    text = environment.get(PORT_ENV, "")
    if not text:
        yield
        return
    host = environment.get(HOST_ENV) or DEFAULT_HOST
    app = MetricsApp(counters, epoch_interval_seconds, int(environment.get(RESTARTS_ENV, "0")))
    channels: dict[int, Any] = {}
    server: Any = create_server(  # its stubs know no trigger
        app,
        map=channels,
        sockets=[_listen(host, _port(text) + worker)],
        threads=_THREADS,
        connection_limit=_CONNECTIONS_MAX,
        max_request_body_size=0,
        ident=None,
    )
    thread = threading.Thread(target=server.run, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        # By its own thread: while that waits in poll(), a socket that another closes still takes connections.
        server.trigger.pull_trigger(partial(wasyncore.close_all, channels))
        thread.join(_CLOSE_SECONDS_MAX)
        server.task_dispatcher.shutdown()


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= PORT_MAX:
        raise PlanError(f"the metrics port is {text[:20]!r}, not a port between 1 and {PORT_MAX}")
    return int(text)


def _listen(host: str, port: int) -> socket.socket:
    if port > PORT_MAX:
        raise PlanError(f"the metrics port {port} is beyond {PORT_MAX}: each worker takes the next one")
    try:
        return socket.create_server((host, port))
    except OSError as exc:
        # Python adds the address to the system's words.
        reason = (exc.strerror or "").partition(" (while")[0]
        raise PlanError(f"the metrics port {port} of {host} cannot be listened on: {reason}") from None
