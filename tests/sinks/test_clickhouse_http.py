"""What requests to `meterline clickhouse` mean."""

from __future__ import annotations

import gzip
import zlib
from typing import Any
from urllib.parse import urlencode

import lz4.frame
import pytest

from sinks.clickhouse_http import BODY_MAX_BYTES, BadRequestError, error_code, error_status, read_statement


def read(
    query: dict[str, str], body: bytes = b"", headers: dict[str, str] | None = None, method: str = "POST"
) -> Any:
    return read_statement(urlencode(query), headers or {}, body, writes=method == "POST")


FORM = {"content-type": "multipart/form-data; boundary=x"}


def form(name: str, value: str, more: str = "") -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return f"{head}{value}\r\n--x--\r\n".encode()


def test_parameters_may_stand_in_a_form() -> None:
    statement = read({"query": "SELECT {a:String}"}, form("param_a", "ü\r\n--\ny"), FORM)
    assert (statement.sql, statement.parameters) == (b"SELECT {a:String}", {"a": "ü\r\n--\ny"})
    assert read({}, form("query", "SELECT 1"), FORM).sql == b"SELECT 1"


@pytest.mark.parametrize(
    ("query", "body", "sql", "rows"),
    [
        ("SELECT 1", b"", b"SELECT 1", None),
        ("", b"SELECT 1", b"SELECT 1", None),
        ("SELECT", b"1", b"SELECT\n1", None),
        ("INSERT INTO t FORMAT TSV", b"1\t2\n", b"INSERT INTO t FORMAT TSV\n", b"1\t2\n"),
        (
            "",
            b"INSERT INTO t (a, b) FORMAT Native\n\x00\n\n",
            b"INSERT INTO t (a, b) FORMAT Native\n",
            b"\x00\n\n",
        ),
        ("", b"insert into t format\tCSV\r\n1\n\n2\n", b"insert into t format\tCSV\r\n", b"1\n\n2\n"),
        ("", b"INSERT INTO `FORMAT x` FORMAT CSV\n1", b"INSERT INTO `FORMAT x` FORMAT CSV\n", b"1"),
        ("", b"INSERT INTO t VALUES ('FORMAT')", b"INSERT INTO t VALUES", b" ('FORMAT')"),
        (
            "",
            b"INSERT INTO t SETTINGS s = 'FORMAT a' FORMAT CSV\n1",
            b"INSERT INTO t SETTINGS s = 'FORMAT a' FORMAT CSV\n",
            b"1",
        ),
        (
            "",
            b"/* app */ -- x\nINSERT INTO t FORMAT CSV\n1\n\n2",
            b"/* app */ -- x\nINSERT INTO t FORMAT CSV\n",
            b"1\n\n2",
        ),
        ("", b"INSERT INTO t SELECT 1 FORMAT Null", b"INSERT INTO t SELECT 1 FORMAT Null", None),
        ("", b"INSERT INTO t WITH 1 AS x SELECT x", b"INSERT INTO t WITH 1 AS x SELECT x", None),
        ("", b"SELECT 'INSERT INTO t VALUES'", b"SELECT 'INSERT INTO t VALUES'", None),
    ],
)
def test_a_statement_and_its_rows_are_told_apart(
    query: str, body: bytes, sql: bytes, rows: bytes | None
) -> None:
    statement = read({"query": query} if query else {}, body)
    assert (statement.sql, statement.rows) == (sql, rows)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("INSERT INTO t FORMAT TSV", b"INSERT INTO t  FROM INFILE '/d/it\\'s'  FORMAT TSV"),
        ("INSERT INTO t (a) VALUES", b"INSERT INTO t (a)  FROM INFILE '/d/it\\'s'  FORMAT Values"),
        (
            "INSERT INTO t SETTINGS a = 1 FORMAT CSV",
            b"INSERT INTO t  FROM INFILE '/d/it\\'s' SETTINGS a = 1  FORMAT CSV",
        ),
    ],
)
def test_rows_are_read_from_a_file(sql: str, expected: bytes) -> None:
    assert read({"query": sql}, b"1").reading_rows_from("/d/it's") == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1", "TabSeparated"),
        ("  -- why\n /* so */ (select 1) format JSON ;", "JSON"),
        ("WITH 1 AS x SELECT x FORMAT Native", "Native"),
        ("EXPLAIN SELECT 1", "TabSeparated"),
        ("CREATE TABLE t (a Int8) ENGINE = Memory", ""),
        ("INSERT INTO t FORMAT CSV", ""),
        ("-- nothing", ""),
        ("/* x */", ""),
    ],
)
def test_only_what_answers_has_a_format(sql: str, expected: str) -> None:
    assert read({"query": sql}).result_format == expected


