"""From `Meter.record` to `usage`: what an application records is what the job prices."""

from __future__ import annotations

import time
from decimal import Decimal
from pathlib import Path

from metering.meter import Meter
from tests.integration.running import Place, until
from tests.integration.topics import make_topic

SECONDS = 30


def test_what_is_recorded_is_priced_once_and_what_is_refused_waits_in_quarantine(
    tmp_path: Path, kafka_bootstrap: str, kafka_topic: str
) -> None:
    make_topic(kafka_bootstrap, kafka_topic)
    known = {
        "model": "gpt-4o",
        "timestamp": int(time.time() * 1000),
        "input_tokens": 1000,
        "output_tokens": 100,
    }
    with Meter(f"kafka://{kafka_bootstrap}/{kafka_topic}", spool_dir=tmp_path / "spool") as meter:
        for number in range(1_000):
            event = {**known, "idempotency_key": f"k{number}", "tenant_id": f"t{number % 7}"}
            meter.record(event)
            if number % 10 == 0:
                meter.record(event)
        meter.record({**known, "idempotency_key": "odd", "tenant_id": "t0", "output_tokens": -1})
        meter.record({**known, "idempotency_key": "half", "tenant_id": "half \ud800"})
        meter.record({**known, "idempotency_key": "nobody's"})
        assert meter.flush(SECONDS)
        until(lambda: meter.stats().spool_bytes == 0, "a slow broker took what was spooled for it")
        invalid = meter.stats().invalid
    assert invalid == {"out_of_range": 1, "invalid_utf8": 1, "missing_field": 1}
    place = Place(tmp_path)
    code, stderr = place.run(f"kafka://{kafka_bootstrap}/{kafka_topic}", "--to-end")
    assert code == 0, stderr
    assert place.ask("SELECT count(), uniqExact(idempotency_key), sum(u.cost) FROM usage AS u") == [
        (1_000, 1_000, Decimal("6.5"))
    ]
    assert {row[0]: 1 for row in place.ask("SELECT reason FROM quarantine")} == invalid
