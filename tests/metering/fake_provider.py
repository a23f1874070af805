"""A model provider on 127.0.0.1, over real HTTP, with a ledger of what it served: what the bill must say.

It speaks OpenAI's Chat Completions, Responses and Embeddings, and Anthropic's Messages, whole and streamed,
as openai 3.57 and anthropic 2.14 read them. A token is a word: the input has one for each word of what was
asked, the output one for each word of the answer, and `REASONING_TOKENS` more that nobody sees. `max_tokens`
words are answered.

    with FakeProvider() as provider:
        provider.faults += [Fault(status=429), Fault(cut_after=3)]  # of the next two requests
        OpenAI(base_url=provider.openai_url, api_key="none")...
        provider.ledger

By itself, `python -m tests.metering.fake_provider --port 8001` serves until Ctrl-C, and prints its ledger.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from typing_extensions import Self

from tests.metering.fake_answers import Answer, chat, embeddings, message, response

Parts = Iterator[bytes]
Body = dict[str, Any]

WORDS_DEFAULT = 5


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request.

    `status` refuses it. `cut_after` breaks the connection after so many parts of a stream. `hold` keeps an
    answer back until the event is set; of a stream, `hold_after` parts come before.
    """

    status: int | None = None
    cut_after: int | None = None
    hold: threading.Event | None = None
    hold_after: int = 3


@dataclass(frozen=True, slots=True)
class Served:
    """One line of the ledger: a request that a model worked on, with what it used."""

    response_id: str
    model: str
    input_tokens: int
    output_tokens: int
    is_background: bool = False


@dataclass(slots=True)
class FakeProvider:
    """Serves while it is entered, on `port` or a free one."""

    port: int = 0
    faults: list[Fault] = field(default_factory=list)
    ledger: list[Served] = field(default_factory=list)
    asked: list[Body] = field(default_factory=list)
    tries: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _server: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", self.port), type("Handler", (_Handler,), {"provider": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where Anthropic's SDK is to look."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def openai_url(self) -> str:
        """Where OpenAI's SDK is to look."""
        return self.url + "/v1"

    def begin(self, body: Body) -> tuple[int, Fault]:
        """The number of this request, and what goes wrong with it."""
        with self._lock:
            self.tries += 1
            self.asked.append(body)
            return self.tries, self.faults.pop(0) if self.faults else Fault()

    def served(self, answer: Answer, body: Body) -> None:
        """Write it down."""
        line = Served(
            answer.response_id,
            answer.model,
            answer.input_tokens,
            answer.output_tokens,
            bool(body.get("background")),
        )
        with self._lock:
            self.ledger.append(line)


class _Server(ThreadingHTTPServer):
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that go away are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    provider: FakeProvider
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:  # the base class's name
        response_id = self.path.partition("?")[0].removesuffix("/cancel").rsplit("/", 1)[1]
        line = next(one for one in self.provider.ledger if one.response_id == response_id)
        answer = Answer.again(line.response_id, line.model, line.input_tokens)
        self._json(200, response(answer, {"fetched": line.is_background}))

    def do_POST(self) -> None:  # the base class's name
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        if self.path.endswith("/cancel"):
            self.do_GET()  # too late: it is done
            return
        number, fault = self.provider.begin(body)
        if fault.status is not None:
            self._json(fault.status, {"error": {"type": "made_up", "message": "made up"}, "type": "error"})
            return
        path = self.path.partition("?")[0]
        kind = next(kind for kind in _KINDS if path.endswith(kind))
        prefix, whole, stream = _KINDS[kind]
        answer = Answer.of(f"{prefix}{number:024}", body)
        self.provider.served(answer, body)
        try:
            if body.get("stream"):
                self._stream(stream(answer, body), fault)
            else:
                if fault.hold is not None:
                    fault.hold.wait(10)
                self._json(200, whole(answer, body))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has gone, as some tests want it to

    def _json(self, status: int, body: Body) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, parts: Parts, fault: Fault) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number, part in enumerate(parts):
            if number == fault.cut_after:
                self.close_connection = True
                return  # without the last chunk: the connection breaks in the middle of the body
            if fault.hold is not None and number == fault.hold_after:
                fault.hold.wait(10)
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")


_KINDS: dict[str, Any] = {
    "/chat/completions": ("chatcmpl-", chat, chat.stream),
    "/responses": ("resp_", response, response.stream),
    "/embeddings": ("", embeddings, None),
    "/messages": ("msg_", message, message.stream),
}


def main() -> None:
    """Serve, and print what was served."""
    parser = argparse.ArgumentParser(prog="python -m tests.metering.fake_provider")
    parser.add_argument("--port", type=int, default=8001)
    with FakeProvider(port=parser.parse_args().port) as provider:
        sys.stdout.write(
            f"A made-up provider at {provider.openai_url} (OpenAI) and {provider.url} (Anthropic)\n"
        )
        told = 0
        while True:
            for line in provider.ledger[told:]:
                told += 1
                sys.stdout.write(
                    f"{line.response_id} {line.model}: {line.input_tokens} in, {line.output_tokens} out\n"
                )
            sys.stdout.flush()
            time.sleep(0.1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)
