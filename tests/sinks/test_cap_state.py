"""Cap state in a compacted topic: what a reader finds there, in whatever order alerts come."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # documented there, but not exported by its types
    AdminClient,
    ConfigResource,
    NewTopic,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.cap import CapAlert
from sinks.cap_state import CapStatePublisher, cap_state, cap_state_key
from sinks.delivery import Deliverer, Outcome
from sinks.outbox import Outbox, OutboxMessage
from sinks.webhook import alert_message
from tests.sinks.receiver import closed_port

DAY_MS = 86_400_000
PATIENCE_SECONDS = 20.0
DELIVERED = Outcome("delivered")


@dataclass(frozen=True)
class Reached:
    """One alert in short: on which day, at which threshold, with how much spend."""

    day: int
    threshold: str
    spend: str
    tenant_id: str = "acme"

    @property
    def message(self) -> OutboxMessage:
        return alert_message(
            CapAlert(
                alert_id=f"alert_{self.tenant_id}_{self.day}_{self.threshold}_{self.spend}",
                tenant_id=self.tenant_id,
                feature_id="",
                window_kind="day",
                window_start_ms=self.day * DAY_MS,
                window_end_ms=(self.day + 1) * DAY_MS,
                cap=Decimal(50),
                threshold=Decimal(self.threshold),
                spend=Decimal(self.spend),
                crossing_key="key",
                raised_at_ms=self.day * DAY_MS + 1,
            ),
            "fallback-llama-3",
        )


def read_all(bootstrap: str, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    """Every (key, value) in the topic, in the order of each partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "test",
            "enable.partition.eof": True,
            "log_level": 2,
            "fetch.wait.max.ms": 50,
        }
    )
    partitions = consumer.list_topics(topic, timeout=PATIENCE_SECONDS).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
    found: list[tuple[bytes | None, bytes | None]] = []
    unread = len(partitions)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while unread and time.monotonic() < deadline:
        message = consumer.poll(0.1)
        if message is None:
            continue
        if message.error() is not None:
            unread -= 1
        else:
            key, value = message.key(), message.value()
            assert not isinstance(key, str)
            assert not isinstance(value, str)
            found.append((key, value))
    consumer.close()
    assert not unread
    return found


def spends(bootstrap: str, topic: str) -> dict[str, list[str]]:
    """The spends that were published, in their order, by tenant."""
    found: dict[str, list[str]] = {}
    for _, value in read_all(bootstrap, topic):
        state = json.loads(value or b"")
        found.setdefault(state["tenant_id"], []).append(state["spend"])
    return found


def send(bootstrap: str, topic: str, messages: list[tuple[bytes | None, bytes | None]]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 2})
    for key, value in messages:
        producer.produce(topic, key=key, value=value)
    assert producer.flush(PATIENCE_SECONDS) == 0


@pytest.fixture
def topic(kafka_bootstrap: str, kafka_topic: str) -> str:
    """A topic that exists already, as the broker makes it of itself."""
    client = Producer({"bootstrap.servers": kafka_bootstrap, "log_level": 2})
    deadline = time.monotonic() + PATIENCE_SECONDS
    while client.list_topics(kafka_topic, timeout=PATIENCE_SECONDS).topics[kafka_topic].error is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return kafka_topic


@pytest.fixture
def publisher(kafka_bootstrap: str, topic: str) -> Iterator[CapStatePublisher]:
    publisher = CapStatePublisher(kafka_bootstrap, topic=topic)
    yield publisher
    publisher.close()


def test_a_reader_finds_the_state_of_a_cap_under_its_key(
    publisher: CapStatePublisher, kafka_bootstrap: str, topic: str
) -> None:
    assert publisher.deliver(Reached(20_513, "0.8", "40.000312000000").message, 0) == DELIVERED

    ((key, value),) = read_all(kafka_bootstrap, topic)
    assert key == b'["acme","","day"]'
    assert json.loads(value or b"") == {
        "alert_id": "alert_acme_20513_0.8_40.000312000000",
        "tenant_id": "acme",
        "feature_id": "",
        "window_kind": "day",
        "state": "warning",
        "window_start_ms": 20_513 * DAY_MS,
        "window_end_ms": 20_514 * DAY_MS,
        "cap": "50",
        "threshold": "0.8",
        "spend": "40.000312000000",
        "fallback_model": "fallback-llama-3",
    }


def test_a_threshold_of_one_is_exceeded() -> None:
    assert json.loads(cap_state(Reached(1, "1.0", "50").message).value)["state"] == "exceeded"


@given(
    st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6), st.text(max_size=6)), min_size=2, max_size=2)
)
def test_different_caps_have_different_keys(caps: list[tuple[str, str, str]]) -> None:
    first, second = (cap_state_key(*cap) for cap in caps)
    assert (first == second) == (caps[0] == caps[1])
    assert tuple(json.loads(first)) == caps[0]


