"""A database with all tables; an outbox on disk, and deliverers over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from sinks.clickhouse import connect, parse_address
from sinks.delivery import Deliverer
from sinks.migrate import migrate, migrations
from sinks.outbox import Outbox
from sinks.webhook import WebhookSender
from tests.sinks.delivering import PATIENCE_SECONDS, Local, wall_clock_ms


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    opened = connect(parse_address(clickhouse_url))
    assert len(migrate(opened)) == len(migrations())
    assert migrate(opened) == ()
    yield opened
    opened.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite3"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    outbox = Outbox.open(path)
    yield outbox
    outbox.close()


@pytest.fixture
def deliver(outbox: Outbox) -> Iterator[Callable[..., Deliverer]]:
    """Starts deliverers over the test's outbox and stops them before it is closed."""
    running: list[Deliverer] = []

    def start(
        *endpoints: WebhookSender | Local, now_ms: Callable[[], int] = wall_clock_ms, over: Outbox = outbox
    ) -> Deliverer:
        deliverer = Deliverer(over, endpoints, now_ms=now_ms, random_fraction=lambda: 0.5)
        running.append(deliverer)
        deliverer.start()
        return deliverer

    yield start
    for deliverer in running:
        assert deliverer.stop(PATIENCE_SECONDS)
