"""The embedded engine behind ClickHouse's HTTP interface, on loopback, for development and tests.

Several workers, the dashboard and clients that speak ClickHouse's HTTP can share one directory through it. It
asks for no login and the engine can read this machine's files, so it listens on 127.0.0.1 and nowhere
else, and refuses requests that a web page in a browser sends.

A crash before a statement reaches the engine leaves no trace of it; during an INSERT, the engine publishes
each block's part by one rename, so a block is there or not; after it, the client never sees the answer and
has to send the block again under the same `insert_deduplication_token`. Only tables that
ask for it are synced, as those of the job do: a loss of power can cost the last seconds of the others.
"""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.client import responses
from pathlib import Path
from typing import Any, TypeAlias

from chdb.state.sqlitelike import Connection
from waitress.server import create_server

from sinks.clickhouse import ClickHouseUnavailableError, silent_engine
from sinks.clickhouse_http import (
    BODY_MAX_BYTES,
    BadRequestError,
    Statement,
    error_code,
    error_status,
    read_statement,
)

WSGIEnvironment: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[[str, list[tuple[str, str]]], Any]

HOST = "127.0.0.1"
THREADS = 8
CONNECTIONS_MAX = 128
SESSIONS_MAX = 64
"""Named sessions kept; the one unused for longest gives way."""
STATEMENT_SECONDS_MAX = 300
"""`max_execution_time` of a statement that does not set its own."""
RECEIVE_BYTES = 1 << 20
"""Taken from a connection at a time: a block of rows is megabytes, and waitress would take 8 kB."""

Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: `format` is empty for a statement without a result."""

    body: bytes
    format: str
    read_rows: int
    written_rows: int


class Session:
    """One connection to the engine: its database, settings and temporary tables are its own."""

    def __init__(self, directory: str) -> None:
        self._connection = Connection(directory)
        self._turn = threading.Lock()
        self.users = 0  # requests that have it in hand
        self._bound_time()

    def run(self, statement: Statement) -> Answer:
        """Run one statement; others of the same session wait.

        Raises:
            RuntimeError: the engine's error text.
        """
        with self._turn:
            try:
                for preparation in statement.preparation():
                    self._connection.query(preparation)
                result = self._run(statement)
            finally:
                for restoration in statement.restoration() if statement.session else ():
                    with contextlib.suppress(RuntimeError):  # a name that was no setting
                        self._connection.query(restoration)
                self._bound_time()
            return Answer(
                result.bytes() or b"", statement.result_format, result.rows_read(), result.rows_written()
            )

    def _bound_time(self) -> None:
        with contextlib.suppress(RuntimeError):  # a session of one request that may only read
            self._connection.query(f"SET max_execution_time = {STATEMENT_SECONDS_MAX}")

    def _run(self, statement: Statement) -> Any:
        engine: Any = self._connection  # its annotations ask for text; a statement is bytes in any encoding
        parameters = dict(statement.parameters)
        if statement.rows is None:
            return engine.query(statement.sql, statement.default_format, params=parameters)
        with tempfile.NamedTemporaryFile(suffix=".rows") as file:
            file.write(statement.rows)
            file.flush()
            sql = statement.reading_rows_from(file.name)
            return engine.query(sql, statement.default_format, params=parameters)

    def close(self) -> None:
        """End the session, after the statement that it may be running."""
        with self._turn:
            self._connection.close()


class EmbeddedClickHouse:
    """A WSGI application over one directory of the embedded engine.

    Raises:
        ClickHouseUnavailableError: the directory is held by another process or cannot be written to.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._sessions_turn = threading.Lock()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with silent_engine():
                self._engine = Session(self._directory)
        except (RuntimeError, OSError) as exc:
            raise ClickHouseUnavailableError(
                f"the directory {directory} cannot be opened: it belongs to one process at a time, and "
                "another one may hold it, or it cannot be written to"
            ) from exc
        version = self._engine.run(Statement(b"SELECT timezone()"))
        self._timezone = version.body.decode().strip()

    def close(self) -> None:
        """End every session and the engine."""
        for session in (*self._sessions.values(), self._engine):
            session.close()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        status, headers, body = self._answer(environ)
        start_response(f"{status} {responses[status]}", [*headers, ("Content-Length", str(len(body)))])
        return [b""] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: WSGIEnvironment) -> tuple[int, Headers, bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if _from_a_web_page(environ):
            return _plain(403, "web pages may not use this database\n")
        if method not in ("GET", "HEAD", "POST"):
            return _plain(405, "use GET or POST\n")
        if path == "/ping" or (path == "/" and method != "POST" and not environ["QUERY_STRING"]):
            return _plain(200, "Ok.\n")
        if path != "/":
            return _plain(404, f"there is no {path[:100]} here; statements go to /\n")
        try:
            statement = read_statement(
                environ["QUERY_STRING"],
                _headers(environ),
                environ["wsgi.input"].read(),
                writes=method == "POST",
            )
            with self._session(statement.session) as session:
                answer = session.run(statement)
        except (BadRequestError, RuntimeError) as exc:
            return _failure(str(exc))
        return 200, self._headers_of(answer), answer.body

    @contextlib.contextmanager
    def _session(self, name: str) -> Iterator[Session]:
        """A session of that name, kept; or one for this request alone, where no name is given."""
        if not name:
            session = Session(self._directory)
            try:
                yield session
            finally:
                session.close()
            return
        unused = None
        with self._sessions_turn:
            kept = self._sessions.pop(name, None) or Session(self._directory)
            self._sessions[name] = kept
            kept.users += 1
            if len(self._sessions) > SESSIONS_MAX:
                # There is one: no more than THREADS requests have any in hand.
                oldest = next(name for name, session in self._sessions.items() if not session.users)
                unused = self._sessions.pop(oldest)
        if unused:
            unused.close()
        try:
            yield kept
        finally:
            with self._sessions_turn:
                kept.users -= 1

    def _headers_of(self, answer: Answer) -> Headers:
        summary = {"read_rows": str(answer.read_rows), "written_rows": str(answer.written_rows)}
        headers = [
            ("Content-Type", "text/plain; charset=UTF-8"),
            ("X-ClickHouse-Timezone", self._timezone),
            ("X-ClickHouse-Summary", json.dumps(summary)),
        ]
        return [*headers, ("X-ClickHouse-Format", answer.format)] if answer.format else headers


def _from_a_web_page(environ: WSGIEnvironment) -> bool:
    """Whether a browser sends this for some page, or under another name for this machine (DNS rebinding)."""
    name = environ.get("HTTP_HOST", HOST).rsplit(":", 1)[0]
    site = environ.get("HTTP_SEC_FETCH_SITE", "none")
    return "HTTP_ORIGIN" in environ or site != "none" or name not in (HOST, "localhost")


def _headers(environ: WSGIEnvironment) -> dict[str, str]:
    named = {name[5:]: value for name, value in environ.items() if name.startswith("HTTP_")}
    named["CONTENT_TYPE"] = environ.get("CONTENT_TYPE", "")
    return {name.replace("_", "-").lower(): value for name, value in named.items()}


def _plain(status: int, text: str) -> tuple[int, Headers, bytes]:
    return status, [("Content-Type", "text/plain; charset=UTF-8")], text.encode()


def _failure(message: str) -> tuple[int, Headers, bytes]:
    code = error_code(message)
    status, headers, body = _plain(error_status(code), message.rstrip("\n") + "\n")
    return status, [*headers, ("X-ClickHouse-Exception-Code", code)], body


def serve(directory: Path, port: int, announce: Callable[[int], None]) -> None:
    """Serve `directory` on 127.0.0.1 until SystemExit or KeyboardInterrupt is raised in this thread.

    Args:
        port: 0 takes a free one.
        announce: called with the port once requests are answered.

    Raises:
        ClickHouseUnavailableError: the directory cannot be opened, or the port is taken.
    """
    application = EmbeddedClickHouse(directory)
    try:
        listening = socket.create_server((HOST, port))
    except OSError as exc:
        application.close()
        # Python adds the address to the system's words.
        reason = (exc.strerror or "").partition(" (while")[0]
        raise ClickHouseUnavailableError(f"port {port} of {HOST} cannot be listened on: {reason}") from exc
    server = create_server(
        application,
        sockets=[listening],
        threads=THREADS,
        connection_limit=CONNECTIONS_MAX,
        max_request_body_size=BODY_MAX_BYTES,
        channel_timeout=STATEMENT_SECONDS_MAX,
        recv_bytes=RECEIVE_BYTES,
        ident=None,
    )
    announce(listening.getsockname()[1])
    try:
        server.run()
    finally:
        server.close()
        application.close()
