"""How long `meterline simulate` takes over history: read from ClickHouse, rated by another card, summed.

Each time all rows are read and rated, nothing is kept from the time before. The sums of today must be those
of the numbers that the rows were made from, and the new costs those of their tokens.
"""

from __future__ import annotations

import statistics
import time
from datetime import date
from decimal import Decimal

from clickhouse_connect.driver.client import Client

from benchmarks.generated_events import sums_sql
from benchmarks.queries import CHUNK_ROWS, THREADS, database, insert_rows, merge
from benchmarks.report import Section, Size, Target, spread
from dataflows.repricing import Scope
from dataflows.simulate import Simulated, routes_of, simulate
from pricing.settings import PricingSettings, Rule

SECONDS_MAX = 10.0
MODELS = 40
"""Of the generated events."""
_INPUT, _OUTPUT, _MULTIPLIER = Decimal("0.000003"), Decimal("0.000015"), Decimal("1.3")
_PICO = Decimal(10) ** 12
_EVER = Scope(date(2025, 1, 1), date(2027, 1, 1))


def run(size: Size) -> Section:
    """Time simulations, one of another card alone and one in which another model serves besides.

    Raises:
        ValueError: a sum is not what it has to be.
    """
    rows, repetitions = (200_000, 1) if size is Size.SMOKE else (10_000_000, 3)
    rules = [_rule(f"model-{number}") for number in range(MODELS)]
    pricing = PricingSettings(rules=tuple(rules))
    seconds: dict[str, list[float]] = {"another card": [], "another card and model": []}
    with database() as client:
        for begin in range(0, rows, CHUNK_ROWS):
            insert_rows(client, rows, begin, min(rows, begin + CHUNK_ROWS))
        merge(client)
        for _ in range(repetitions):
            for name, routes in (("another card", {}), ("another card and model", {"model-3": "model-5"})):
                started = time.monotonic()
                found = simulate(client, _EVER, pricing, routes_of(pricing, routes), lambda _: None)
                seconds[name].append(time.monotonic() - started)
                _check(client, found, rows)
    return _section(rows, seconds)


def _rule(model: str) -> Rule:
    return Rule(model=model, provider="", input_rate=_INPUT, output_rate=_OUTPUT, multiplier=_MULTIPLIER)


def _check(client: Client, found: Simulated, rows: int) -> None:
    count, _, cost, price = client.query(sums_sql(rows)).result_rows[0]
    inputs, outputs = client.query("SELECT sum(input_tokens), sum(output_tokens) FROM usage").result_rows[0]
    expected = (count, cost / _PICO, price / _PICO, inputs * _INPUT + outputs * _OUTPUT)
    seen = tuple(found.sums[name].sum() for name in ("events", "old_cost", "old_price", "cost"))
    if seen != expected:
        raise ValueError(f"the simulation has the sums {seen}, and the events have {expected}")


def _section(rows: int, seconds: dict[str, list[float]]) -> Section:
    slowest = max(statistics.median(times) for times in seconds.values())
    return Section(
        "simulate",
        "What if",
        ("rows", "simulation", "seconds"),
        tuple((f"{rows:,}", name, spread(times, 2)) for name, times in seconds.items()),
        targets=(Target.at_most(f"simulation over {rows:,} rows, seconds", slowest, SECONDS_MAX),),
        notes=(
            f"Embedded engine, max_threads = {THREADS}, one part a day. The sums agree with the generator's.",
        ),
        figures={"rows": rows, "seconds": seconds},
    )
