"""Real parts for tests: a Kafka broker, a ClickHouse database, and the profiles of Hypothesis.

By default Kafka is librdkafka's mock cluster (the real protocol over TCP) and ClickHouse is the engine in
this process (chDB). METERLINE_TEST_KAFKA ("host:port") and METERLINE_TEST_CLICKHOUSE_URL
("clickhouse://user:pass@host:8123") put servers in their place; no test changes.
"""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest
from confluent_kafka import Producer
from hypothesis import HealthCheck, settings

from sinks.clickhouse import connect, parse_address

KAFKA_VARIABLE = "METERLINE_TEST_KAFKA"
CLICKHOUSE_VARIABLE = "METERLINE_TEST_CLICKHOUSE_URL"
LONG_VARIABLE = "METERLINE_TEST_LONG"
SLOW_VARIABLE = "METERLINE_TEST_SLOW"
MOCK_START_SECONDS_MAX = 20

# No deadline and no complaint about slow data: on busy cores both would measure the machine, not the code.
# `make test ARGS=--hypothesis-profile=long` searches deeper.
settings.register_profile(
    "default", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", settings.get_profile("default"), max_examples=3000)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what talks to a broker, for `make kafka-test`; skip what needs a real one, and long forms."""
    long = pytest.mark.skip(reason=f"long: {LONG_VARIABLE}=1 runs it (make crash does)")
    slow = pytest.mark.skip(reason=f"slow: {SLOW_VARIABLE}=1 runs it (make slow and CI do)")
    no_kafka = pytest.mark.skip(
        reason=f"needs a real Apache Kafka: {KAFKA_VARIABLE} names none (make kafka-test)"
    )
    for item in items:
        if "kafka_bootstrap" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.broker)
        is_long, is_slow = (item.get_closest_marker(name) is not None for name in ("long", "slow"))
        if is_long and not os.environ.get(LONG_VARIABLE):
            item.add_marker(long)
        elif is_slow and not (os.environ.get(LONG_VARIABLE) or os.environ.get(SLOW_VARIABLE)):
            item.add_marker(slow)
        if item.get_closest_marker("kafka") is not None and not os.environ.get(KAFKA_VARIABLE):
            item.add_marker(no_kafka)


def pytest_collection_finish() -> None:
    """What collecting has made stays to the end: each garbage collection need not walk through it again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_settings_from_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's METERLINE_SOURCE and the like must not reach the code under test."""
    for name in list(os.environ):
        if name.startswith("METERLINE_") and not name.startswith("METERLINE_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def mock_kafka() -> Iterator[str]:
    """The bootstrap address of librdkafka's mock cluster, one for the whole run.

    Topics appear on first use with 4 partitions; there is no admin API (CreateTopics, DescribeConfigs); each
    partition keeps about its last 5 MB. Use a topic name of your own (`kafka_topic`).
    """
    client = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    brokers = client.list_topics(timeout=MOCK_START_SECONDS_MAX).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    # The cluster lives inside the client: this reference, kept past the yield, is what keeps it running.
    del client


@pytest.fixture
def kafka_bootstrap(request: pytest.FixtureRequest) -> str:
    """The bootstrap address of a broker: the real one where METERLINE_TEST_KAFKA names it, else the mock."""
    return os.environ.get(KAFKA_VARIABLE) or str(request.getfixturevalue("mock_kafka"))


@pytest.fixture
def kafka_topic() -> str:
    """The name of a topic that no other test uses. The broker creates it on first use, with 4 partitions."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def _chdb_directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("chdb") / "data")


@pytest.fixture(scope="module")
def kept_engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keeps chDB from ending with a test's last client: to start it takes longer than many a test.

    Not for tests that start a process on their `clickhouse_url`, or open another directory.
    """
    if os.environ.get(CLICKHOUSE_VARIABLE):
        yield
        return
    with connect(parse_address(f"chdb://{request.getfixturevalue('_chdb_directory')}")):
        yield


@pytest.fixture
def clickhouse_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database of this test's own, which `connect` creates and the end of the test drops.

    chDB holds one directory per process at a time and lets go when the last client is closed. So all tests
    of a run share one directory and differ in the database: a client that a failing test left open then
    harms no other test. A test that starts a process on this URL must have closed its own clients first.
    """
    database = f"test_{uuid.uuid4().hex}"
    server = os.environ.get(CLICKHOUSE_VARIABLE)
    if server:
        url = urlunsplit(urlsplit(server)._replace(path=f"/{database}"))
    else:
        url = f"chdb://{request.getfixturevalue('_chdb_directory')}?database={database}"
    yield url
    gc.collect()  # a client that was only forgotten closes here, so that its database can go
    with connect(parse_address(url)) as client:
        client.command(f"DROP DATABASE {database} SYNC")
