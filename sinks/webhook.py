"""Webhooks: one signed POST for each alert, after Standard Webhooks 1.0.

The body of `cap.threshold_reached` is

    {"type": "cap.threshold_reached",
     "timestamp": "2026-03-01T09:30:00.000Z",          event time of the crossing event
     "data": {"alert_id": "alert_…",                   also the header webhook-id
              "tenant_id": "acme",
              "feature_id": "",                        "" is the tenant's cap over all its features
              "window_kind": "day",                    or "month"
              "window_start": "2026-03-01T00:00:00.000Z", "window_end": "2026-03-02T00:00:00.000Z",
              "state": "warning",                      "exceeded" from a threshold of 1 on
              "currency": "USD", "cap": "50.00", "threshold": "0.8", "spend": "40.000312000000",
              "crossing_key": "…",                     idempotency key of the crossing event
              "fallback_model": "fallback-llama-3"}}   or null

Amounts are decimal strings, times are UTC, a window is `[start, end)`.

Delivery: at least once; `webhook-id` is the same at every attempt, so that a receiver can drop repeats,
and an order between messages is not promised. See `sinks.outbox` for what a crash does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

import httpx

from pricing.cap import CapAlert
from sinks.addresses import Resolve, address_kind, resolve
from sinks.connection_deadline import ConnectionDeadline, connection_deadline
from sinks.delivery import DEFAULT_SCHEDULE, Outcome, RetrySchedule
from sinks.outbox import OutboxMessage

ALERT_TYPE = "cap.threshold_reached"

BODY_BYTES_MAX = 20_000
"""Standard Webhooks asks for payloads below 20 kB."""

TIMEOUT_SECONDS = 15
"""The default for one attempt as a whole, name resolution excepted."""

RESPONSE_BYTES_MAX = 4_096
"""As much of an answer's body is read before the connection is closed; its content is never used."""

