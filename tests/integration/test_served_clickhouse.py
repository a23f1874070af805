"""`meterline clickhouse`, used as clickhouse-connect and plain HTTP clients use ClickHouse."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from errno import EADDRINUSE
from pathlib import Path

import clickhouse_connect
import httpx
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from sinks.clickhouse_http import Statement
from sinks.clickhouse_server import SESSIONS_MAX, EmbeddedClickHouse
from tests.clickhouse_process import ROOT, ClickHouseProcess, running_clickhouse

ROWS = 10_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseProcess]:
    with running_clickhouse(tmp_path_factory.mktemp("served") / "ch") as process:
        yield process


@pytest.fixture
def client(server: ClickHouseProcess) -> Iterator[Client]:
    connected = clickhouse_connect.get_client(host="127.0.0.1", port=server.port)
    connected.command("CREATE DATABASE IF NOT EXISTS shop")
    connected.command(
        "CREATE OR REPLACE TABLE shop.t (a Int64, s String) ENGINE = MergeTree ORDER BY a"
        " SETTINGS non_replicated_deduplication_window = 100"
    )
    yield connected
    connected.close()


def arrow_stream() -> bytes:
    table = pa.table({"a": list(range(ROWS)), "s": ["zero \0, blank lines \n\n"] * ROWS})
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def test_queries_inserts_and_parameters_through_clickhouse_connect(client: Client) -> None:
    client.insert("shop.t", [[1, "one"], [2, "it's\n\n"]], column_names=["a", "s"])
    found = client.query("SELECT * FROM shop.t WHERE a >= {a:Int64} ORDER BY a", parameters={"a": 2})
    assert found.result_rows == [(2, "it's\n\n")]
    assert client.query("EXPLAIN SELECT 1").result_rows
    assert client.query("SELECT * FROM shop.t WHERE a > 9").result_rows == []


def test_parameters_that_are_too_long_for_a_url(client: Client) -> None:
    text = "😀\n\r\\'\t" * 5_000
    assert client.query("SELECT {a:String}, {b:UInt8}", parameters={"a": text, "b": 7}).result_rows == [
        (text, 7)
    ]


def test_a_block_sent_again_under_its_token_stands_once(client: Client) -> None:
    for token in ("first", "first", "second"):
        client.raw_insert(
            "shop.t",
            insert_block=arrow_stream(),
            fmt="ArrowStream",
            settings={"insert_deduplication_token": token},
        )
    assert client.query("SELECT count(), uniqExact(a), min(length(s)) FROM shop.t").result_rows == [
        (2 * ROWS, ROWS, len("zero \0, blank lines \n\n"))
    ]


def test_a_session_keeps_its_temporary_tables_to_itself(client: Client, server: ClickHouseProcess) -> None:
    client.command("CREATE TEMPORARY TABLE mine (a Int8)")
    client.insert("mine", [[7]], column_names=["a"])
    assert client.command("SELECT a FROM mine") == 7
    other = clickhouse_connect.get_client(host="127.0.0.1", port=server.port)
    with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
        other.command("SELECT a FROM mine")
    other.close()


def test_the_settings_of_a_request_do_not_stay_in_its_session(
    client: Client, server: ClickHouseProcess
) -> None:
    url = f"http://127.0.0.1:{server.port}/?session_id=s"
    token = "&insert_deduplication_token=T"
    assert client.command("SELECT count() FROM shop.t") == 0
    for number, more in (("1", token), ("2", ""), ("3", "")):
        insert = "INSERT INTO shop.t VALUES ({n:Int64}, '')".replace("{n:Int64}", number)
        assert httpx.post(url + more, content=insert).status_code == 200
    assert httpx.get(url + "&query=SELECT%201").text == "1\n"
    assert httpx.post(url, content="INSERT INTO shop.t VALUES (4, '')").status_code == 200
    assert client.command("SELECT count() FROM shop.t") == 4


def test_clients_at_the_same_time_do_not_mix(client: Client, server: ClickHouseProcess) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        own = clickhouse_connect.get_client(host="127.0.0.1", port=server.port)
        for turn in range(20):
            own.insert("shop.t", [[number, str(turn)]], column_names=["a", "s"])
            answer = own.command("SELECT {n:Int64} * count() FROM numbers(1000)", parameters={"n": number})
            if answer != number * 1000:
                wrong.append(answer)
        own.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert client.command("SELECT count() FROM shop.t") == 120


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "text"),
    [
        ("GET", "/ping", "", {}, 200, "Ok."),
        ("GET", "/", "", {}, 200, "Ok."),
        ("GET", "/?query=SELECT%201%2B1", "", {}, 200, "2"),
        ("POST", "/?param_p=4", "SELECT {p:Int8} AS q FORMAT JSONEachRow", {}, 200, '{"q":4}'),
        ("GET", "/?query=CREATE%20TABLE%20x%20(a%20Int8)%20ENGINE=Memory", "", {}, 403, "READONLY"),
        ("POST", "/", "SELECT * FROM nowhere", {}, 404, "UNKNOWN_TABLE"),
        ("POST", "/?database=nowhere", "SELECT 1", {}, 404, "UNKNOWN_DATABASE"),
        ("POST", "/", "SELECT FROM WHERE", {}, 400, "SYNTAX_ERROR"),
        ("POST", "/", "", {}, 400, "the query is empty"),
        ("POST", "/?no_such_setting=1", "SELECT 1", {}, 500, "UNKNOWN_SETTING"),
        ("DELETE", "/", "", {}, 405, "use GET or POST"),
        ("GET", "/play", "", {}, 404, "statements go to /"),
        ("POST", "/", "SELECT 1", {"Origin": "https://elsewhere.example"}, 403, "web pages may not"),
        ("GET", "/?query=SELECT%201", "", {"Sec-Fetch-Site": "cross-site"}, 403, "web pages may not"),
        ("GET", "/?query=SELECT%201", "", {"Host": "rebound.example:8123"}, 403, "web pages may not"),
        ("GET", "/?query=SELECT%201", "", {"Host": "localhost:8123"}, 200, "1"),
        ("POST", "/", "-- nothing at all", {}, 200, ""),
    ],
)
def test_plain_http(
    server: ClickHouseProcess,
    method: str,
    path: str,
    body: str,
    headers: dict[str, str],
    status: int,
    text: str,
) -> None:
    answer = httpx.request(method, f"http://127.0.0.1:{server.port}{path}", content=body, headers=headers)
    assert (answer.status_code, text in answer.text) == (status, True), answer.text
    if "Code: " in answer.text:
        assert answer.headers["X-ClickHouse-Exception-Code"] in answer.text


@pytest.mark.long
def test_rows_survive_a_kill_and_a_start(tmp_path: Path) -> None:
    with running_clickhouse(tmp_path / "ch") as process:
        url = f"http://127.0.0.1:{process.port}/"
        httpx.post(url, content="CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a")
        httpx.post(url, content="INSERT INTO t VALUES (1), (2)")
        process.kill()
        process.start()
        assert httpx.post(url, content="SELECT count() FROM t").text == "2\n"
        assert process.stop() == 0
        process.start()
        assert httpx.post(url, content="SELECT count() FROM t").text == "2\n"


def second(*flags: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "dataflows.cli", "clickhouse", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_directory_or_a_port_in_use_is_one_sentence(server: ClickHouseProcess, tmp_path: Path) -> None:
    code, text = second("--path", str(server.directory), "--port", "0")
    assert (code, "it belongs to one process at a time" in text, len(text.splitlines())) == (1, True, 1), text
    code, text = second("--path", str(tmp_path / "new"), "--port", str(server.port))
    assert code == 1
    assert text.endswith(
        f"port {server.port} of 127.0.0.1 cannot be listened on: {os.strerror(EADDRINUSE)}\n"
    )


def test_a_session_that_a_request_has_in_hand_does_not_give_way(tmp_path: Path) -> None:
    application = EmbeddedClickHouse(tmp_path / "ch")
    try:
        with application._session("held") as held:  # noqa: SLF001  # the moment before its statement runs
            for number in range(SESSIONS_MAX):
                with application._session(str(number)):  # noqa: SLF001  # as above
                    pass
            assert held.run(Statement(b"SELECT 1")).body == b"1\n"
        assert len(application._sessions) == SESSIONS_MAX  # noqa: SLF001  # as above
    finally:
        application.close()
