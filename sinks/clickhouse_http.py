"""ClickHouse's HTTP interface, as pure functions: a request in, what the engine has to do out.

What is understood is what clickhouse-connect, `curl` and the common drivers send (ClickHouse's own
documentation, "HTTP interface"): the statement in `query` or in the body, or split between both;
`database`, `default_format`, `session_id`, `param_…` (this and `query` also as fields of a multipart body);
every other parameter is a setting; a body under `Content-Encoding`. External tables (other multipart bodies)
and ClickHouse's own block compression (`decompress=1`) are refused by name.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email import message_from_bytes
from typing import Any
from urllib.parse import parse_qsl

import lz4.frame

BODY_MAX_BYTES = 256 << 20
"""The longest body taken, as sent and once more as decompressed."""

FRAMES_MAX = 1_000
"""Compressed streams in a body, one after the other; the rest of the body is copied once for each."""

FORM_MAX_BYTES = 16 << 20
"""A multipart body, which is parsed line by line."""

DEFAULT_FORMAT = "TabSeparated"
SYNTAX_ERROR, BAD_ARGUMENTS, UNKNOWN = 62, 36, 1002  # ClickHouse's ErrorCodes.cpp

# Parameters that steer the transport, or that one user on loopback has no use for: none is a setting of
# the engine.
_TRANSPORT = frozenset(
    (
        "query",
        "default_format",
        "session_timeout",
        "session_check",
        "query_id",
        "quota_key",
        "role",
        "user",
        "password",
        "buffer_size",
        "compress",
        "wait_end_of_query",
        "enable_http_compression",
        "send_progress_in_http_headers",
        "client_protocol_version",
        "http_headers_progress_interval_ms",
    )
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*;?\s*\Z", re.IGNORECASE)
_LEADING = re.compile(rb"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/|\()*", re.DOTALL)
_ANSWERS = frozenset(
    (b"SELECT", b"WITH", b"FROM", b"SHOW", b"DESCRIBE", b"DESC", b"EXPLAIN", b"EXISTS", b"CHECK")
)
# An INSERT up to its rows: a target without quotes that mislead, perhaps settings, a format, one line end.
_QUOTED = rb"""`(?:[^`\\]|\\.)*`|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'"""
_INSERT = re.compile(
    rb"(?P<target>(?:\s|--[^\n]*\n|/\*.*?\*/)*INSERT\s+INTO\s+(?:(?!\b(?:SETTINGS|FORMAT|VALUES|SELECT|WITH|FROM)\b)(?:%(quoted)s|[^`\"']))+)"
    rb"(?P<settings>\bSETTINGS\s(?:(?!\b(?:FORMAT|VALUES|SELECT|WITH)\b)(?:%(quoted)s|[^`\"']))+)?"
    rb"(?:\bFORMAT\s+(?P<format>\w+)[ \t]*(?:\r?\n)?|\bVALUES\b)" % {b"quoted": _QUOTED},
    re.IGNORECASE | re.DOTALL,
)
_WORD = re.compile(rb"[A-Za-z]+")
_CODE = re.compile(r"Code: (\d+)\.")
_STATUS = {"62": 400, "36": 400, "60": 404, "81": 404, "164": 403}


class BadRequestError(Exception):
    """The request cannot be given to the engine. `code` is one of ClickHouse's error codes."""

    def __init__(self, message: str, code: int = BAD_ARGUMENTS) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {message}")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement for the engine. The rows of an INSERT stand apart, in the format that `sql` names."""

    sql: bytes
    rows: bytes | None = None
    database: str = "default"
    default_format: str = DEFAULT_FORMAT
    session: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def result_format(self) -> str:
        """The format of the answer; empty for a statement that has none, such as CREATE or INSERT."""
        start = _LEADING.match(self.sql)
        rest = self.sql[start.end() :] if start else self.sql
        word = _WORD.match(rest)
        if not word or word.group().upper() not in _ANSWERS:
            return ""
        named = _FORMAT.search(rest)
        return named.group(1).decode() if named else self.default_format

    def reading_rows_from(self, path: str) -> bytes:
        """The INSERT that takes its rows from a file instead.

        The engine cuts rows that follow a statement at the first empty line, which binary formats contain.
        """
        found = _INSERT.match(self.sql)
        if not found:
            raise BadRequestError("rows follow a statement that is not an INSERT")
        target, settings, form = found["target"], found["settings"] or b"", found["format"] or b"Values"
        return b"%s FROM INFILE %s %s FORMAT %s" % (target, _literal(path).encode(), settings, form)

    def restoration(self) -> list[str]:
        """The statements that put the settings of a kept session back."""
        return [f"SET {name} = DEFAULT" for name in self.settings]

    def preparation(self) -> list[str]:
        """The statements that put a session into the state which the request asks for."""
        return [
            f"USE {_identifier(self.database)}",
            *(f"SET {name} = {_literal(value)}" for name, value in self.settings.items()),
        ]


