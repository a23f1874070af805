"""Addresses and credentials: what a meter takes, and the one sentence for what it does not."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

from metering.destination import (
    FileDestination,
    KafkaDestination,
    KafkaSecurity,
    parse_destination,
    parse_spool_dir,
    security_from,
)
from metering.meter import Meter

PLAIN = KafkaSecurity()
NOT_KAFKA = "the address of Kafka is not of the form kafka://host:port/topic"
NOT_A_FILE = "the file of events is not of the form file:///abs/path/events.jsonl"
NOT_A_PORT = "a port in the address of Kafka is a number from 1 to 65535"
LOGIN = {"METERLINE_KAFKA_SASL_USERNAME": "app", "METERLINE_KAFKA_SASL_PASSWORD": "hunter2"}


class Odd(os.PathLike[Any]):
    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("kafka://localhost:9092/events", KafkaDestination("localhost:9092", "events", PLAIN)),
        ("kafka://a:1,b:2/ai-metering-events", KafkaDestination("a:1,b:2", "ai-metering-events", PLAIN)),
        ("kafka://a:65535/t", KafkaDestination("a:65535", "t", PLAIN)),
        ("kafka://a/t", KafkaDestination("a", "t", PLAIN)),
        ("kafka://[::1]:9092/t", KafkaDestination("[::1]:9092", "t", PLAIN)),
        ("file:///data/events.jsonl", FileDestination(Path("/data/events.jsonl"))),
        ("file:///data/a%20b?#.jsonl", FileDestination(Path("/data/a b?#.jsonl"))),
        ("localhost:9092/events", "events go to kafka://host:port/topic or file:///abs/path/events.jsonl"),
        ("", "events go to kafka://host:port/topic or file:///abs/path/events.jsonl"),
        (None, "events go to kafka://host:port/topic or file:///abs/path/events.jsonl"),
        (b"kafka://a:1/t", "events go to kafka://host:port/topic or file:///abs/path/events.jsonl"),
        ("kafka://localhost:9092", NOT_KAFKA),
        ("kafka:///events", NOT_KAFKA),
        ("kafka://a:1,/events", NOT_KAFKA),
        ("kafka://a:1/two/topics", NOT_KAFKA),
        ("kafka://a:1/what?x=1", NOT_KAFKA),
        ("kafka://a:0/events", NOT_A_PORT),
        ("kafka://a:1,b:65536/events", NOT_A_PORT),
        ("kafka://a:123456/events", NOT_KAFKA),
        ("file://data/events.jsonl", NOT_A_FILE),
        ("file:///data/", NOT_A_FILE),
        ("file:///data/..", NOT_A_FILE),
        ("file:///", NOT_A_FILE),
        ("file:///e.jsonl.gz", "a file of events ending with .gz cannot be appended to: leave out .gz"),
    ],
)
def test_addresses(url: Any, expected: object) -> None:
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=r"^") as caught:
            Meter(url)
        assert str(caught.value) == expected
    else:
        assert parse_destination(url, PLAIN) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {"security.protocol": "PLAINTEXT"}),
        (
            LOGIN,
            {
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "PLAIN",
                "sasl.username": "app",
                "sasl.password": "hunter2",
            },
        ),
        (
            {
                **LOGIN,
                "METERLINE_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
                "METERLINE_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
                "METERLINE_KAFKA_SSL_CA_LOCATION": "/ca.pem",
            },
            {
                "security.protocol": "SASL_PLAINTEXT",
                "ssl.ca.location": "/ca.pem",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": "app",
                "sasl.password": "hunter2",
            },
        ),
        (
            {"METERLINE_KAFKA_SSL_CA_LOCATION": "/ca.pem"},
            {"security.protocol": "SSL", "ssl.ca.location": "/ca.pem"},
        ),
    ],
)
def test_credentials_from_the_environment(environment: dict[str, str], expected: dict[str, str]) -> None:
    assert security_from(environment).client_config() == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"METERLINE_KAFKA_SASL_USERNAME": "app"}, "these need both"),
        ({"METERLINE_KAFKA_SASL_PASSWORD": "hunter2"}, "these need both"),
        ({**LOGIN, "METERLINE_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}, "these need both"),
        ({"METERLINE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "these need both"),
        ({"METERLINE_KAFKA_SECURITY_PROTOCOL": "TLS"}, "is one of PLAINTEXT"),
        ({**LOGIN, "METERLINE_KAFKA_SASL_MECHANISM": "GSSAPI"}, "is one of PLAIN, SCRAM"),
        ({**LOGIN, "METERLINE_KAFKA_SASL_PASSWORD_FILE": "/p"}, "given twice"),
        ({"METERLINE_EVENTS": "kafka://app:hunter2@b:1/t"}, "holds no user and no password"),
        ({"METERLINE_EVENTS": "kafka://app:p#hunter2@b:1/t"}, "holds no user and no password"),
        ({"METERLINE_EVENTS": "kafka://app:p/hunter2@b:1/t"}, "holds no user and no password"),
        ({"METERLINE_EVENTS": "kafka://app:[hunter2]@b:1/t"}, "holds no user and no password"),
        ({"METERLINE_EVENTS": "kafka://app:hunter2%40b:1/t"}, NOT_KAFKA),
        ({"METERLINE_EVENTS": "kafka://b:1/t?password=hunter2"}, NOT_KAFKA),
        ({"METERLINE_EVENTS": "kafka://[hunter2]/t"}, "address of"),
        ({"METERLINE_EVENTS": "kafka://hunter2\u2100/t"}, "cannot be read as one"),
        ({"METERLINE_EVENTS": "KAFKA://app:hunter2@b:1/t"}, "events go to kafka://"),
        ({"METERLINE_EVENTS": "file://app:hunter2@b/e.jsonl"}, NOT_A_FILE),
        ({"METERLINE_EVENTS": "file:///e.jsonl", **LOGIN}, "a file takes no credentials"),
        ({"METERLINE_EVENTS": ""}, "METERLINE_EVENTS does not say where events go"),
    ],
)
def test_what_does_not_fit_is_one_sentence_without_the_password(
    environment: dict[str, str], expected: str
) -> None:
    whole = {"METERLINE_EVENTS": "kafka://b:1/t", **environment}
    with pytest.raises(ValueError, match=expected) as caught:
        Meter.from_environment(whole)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "wrong", "expected"),
    [
        *(
            ("queue_events_max", one, "whole number greater than zero")
            for one in (0, 1.5, math.nan, "5", None)
        ),
        *(("spool_bytes_max", one, "whole number greater than zero") for one in (0, -1, True, math.inf)),
        *(("spool_after_seconds", one, "greater than zero") for one in (0.0, math.nan, math.inf, "1", None)),
        *(("spool_dir", one, "a path that is not empty") for one in ("", "a\0b", 5, b"spool", Odd(b"spool"))),
        ("spool_dir", "~/spool", "begins with ~"),
        ("security", "SASL_SSL", "is a KafkaSecurity"),
    ],
)
def test_what_else_cannot_be_used_is_one_sentence(argument: str, wrong: object, expected: str) -> None:
    arguments: dict[str, Any] = {argument: wrong}
    with pytest.raises(ValueError, match=expected):
        Meter("file:///e.jsonl", **arguments)


def test_a_spool_that_begins_in_a_directory_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ValueError, match="not a whole path"):
        Meter("file:///e.jsonl", spool_dir="spool")
    assert parse_spool_dir("/spool") == Path("/spool")


def test_a_password_file_is_read_when_it_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "password"
    security = KafkaSecurity("SASL_SSL", username="app", password_file=str(file))
    with pytest.raises(FileNotFoundError):
        security.client_config()
    file.write_text("hunter2\n")
    assert security.client_config()["sasl.password"] == "hunter2"


def test_no_repr_shows_a_password() -> None:
    meter = Meter.from_environment({"METERLINE_EVENTS": "kafka://b:1/t", **LOGIN})
    security = KafkaSecurity("SASL_SSL", username="app", password="hunter2")
    for shown in (repr(meter), repr(security), repr(parse_destination("kafka://b:1/t", security))):
        assert "hunter2" not in shown
    assert repr(meter) == "Meter('t@b:1')"
