"""Alerts that have become durable: into the outbox, and from there to webhooks and the cap-state topic."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataflows.kafka_source import KafkaTopic
from pricing.cap import CapAlert
from pricing.settings import AlertSettings
from sinks.cap_state import CapStatePublisher
from sinks.delivery import Deliverer, Endpoint, RetrySchedule
from sinks.outbox import Outbox
from sinks.webhook import WebhookEndpoint, WebhookSender, alert_message

CLOSE_SECONDS = 5.0


def wall_clock_ms() -> int:
    """Now, in epoch milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class AlertRoutes:
    """Who is told of alerts, and what they are told to fall back to."""

    outbox: Path
    settings: AlertSettings
    webhooks: tuple[WebhookEndpoint, ...]
    topic: KafkaTopic | None
    fallback_model: str | None

    def endpoints(self) -> list[Endpoint]:
        """One sender for each receiver; none is connected yet."""
        schedule = RetrySchedule.from_seconds(self.settings.retry_schedule_seconds)
        senders: list[Endpoint] = [
            WebhookSender(webhook, schedule=schedule, timeout_seconds=self.settings.timeout_seconds)
            for webhook in self.webhooks
        ]
        if self.topic is not None:
            senders.append(CapStatePublisher(self.topic.bootstrap))
        return senders

    def open(self) -> OutboxPost:
        """Open the outbox and start delivering what waits in it."""
        outbox = Outbox.open(self.outbox)
        deliverer = Deliverer(outbox, self.endpoints(), now_ms=wall_clock_ms, random_fraction=random.random)
        outbox.retire_unconfigured(deliverer.endpoint_names, wall_clock_ms())
        deliverer.start()
        return OutboxPost(outbox, deliverer, self.fallback_model)


class OutboxPost:
    """The sink's way out for alerts (`sinks.metering_sink.AlertPost`): it never waits for a receiver."""

    def __init__(self, outbox: Outbox, deliverer: Deliverer, fallback_model: str | None) -> None:
        self._outbox = outbox
        self._deliverer = deliverer
        self._fallback_model = fallback_model

    def post(self, alerts: Sequence[CapAlert]) -> None:
        """Store durably, and wake the delivery."""
        if not self._deliverer.endpoint_names:
            return
        messages = [alert_message(alert, self._fallback_model) for alert in alerts]
        self._outbox.put(messages, self._deliverer.endpoint_names)
        self._deliverer.notify()

    def delivered(self, limit: int) -> list[tuple[str, int]]:
        """Deliveries not yet reported."""
        return self._outbox.unrecorded_deliveries(limit)

    def reported(self, alert_ids: Sequence[str]) -> None:
        """Mark deliveries as reported."""
        self._outbox.mark_recorded(alert_ids)

    def pending(self) -> int:
        """Deliveries still to be made."""
        return self._outbox.counts().pending

    def close(self) -> None:
        """Stop delivering; what is under way is sent again at the next start."""
        self._deliverer.stop(CLOSE_SECONDS)
        self._outbox.close()
