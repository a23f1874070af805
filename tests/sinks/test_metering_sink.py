"""Which sink partition rows go to, and when rows and alerts leave it."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from clickhouse_connect.driver.client import Client

from pricing.cap import CapAlert
from sinks.clickhouse import connect, parse_address
from sinks.metering_sink import EPOCHS_BEHIND_MAX, MeteringSink
from sinks.migrate import migrate
from sinks.publish import Publisher
from sinks.rows import Heartbeat, Progress, SinkItem, TableRows
from sinks.stage import StagedBlock


class NoAlerts:
    """Where no alerts go."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


@pytest.mark.parametrize(
    ("here", "addresses"),
    [
        ((), ["0", "1", "2", "0"]),
        (("sink-01",), ["1", "1", "1", "1"]),
        (("sink-02", "sink-00"), ["2", "0", "2", "0"]),
    ],
    ids=["none is here", "one is here", "two are here"],
)
def test_rows_go_to_a_partition_of_their_process(
    clickhouse_url: str, tmp_path: Path, here: tuple[str, ...], addresses: list[str]
) -> None:
    def client() -> Client:
        return connect(parse_address(clickhouse_url))

    sink = MeteringSink(3, tmp_path, client, Publisher, NoAlerts, {}, 0, lambda: 0)
    for name in here:
        sink.build_part("publish", name, None)
    assert [sink.near(number) for number in range(4)] == addresses


class Posted:
    """A post that remembers what it took, and says that it was delivered at once."""

    def __init__(self) -> None:
        self.alerts: list[str] = []
        self.told: list[str] = []

    def post(self, alerts: Sequence[CapAlert]) -> None:
        self.alerts += [alert.alert_id for alert in alerts]

    def delivered(self, limit: int) -> list[tuple[str, int]]:
        waiting = [name for name in dict.fromkeys(self.alerts) if name not in self.told]
        return [(name, 1_700_000_000_000) for name in waiting][:limit]

    def reported(self, alert_ids: Sequence[str]) -> None:
        self.told += alert_ids

    def close(self) -> None:
        pass


ALERT = CapAlert(
    alert_id="a-1",
    tenant_id="acme",
    feature_id="",
    window_kind="day",
    window_start_ms=0,
    window_end_ms=86_400_000,
    cap=Decimal(50),
    threshold=Decimal(1),
    spend=Decimal(51),
    crossing_key="k-9",
    raised_at_ms=5,
)


def test_rows_and_alerts_leave_with_the_first_items_of_the_next_epoch(
    clickhouse_url: str, tmp_path: Path
) -> None:
    client, post = connect(parse_address(clickhouse_url)), Posted()
    migrate(client)

    def rows(table: str) -> int:
        return int(client.query("SELECT count() FROM {table:Identifier}", {"table": table}).result_rows[0][0])

    sink = MeteringSink(1, tmp_path, lambda: client, Publisher, lambda: post, {}, 0, lambda: 0)
    partition = sink.build_part("publish", "sink-00", None)
    partition.write_batch([ALERT, Progress("topic", 0, 10, 10)])
    state = partition.snapshot()
    assert (post.alerts, rows("source_progress"), rows("cap_alert_log")) == ([], 0, 0)  # not durable yet

    partition.write_batch([Heartbeat()])
    assert post.alerts == ["a-1"]
    partition.write_batch([Heartbeat()])
    partition.snapshot()
    assert (post.alerts, rows("source_progress"), rows("cap_alert_log")) == (["a-1"], 1, 1)

    # As if only the first snapshot had become durable: the alert goes out again, under its id; no row twice.
    partition = sink.build_part("publish", "sink-00", state)
    assert (post.alerts, rows("source_progress"), rows("cap_alert_log")) == (["a-1", "a-1"], 1, 1)

    for _ in range(3):  # a delivery is written once, and then remembered as written
        partition.write_batch([Heartbeat()])
        partition.snapshot()
    assert (post.told, rows("cap_alert_deliveries")) == (["a-1"], 1)


def test_inserts_may_lag_while_rows_come_and_an_idle_epoch_waits_for_them(
    clickhouse_url: str, tmp_path: Path
) -> None:
    allowed: list[int] = []

    class Told(Publisher):
        def turn_epoch(self, behind_max: int = 0) -> tuple[StagedBlock, ...]:
            allowed.append(behind_max)
            return super().turn_epoch(behind_max)

    client = connect(parse_address(clickhouse_url))
    migrate(client)
    sink = MeteringSink(1, tmp_path, lambda: client, Told, Posted, {}, 0, lambda: 0)
    partition = sink.build_part("publish", "sink-00", None)
    copies = pl.DataFrame({"tenant_id": ["acme"], "idempotency_key": ["k"]})
    items: list[SinkItem] = [TableRows("duplicates", copies), Heartbeat(), Progress("topic", 0, 10, 10)]
    for item in items:
        partition.write_batch([item])
        partition.snapshot()
    partition.close()
    assert allowed == [EPOCHS_BEHIND_MAX, 0, 0]
