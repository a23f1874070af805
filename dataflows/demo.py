"""`meterline demo`: a made-up day through the real job, and what an operator would look at afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

from clickhouse_connect.driver.client import Client

from dataflows.compiled import will_compile
from dataflows.connections import CLICKHOUSE_ENV, CONFIG_ENV, SOURCE_ENV, STATE_DIR_ENV
from dataflows.counters import PROCESS
from dataflows.report import alerts_report, dropped_report, losing_tenants, margin_report, render_text
from dataflows.run import run_job
from dataflows.start import prepare
from dataflows.traffic import TrafficShape, write_day
from sinks.clickhouse import connect

DAY = date(2026, 3, 17)
"""The day that is made up: fixed, so that the demo shows the same figures whenever it runs."""

CONFIG = """\
# What the demo prices with. Rates are USD per token, as published in 2024; the multipliers are made up, and
# so is that every service tier (the traffic has some "priority") costs the same.
pricing:
  currency: USD
  rounding: nearest_cent
  rules:
    - model: gpt-4o
      service_tier: "*"
      input_rate: 0.000005
      output_rate: 0.000015
      cache_read_rate: 0.0000025
      multiplier: 1.2
    - model: claude-3-5-sonnet
      service_tier: "*"
      input_rate: 0.000003
      output_rate: 0.000015
      cache_read_rate: 0.0000003
      cache_write_rate: 0.00000375
      multiplier: 1.15
    - model: fallback-llama-3
      service_tier: "*"
      input_rate: 0.0000005
      output_rate: 0.000002
      multiplier: 0.8
limits:
  tenant:
    daily_cap: 60.00
    burst_threshold: 0.8
    fallback_model: fallback-llama-3
  feature:
    exclude_cache_from_billing: true
metering:
  queue: ai-metering-events
  idempotency_window_hours: 24
"""

MORE_SQL = """\
  SELECT tenant_id, sum(price) AS revenue, sum(margin) AS margin
  FROM margin_daily GROUP BY tenant_id ORDER BY margin LIMIT 10;

  SELECT * FROM usage WHERE tenant_id = 'tenant-runaway' ORDER BY timestamp DESC LIMIT 5;
  SELECT reason, source, raw FROM quarantine ORDER BY received_at LIMIT 5;
  SELECT * FROM spend WHERE ratio >= 0.8 ORDER BY ratio DESC;"""


def run_demo(directory: Path, events: int, seed: int, say: Callable[[str], None]) -> None:
    """Generate (once), run the job on it, and show the results. A second run finds everything done.

    Raises:
        OPERATOR_ERRORS, JobFailedError: as any job.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "meterline.yaml").write_text(CONFIG, encoding="utf-8")
    day = directory / f"events-{events}-{seed}.jsonl"
    if not day.exists():
        say(f"Making {events:,} events of one day ({DAY}) of an AI product, seed {seed} …")
        summary = write_day(TrafficShape(events=events, seed=seed, day=DAY), day)
        say(f"  {summary.bytes / 1e6:,.0f} MB in {day}")
    job = prepare(
        {
            CONFIG_ENV: str(directory / "meterline.yaml"),
            SOURCE_ENV: f"file://{day}",
            CLICKHOUSE_ENV: f"chdb://{directory / 'ch'}",
            STATE_DIR_ENV: str(directory / "state"),
        }
    )
    say("Pricing them: read, decode, dedupe, rate, spend, publish to the embedded ClickHouse …")
    compiles = will_compile()
    if compiles:
        say("  (the first run of a version compiles its loops, for some ten seconds)")
    started = time.monotonic()
    run_job(job)
    elapsed_seconds = time.monotonic() - started
    if PROCESS.read:
        rate = PROCESS.read / elapsed_seconds
        took = f"{PROCESS.read:,} events in {elapsed_seconds:.1f} s"
        counted = ", compiling counted" if compiles else ""
        say(f"  {took}: {rate:,.0f} events/s, one worker, recovery on{counted}")
    else:
        say("  nothing new: this state has read the whole file already, and nothing below has changed")
    client = connect(job.plan.clickhouse)
    try:
        _show(client, say)
    finally:
        client.close()
    say(
        "\nAsk for more (`source .venv/bin/activate` first):"
        f'  meterline query --clickhouse {job.plan.clickhouse} "…"\n\n{MORE_SQL}\n\n'
        f"Prove that nothing was lost or doubled:  meterline audit {_flags(directory, day)}\n"
        f"Run it again, and nothing changes; begin anew:  rm -r {directory}"
    )


def _show(client: Client, say: Callable[[str], None]) -> None:
    tables = [
        dropped_report(client),
        margin_report(client, by="model"),
        margin_report(client, by="feature"),
        losing_tenants(client, limit=8),
        alerts_report(client, limit=8),
    ]
    for table in tables:
        say("\n" + render_text(table, 110))


def _flags(directory: Path, day: Path) -> str:
    return (
        f"--config {directory / 'meterline.yaml'} --source file://{day} "
        f"--clickhouse chdb://{directory / 'ch'} --state-dir {directory / 'state'}"
    )
