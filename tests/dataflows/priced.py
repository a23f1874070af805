"""Events as the job would have priced them, put straight into `priced_events`, and what stands of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
from clickhouse_connect.driver.client import Client

from dataflows.batch import Partition, RawBatch
from dataflows.card_file import CardFile, compiled, pricing_of
from dataflows.decode import TimeBounds, decode
from dataflows.lines import split_lines
from dataflows.rate import rate_events, refuse_unpriced
from dataflows.repricing import Scope
from dataflows.tables import priced_rows
from pricing.settings import load_settings
from tests.auditor import audit, load_config
from tests.auditor_event import Line

TOPIC = Partition(0, "events", 3)
EVER = Scope(date(2020, 1, 1), date(2030, 1, 1))
NOON_MS = 1_773_748_800_000  # 2026-03-17T12:00:00Z
DAY_MS = 86_400_000

OLD = """
pricing:
  rules:
    - {model: big, input_rate: 0.000005, output_rate: 0.000015, multiplier: 1.2}
    - {model: small, input_rate: 0.0000000000005, output_rate: 0.01, multiplier: 0.8, credit_multiplier: 2}
    - {model: gone, input_rate: 0.001, output_rate: 0.002}
    - {model: same, input_rate: 0.000007, output_rate: 0.000007, multiplier: 1.01}
"""
NEW = """
rules:
  - {model: big, input_rate: 0.0000049, output_rate: 0.000016, cache_read_rate: 0.0000003, multiplier: 1.3}
  - {model: small, input_rate: 0.0000000000015, output_rate: 0.01, multiplier: 0.9, credit_multiplier: 3}
  - {model: same, input_rate: 0.000007, output_rate: 0.000007, multiplier: 1.01}
"""
"""Two models are dearer, one is not known any more, one is as it was."""


def event(key: str, model: str = "big", days_ago: int = 0, **fields: Any) -> dict[str, Any]:
    plain = {
        "idempotency_key": key,
        "tenant_id": "acme",
        "feature_id": "chat",
        "model": model,
        "timestamp": NOON_MS - days_ago * DAY_MS,
        "input_tokens": 1_001,
        "output_tokens": 333,
    }
    return {**plain, **fields}


HISTORY = (
    event("a"),
    event("b", tenant_id="zenith", cache_read_tokens=501, feature_id="search"),
    event("c", "small", 1, reasoning_tokens=7),
    event("failed", days_ago=1, status="error"),
    event("cached", days_ago=1, cache_status="hit"),
    event("gone", "gone", 2),
    event("same", "same", 2),
    event("february", days_ago=20, input_tokens=77),
    event("february 2", "small", 20, tenant_id="zenith", input_tokens=3),
    event("january", days_ago=60),
    event("huge", days_ago=1, input_tokens=2**40, output_tokens=2**40),
    *(event(f"n{number}", days_ago=3, input_tokens=number) for number in range(9)),
)
"""March, February and January of two tenants; nine events of one day."""


def card(text: str) -> CardFile:
    return CardFile((("card.yaml", text),))


def price(client: Client, events: Sequence[dict[str, Any]], text: str = OLD, ingested_ms: int = 0) -> None:
    """Insert what the job makes of the events, each with its number in the list as its offset."""
    count = len(events)
    lines = split_lines(b"".join(json.dumps(one).encode() + b"\n" for one in events))
    batch = RawBatch(
        TOPIC,
        lines,
        np.arange(count),
        np.zeros(count, np.int32),
        np.full(count, NOON_MS, np.int64),
        count,
        live=True,
        age_limited=False,
    )
    known = compiled(pricing_of(card(text)))
    limits = load_settings(OLD).limits
    rated = rate_events(refuse_unpriced(decode(batch, TimeBounds(10**15, 10**15)), known), known, limits, 72)
    rows = priced_rows(rated.events.with_columns(late=pl.lit(value=False))).with_columns(
        ingested_at=pl.lit(ingested_ms, pl.Int64).cast(pl.Datetime("ms", "UTC"))
    )
    client.insert_arrow("priced_events", rows.to_arrow(), settings={"insert_deduplicate": 0})


Amounts = tuple[Decimal, Decimal, Decimal, Decimal]
"""Cost, price, credits, multiplier."""


def standing(client: Client) -> dict[str, Amounts]:
    """What `usage` shows, by key."""
    rows = client.query(
        "SELECT idempotency_key, u.cost, u.price, u.credits, multiplier FROM usage AS u"
    ).result_rows
    assert len({row[0] for row in rows}) == len(rows)
    return {key: tuple(amounts) for key, *amounts in rows}


def audited(events: Iterable[dict[str, Any]], text: str) -> dict[str, Amounts]:
    """What the auditor makes of the events, by key; those that the card does not know are missing."""
    config = load_config(text if "pricing:" in text else "pricing:\n" + text.replace("\n", "\n  "))
    lines = [Line("events", 3, number, 0, json.dumps(one).encode()) for number, one in enumerate(events)]
    found = audit(lines, config, now_ms=NOON_MS)
    return {
        key: (row.cost, row.price, row.credits, row.multiplier) for (_, key, _), row in found.priced.items()
    }


def only(scope: Scope, **changes: Any) -> Scope:
    return replace(scope, **changes)