_SECRETS_MAX = 8
_ADDRESSES_MAX = 4  # tried in one attempt, one after the other, while nobody accepts the connection
_CONNECT_TIMEOUT_SECONDS = 5.0
_IN_FLIGHT_MAX = 4
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A signing key of 24 to 64 bytes. Neither its repr nor an error about it shows it.

    Raises:
        ValueError: the key is too short or too long.
    """

    key: bytes

    def __post_init__(self) -> None:
        if not 24 <= len(self.key) <= 64:
            raise ValueError(f"A webhook secret has 24 to 64 bytes; this one has {len(self.key)}.")

    def __repr__(self) -> str:
        return "Secret(***)"

    @classmethod
    def parse(cls, text: str) -> Secret:
        """Read `whsec_` and base64, with or without padding.

        Raises:
            ValueError: it is not that, or the key is too short or too long.
        """
        prefix, separator, encoded = text.strip().partition("_")
        if prefix != "whsec" or not separator:
            raise ValueError("A webhook secret begins with whsec_, and this one does not.")
        try:
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except (binascii.Error, ValueError):
            # from None: the cause would carry the text
            raise ValueError("What follows whsec_ in a webhook secret must be base64.") from None
        return cls(key)


@dataclass(frozen=True, slots=True, repr=False)
class WebhookEndpoint:
    """One receiver. Every secret signs, so that an old and a new one can be valid side by side.

    `allow_private` lets the host be loopback or on a private network, for development and for receivers
    next door; such a receiver may also use plain http. The repr shows the host alone, because paths and
    queries of webhook addresses are often secrets.

    Raises:
        ValueError: the name or the URL cannot be used, or there is no secret.
    """

    name: str
    url: str
    secrets: tuple[Secret, ...]
    allow_private: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError("A webhook's name has 1 to 64 letters, digits, dots, dashes or underscores.")
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL:
            raise ValueError(f"Webhook {self.name}: the URL is not valid.") from None
        if url.scheme not in {"https", "http"} or not url.host:
            raise ValueError(f"Webhook {self.name}: the URL must be https://host/path.")
        if url.port is not None and not 0 < url.port < 65_536:
            raise ValueError(f"Webhook {self.name}: the URL's port must be between 1 and 65535.")
        if url.scheme == "http" and not self.allow_private:
            raise ValueError(f"Webhook {self.name}: the URL must be https; http needs allow_private.")
        if url.userinfo:
            raise ValueError(f"Webhook {self.name}: the URL must not contain a user name or a password.")
        if not 1 <= len(self.secrets) <= _SECRETS_MAX:
            raise ValueError(f"Webhook {self.name}: it needs 1 to {_SECRETS_MAX} secrets.")

    def __repr__(self) -> str:
        host = httpx.URL(self.url).host
        return f"WebhookEndpoint(name={self.name!r}, host={host!r}, secrets={len(self.secrets)})"


class WebhookSender:
    """Posts to one endpoint; safe for several threads.

    Every attempt resolves the host anew, refuses it if any of its addresses is not allowed, and connects
    to an address that was looked at, so that a name cannot change its meaning in between. Redirects are
    not followed, proxies of the environment not used, connections not kept. `resolve_host` and
    `tls_context` replace the system's resolver and the public certificate authorities.
    """

    def __init__(
        self,
        endpoint: WebhookEndpoint,
        *,
        schedule: RetrySchedule = DEFAULT_SCHEDULE,
        timeout_seconds: float = TIMEOUT_SECONDS,
        resolve_host: Resolve = resolve,
        tls_context: Callable[[], ssl.SSLContext] = httpx.create_ssl_context,
    ) -> None:
        self.name = endpoint.name
        self.schedule = schedule
        self.max_in_flight = _IN_FLIGHT_MAX
        self._endpoint = endpoint
        self._timeout_seconds = timeout_seconds
        self._resolve_host = resolve_host
        self._tls_context = tls_context
        self._transport: httpx.HTTPTransport | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"WebhookSender({self._endpoint!r})"

    def deliver(self, message: OutboxMessage, now_ms: int) -> Outcome:
        """One attempt, signed for the time `now_ms`: a 2xx answer delivers, 410 ends the endpoint.

        An attempt ends after `timeout_seconds`, however slowly the receiver trickles. Everything else
        than those answers is a failure with a reason; nothing is raised.
        """
        url = httpx.URL(self._endpoint.url)
        try:
            addresses = self._vetted_addresses(url)
        except (OSError, UnicodeError):
            return Outcome("failed", "the host name was not resolved")
        except _Refused as refused:
            return Outcome("failed", str(refused))
        outcome = Outcome("failed", "no connection")
        headers = signed_headers(message, self._endpoint.secrets, now_ms // 1_000)
        with connection_deadline(self._timeout_seconds) as deadline:
            for address in addresses[:_ADDRESSES_MAX]:
                try:
                    return self._post(url, address, message.body, headers, deadline, now_ms)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    outcome = Outcome("failed", _connection_failure(error))
                except httpx.HTTPError as error:
                    outcome = Outcome("failed", f"the connection broke ({type(error).__name__})")
                    break
            if deadline.passed():
                return Outcome("failed", f"no answer within {self._timeout_seconds:g} s")
        return outcome

    def close(self) -> None:
        """Let go of the transport; a later delivery makes a new one."""
        with self._lock:
            transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _vetted_addresses(self, url: httpx.URL) -> list[str]:
        addresses = list(self._resolve_host(_host(url), url.port or (443 if url.scheme == "https" else 80)))
        kinds = {address_kind(address) for address in addresses}
        if not kinds:
            raise _Refused("the host name has no address")
        if "forbidden" in kinds:
            raise _Refused("the host has an address that no webhook may reach")
        if "private" in kinds and not self._endpoint.allow_private:
            raise _Refused("the host has a private address, which needs allow_private")
        if "public" in kinds and url.scheme == "http":
            raise _Refused("plain http is for loopback and private addresses, and the host has a public one")
        return addresses

    def _post(
        self,
        url: httpx.URL,
        address: str,
        body: bytes,
        headers: Mapping[str, str],
        deadline: ConnectionDeadline,
        now_ms: int,
    ) -> Outcome:
        remaining_seconds = max(0.001, deadline.remaining_seconds())
        timeout = httpx.Timeout(remaining_seconds, connect=min(_CONNECT_TIMEOUT_SECONDS, remaining_seconds))
        request = httpx.Request(
            "POST",
            url.copy_with(host=address),
            headers={"Host": url.netloc.decode("ascii"), **headers},
            content=body,
            # The certificate is checked against sni_hostname, so the name and not the address has to match.
            extensions={
                "timeout": timeout.as_dict(),
                "sni_hostname": _host(url).rstrip("."),
                "trace": deadline.watch,
            },
        )
        # The transport and not a client: a client would log the whole URL.
        response = self._open_transport().handle_request(request)
        try:
            outcome = _outcome(response.status_code, response.headers.get("retry-after"), now_ms)
            # Read a little, so that the receiver is not cut off while it still writes.
            with suppress(httpx.HTTPError):
                received = 0
                for chunk in response.iter_raw():
                    received += len(chunk)
                    if received >= RESPONSE_BYTES_MAX:
                        break
            return outcome
        finally:
            response.close()

    def _open_transport(self) -> httpx.HTTPTransport:
        with self._lock:
            if self._transport is None:
                self._transport = httpx.HTTPTransport(
                    verify=self._tls_context(),
                    trust_env=False,
                    limits=httpx.Limits(max_connections=_IN_FLIGHT_MAX, max_keepalive_connections=0),
                )
            return self._transport


def signed_headers(
    message: OutboxMessage, secrets: tuple[Secret, ...], timestamp_seconds: int
) -> dict[str, str]:
    """The headers of an attempt at `timestamp_seconds`, with one signature for each secret."""
    signed = b"%s.%d.%s" % (message.id.encode(), timestamp_seconds, message.body)
    signatures = [
        "v1," + base64.b64encode(hmac.digest(secret.key, signed, hashlib.sha256)).decode()
        for secret in secrets
    ]
    return {
        "Content-Type": "application/json",
        "User-Agent": "Meterline-Webhooks/1",
        "Accept-Encoding": "identity",
        "Connection": "close",
        "webhook-id": message.id,
        "webhook-timestamp": str(timestamp_seconds),
        "webhook-signature": " ".join(signatures),
    }


def alert_message(alert: CapAlert, fallback_model: str | None) -> OutboxMessage:
    """The message about one alert, in the form shown at the top of this module.

    Raises:
        ValueError: the body would reach BODY_BYTES_MAX, which no event of the contract can cause.
    """
    timestamp = _iso(alert.raised_at_ms)
    content = {
        "type": ALERT_TYPE,
        "timestamp": timestamp,
        "data": {
            "alert_id": alert.alert_id,
            "tenant_id": alert.tenant_id,
            "feature_id": alert.feature_id,
            "window_kind": alert.window_kind,
            "window_start": _iso(alert.window_start_ms),
            "window_end": _iso(alert.window_end_ms),
            "state": "exceeded" if alert.threshold >= 1 else "warning",
            "currency": "USD",
            "cap": format(alert.cap, "f"),
            "threshold": format(alert.threshold, "f"),
            "spend": format(alert.spend, "f"),
            "crossing_key": alert.crossing_key,
            "fallback_model": fallback_model or None,
        },
    }
    body = json.dumps(content, separators=(",", ":")).encode()
    if len(body) >= BODY_BYTES_MAX:
        raise ValueError(f"The message about alert {alert.alert_id} would have {len(body)} bytes.")
    return OutboxMessage(alert.alert_id, ALERT_TYPE, alert.raised_at_ms, body)


class _Refused(Exception):
    """The host may not be connected to."""


def _outcome(status: int, retry_after: str | None, now_ms: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome("delivered")
    if status == 410:
        return Outcome("gone", "HTTP 410, it wants no more messages")
    note = ", redirects are not followed" if 300 <= status < 400 else ""
    return Outcome("failed", f"HTTP {status}{note}", _retry_after_ms(retry_after, now_ms))


def _retry_after_ms(header: str | None, now_ms: int) -> int | None:
    """The wait that a Retry-After header asks for, in seconds or as an HTTP date; None if it is neither."""
    if header is None:
        return None
    try:
        if header.isdecimal():
            return int(header) * 1_000
        moment = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0, (moment - _EPOCH) // timedelta(milliseconds=1) - now_ms)


def _connection_failure(error: httpx.TransportError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate was refused ({cause.verify_message})"
        cause = cause.__cause__ or cause.__context__
    return f"no connection ({type(error).__name__})"


def _host(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii")


def _iso(epoch_ms: int) -> str:
    moment = _EPOCH + timedelta(milliseconds=epoch_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
