"""Cap state for the applications: what every cap's spend has reached, in a compacted Kafka topic.

Key: a JSON array `[tenant_id, feature_id, window_kind]` in ASCII without spaces; feature_id "" is the
tenant's cap over all its features. Value: a JSON object

    {"alert_id": "alert_…", "tenant_id": "acme", "feature_id": "", "window_kind": "day",
     "state": "warning",                               "exceeded" from a threshold of 1 on
     "window_start_ms": 1772323200000, "window_end_ms": 1772409600000,      epoch ms UTC, [start, end)
     "cap": "50.00", "threshold": "0.8", "spend": "40.000312000000",        USD as decimal strings
     "fallback_model": "fallback-llama-3"}             or null

The topic keeps the last value of a key: a reader takes it for what holds now only while its own clock is
inside the window; outside of it the cap has not been reached.

Order: a state is older than another of the same key if its window begins earlier, or, in one window, if
its spend or else its threshold is lower. An older state is never published after a newer one, in whatever
order alerts are put, retried or replayed: the publisher reads the topic before its first message, and
counts a state that is not newer than the topic's as delivered without sending it. Only one publisher at a
time may write to the topic, and its number of partitions must stay as it is.

Delivery: at least once. A crash before the broker's acknowledgement is recorded delivers the state again;
by then the topic has it, and nothing is sent twice.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # documented there, but not exported by its types
    AdminClient,
    ConfigResource,
    NewTopic,
)

from sinks.delivery import Outcome, RetrySchedule
from sinks.outbox import STATE_PREFIX, OutboxMessage

_log = logging.getLogger(__name__)

CAP_STATE_TOPIC = "meterline.cap-state"

CAP_STATE_SCHEDULE = RetrySchedule((0, 1_000, 5_000, 15_000, 60_000) + (300_000,) * 900)
"""Quick at first, then every five minutes for 75 hours: applications enforce caps by this state."""

_REQUEST_TIMEOUT_SECONDS = 10.0  # for each question to the brokers, and for a produced message
_DESCRIBE_TIMEOUT_SECONDS = 1.0  # for whether the topic is compacted, which is only a warning
_READ_TIMEOUT_SECONDS = 60.0  # for reading the topic once, at the first delivery
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

_Rank = tuple[int, Decimal, Decimal]
"""(window_start_ms, spend, threshold): the order of the states of one key."""


@dataclass(frozen=True, slots=True)
class CapState:
    """What goes into the topic: `key` and `value` as bytes, and the state's place among those of its key."""

    key: bytes
    value: bytes
    rank: _Rank


