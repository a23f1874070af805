"""Webhooks against real receivers, with signatures checked by an independent implementation."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import product
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from pricing.cap import CapAlert
from sinks.addresses import address_kind, resolve
from sinks.delivery import Outcome
from sinks.outbox import OutboxMessage
from sinks.webhook import BODY_BYTES_MAX, Secret, WebhookEndpoint, WebhookSender, alert_message
from tests.sinks.receiver import Answer, closed_port, receiving, speaking

OLD_SECRET = "whsec_" + base64.b64encode(b"old secret of 24 bytes..").decode()
NEW_SECRET = "whsec_" + base64.b64encode(b"new" * 20).decode()
NOW_MS = 1_772_357_400_000  # 2026-03-01T09:30:00Z

ALERT = CapAlert(
    alert_id="alert_0123456789abcdef",
    tenant_id="acme",
    feature_id="",
    window_kind="day",
    window_start_ms=1_772_323_200_000,
    window_end_ms=1_772_409_600_000,
    cap=Decimal("50.00"),
    threshold=Decimal("0.8"),
    spend=Decimal("40.000312000000"),
    crossing_key="req-77",
    raised_at_ms=NOW_MS,
)
MESSAGE = alert_message(ALERT, "fallback-llama-3")


def sender(
    url: str,
    *,
    secrets: Sequence[str] = (OLD_SECRET,),
    timeout_seconds: float = 10.0,
    resolve_host: Callable[[str, int], Sequence[str]] = resolve,
    allow_private: bool = True,
    tls_context: Callable[[], ssl.SSLContext] = httpx.create_ssl_context,
) -> WebhookSender:
    return WebhookSender(
        WebhookEndpoint("ops", url, tuple(Secret.parse(text) for text in secrets), allow_private),
        timeout_seconds=timeout_seconds,
        resolve_host=resolve_host,
        tls_context=tls_context,
    )


def deliver(sender: WebhookSender, message: OutboxMessage = MESSAGE, now_ms: int = NOW_MS) -> Outcome:
    outcome = sender.deliver(message, now_ms)
    sender.close()
    return outcome


def test_the_message_about_an_alert() -> None:
    assert (MESSAGE.id, MESSAGE.type, MESSAGE.timestamp_ms) == (
        "alert_0123456789abcdef",
        "cap.threshold_reached",
        NOW_MS,
    )
    assert json.loads(MESSAGE.body) == {
        "type": "cap.threshold_reached",
        "timestamp": "2026-03-01T09:30:00.000Z",
        "data": {
            "alert_id": "alert_0123456789abcdef",
            "tenant_id": "acme",
            "feature_id": "",
            "window_kind": "day",
            "window_start": "2026-03-01T00:00:00.000Z",
            "window_end": "2026-03-02T00:00:00.000Z",
            "state": "warning",
            "currency": "USD",
            "cap": "50.00",
            "threshold": "0.8",
            "spend": "40.000312000000",
            "crossing_key": "req-77",
            "fallback_model": "fallback-llama-3",
        },
    }


@pytest.mark.parametrize(
    ("threshold", "fallback_model", "state", "fallback"),
    [
        ("0.8", "llama", "warning", "llama"),
        ("0.999999", "llama", "warning", "llama"),
        ("1", None, "exceeded", None),
        ("1.0", "", "exceeded", None),
        ("1.5", "llama", "exceeded", "llama"),
    ],
)
def test_a_threshold_of_one_means_exceeded(
    threshold: str, fallback_model: str | None, state: str, fallback: str | None
) -> None:
    data = json.loads(alert_message(replace(ALERT, threshold=Decimal(threshold)), fallback_model).body)[
        "data"
    ]
    assert (data["state"], data["fallback_model"]) == (state, fallback)


@pytest.mark.parametrize(
    "amount", ["0.000000000001", "1E+3", "1E-12", "99999999999999999999999999.999999999999"]
)
def test_amounts_are_decimal_strings_without_exponents(amount: str) -> None:
    data = json.loads(alert_message(replace(ALERT, spend=Decimal(amount)), None).body)["data"]
    assert Decimal(data["spend"]) == Decimal(amount)
    assert set(data["spend"]) <= set("0123456789.")


def test_the_longest_alert_stays_below_the_limit_and_a_longer_one_is_refused() -> None:
    longest = replace(
        ALERT, tenant_id="\U0001f600" * 128, feature_id="\x00" * 128, crossing_key="\U0001f600" * 256
    )
    assert len(alert_message(longest, "m" * 128).body) < BODY_BYTES_MAX
    with pytest.raises(ValueError, match="alert_0123456789abcdef would have"):
        alert_message(longest, "m" * BODY_BYTES_MAX)


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


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("93.184.216.34", "public"),
        ("1.1.1.1", "public"),
        ("100.63.255.255", "public"),
        ("100.128.0.1", "public"),
        ("172.15.255.255", "public"),
        ("172.32.0.1", "public"),
        ("2606:4700::1111", "public"),
        ("64:ff9b::5db8:d822", "public"),
        ("127.0.0.1", "private"),
        ("127.255.255.254", "private"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("100.127.255.255", "private"),
        ("::1", "private"),
        ("fc00::1", "private"),
        ("fd12:3456::1", "private"),
        ("0.0.0.0", "forbidden"),  # noqa: S104 - an address to refuse, not to bind
        ("0.1.2.3", "forbidden"),
        ("169.254.169.254", "forbidden"),
        ("169.254.0.1", "forbidden"),
        ("100.100.100.200", "forbidden"),
        ("168.63.129.16", "forbidden"),
        ("192.0.0.192", "forbidden"),
        ("192.0.2.1", "forbidden"),
        ("192.88.99.1", "forbidden"),
        ("198.18.0.1", "forbidden"),
        ("198.19.255.255", "forbidden"),
        ("224.0.0.1", "forbidden"),
        ("239.255.255.255", "forbidden"),
        ("240.0.0.1", "forbidden"),
        ("255.255.255.255", "forbidden"),
        ("::", "forbidden"),
        ("::ffff:127.0.0.1", "forbidden"),
        ("::ffff:93.184.216.34", "forbidden"),
        ("::127.0.0.1", "forbidden"),
        ("64:ff9b::7f00:1", "forbidden"),
        ("64:ff9b::a9fe:a9fe", "forbidden"),
        ("64:ff9b:1::1", "forbidden"),
        ("fe80::1", "forbidden"),
        ("fe80::1%eth0", "forbidden"),
        ("fec0::1", "forbidden"),
        ("ff02::1", "forbidden"),
        ("fd00:ec2::254", "forbidden"),
        ("2001::1", "forbidden"),
        ("2001:db8::1", "forbidden"),
        ("2002:7f00:1::", "forbidden"),
        ("4000::1", "forbidden"),
        ("localhost", "forbidden"),
        ("", "forbidden"),
    ],
)
def test_what_kind_of_address_that_is(address: str, kind: str) -> None:
    assert address_kind(address) == kind


PRIVATE = "the host has a private address, which needs allow_private"
FORBIDDEN = "the host has an address that no webhook may reach"
NOT_PLAIN = "plain http is for loopback and private addresses, and the host has a public one"


@pytest.mark.parametrize(
    ("scheme", "allow_private", "addresses", "refusal"),
    [
        ("https", False, ["127.0.0.1"], PRIVATE),
        ("https", False, ["10.1.2.3"], PRIVATE),
        ("https", False, ["93.184.216.34", "127.0.0.1"], PRIVATE),
        ("https", False, ["127.0.0.1", "93.184.216.34"], PRIVATE),
        ("https", False, ["2606:4700::1111", "::1"], PRIVATE),
        ("https", False, ["169.254.169.254"], FORBIDDEN),
        ("https", False, [], "the host name has no address"),
        ("https", True, ["169.254.169.254"], FORBIDDEN),
        ("https", True, ["127.0.0.1", "169.254.169.254"], FORBIDDEN),
        ("https", True, ["::ffff:127.0.0.1"], FORBIDDEN),
        ("http", True, ["93.184.216.34"], NOT_PLAIN),
        ("http", True, ["127.0.0.1", "93.184.216.34"], NOT_PLAIN),
    ],
)
def test_a_host_with_any_address_that_is_not_allowed_is_refused(
    scheme: str, allow_private: bool, addresses: list[str], refusal: str
) -> None:
    with receiving() as receiver:
        url = f"{scheme}://hooks.example.com:{receiver.port}/"
        outcome = deliver(
            sender(url, allow_private=allow_private, resolve_host=lambda _host, _port: addresses)
        )
    assert outcome == Outcome("failed", refusal)
    assert receiver.received == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::1]", "[::ffff:127.0.0.1]",
     "0.0.0.0", "169.254.169.254", "[fe80::1]"],  # noqa: S104 - an address to refuse, not to bind
)  # fmt: skip
def test_disguises_of_our_own_network_are_refused_through_the_real_resolver(host: str) -> None:
    outcome = deliver(sender(f"https://{host}/", allow_private=False, timeout_seconds=1))
    assert outcome.reason in {PRIVATE, FORBIDDEN, "the host name was not resolved"}


def test_a_name_that_changes_its_meaning_is_looked_at_again_at_every_attempt() -> None:
    answers = [["127.0.0.1"], ["169.254.169.254"], ["127.0.0.1"]]
    asked: list[tuple[str, int]] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return answers[len(asked) - 1]

    with receiving() as receiver:
        webhook = sender(f"http://rebind.example.com:{receiver.port}/", resolve_host=rebinding)
        outcomes = [deliver(webhook).verdict for _ in answers]

    assert outcomes == ["delivered", "failed", "delivered"]
    assert (
        asked == [("rebind.example.com", receiver.port)] * 3
    )  # once for each attempt: no second, other answer
    assert [request.headers["host"] for request in receiver.received] == [
        f"rebind.example.com:{receiver.port}"
    ] * 2


def test_the_next_address_is_tried_when_nobody_answers_at_the_first() -> None:
    with receiving() as receiver:
        url = f"http://hooks.example.com:{receiver.port}/"
        outcome = deliver(sender(url, resolve_host=lambda _host, _port: ["::1", "127.0.0.1"]))
    assert outcome == Outcome("delivered")


@pytest.mark.parametrize("error", [socket.gaierror("unknown"), UnicodeError("label too long")])
def test_a_name_that_nobody_knows_is_a_failure(error: Exception) -> None:
    def unknown(_host: str, _port: int) -> list[str]:
        raise error

    outcome = deliver(sender("https://nowhere.example.com/", resolve_host=unknown))
    assert outcome == Outcome("failed", "the host name was not resolved")


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the test's own, and certificates that it signed, by host name."""

    certificate: Path
    directory: Path

    def server(self, host: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / f"{host}.pem", self.directory / f"{host}.key")
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificate)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates, is not installed")
    directory = tmp_path_factory.mktemp("authority")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test authority")
    for host in ("hooks.example.com", "other.example.com"):
        openssl("req", *key[:-2], "-keyout", f"{host}.key", "-out", f"{host}.csr", "-subj", f"/CN={host}")
        (directory / "names").write_text(f"subjectAltName=DNS:{host}\n")
        openssl(
            "x509", "-req", "-in", f"{host}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "names", "-out", f"{host}.pem",
        )  # fmt: skip
    return Authority(directory / "ca.pem", directory)


