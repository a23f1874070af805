"""What an endpoint and its secrets may be, and that neither is shown."""

from __future__ import annotations

import base64
import logging
from itertools import product

import pytest

from sinks.webhook import Secret, WebhookEndpoint
from tests.sinks.hooks import OLD_SECRET, deliver, sender
from tests.sinks.receiver import Answer, receiving


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