def read_statement(query_string: str, headers: Mapping[str, str], body: bytes, *, writes: bool) -> Statement:
    """Read a request.

    Args:
        query_string: what follows `?` in the URL.
        headers: names in lower case.
        body: as sent, not longer than BODY_MAX_BYTES.
        writes: False for GET, which ClickHouse allows to read only.

    Raises:
        BadRequestError: with the sentence for the client.
    """
    parameters = dict(parse_qsl(query_string, keep_blank_values=True))
    content_type = headers.get("content-type", "")
    if content_type.lower().startswith("multipart/"):
        parameters |= _form_fields(body, content_type)
        body = b""
    if parameters.pop("decompress", "0") not in ("", "0"):
        raise BadRequestError("native block compression is not served here; use Content-Encoding")
    database = parameters.pop("database", "") or headers.get("x-clickhouse-database", "") or "default"
    default_format = parameters.get("default_format") or headers.get("x-clickhouse-format") or DEFAULT_FORMAT
    if not _NAME.fullmatch(default_format):
        raise BadRequestError("the default format is not a name")
    session = parameters.pop("session_id", "")
    settings = {
        name: value
        for name, value in parameters.items()
        if name not in _TRANSPORT and not name.startswith("param_")
    }
    for name in settings:
        if not _NAME.fullmatch(name):
            raise BadRequestError(f"{name[:64]!r} is not the name of a setting")
    if not writes:
        settings["readonly"] = "2"
        session = ""  # there would be no way back to writing
    head = parameters.get("query", "").encode()
    data = decompress(body, headers.get("content-encoding", ""))
    sql = head + b"\n" + data if head and data else head or data
    insert = _INSERT.match(sql)
    rows = sql[insert.end() :] if insert else None
    if insert:
        sql = insert.group()
    if not sql.strip():
        raise BadRequestError("the query is empty", SYNTAX_ERROR)
    values = {name[6:]: value for name, value in parameters.items() if name.startswith("param_")}
    return Statement(sql, rows, database, default_format, session, settings, values)


def _form_fields(body: bytes, content_type: str) -> dict[str, str]:
    """Parameters that a driver found too long for the URL: the fields of a multipart body."""
    if len(body) > FORM_MAX_BYTES:
        raise BadRequestError(f"the multipart body is longer than {FORM_MAX_BYTES >> 20} MiB")
    form = message_from_bytes(b"Content-Type: %s\r\n\r\n%s" % (content_type.encode(), body))
    fields: dict[str, str] = {}
    for part in form.walk():
        if part is form:
            continue
        name = str(part.get_param("name", header="content-disposition"))
        is_parameter = name == "query" or name.startswith("param_")
        if part.get_filename() is not None or part.is_multipart() or not is_parameter:
            raise BadRequestError("external tables (other multipart bodies) are not served here")
        try:
            fields[name] = bytes(part.get_payload(decode=True)).decode()
        except UnicodeDecodeError as exc:
            raise BadRequestError(f"the parameter {name[:64]} is not UTF-8") from exc
    if not fields:
        raise BadRequestError("the multipart body holds no parameters")
    return fields


def decompress(body: bytes, encoding: str) -> bytes:
    """Undo a `Content-Encoding`.

    Raises:
        BadRequestError: an encoding that is not known here, a body that is not in it, or one that is longer
            than BODY_MAX_BYTES when unpacked.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in _DECOMPRESSORS:
        known = ", ".join(_DECOMPRESSORS)
        raise BadRequestError(f"Content-Encoding {encoding[:32]!r} is not known; use {known}")
    parts: list[bytes] = []
    room = BODY_MAX_BYTES
    rest = body
    while rest or not parts:  # drivers write frame after frame
        if len(parts) == FRAMES_MAX:
            raise BadRequestError(f"the body is more than {FRAMES_MAX} streams of {encoding}")
        decompressor = _DECOMPRESSORS[encoding]()
        try:
            parts.append(decompressor.decompress(rest, room + 1))
        except (RuntimeError, zlib.error) as exc:
            raise BadRequestError(f"the body is not valid {encoding}") from exc
        room -= len(parts[-1])
        if room < 0:
            raise BadRequestError(f"the body is longer than {BODY_MAX_BYTES >> 20} MiB when unpacked")
        if not decompressor.eof:
            raise BadRequestError(f"the body ends in the middle of a {encoding} stream")
        rest = decompressor.unused_data or b""
    return b"".join(parts)


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),  # 16 for the gzip envelope, 15 for the largest window
    "deflate": zlib.decompressobj,
    "lz4": lz4.frame.LZ4FrameDecompressor,
}


def error_code(message: str) -> str:
    """ClickHouse's number for an error, out of its text; UNKNOWN where it gives none."""
    found = _CODE.search(message)
    return found.group(1) if found else str(UNKNOWN)


def error_status(code: str) -> int:
    """The HTTP status that ClickHouse answers an error with."""
    return _STATUS.get(code, 500)


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _literal(value: str) -> str:
    # Settings take a quoted literal for numbers and strings alike.
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