# What is delivered, in this order, and the spends that then stand in the topic.
SCENARIOS = {
    "rising": ([(1, "0.8", "40"), (1, "1", "50")], ["40", "50"]),
    "older threshold late": ([(1, "1", "50"), (1, "0.8", "40")], ["50"]),
    "one event crosses both": ([(1, "0.8", "60"), (1, "1", "60.0")], ["60", "60.0"]),
    "the same, the other way round": ([(1, "1", "60"), (1, "0.8", "60.0")], ["60"]),
    "yesterday's window late": ([(2, "0.8", "41"), (1, "1", "50")], ["41"]),
    "a new day starts again": ([(1, "1", "50"), (2, "0.8", "41")], ["50", "41"]),
    "days are numbers": ([(9, "0.8", "41"), (10, "0.8", "40")], ["41", "40"]),
    "spends are numbers": ([(1, "0.8", "9"), (1, "1", "10")], ["9", "10"]),
    "a repetition": ([(1, "1", "50"), (1, "1", "50")], ["50"]),
}


def test_an_older_state_never_overwrites_a_newer_one(
    publisher: CapStatePublisher, kafka_bootstrap: str, topic: str
) -> None:
    messages = [
        Reached(*reached, tenant_id=name).message
        for name, (scenario, _) in SCENARIOS.items()
        for reached in scenario
    ]
    expected = {name: published for name, (_, published) in SCENARIOS.items()}

    for message in messages:
        assert publisher.deliver(message, 0) == DELIVERED
    assert spends(kafka_bootstrap, topic) == expected

    after_a_restart = CapStatePublisher(kafka_bootstrap, topic=topic)
    for message in messages:
        assert after_a_restart.deliver(message, 0) == DELIVERED
    after_a_restart.close()
    assert spends(kafka_bootstrap, topic) == expected


def test_whatever_the_order_of_delivery_the_last_state_of_a_cap_is_its_newest(
    publisher: CapStatePublisher, kafka_bootstrap: str, topic: str
) -> None:
    newest: dict[bytes, tuple[int, Decimal, Decimal]] = {}

    @settings(max_examples=25)
    @given(
        st.lists(
            st.tuples(st.integers(1, 3), st.sampled_from(["0.5", "0.8", "1"]), st.integers(9, 11)), max_size=6
        )
    )
    def deliver_in_this_order(reached: list[tuple[int, str, int]]) -> None:
        tenant_id = f"tenant-{len(newest)}"
        for day, threshold, spend in reached:
            one = Reached(day, threshold, str(spend), tenant_id)
            assert publisher.deliver(one.message, 0) == DELIVERED
            state = cap_state(one.message)
            newest[state.key] = max(state.rank, newest.get(state.key, state.rank))

    deliver_in_this_order()

    last = {key: json.loads(value or b"{}") for key, value in read_all(kafka_bootstrap, topic)}
    assert len(newest) > 5
    assert {
        key: (value["window_start_ms"], Decimal(value["spend"]), Decimal(value["threshold"]))
        for key, value in last.items()
    } == newest


