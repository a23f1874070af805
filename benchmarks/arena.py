"""Who competes, and how each is held to the right result before its time counts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clickhouse_connect.driver.client import Client

from benchmarks.pinned import ROOT, Measured, run_child
from benchmarks.servers import Servers, fresh_database
from benchmarks.workload import JOB_CONFIG, Expected, expect, pack
from sinks.migrate import migrate

PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"


@dataclass(frozen=True)
class Topic:
    """Messages on the broker and what has to come out of them."""

    name: str
    events: int
    expected: Expected


class WrongResult(Exception):
    """A competitor wrote something else than what is right: its time means nothing."""


class Arena:
    """The servers, and a directory for states."""

    def __init__(self, servers: Servers, directory: Path, core: int) -> None:
        self.servers = servers
        self.directory = directory
        self.core = core
        self.config = directory / "meterline.yaml"
        self.config.write_text(JOB_CONFIG, encoding="utf-8")

    @contextmanager
    def state(self) -> Iterator[Path]:
        """A directory for one run."""
        with tempfile.TemporaryDirectory(dir=self.directory, prefix="state-") as name:
            yield Path(name)

    def topic(self, lines: Sequence[bytes], events_per_message: int) -> Topic:
        """The lines on the broker."""
        name = self.servers.topic(pack(lines, events_per_message))
        return Topic(name, len(lines), expect(lines))

    def meterline(self, topic: Topic, rows_file: Path | None = None) -> Measured:
        """The real job; its rows are kept in `rows_file`, where one is given and not there yet."""
        with fresh_database(self.servers.clickhouse) as (url, client), self.state() as state:
            environment = {
                "METERLINE_CONFIG": str(self.config),
                "METERLINE_SOURCE": f"kafka://{self.servers.bootstrap}/{topic.name}",
                "METERLINE_CLICKHOUSE_URL": url,
                "METERLINE_STATE_DIR": str(state / "job"),
                "METERLINE_FOLLOW": "0",
            }
            measured = run_child("benchmarks.job_run", [], self.core, environment)
            check(client, "usage", topic.expected)
            check_count(client, "duplicates", topic.expected.duplicates)
            check_count(client, "quarantine", 0)
            if rows_file is not None and not rows_file.exists():
                query = "SELECT * FROM priced_events LIMIT 1000000"
                rows_file.write_bytes(client.raw_query(query, fmt="ArrowStream"))
            return measured

    def naive(self, topic: Topic, keep_days: int = 0) -> Measured:
        """One item an event; `keep_days` is for how long it keeps snapshots that nobody needs."""
        with fresh_database(self.servers.clickhouse) as (url, client), self.state() as state:
            arguments = [self.servers.bootstrap, topic.name, url, str(state / "recovery"), str(keep_days)]
            measured = run_child("benchmarks.naive_flow", arguments, self.core)
            check(client, "naive_events", topic.expected)
            return measured

    def quix(self, topic: Topic) -> Measured:
        """Quix Streams; its changelog topics stay on the broker."""
        with fresh_database(self.servers.clickhouse) as (url, client), self.state() as state:
            database = url.rpartition("/")[2]
            where = [str(self.servers.clickhouse_port), database, str(state)]
            arguments = [self.servers.bootstrap, topic.name, *where]
            measured = run_child("benchmarks.quix_flow", arguments, self.core, python=str(PEERS_PYTHON))
            check(client, "quix_events", topic.expected)
            return measured

    def can_run_quix(self) -> bool:
        """It needs its environment, and a broker that can create topics and describe their settings."""
        return self.servers.real and PEERS_PYTHON.exists()

    def decode(self, library: str, file: Path) -> Measured:
        """JSON alone."""
        environment = {"POLARS_MAX_THREADS": "1"}
        return run_child("benchmarks.limits", ["decode", library, str(file)], self.core, environment)

    def consume(self, topic: Topic) -> Measured:
        """Kafka alone."""
        return run_child("benchmarks.limits", ["consume", self.servers.bootstrap, topic.name], self.core)

    def insert(self, rows_file: Path) -> Measured:
        """ClickHouse alone."""
        with fresh_database(self.servers.clickhouse) as (url, client):
            migrate(client)
            return run_child("benchmarks.limits", ["insert", url, str(rows_file)], self.core)


def check(client: Client, table: str, expected: Expected) -> None:
    """Hold a competitor's rows against what is right.

    Raises:
        WrongResult: they differ.
    """
    query = f"SELECT count(), sum(cost), sum(price) FROM {table}"  # noqa: S608  # a name of ours
    found = client.query(query).result_rows[0]
    if found != (expected.rows, expected.cost, expected.price):
        raise WrongResult(f"{table} holds {found}, and {expected} was expected")


def check_count(client: Client, table: str, expected: int) -> None:
    """As `check`, rows alone."""
    query = f"SELECT count() FROM {table}"  # noqa: S608  # a name of ours
    found = client.query(query).result_rows[0][0]
    if found != expected:
        raise WrongResult(f"{table} holds {found} rows, and {expected} were expected")
