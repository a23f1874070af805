"""What a Kafka source may be called; a password in it is shown nowhere."""

from __future__ import annotations

import pytest

from dataflows.file_source import InputError
from dataflows.kafka_source import KafkaTopic, parse_topic


def test_brokers_and_topic() -> None:
    assert parse_topic("kafka://a:9092,b:9092/events") == KafkaTopic("a:9092,b:9092", "events")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("kafka://host:9092", "kafka://host:9092 is not kafka://host:port/topic"),
        ("kafka:///events", "kafka:///events is not kafka://host:port/topic"),
        ("kafka://host/a/b", "kafka://host/a/b is not kafka://host:port/topic"),
        ("kafka://me:hunter2@host/events", "a kafka:// source takes no user and no password"),
        ("kafka://me:hun#ter2@host/events", "a kafka:// source takes no user and no password"),
    ],
)
def test_others_are_refused_in_a_sentence(url: str, told: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_topic(url)
    assert str(refused.value) == told
