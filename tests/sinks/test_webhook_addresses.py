"""Which addresses a webhook may reach: whatever a host is called, and whatever its name means by then."""

from __future__ import annotations

import socket

import pytest

from sinks.addresses import address_kind
from sinks.delivery import Outcome
from tests.sinks.hooks import deliver, sender
from tests.sinks.receiver import receiving


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