def test_what_is_no_cap_state_is_counted_and_a_removed_state_is_forgotten(
    publisher: CapStatePublisher, kafka_bootstrap: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = cap_state_key("acme", "", "day")
    newer = cap_state(Reached(5, "1", "50").message).value
    send(
        kafka_bootstrap,
        topic,
        [
            (b"?", b"not JSON"),
            (b"?", b"[]"),
            (b"?", b'{"spend":"x"}'),
            (None, b"{}"),
            (key, newer),
            (key, None),
        ],
    )

    assert publisher.deliver(Reached(1, "0.8", "40").message, 0) == DELIVERED
    assert json.loads(dict(read_all(kafka_bootstrap, topic))[key] or b"")["spend"] == "40"
    assert f"Topic {topic} holds 4 messages that are no cap states." in caplog.messages


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data": {"alert_id": "a"}}'])
def test_a_message_that_is_not_about_a_cap_is_a_failure(body: bytes) -> None:
    publisher = CapStatePublisher(f"127.0.0.1:{closed_port()}")
    outcome = publisher.deliver(OutboxMessage("a", "another.type", 0, body), 0)
    assert outcome == Outcome("failed", "the message is not about a cap")


def test_without_a_broker_a_delivery_fails_and_says_so() -> None:
    publisher = CapStatePublisher(f"127.0.0.1:{closed_port()}", request_timeout_seconds=0.2)
    outcome = publisher.deliver(Reached(1, "0.8", "40").message, 0)
    assert outcome.verdict == "failed"
    assert outcome.reason.startswith("Kafka: ")


def test_a_broker_that_dies_fails_the_delivery_and_not_the_publisher() -> None:
    client = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = client.list_topics("caps", timeout=PATIENCE_SECONDS).brokers.values()
    publisher = CapStatePublisher(f"{broker.host}:{broker.port}", topic="caps", request_timeout_seconds=1.0)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while publisher.deliver(Reached(1, "0.8", "40").message, 0) != DELIVERED:  # a busy machine takes longer
        assert time.monotonic() < deadline

    del client, broker  # the cluster lives and dies with its client

    for _ in range(2):  # once while producing, once while reading the topic again
        outcome = publisher.deliver(Reached(1, "1", "50").message, 0)
        assert outcome.verdict == "failed"
        assert outcome.reason.startswith("Kafka: ")
    publisher.close()


def test_a_missing_topic_is_made(kafka_bootstrap: str, kafka_topic: str) -> None:
    publisher = CapStatePublisher(kafka_bootstrap, topic=kafka_topic, request_timeout_seconds=2.0)
    deadline = time.monotonic() + PATIENCE_SECONDS
    # A new topic may have no leader for a moment; the deliverer would try again, too.
    while publisher.deliver(Reached(1, "0.8", "40").message, 0) != DELIVERED:
        assert time.monotonic() < deadline
    publisher.close()
    assert spends(kafka_bootstrap, kafka_topic) == {"acme": ["40"]}


@pytest.mark.kafka
def test_the_topic_that_is_made_is_compacted_and_has_one_partition(
    kafka_bootstrap: str, kafka_topic: str
) -> None:
    publisher = CapStatePublisher(kafka_bootstrap, topic=kafka_topic)
    assert publisher.deliver(Reached(1, "0.8", "40").message, 0) == DELIVERED
    publisher.close()

    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    resource = ConfigResource(ConfigResource.Type.TOPIC, kafka_topic)
    assert admin.describe_configs([resource])[resource].result()["cleanup.policy"].value == "compact"
    assert len(admin.list_topics(kafka_topic, timeout=PATIENCE_SECONDS).topics[kafka_topic].partitions) == 1


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("policy", "warned"), [("delete", True), ("compact", False), ("compact,delete", False)]
)
def test_a_topic_that_would_expire_is_warned_about(
    kafka_bootstrap: str, kafka_topic: str, policy: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.create_topics([NewTopic(kafka_topic, 1, 1, config={"cleanup.policy": policy})])[
        kafka_topic
    ].result()

    publisher = CapStatePublisher(kafka_bootstrap, topic=kafka_topic)
    assert publisher.deliver(Reached(1, "0.8", "40").message, 0) == DELIVERED
    publisher.close()
    assert any("set it to compact" in text for text in caplog.messages) == warned


@pytest.mark.kafka
def test_a_topic_that_cannot_be_made_is_named(kafka_bootstrap: str) -> None:
    publisher = CapStatePublisher(kafka_bootstrap, topic="no such name")
    outcome = publisher.deliver(Reached(1, "0.8", "40").message, 0)
    assert outcome.verdict == "failed"
    assert outcome.reason.startswith("topic no such name is missing and was not created (")
    assert outcome.reason.endswith("create it with cleanup.policy=compact")


def test_states_and_webhooks_leave_through_one_outbox(
    publisher: CapStatePublisher, kafka_bootstrap: str, topic: str, tmp_path: Path
) -> None:
    outbox = Outbox.open(tmp_path / "outbox.sqlite3")
    deliverer = Deliverer(
        outbox, [publisher], now_ms=lambda: time.time_ns() // 1_000_000, random_fraction=lambda: 0.0
    )
    assert deliverer.endpoint_names == (f"kafka:{topic}",)
    outbox.put(
        [Reached(day, "0.8", str(day)).message for day in (1, 3, 2, 4)], [*deliverer.endpoint_names, "ops"]
    )
    deliverer.start()
    assert deliverer.drain(PATIENCE_SECONDS)
    assert deliverer.stop(PATIENCE_SECONDS)

    assert spends(kafka_bootstrap, topic) == {"acme": ["1", "3", "4"]}
    assert deliverer.counters()[f"kafka:{topic}"].delivered == 4
    assert outbox.unrecorded_deliveries(9) == []  # the webhook has not had them
    outbox.close()


def test_neither_logs_nor_reprs_nor_reasons_show_the_configuration(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    publisher = CapStatePublisher(
        f"127.0.0.1:{closed_port()}",
        client_config={"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
                       "sasl.username": "me", "sasl.password": "hunter2"},
        request_timeout_seconds=0.2,
    )  # fmt: skip
    outcome = publisher.deliver(Reached(1, "0.8", "40").message, 0)
    assert "hunter2" not in f"{publisher!r} {outcome} {caplog.text}"
