"""The way to ClickHouse: one kind of address, one client, for a server and for the embedded engine.

Addresses: `clickhouse://user:password@host:8123/database`, `clickhouses://…` (TLS), and
`chdb:///absolute/directory` with an optional `?database=name`. The database is `meterline` unless
named. A password never appears in an error or a `repr`.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from sinks.engine_output import STANDARD_ERROR, engine_output_to

CONNECT_TIMEOUT_SECONDS = 5
QUERY_TIMEOUT_SECONDS = 300

_opening = threading.Lock()
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class ClickHouseUnavailableError(Exception):
    """ClickHouse cannot be used as configured. The message is one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class ClickHouseAddress:
    """Where the tables are. `directory` is set for the embedded engine, `host` for a server."""

    database: str
    host: str = ""
    port: int = 8123
    secure: bool = False
    user: str = "default"
    password: str = field(default="", repr=False)
    directory: str = ""

    @property
    def embedded(self) -> bool:
        """Whether this is the engine in-process, whose directory belongs to one process at a time."""
        return bool(self.directory)

    def __str__(self) -> str:
        if self.embedded:
            return f"chdb://{self.directory}"
        scheme = "clickhouses" if self.secure else "clickhouse"
        return f"{scheme}://{self.user}@{self.host}:{self.port}/{self.database}"


def parse_address(url: str) -> ClickHouseAddress:
    """Read an address.

    Raises:
        ValueError: a sentence that says what is wrong with it, without the password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the ClickHouse URL has a port that is not a number") from None
    query = parse_qs(parts.query)
    if parts.scheme == "chdb":
        directory = unquote(parts.path)
        if parts.netloc or not directory.startswith("/") or directory == "/":
            raise ValueError("a chdb URL names an absolute directory: chdb:///var/lib/meterline/ch")
        return ClickHouseAddress(
            _database(query.get("database", ["meterline"])[0]), directory=directory.rstrip("/")
        )
    if parts.scheme not in ("clickhouse", "clickhouses"):
        raise ValueError(
            f"the ClickHouse URL begins with {parts.scheme or 'no scheme'}://; "
            "use clickhouse://, clickhouses:// (TLS) or chdb:///directory"
        )
    if not parts.hostname:
        raise ValueError("the ClickHouse URL names no host")
    secure = parts.scheme == "clickhouses" or query.get("secure", ["false"])[0].lower() in ("1", "true")
    return ClickHouseAddress(
        _database(parts.path.strip("/") or "meterline"),
        host=parts.hostname,
        port=port or (8443 if secure else 8123),
        secure=secure,
        user=unquote(parts.username or "default"),
        password=unquote(parts.password or ""),
    )


def _database(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a database name: use letters, digits and underscores")
    return name


def connect(address: ClickHouseAddress) -> Client:
    """A client whose database exists (it is created if it does not).

    Raises:
        ClickHouseUnavailableError: nothing listens there, the login is refused, or the directory of an
            embedded engine is held by another process.
    """
    try:
        client = _client(address)
        client.command(f"CREATE DATABASE IF NOT EXISTS {address.database}")
        client.database = address.database
        if address.embedded:
            client.command(f"USE {address.database}")
    except (ClickHouseError, OSError) as exc:
        raise ClickHouseUnavailableError(_sentence(address, exc)) from exc
    return client


def _client(address: ClickHouseAddress) -> Client:
    if address.embedded:
        with silent_engine():
            return clickhouse_connect.get_client(dsn=f"chdb://{address.directory}")
    settings: dict[str, Any] = {}
    return clickhouse_connect.get_client(
        host=address.host,
        port=address.port,
        username=address.user,
        password=address.password,
        secure=address.secure,
        database="default",
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        send_receive_timeout=QUERY_TIMEOUT_SECONDS,
        autogenerate_session_id=False,
        settings=settings,
    )


@contextmanager
def silent_engine() -> Iterator[None]:
    """While the embedded engine opens a directory: it says on standard error why not, and so do we."""
    with _opening, engine_output_to(Path(os.devnull), STANDARD_ERROR):
        yield


def _sentence(address: ClickHouseAddress, exc: Exception) -> str:
    text = str(exc)
    if address.embedded:
        return (
            f"the embedded ClickHouse in {address.directory} cannot be opened: "
            "it belongs to one process at a time, and another one may hold it, or it cannot be written to"
        )
    if (
        "AUTHENTICATION_FAILED" in text
        or "REQUIRED_PASSWORD" in text
        or "Code: 516" in text
        or "Code: 194" in text
    ):
        return f"ClickHouse at {address.host}:{address.port} refuses the login of user {address.user}"
    if isinstance(exc, OSError) or "refused" in text or "Max retries" in text or "timed out" in text:
        return f"nothing answers as ClickHouse at {address.host}:{address.port}"
    first = text.splitlines()[0] if text else type(exc).__name__
    if address.password:
        first = first.replace(address.password, "…")
    return f"ClickHouse at {address.host}:{address.port} answers with an error: {first[:300]}"


def first_line(exc: Exception) -> str:
    """What an error says first, shortened: the engine adds a stack to some."""
    return (str(exc).splitlines() or [type(exc).__name__])[0][:500]