def test_the_certificate_has_to_fit_the_name_although_the_address_is_connected_to(
    authority: Authority,
) -> None:
    wanted: list[str | None] = []
    tls = authority.server("hooks.example.com")
    tls.sni_callback = lambda _connection, name, _context: wanted.append(name)

    with receiving(tls=tls) as receiver:
        for host in ("hooks.example.com", "hooks.example.com."):
            url = f"https://{host}:{receiver.port}/"
            webhook = sender(
                url, resolve_host=lambda _host, _port: ["127.0.0.1"], tls_context=authority.client
            )
            assert deliver(webhook) == Outcome("delivered")

    assert wanted == ["hooks.example.com"] * 2
    assert receiver.received[0].headers["host"] == f"hooks.example.com:{receiver.port}"


@pytest.mark.parametrize(
    ("host", "served", "trusting", "reason"),
    [
        ("hooks.example.com", "other.example.com", True, "Hostname mismatch"),
        ("127.0.0.1", "hooks.example.com", True, "IP address mismatch"),
        ("hooks.example.com", "hooks.example.com", False, "unable to get local issuer certificate"),
    ],
)
def test_a_certificate_that_does_not_fit_is_refused(
    authority: Authority, host: str, served: str, trusting: bool, reason: str
) -> None:
    with receiving(tls=authority.server(served)) as receiver:
        webhook = sender(
            f"https://{host}:{receiver.port}/",
            resolve_host=lambda _host, _port: ["127.0.0.1"],
            tls_context=authority.client if trusting else httpx.create_ssl_context,
        )
        outcome = deliver(webhook)
    assert outcome.verdict == "failed"
    assert outcome.reason.startswith("the certificate was refused (")
    assert reason in outcome.reason
    assert receiver.received == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "begins with whsec_"),
        ("c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "begins with whsec_"),
        ("whsec-c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "begins with whsec_"),
        ("whsec_not/base64!secret-secret-secret", "must be base64"),
        ("whsec_\u00fcc2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "must be base64"),
        ("whsec_c2VjcmV0", "this one has 6"),
        ("whsec_" + base64.b64encode(b"x" * 23).decode(), "this one has 23"),
        ("whsec_" + base64.b64encode(b"x" * 65).decode(), "this one has 65"),
    ],
)
def test_a_secret_that_cannot_be_used_is_refused_without_being_shown(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as raised:
        Secret.parse(text)
    assert text[6:] not in str(raised.value) or not text
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


@pytest.mark.parametrize(("length", "padded"), list(product([24, 25, 26, 64], [True, False])))
def test_secrets_are_read_with_and_without_padding(length: int, padded: bool) -> None:
    key = bytes(range(length))
    text = base64.b64encode(key).decode()
    assert Secret.parse(f" whsec_{text if padded else text.rstrip('=')}\n") == Secret(key)


@pytest.mark.parametrize(
    ("name", "url", "allow_private", "problem"),
    [
        ("ops", "http://hooks.example.com/", False, "must be https"),
        ("ops", "ftp://hooks.example.com/", True, "must be https://host/path"),
        ("ops", "hooks.example.com/path", True, "must be https://host/path"),
        ("ops", "https:///path", True, "must be https://host/path"),
        ("ops", "https://me:hunter2@hooks.example.com/", True, "user name or a password"),
        ("ops", "https://hooks.example.com:hunter2/", True, "not valid"),
        ("ops", "https://hooks.example.com/\nhunter2", True, "not valid"),
        ("ops", "https://0177.0.0.1/hunter2", True, "not valid"),
        ("ops", "https://hooks.example.com:65536/hunter2", True, "port must be between"),
        ("ops", "https://hooks.example.com:0/hunter2", True, "port must be between"),
        ("kafka:ops", "https://hooks.example.com/", False, "A webhook's name"),
        ("", "https://hooks.example.com/", False, "A webhook's name"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_refused_without_its_url_being_shown(
    name: str, url: str, allow_private: bool, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem) as raised:
        WebhookEndpoint(name, url, (Secret.parse(OLD_SECRET),), allow_private)
    assert "hunter2" not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


@pytest.mark.parametrize("count", [0, 9])
def test_an_endpoint_has_between_one_and_eight_secrets(count: int) -> None:
    with pytest.raises(ValueError, match="Webhook ops: it needs 1 to 8 secrets"):
        WebhookEndpoint("ops", "https://hooks.example.com/", (Secret.parse(OLD_SECRET),) * count)


def test_neither_logs_nor_reprs_show_secrets_or_the_url(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    with receiving(lambda _: Answer(500, body=b"sorry")) as receiver:
        webhook = sender(receiver.url + "?token=hunter2")
        outcome = deliver(webhook)

    shown = caplog.text + repr(webhook) + repr(webhook._endpoint) + repr(outcome)  # noqa: SLF001 - its repr
    key = OLD_SECRET.removeprefix("whsec_")
    for hidden in ("hunter2", "/hooks/alerts", key, base64.b64decode(key).decode()):
        assert hidden not in shown
    assert "127.0.0.1" in repr(webhook)
