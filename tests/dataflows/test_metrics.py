"""`/metrics` and `/healthz`."""

from __future__ import annotations

import os
import socket
import threading
from errno import EADDRINUSE

import httpx
import pytest

from dataflows.connections import PlanError
from dataflows.counters import Counters
from dataflows.metrics import HOST_ENV, PORT_ENV, MetricsApp, serving_metrics
from dataflows.supervise import RESTARTS_ENV


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def test_what_was_counted_is_served_on_the_port_of_the_worker() -> None:
    counters = Counters()
    counters.add(read=7, priced=4, duplicates=1, late=1, alerts=1, snapshot_bytes=512)
    counters.quarantine({"malformed": 2})
    counters.unknown({"colour": 3})
    counters.published(4, 0.2)
    counters.retried()
    counters.saw_event_time(1_773_748_800_500)
    counters.saw_event_time(5)
    counters.close_epoch(1)
    counters.close_epoch(1)  # a second partition closes the same epoch
    counters.lag["events", 3] = 12
    port = free_port()
    environment = {PORT_ENV: str(port - 1), RESTARTS_ENV: "2"}
    with serving_metrics(environment, 1, counters, 5.0):
        page = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
        health = httpx.get(f"http://127.0.0.1:{port}/healthz")
        nothing = httpx.get(f"http://127.0.0.1:{port}/")
    for line in (
        "meterline_read_total 7.0",
        "meterline_priced_total 4.0",
        "meterline_duplicates_total 1.0",
        'meterline_quarantined_total{reason="malformed"} 2.0',
        "meterline_unknown_fields_total 3.0",
        "meterline_alerts_total 1.0",
        "meterline_published_rows_total 4.0",
        "meterline_sink_retries_total 1.0",
        "meterline_snapshot_bytes_total 512.0",
        "meterline_epochs_total 1.0",
        'meterline_lag_messages{partition="3",topic="events"} 12.0',
        "meterline_restarts 2.0",
        "meterline_event_time_seconds 1.7737488005e+09",
        "meterline_epoch_seconds_count 1.0",
        'meterline_publish_seconds_bucket{le="0.1"} 0.0',
        'meterline_publish_seconds_bucket{le="0.25"} 1.0',
    ):
        assert line in page
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert nothing.status_code == 404
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")


@pytest.mark.parametrize(
    ("partitions", "interval_seconds", "since_seconds", "healthy"),
    [
        (1, 5.0, 59.0, True),
        (1, 5.0, 61.0, False),
        (1, 30.0, 299.0, True),
        (1, 30.0, 301.0, False),
        (0, 5.0, 1e6, True),  # a worker without an input has no epochs of its own
    ],
)
def test_a_worker_is_healthy_while_its_epochs_close(
    partitions: int, interval_seconds: float, since_seconds: float, healthy: bool
) -> None:
    counters = Counters(partitions=partitions)
    app = MetricsApp(counters, interval_seconds, 0)
    assert app.health(counters.epoch_closed_at + since_seconds)[0] is healthy


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({PORT_ENV: "http"}, "'http', not a port between 1 and 65535"),
        ({PORT_ENV: "0"}, "not a port"),
        ({PORT_ENV: "65535"}, "65536 is beyond 65535"),
        ({PORT_ENV: "9000", HOST_ENV: "192.0.2.1"}, "of 192.0.2.1 cannot be listened on"),
    ],
)
def test_a_port_that_cannot_be_had_is_a_sentence(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence), serving_metrics(environment, 1, Counters(), 5.0):
        pass


def test_a_port_in_use_is_said_in_the_systems_words_and_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        with (
            pytest.raises(PlanError) as refused,
            serving_metrics({PORT_ENV: str(port)}, 0, Counters(), 5.0),
        ):
            pass
    reason = os.strerror(EADDRINUSE)
    assert str(refused.value) == f"the metrics port {port} of 127.0.0.1 cannot be listened on: {reason}"


def test_without_a_port_nothing_listens() -> None:
    with serving_metrics({}, 0, Counters(), 5.0):
        assert "metrics" not in {thread.name for thread in threading.enumerate()}
