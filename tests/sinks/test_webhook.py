"""Webhooks against real receivers, with signatures checked by an independent implementation."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from sinks.delivery import Outcome
from tests.sinks.hooks import ALERT, NEW_SECRET, NOW_MS, OLD_SECRET, deliver, sender
from tests.sinks.receiver import Answer, closed_port, receiving, speaking


def test_a_receiver_verifies_what_it_gets() -> None:
    now_ms = time.time_ns() // 1_000_000
    with receiving() as receiver:
        assert deliver(sender(receiver.url), now_ms=now_ms) == Outcome("delivered")

    (request,) = receiver.received
    assert request.path == "/hooks/alerts"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == ALERT.alert_id
    assert request.headers["webhook-timestamp"] == str(now_ms // 1_000)
    verified = Webhook(OLD_SECRET).verify(request.body, dict(request.headers))
    assert verified["data"]["spend"] == "40.000312000000"

    for forged in (request.body.replace(b"40.", b"41."), request.body + b" "):
        with pytest.raises(WebhookVerificationError):
            Webhook(OLD_SECRET).verify(forged, dict(request.headers))
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW_SECRET).verify(request.body, dict(request.headers))


def test_during_a_rotation_the_old_and_the_new_secret_both_verify() -> None:
    now_ms = time.time_ns() // 1_000_000
    with receiving() as receiver:
        deliver(sender(receiver.url, secrets=[NEW_SECRET, OLD_SECRET]), now_ms=now_ms)

    (request,) = receiver.received
    assert request.headers["webhook-signature"].count("v1,") == 2
    for secret in (OLD_SECRET, NEW_SECRET):
        Webhook(secret).verify(request.body, dict(request.headers))


def test_every_attempt_has_its_own_timestamp_and_the_same_id() -> None:
    with receiving(lambda _: Answer(500)) as receiver:
        for now_ms in (NOW_MS, NOW_MS + 5_000):
            deliver(sender(receiver.url), now_ms=now_ms)

    first, second = receiver.received
    assert first.message_id == second.message_id
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 5
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(200), Outcome("delivered")),
        (Answer(202, body=b'{"ok": true}'), Outcome("delivered")),
        (Answer(204), Outcome("delivered")),
        (Answer(400), Outcome("failed", "HTTP 400")),
        (Answer(404, body=b"x" * 100_000), Outcome("failed", "HTTP 404")),
        (Answer(410), Outcome("gone", "HTTP 410, it wants no more messages")),
        (Answer(500), Outcome("failed", "HTTP 500")),
        (Answer(429, {"Retry-After": "7"}), Outcome("failed", "HTTP 429", 7_000)),
        (Answer(503, {"Retry-After": "0"}), Outcome("failed", "HTTP 503", 0)),
        (
            Answer(503, {"Retry-After": "Sun, 01 Mar 2026 09:31:00 GMT"}),
            Outcome("failed", "HTTP 503", 60_000),
        ),
        (Answer(503, {"Retry-After": "Sun, 01 Mar 2026 09:29:00 GMT"}), Outcome("failed", "HTTP 503", 0)),
        (
            Answer(503, {"Retry-After": "Sun, 01 Mar 2026 09:31:00 -0000"}),
            Outcome("failed", "HTTP 503", 60_000),
        ),
        (Answer(503, {"Retry-After": "soon"}), Outcome("failed", "HTTP 503")),
        (Answer(503, {"Retry-After": "-5"}), Outcome("failed", "HTTP 503")),
        (Answer(503, {"Retry-After": "9" * 5_000}), Outcome("failed", "HTTP 503")),
    ],
    ids=lambda value: f"{value.status}{dict(value.headers)}"[:50] if isinstance(value, Answer) else "",
)
def test_what_an_answer_means(answer: Answer, outcome: Outcome) -> None:
    with receiving(lambda _: answer) as receiver:
        assert deliver(sender(receiver.url)) == outcome


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    with receiving() as target, receiving(lambda _: Answer(status, {"Location": target.url})) as receiver:
        outcome = deliver(sender(receiver.url))

    assert outcome == Outcome("failed", f"HTTP {status}, redirects are not followed")
    assert len(receiver.received) == 1
    assert target.received == []


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_proxies_of_the_environment_are_not_used(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver, receiving() as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        assert deliver(sender(receiver.url)) == Outcome("delivered")
    assert proxy.received == []


def _mute(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def _trickle_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def _hang_up(connection: socket.socket) -> None:
    connection.recv(65_536)


def _talk_nonsense(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


@pytest.mark.parametrize(
    ("scheme", "script", "reason"),
    [
        ("http", _mute, "no answer within 0.3 s"),
        ("http", _trickle_headers, "no answer within 0.3 s"),
        ("https", _mute, "no answer within 0.3 s"),
        ("http", _hang_up, "the connection broke ("),
        ("http", _talk_nonsense, "the connection broke ("),
        ("https", _talk_nonsense, "no connection (ConnectError)"),
    ],
)
def test_an_attempt_ends_whatever_the_receiver_does(
    scheme: str, script: Callable[[socket.socket], None], reason: str
) -> None:
    with speaking(script) as port:
        outcome = deliver(sender(f"{scheme}://127.0.0.1:{port}/", timeout_seconds=0.3))
    assert outcome.verdict == "failed"
    assert outcome.reason.startswith(reason)


def test_a_closed_port_is_a_failure() -> None:
    outcome = deliver(sender(f"http://127.0.0.1:{closed_port()}/"))
    assert outcome == Outcome("failed", "no connection (ConnectError)")


def test_an_answer_that_trickles_on_after_its_status_has_delivered() -> None:
    def trickle_body(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)

    with speaking(trickle_body) as port:
        assert deliver(sender(f"http://127.0.0.1:{port}/", timeout_seconds=0.3)) == Outcome("delivered")


def test_of_a_long_answer_only_the_beginning_is_read() -> None:
    size = 64 * 2**20
    taken = 0

    def flood(connection: socket.socket) -> None:
        nonlocal taken
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while taken < size:
            taken += connection.send(b"x" * 65_536)

    with speaking(flood) as port:
        assert deliver(sender(f"http://127.0.0.1:{port}/")) == Outcome("delivered")
    assert taken < size
