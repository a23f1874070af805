"""Which sink partition rows go to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from sinks.clickhouse import connect, parse_address
from sinks.metering_sink import MeteringSink
from sinks.publish import Publisher


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
