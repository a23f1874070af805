"""A webhook over TLS: the certificate has to fit the name, whichever address is connected to."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from sinks.delivery import Outcome
from tests.sinks.hooks import deliver, sender
from tests.sinks.receiver import receiving


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
