"""Running the real job in a process of its own, and reading what it left in ClickHouse."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sinks.clickhouse import connect, parse_address
from tests.auditor import Audit

ROOT = Path(__file__).parents[2]
JOB_SECONDS = 120

SEED_RULES = """\
pricing:
  currency: USD
  rounding: nearest_cent
  rules:
    - {model: gpt-4o, input_rate: 0.000005, output_rate: 0.000015, multiplier: 1.0}
    - {model: claude-3-5-sonnet, input_rate: 0.000003, output_rate: 0.000015, multiplier: 1.0}
    - {model: fallback-llama-3, input_rate: 0.0000005, output_rate: 0.000002, multiplier: 0.8}
limits:
  tenant: {daily_cap: 50.00, burst_threshold: 0.8, fallback_model: fallback-llama-3}
  feature: {exclude_cache_from_billing: true}
"""
EVERY_TIER_RULES = SEED_RULES.replace("{model:", "{service_tier: '*', model:")
QUICK = "metering: {epoch_interval_seconds: 0.1}\n"


@dataclass(frozen=True)
class Place:
    """A directory with a configuration, a ClickHouse and a state directory of its own."""

    root: Path
    config: str = SEED_RULES + QUICK
    environment: dict[str, str] = field(default_factory=dict)
    served: str = ""
    """The URL of a ClickHouse server; an embedded one in `root` where there is none."""

    def __post_init__(self) -> None:
        (self.root / "meterline.yaml").write_text(self.config)

    @property
    def clickhouse(self) -> str:
        return self.served or f"chdb://{self.root / 'ch'}"

    def start(self, source: str, *more: str, stdin: Any = None) -> subprocess.Popen[bytes]:
        """The job as a child process."""
        flags = ["--config", str(self.root / "meterline.yaml"), "--source", source]
        flags += ["--clickhouse", self.clickhouse, "--state-dir", str(self.root / "state"), *more]
        return subprocess.Popen(
            [sys.executable, "-m", "dataflows.cli", "run", *flags],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, source: str, *more: str, stdin: Any = None) -> tuple[int, str]:
        """Run to the end: exit code and standard error."""
        child = self.start(source, *more, stdin=stdin)
        try:
            _, stderr = child.communicate(timeout=JOB_SECONDS)
        finally:
            child.kill()  # only one that is late still lives
        return child.returncode, stderr.decode()

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows, once the job has ended."""
        client = connect(parse_address(self.clickhouse))
        try:
            return [tuple(row) for row in client.query(sql).result_rows]
        finally:
            client.close()


def audit_of(place: Place) -> tuple[int, str]:
    """`meterline audit`: its exit code, and its last line or the first break that it names."""
    flags = ["--config", str(place.root / "meterline.yaml"), "--clickhouse", place.clickhouse]
    command = [sys.executable, "-m", "dataflows.cli", "audit", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return done.returncode, next((line for line in lines if line.startswith("BROKEN")), lines[-1])


def children_of(pid: int) -> list[int]:
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = (line.split() for line in table.stdout.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + JOB_SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def published(place: Place) -> int:
    try:
        return int(place.ask("SELECT count() FROM priced_events")[0][0])
    except Exception:  # noqa: BLE001  # the tables are not there yet
        return 0


def what_stands(place: Place) -> dict[str, Any]:
    """The contents of the views, comparable with what the auditor expects, and with another run."""
    priced = place.ask(
        "SELECT tenant_id, idempotency_key, toUnixTimestamp64Milli(timestamp), u.cost, u.price, u.credits,"
        " multiplier, billable, late, feature_id, model, input_tokens, cache_read_tokens, attributes"
        " FROM usage AS u"
    )
    spend = place.ask(
        "SELECT tenant_id, feature_id, window_kind, toUnixTimestamp64Milli(window_start), spend FROM spend"
    )
    alerts = place.ask(
        "SELECT tenant_id, feature_id, window_kind, toUnixTimestamp64Milli(window_start), threshold,"
        " crossing_key, a.spend FROM cap_alerts AS a"
    )
    reasons = place.ask(
        "SELECT source_name, source_partition, source_offset, source_line, reason FROM quarantine"
    )
    copies = place.ask("SELECT source, source_partition, source_offset, source_line FROM duplicates FINAL")
    margins = place.ask(
        "SELECT day, tenant_id, feature_id, provider, model, model_version, requests, billable_requests,"
        " m.input_tokens, m.output_tokens, m.cache_read_tokens, m.cache_write_tokens, m.reasoning_tokens,"
        " m.credits, m.cost, m.price, m.margin FROM margin_daily AS m"
    )
    return {
        "priced": {row[:3]: row[3:9] for row in priced},
        "rows": sorted(priced),
        "spend": {row[:4]: row[4] for row in spend},
        "alerts": {row[:5]: row[5:] for row in alerts},
        "quarantined": sorted(reasons),
        "duplicates": sorted(copies),
        "margin": {row[:6]: row[6:] for row in margins},
    }


def assert_agrees(place: Place, expected: Audit, *, by_line: bool = True) -> None:
    """The views hold what the independent auditor says, to the last digit.

    `by_line`: the inputs are files, whose positions the job counts in lines and the auditor in bytes, so
    quarantine and copies are compared by number and reason only.
    """
    found = what_stands(place)
    assert found["priced"] == {
        key: (row.cost, row.price, row.credits, row.multiplier, row.billable, row.late)
        for key, row in expected.priced.items()
    }
    tenants_only = {key: amount for key, amount in expected.spend.items() if not key[1]}
    assert {key: amount for key, amount in found["spend"].items() if not key[1]} == tenants_only
    assert all(expected.spend[key] == amount for key, amount in found["spend"].items())
    assert found["alerts"] == {
        key: (crossing.crossing_key, crossing.spend) for key, crossing in expected.alerts.items()
    }
    if by_line:
        assert sorted(row[4] for row in found["quarantined"]) == sorted(r for _, r in expected.quarantined)
        assert len(found["duplicates"]) == len(expected.duplicates)
    else:
        assert found["quarantined"] == sorted((*position, why) for position, why in expected.quarantined)
        assert found["duplicates"] == sorted(expected.duplicates)
    assert found["margin"] == {
        key: (
            one.requests,
            one.billable_requests,
            one.input_tokens,
            one.output_tokens,
            one.cache_read_tokens,
            one.cache_write_tokens,
            one.reasoning_tokens,
            one.credits,
            one.cost,
            one.price,
            one.price - one.cost,
        )
        for key, one in expected.margin_daily.items()
    }
    raw = place.ask("SELECT count() FROM priced_events")[0][0]
    assert raw == len(expected.priced), "the state was kept, so not even a raw row may stand twice"
