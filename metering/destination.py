"""Where a meter sends events, and with which credentials: read and judged without touching anything.

    kafka://host:port[,host:port]/topic       as METERLINE_SOURCE of the job has it
    file:///abs/path/events.jsonl             for development

Credentials are never part of the address, of a `repr` or of an error. An error never shows the address: who
takes it for a place of passwords may have put one anywhere in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

EVENTS_ENV = "METERLINE_EVENTS"
SPOOL_DIR_ENV = "METERLINE_SPOOL_DIR"

PROTOCOL_ENV = "METERLINE_KAFKA_SECURITY_PROTOCOL"
MECHANISM_ENV = "METERLINE_KAFKA_SASL_MECHANISM"
USERNAME_ENV = "METERLINE_KAFKA_SASL_USERNAME"
PASSWORD_ENV = "METERLINE_KAFKA_SASL_PASSWORD"  # noqa: S105  # a name
PASSWORD_FILE_ENV = "METERLINE_KAFKA_SASL_PASSWORD_FILE"  # noqa: S105  # as above
CA_ENV = "METERLINE_KAFKA_SSL_CA_LOCATION"

SECRET_BYTES_MAX = 4096

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")  # what Kafka allows as a name
_BROKER = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_PORT_MAX = 65_535


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """How a client proves itself to the broker, and the broker to it. The names are librdkafka's.

    `password_file` is read when the client connects, so that a new password needs no new process.

    Raises:
        ValueError: the parts do not fit together; the sentence never shows the password.
    """

    protocol: str = "PLAINTEXT"
    mechanism: str = "PLAIN"
    username: str = ""
    password: str = field(default="", repr=False)
    password_file: str = ""
    ca_location: str = ""

    def __post_init__(self) -> None:
        if self.protocol not in _PROTOCOLS:
            raise ValueError(f"Kafka's security protocol is one of {', '.join(_PROTOCOLS)}")
        if self.mechanism not in _MECHANISMS:
            raise ValueError(f"Kafka's SASL mechanism is one of {', '.join(_MECHANISMS)}")
        if self.password and self.password_file:
            raise ValueError("Kafka's password is given twice, as itself and as a file")
        has_password = bool(self.password or self.password_file)
        if not bool(self.username) == has_password == self.protocol.startswith("SASL"):
            raise ValueError(
                "a user name and a password belong to SASL_SSL or SASL_PLAINTEXT, and these need both"
            )

    def client_config(self) -> dict[str, str]:
        """Librdkafka's settings, the password in them.

        Raises:
            OSError, UnicodeDecodeError: the password's file cannot be read.
        """
        config = {"security.protocol": self.protocol}
        if self.ca_location:
            config["ssl.ca.location"] = self.ca_location
        if self.username:
            config |= {
                "sasl.mechanism": self.mechanism,
                "sasl.username": self.username,
                "sasl.password": self.password or _secret(self.password_file),
            }
        return config


def _secret(file: str) -> str:
    with Path(file).open(encoding="utf-8") as stream:
        return stream.read(SECRET_BYTES_MAX).strip()


@dataclass(frozen=True, slots=True)
class KafkaDestination:
    """A topic of a Kafka cluster."""

    bootstrap: str
    topic: str
    security: KafkaSecurity

    @property
    def name(self) -> str:
        """What its spools are known by."""
        return f"{self.topic}@{self.bootstrap}"


@dataclass(frozen=True, slots=True)
class FileDestination:
    """A file of JSON lines."""

    path: Path

    @property
    def name(self) -> str:
        """What its spools are known by."""
        return str(self.path)


def parse_destination(url: str, security: KafkaSecurity) -> KafkaDestination | FileDestination:
    """Read an address.

    Raises:
        ValueError: it is neither form, in one sentence.
    """
    given: tuple[object, object] = (url, security)  # whatever a caller took for one
    if not isinstance(given[1], KafkaSecurity):
        raise ValueError("the security of a meter is a KafkaSecurity")  # noqa: TRY004  # one kind for all
    scheme = url.split("://", 1)[0] if isinstance(given[0], str) else ""
    if scheme == "kafka":
        return _kafka(url, security)
    if scheme == "file" and security == KafkaSecurity():
        return _file(url)
    if scheme == "file":
        raise ValueError("a file takes no credentials for Kafka")
    raise ValueError("events go to kafka://host:port/topic or file:///abs/path/events.jsonl")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # its sentence shows what stands where the host should
        raise ValueError("the address of events cannot be read as one") from None


def _kafka(url: str, security: KafkaSecurity) -> KafkaDestination:
    if "@" in url:
        raise ValueError("the address of Kafka holds no user and no password: see METERLINE_KAFKA_SASL_…")
    parts = _split(url)
    topic = parts.path.strip("/")
    brokers = parts.netloc.split(",")
    found = [match for broker in brokers if (match := _BROKER.fullmatch(broker))]
    fits = _TOPIC.fullmatch(topic) and len(found) == len(brokers)
    if not fits or topic in (".", "..") or parts.query or parts.fragment:
        raise ValueError("the address of Kafka is not of the form kafka://host:port/topic")
    if not all(0 < int(match[1]) <= _PORT_MAX for match in found if match[1]):
        raise ValueError(f"a port in the address of Kafka is a number from 1 to {_PORT_MAX}")
    return KafkaDestination(parts.netloc, topic, security)


def _file(url: str) -> FileDestination:
    parts = _split(url.replace("?", "%3F").replace("#", "%23"))  # as the job reads it
    path = Path(unquote(parts.path))
    is_directory = unquote(parts.path).rpartition("/")[2] in ("", ".", "..")
    if parts.netloc or is_directory or "\0" in str(path):
        raise ValueError("the file of events is not of the form file:///abs/path/events.jsonl")
    if path.suffix == ".gz":
        raise ValueError("a file of events ending with .gz cannot be appended to: leave out .gz")
    return FileDestination(path)


def parse_spool_dir(spool_dir: str | os.PathLike[str] | None) -> Path | None:
    """The spool's whole path; None for no spool.

    Raises:
        ValueError: it is no path, or one that most likely means another place than it says.
    """
    if spool_dir is None:
        return None
    path: object = spool_dir  # whatever a caller took for one
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError("the spool's directory is a path that is not empty, or None for no spool")
    if path.startswith("~"):
        raise ValueError("the spool's directory begins with ~, which only a shell reads: give the whole path")
    try:
        return Path(path).absolute()
    except OSError:  # the working directory is gone
        raise ValueError("the spool's directory is not a whole path, and where it begins is gone") from None


def security_from(environment: Mapping[str, str]) -> KafkaSecurity:
    """Credentials as the environment names them. A user name asks for SASL_SSL, a CA without one for SSL.

    Raises:
        ValueError: as `KafkaSecurity`.
    """
    username, ca_location = environment.get(USERNAME_ENV, ""), environment.get(CA_ENV, "")
    usual = "SASL_SSL" if username else "SSL" if ca_location else "PLAINTEXT"
    return KafkaSecurity(
        protocol=environment.get(PROTOCOL_ENV) or usual,
        mechanism=environment.get(MECHANISM_ENV) or "PLAIN",
        username=username,
        password=environment.get(PASSWORD_ENV, ""),
        password_file=environment.get(PASSWORD_FILE_ENV, ""),
        ca_location=ca_location,
    )
