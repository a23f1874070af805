"""Messages for an outbox, and which of them are due."""

from __future__ import annotations

from sinks.outbox import Outbox, OutboxMessage

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def message(name: str, body: bytes = b"{}") -> OutboxMessage:
    return OutboxMessage(id=f"alert_{name}", type="cap.threshold_reached", timestamp_ms=1_000, body=body)


def due_ids(outbox: Outbox, endpoint: str, now_ms: int = 10**13) -> list[str]:
    return [delivery.message.id for delivery in outbox.due(endpoint, now_ms, 100)]
