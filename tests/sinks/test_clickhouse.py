"""Addresses, and what is said when ClickHouse cannot be used. A password never shows."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sinks.clickhouse import ClickHouseAddress, ClickHouseUnavailableError, connect, parse_address

SECRET = "pa55word"
SECURE = ClickHouseAddress("meterline", host="host", port=8443, secure=True)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("chdb:///var/lib/ch", ClickHouseAddress("meterline", directory="/var/lib/ch")),
        ("chdb:///var/ch?database=other", ClickHouseAddress("other", directory="/var/ch")),
        ("clickhouse://host", ClickHouseAddress("meterline", host="host")),
        (
            "clickhouse://me:a%40b@host:9000/db",
            ClickHouseAddress("db", host="host", port=9000, user="me", password="a@b"),
        ),
        ("clickhouses://host", ClickHouseAddress("meterline", host="host", port=8443, secure=True)),
        (
            "clickhouse://host?secure=true",
            ClickHouseAddress("meterline", host="host", port=8443, secure=True),
        ),
    ],
)
def test_an_address_is_read(url: str, address: ClickHouseAddress) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("chdb://relative/dir", "absolute directory"),
        ("chdb:///", "absolute directory"),
        ("http://host", "begins with http://"),
        ("host:8123", "begins with host://"),
        ("clickhouse://", "names no host"),
        ("clickhouse://host:port/db", "not a number"),
        ("clickhouse://host/a-b", "cannot be a database name"),
    ],
)
def test_a_bad_address_is_refused_with_a_reason(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_address(url)


def test_nobody_listening_is_said_in_a_sentence_without_the_password() -> None:
    address = parse_address(f"clickhouse://me:{SECRET}@127.0.0.1:9/db")
    assert SECRET not in repr(address) + str(address)
    with pytest.raises(
        ClickHouseUnavailableError, match=r"nothing answers as ClickHouse at 127\.0\.0\.1:9"
    ) as caught:
        connect(address)
    assert SECRET not in str(caught.value)


def test_a_refused_login_is_said_in_a_sentence_without_the_password() -> None:
    """The answer of a server to a wrong password, as ClickHouse words it."""

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = b"Code: 516. DB::Exception: me: Authentication failed. (AUTHENTICATION_FAILED)"
            self.send_response(403)
            self.send_header("X-ClickHouse-Exception-Code", "516")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ClickHouseUnavailableError, match="refuses the login of user me") as caught:
            connect(parse_address(f"clickhouse://me:{SECRET}@127.0.0.1:{server.server_port}/db"))
    finally:
        server.shutdown()
        server.server_close()
    assert SECRET not in str(caught.value)


def test_an_embedded_directory_belongs_to_one_process(tmp_path: Path) -> None:
    holder = (
        "import sys; from sinks.clickhouse import *; c = connect(parse_address(sys.argv[1]));"
        " print('held', flush=True); sys.stdin.read()"
    )
    url = f"chdb://{tmp_path}/ch"
    child = subprocess.Popen(
        [sys.executable, "-c", holder, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    try:
        with pytest.raises(ClickHouseUnavailableError, match="belongs to one process at a time"):
            connect(parse_address(url))
    finally:
        child.communicate(b"")
    connect(parse_address(url)).close()
