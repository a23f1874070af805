from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from prometheus_client import CollectorRegistry, core, generate_latest

from metering import prometheus
from metering.counts import MeterStats
from metering.meter import Meter
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
