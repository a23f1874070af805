"""An alert, the message about it, and a sender of webhooks that delivers it."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Sequence
from decimal import Decimal

import httpx

from pricing.cap import CapAlert
from sinks.addresses import resolve
from sinks.delivery import Outcome
from sinks.outbox import OutboxMessage
from sinks.webhook import Secret, WebhookEndpoint, WebhookSender, alert_message

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