class CapStatePublisher:
    """Publishes alerts to the topic as the states of their caps, one at a time.

    `client_config` is librdkafka's configuration for reaching the brokers (security included); it is
    neither logged nor shown. The topic is created, compacted and with one partition, if it is missing.
    In memory it keeps one rank for each key of the topic: some 400 bytes for each cap that was ever
    reached.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        topic: str = CAP_STATE_TOPIC,
        client_config: Mapping[str, str] | None = None,
        schedule: RetrySchedule = CAP_STATE_SCHEDULE,
        request_timeout_seconds: float = _REQUEST_TIMEOUT_SECONDS,
    ) -> None:
        self.name = STATE_PREFIX + topic
        self.schedule = schedule
        self.max_in_flight = 1
        self._topic = topic
        self._client_config: dict[str, Any] = {
            # librdkafka would write to stderr at every reconnection; what went wrong is in the outcomes.
            "log_level": 2,
            **(client_config or {}),
            "bootstrap.servers": bootstrap_servers,
        }
        self._request_timeout_seconds = request_timeout_seconds
        self._producer: Producer | None = None
        self._ranks: dict[bytes, _Rank] | None = None
        self._lock = threading.Lock()

    def deliver(self, message: OutboxMessage, now_ms: int) -> Outcome:
        """Publish the state that an alert's message carries, unless the topic has a newer one.

        Waits for the broker's acknowledgement at most the request timeout; before the first message also
        for the topic to be created and read. Everything else than an acknowledgement is a failure with a
        reason; nothing is raised.
        """
        try:
            state = cap_state(message)
        except (ValueError, KeyError, TypeError, InvalidOperation):
            return Outcome("failed", "the message is not about a cap")
        with self._lock:
            try:
                if self._ranks is None:
                    ensure_compacted_topic(self._client_config, self._topic, self._request_timeout_seconds)
                    self._ranks = self._read_ranks()
                known = self._ranks.get(state.key)
                if known is not None and known >= state.rank:
                    return Outcome("delivered")
                self._produce(state)
            except KafkaException as error:
                return Outcome("failed", _sentence(error))
            except TopicUnusable as error:
                return Outcome("failed", str(error))
            self._ranks[state.key] = state.rank
        return Outcome("delivered")

    def close(self) -> None:
        """Let go of the connections; a later delivery makes new ones and reads the topic again."""
        with self._lock:
            self._producer = None
            self._ranks = None

    def _produce(self, state: CapState) -> None:
        if self._producer is None:
            self._producer = Producer(
                {
                    **self._client_config,
                    "enable.idempotence": True,
                    "acks": "all",
                    "linger.ms": 0,
                    "delivery.timeout.ms": int(self._request_timeout_seconds * 1_000),
                }
            )
        errors: list[KafkaError | None] = []
        self._producer.produce(
            self._topic, value=state.value, key=state.key, on_delivery=lambda error, _: errors.append(error)
        )
        # librdkafka reports within delivery.timeout.ms; the margin is for the report itself.
        self._producer.flush(self._request_timeout_seconds + 2.0)
        error = errors[0] if errors else KafkaError(KafkaError._TIMED_OUT)
        if error is not None:
            # Whether the broker has it is unknown, so the next attempt reads the topic again. The producer
            # stays: its sequence numbers keep what may still be on its way from arriving after a newer state.
            self._ranks = None
            if error.fatal():
                self._producer = None
            raise KafkaException(error)

    def _read_ranks(self) -> dict[bytes, _Rank]:
        ranks: dict[bytes, _Rank] = {}
        strange = 0
        for message in _read_topic(self._client_config, self._topic, self._request_timeout_seconds):
            key, value = message.key(), message.value()
            if not isinstance(key, bytes):
                strange += 1
            elif value is None:
                ranks.pop(key, None)
            else:
                try:
                    ranks[key] = _rank(json.loads(value))
                except (ValueError, KeyError, TypeError, InvalidOperation):
                    strange += 1
        if strange:
            _log.warning("Topic %s holds %d messages that are no cap states.", self._topic, strange)
        return ranks


class TopicUnusable(Exception):
    """The cap state topic is missing and cannot be made, or cannot be read."""


def cap_state(message: OutboxMessage) -> CapState:
    """The state in an alert's message, whose body is described in `sinks.webhook`.

    Raises:
        ValueError, KeyError, TypeError, InvalidOperation: the body is something else.
    """
    data = json.loads(message.body)["data"]
    value = {
        "alert_id": data["alert_id"],
        "tenant_id": data["tenant_id"],
        "feature_id": data["feature_id"],
        "window_kind": data["window_kind"],
        "state": data["state"],
        "window_start_ms": _epoch_ms(data["window_start"]),
        "window_end_ms": _epoch_ms(data["window_end"]),
        "cap": data["cap"],
        "threshold": data["threshold"],
        "spend": data["spend"],
        "fallback_model": data["fallback_model"],
    }
    return CapState(
        cap_state_key(data["tenant_id"], data["feature_id"], data["window_kind"]), _json(value), _rank(value)
    )


def cap_state_key(tenant_id: str, feature_id: str, window_kind: str) -> bytes:
    """The key of a cap in the topic; different caps never share one."""
    return _json([tenant_id, feature_id, window_kind])


def ensure_compacted_topic(client_config: Mapping[str, Any], topic: str, timeout_seconds: float) -> None:
    """Create the topic, compacted, with one partition and the cluster's replication, if it is missing.

    Raises:
        TopicUnusable: it is missing and the cluster does not let us create it.
        KafkaException: no broker answers within the timeout.
    """
    admin = AdminClient(dict(client_config))
    if topic in admin.list_topics(timeout=timeout_seconds).topics:
        _warn_unless_compacted(admin, topic)
        return
    new = NewTopic(topic, num_partitions=1, replication_factor=-1, config={"cleanup.policy": "compact"})
    try:
        admin.create_topics([new], request_timeout=timeout_seconds)[topic].result()
    except KafkaException as error:
        # Somebody else was quicker, or the cluster makes topics of itself when it is asked about them.
        found = admin.list_topics(topic, timeout=timeout_seconds).topics[topic]
        if found.error is not None:
            raise TopicUnusable(
                f"topic {topic} is missing and was not created ({_sentence(error)}): "
                "create it with cleanup.policy=compact"
            ) from error
        _warn_unless_compacted(admin, topic)


def _warn_unless_compacted(admin: AdminClient, topic: str) -> None:
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    try:
        entries = admin.describe_configs([resource], request_timeout=_DESCRIBE_TIMEOUT_SECONDS)[
            resource
        ].result()
        policy = str(entries["cleanup.policy"].value)
    except (KafkaException, KeyError) as error:
        _log.info("Whether topic %s is compacted cannot be told: %s", topic, error)
        return
    if "compact" not in policy:
        _log.warning(
            "Topic %s has cleanup.policy=%s: set it to compact, or cap states will expire.", topic, policy
        )


def _read_topic(client_config: Mapping[str, Any], topic: str, timeout_seconds: float) -> Iterator[Message]:
    """Every message that is in the topic now, in the order of each partition."""
    consumer = Consumer(
        {
            **client_config,
            "group.id": f"{topic}.publisher",  # required, though nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 50,  # at the end of a partition nothing is worth waiting for
        }
    )
    deadline = time.monotonic() + _READ_TIMEOUT_SECONDS
    try:
        partitions = consumer.list_topics(topic, timeout=timeout_seconds).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
        unread = set(partitions)
        while unread:
            remaining_seconds = deadline - time.monotonic()
            if remaining_seconds <= 0:
                raise TopicUnusable(f"topic {topic} could not be read within {_READ_TIMEOUT_SECONDS:g} s")
            message = consumer.poll(min(remaining_seconds, 1.0))
            if message is None:
                continue
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition())
            else:
                raise KafkaException(error)
    finally:
        consumer.close()


def _rank(value: Mapping[str, Any]) -> _Rank:
    return int(value["window_start_ms"]), Decimal(value["spend"]), Decimal(value["threshold"])


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _epoch_ms(text: str) -> int:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _sentence(error: KafkaException) -> str:
    cause = error.args[0]
    return f"Kafka: {cause.str() if isinstance(cause, KafkaError) else type(error).__name__}"
