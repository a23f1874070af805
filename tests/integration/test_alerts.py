"""Alerts, end to end: from the crossing event to a receiver that is having a bad time."""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from standardwebhooks import Webhook

from dataflows.traffic import TrafficShape, generate
from tests.integration.running import SEED_RULES, Place

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


def test_a_receiver_that_fails_five_times_gets_each_alert_under_one_id(tmp_path: Path) -> None:
    tries: Counter[str] = Counter()
    received: dict[str, dict[str, str]] = {}

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            payload = Webhook(SECRET).verify(body, dict(self.headers))
            tries[self.headers["webhook-id"]] += 1
            good = tries[self.headers["webhook-id"]] > 5
            if good:
                received[self.headers["webhook-id"]] = payload["data"]
            self.send_response(200 if good else 500)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = f"""{SEED_RULES}
metering: {{epoch_interval_seconds: 0.1}}
alerts:
  drain_seconds: 20
  retry_schedule_seconds: [0, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01]
  webhooks:
    - name: test
      url: http://127.0.0.1:{server.server_port}/hook
      secret_env: HOOK_SECRET
      allow_private: true
"""
    try:
        place = Place(tmp_path, config, {"HOOK_SECRET": SECRET})
        events = generate(TrafficShape(events=10_000, seed=15, day=date(2026, 3, 17)))
        (tmp_path / "events.jsonl").write_bytes(b"".join(events))
        code, stderr = place.run(f"file://{tmp_path}/events.jsonl")
        assert code == 0, stderr
        assert SECRET not in stderr
    finally:
        server.shutdown()
        server.server_close()
    alerts = place.ask("SELECT alert_id, tenant_id, threshold, delivered_at IS NOT NULL FROM cap_alerts")
    assert {row[1] for row in alerts} >= {"tenant-runaway"}
    assert all(delivered for *_, delivered in alerts)
    assert set(received) == {row[0] for row in alerts}
    assert set(tries.values()) == {6}
    assert {data["tenant_id"] for data in received.values()} == {row[1] for row in alerts}
    assert SECRET not in json.dumps(place.ask("SELECT * FROM cap_alerts"), default=str)