def test_parameters_become_settings_values_and_the_way_of_the_answer() -> None:
    statement = read(
        {
            "query": "SELECT {x:Int8}",
            "database": "me`ter",
            "param_x": "5",
            "max_threads": "2",
            "insert_deduplication_token": "it's",
            "session_id": "s",
            "wait_end_of_query": "1",
            "password": "secret",
        },
        headers={"x-clickhouse-format": "JSON"},
        method="GET",
    )
    assert statement.preparation() == [
        "USE `me\\`ter`",
        "SET max_threads = '2'",
        "SET insert_deduplication_token = 'it\\'s'",
        "SET readonly = '2'",
    ]
    assert (statement.parameters, statement.session, statement.default_format) == ({"x": "5"}, "", "JSON")


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("", b"SELECT 1"),
        ("identity", b"SELECT 1"),
        ("gzip", gzip.compress(b"SELECT 1", mtime=0)),
        ("deflate", zlib.compress(b"SELECT 1")),
        ("lz4", lz4.frame.compress(b"SELECT 1")),
        ("lz4", lz4.frame.compress(b"SELECT") + lz4.frame.compress(b" ") + lz4.frame.compress(b"1")),
        ("gzip", gzip.compress(b"SELECT", mtime=0) + gzip.compress(b" 1", mtime=0)),
    ],
)
def test_bodies_are_unpacked(encoding: str, packed: bytes) -> None:
    assert read({}, packed, {"content-encoding": encoding}).sql == b"SELECT 1"


@pytest.mark.parametrize(
    ("query", "body", "headers", "sentence"),
    [
        ({}, b" \n", {}, "the query is empty"),
        ({"query": "SELECT 1", "a;b": "1"}, b"", {}, "'a;b' is not the name of a setting"),
        ({"query": "SELECT 1", "decompress": "1"}, b"", {}, "use Content-Encoding"),
        ({"query": "SELECT 1", "default_format": "a b"}, b"", {}, "the default format is not a name"),
        ({"query": "SELECT 1"}, b"", FORM, "the multipart body holds no parameters"),
        ({"query": "SELECT 1"}, form("table", "1"), FORM, "external tables"),
        (
            {"query": "SELECT 1"},
            form("param_a", "--y\r\n\r\nz\r\n--y--", "\r\nContent-Type: multipart/mixed; boundary=y"),
            FORM,
            "external tables",
        ),
        (
            {"query": "SELECT 1"},
            form("param_a", "z").replace(b"z", b"\xff"),
            FORM,
            "the parameter param_a is not UTF-8",
        ),
        ({"query": "SELECT 1"}, form("param_a", "1" * (16 << 20)), FORM, "longer than 16 MiB"),
        ({"query": "SELECT 1"}, form("param_a", "1", '; filename="a"'), FORM, "external tables"),
        ({}, b"x", {"content-encoding": "br"}, "'br' is not known; use gzip, deflate, lz4"),
        ({}, b"x", {"content-encoding": "gzip"}, "the body ends in the middle of a gzip stream"),
        (
            {},
            gzip.compress(b"", mtime=0) * 1_001,
            {"content-encoding": "gzip"},
            "more than 1000 streams of gzip",
        ),
        (
            {},
            lz4.frame.compress(b"SELECT") + lz4.frame.compress(b" 1")[:-2],
            {"content-encoding": "lz4"},
            "the body ends in the middle of a lz4 stream",
        ),
        ({}, b"xxxx", {"content-encoding": "gzip"}, "the body is not valid gzip"),
        ({}, b"xxxxxxxx", {"content-encoding": "lz4"}, "the body is not valid lz4"),
        (
            {},
            gzip.compress(bytes(BODY_MAX_BYTES + 1), 1, mtime=0),
            {"content-encoding": "gzip"},
            "longer than 256 MiB",
        ),
    ],
)
def test_what_cannot_be_served_is_said(
    query: dict[str, str], body: bytes, headers: dict[str, str], sentence: str
) -> None:
    with pytest.raises(BadRequestError) as refused:
        read(query, body, headers)
    assert sentence in str(refused.value)
    assert error_status(error_code(str(refused.value))) == 400


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("Code: 62. DB::Exception: Syntax error", 400),
        ("Code: 60. DB::Exception: Unknown table", 404),
        ("Code: 164. DB::Exception: readonly", 403),
        ("Code: 243. DB::Exception: disk full", 500),
        ("no code at all", 500),
    ],
)
def test_errors_have_the_status_that_clickhouse_gives_them(message: str, status: int) -> None:
    assert error_status(error_code(message)) == status
