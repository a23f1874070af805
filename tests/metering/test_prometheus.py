from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from prometheus_client import CollectorRegistry, core, generate_latest

from metering import prometheus
from metering.counts import MeterStats
from metering.meter import Meter
from tests.metering.recording import SECONDS
from tests.metering.samples import SMALLEST


def test_a_scrape_has_every_count(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    with Meter(f"file://{tmp_path}/events.jsonl", spool_dir=tmp_path / "spool") as meter:
        registry.register(prometheus.MeterCollector(meter, core))
        meter.record(SMALLEST)
        meter.record({**SMALLEST, "model": None})
        meter.record(None)  # type: ignore[arg-type]  # a mistake of the application
        assert meter.flush(30)
        lines = generate_latest(registry).decode().splitlines()
    shown = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert shown == {
        "meterline_meter_recorded_total": "3.0",
        "meterline_meter_delivered_total": "2.0",
        "meterline_meter_without_event_total": "0.0",
        "meterline_meter_spooled_total": "0.0",
        "meterline_meter_replayed_total": "0.0",
        "meterline_meter_damaged_bytes_total": "0.0",
        "meterline_meter_failures_total": "0.0",
        "meterline_meter_waiting": "0.0",
        "meterline_meter_queue_depth": "0.0",
        "meterline_meter_spool_bytes": "0.0",
        'meterline_meter_invalid_total{reason="missing_field"}': "1.0",
        'meterline_meter_dropped_total{reason="not_serialisable"}': "1.0",
    }
    names = {field.name for field in fields(MeterStats)} - {"last_error"}
    assert {name.split("meter_", 1)[1].split("_total")[0].split("{")[0] for name in shown} == names


@dataclass
class Slow:
    """An observation that says when it is read, and comes to nothing or to several events after `go`."""

    events_count: int
    is_read: threading.Event
    go: threading.Event

    def events(self) -> list[Mapping[str, object]]:
        self.is_read.set()
        self.go.wait(SECONDS)
        return [{**SMALLEST, "idempotency_key": f"k{number}"} for number in range(self.events_count)]


def test_no_counter_ever_goes_down(tmp_path: Path) -> None:
    registry, is_read, go = CollectorRegistry(), threading.Event(), threading.Event()
    recorded: list[float | None] = []

    def scrape() -> None:
        recorded.append(registry.get_sample_value("meterline_meter_recorded_total"))

    with Meter(f"file://{tmp_path}/events.jsonl") as meter:
        registry.register(prometheus.MeterCollector(meter, core))
        for count in (0, 0, 3):
            meter.record(Slow(count, is_read, go))
        scrape()
        assert is_read.wait(SECONDS)
        scrape()
        go.set()
        assert meter.flush(SECONDS)
        scrape()
        assert (meter.stats().delivered, meter.stats().without_event) == (3, 2)
    assert recorded == [3, 3, 5]
