"""The transport to Kafka by itself: how messages end, what it refuses, and what it leaves alone."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # not in its stubs

from metering import kafka_transport
from metering.destination import KafkaDestination, KafkaSecurity
from metering.kafka_transport import KafkaTransport
from metering.message import Message
from metering.meter import Meter
from metering.transport import Handed, Unavailable
from tests.metering.kafka_process import PARTITIONS
from tests.metering.recording import SECONDS, event, keys_at, until


def transport_to(bootstrap: str, topic: str = "events", **security: str) -> KafkaTransport:
    return KafkaTransport(KafkaDestination(bootstrap, topic, KafkaSecurity(**security)))


def handed() -> Handed:
    return Handed(Message(b"acme", b"{}", 1))


@pytest.fixture
def nowhere() -> Iterator[KafkaTransport]:
    transport = transport_to("127.0.0.1:1")
    yield transport
    transport.close(1)


def test_a_message_ends_well_once_the_broker_has_it(kafka_bootstrap: str, kafka_topic: str) -> None:
    transport, message = transport_to(kafka_bootstrap, kafka_topic), handed()
    transport.send(message)
    until(lambda: transport.poll(0.1) or message.ending is not None)
    assert (message.ending, transport.sync(), transport.trouble()) == ("", True, "")
    transport.close(1)


def test_messages_that_are_still_there_at_the_end_end_badly(nowhere: KafkaTransport) -> None:
    message = handed()
    nowhere.send(message)
    nowhere.poll(0)
    nowhere.close(1)
    assert message.ending is not None
    assert message.ending.startswith("Kafka: ")
    assert (nowhere.poll(0), nowhere.poll(0)) == (True, False)


def test_after_a_fatal_error_messages_come_back_and_a_new_client_is_made(
    nowhere: KafkaTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = handed(), handed()
    nowhere.send(first)
    nowhere._has_to_renew = True  # noqa: SLF001  # librdkafka raises one only where a broker misbehaves
    assert nowhere.poll(0)
    assert first.ending
    with pytest.raises(Unavailable):
        nowhere.send(second)
    monkeypatch.setattr(kafka_transport, "RENEW_SECONDS", 0.0)
    nowhere._renew_at = 0.0  # noqa: SLF001  # the pause is over
    nowhere.send(second)
    assert not nowhere.poll(0)


@pytest.mark.parametrize(
    "security",
    [
        {"protocol": "SSL", "ca_location": "/no/such/ca.pem"},
        {"protocol": "SASL_SSL", "username": "app", "password": "hunter2", "ca_location": "/no/such/ca.pem"},
        {"protocol": "SASL_SSL", "username": "app", "password_file": "/no/such/password"},
    ],
)
def test_a_client_that_cannot_be_made_is_told_of_without_the_password(security: dict[str, str]) -> None:
    transport = transport_to("127.0.0.1:1", **security)
    for _ in range(2):  # made once, and then left alone for a while
        with pytest.raises(Unavailable) as caught:
            transport.send(handed())
        assert "ssl.ca.location" in str(caught.value) or "password cannot be read" in str(caught.value)
        assert "hunter2" not in f"{caught.value} {transport.trouble()} {transport!r}"


def test_a_login_is_given_to_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    producer = confluent_kafka.Producer

    def noted(config: dict[str, Any]) -> confluent_kafka.Producer:
        given.update(config)
        return producer(config)

    monkeypatch.setattr(confluent_kafka, "Producer", noted)
    password = tmp_path / "password"
    password.write_text("hunter2")
    login = {"username": "app", "password_file": str(password), "mechanism": "SCRAM-SHA-512"}
    transport = transport_to("127.0.0.1:1", protocol="SASL_PLAINTEXT", **login)
    transport.send(handed())
    transport.close(1)
    assert (given["security.protocol"], given["sasl.mechanism"]) == ("SASL_PLAINTEXT", "SCRAM-SHA-512")
    assert (given["sasl.username"], given["sasl.password"]) == ("app", "hunter2")


def test_a_forked_child_does_not_destroy_its_parents_client() -> None:
    transport = transport_to("127.0.0.1:1")
    transport.send(handed())
    client = transport._producer  # noqa: SLF001  # whose life it is about
    before = sys.getrefcount(client)
    transport.abandon()
    assert (transport._producer, sys.getrefcount(client)) == (None, before)  # noqa: SLF001  # as above
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(client))


@pytest.mark.kafka
def test_a_topic_that_takes_only_small_messages_gets_small_ones(
    kafka_bootstrap: str, kafka_topic: str, tmp_path: Path
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    topic = NewTopic(kafka_topic, PARTITIONS, 1, config={"max.message.bytes": "4000"})
    admin.create_topics([topic])[kafka_topic].result(SECONDS)
    chance = random.Random(1)
    with Meter(f"kafka://{kafka_bootstrap}/{kafka_topic}", spool_dir=tmp_path) as meter:
        for number in range(200):
            meter.record(event(number, attributes={"noise": chance.randbytes(300).hex()}))
        meter.record(event(200, attributes={f"noise-{n}": chance.randbytes(500).hex() for n in range(8)}))
        meter.record(event(201))
        until(lambda: meter.stats().dropped != {})  # after a pause for a new client
        until(lambda: meter.stats().waiting == meter.stats().spool_bytes == 0)
        assert meter.stats().dropped == {"refused": 1}
    (refused,) = tmp_path.glob("*/refused.jsonl")
    assert b'"k200"' in refused.read_bytes()
    assert set(keys_at(kafka_bootstrap, kafka_topic)) == {f"k{number}" for number in [*range(200), 201]}
