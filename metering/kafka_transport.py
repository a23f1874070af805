"""Messages to a Kafka topic, through librdkafka.

Delivery: an idempotent producer that waits for all replicas in sync (`acks=all`), keyed by tenant with Java's
hash, so that an event and its copies share a partition, whichever client sent them. A message ends well when
the broker has acknowledged it. One that ends badly may have arrived all the same; it is sent again with the
same keys in it, and the job drops the copy. A crash loses what is only here: delivery holds it, and knows.

A topic's `max.message.bytes` bounds what the client joins to one batch, and the broker refuses all of that
alike. So after the first such refusal a client is made that joins nothing; only what is refused then is too
large itself.

Bounds: delivery's, on messages and bytes; `MESSAGE_TIMEOUT_SECONDS` on one attempt, reconnects at most every
`RECONNECT_SECONDS_MAX`, a new client at most every `RENEW_SECONDS`.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from metering.destination import KafkaDestination
from metering.transport import Busy, Handed, Unavailable

MESSAGE_TIMEOUT_SECONDS = 60
"""After this librdkafka gives a message back. Delivery has long spooled it, and hands it in again."""

RECONNECT_SECONDS_MAX = 2
RENEW_SECONDS = 5.0
LINGER_MS = 5  # delivery has collected its lines already: this joins messages of several tenants
BATCH_MESSAGES_MAX = 10_000  # librdkafka's default
QUEUE_KILOBYTES = 65_536  # twice what delivery holds, with librdkafka's own bytes a message


class KafkaTransport:
    """Connects with the first message. Nothing of it is the child's after a fork."""

    def __init__(self, destination: KafkaDestination) -> None:
        self._destination = destination
        self._producer: Any = None
        self._renew_at = 0.0
        self._has_to_renew = False
        self._is_each_alone = False
        self._failed = False
        self._trouble = ""

    def key_of(self, tenant_id: str) -> bytes:
        """The tenant: it decides on the partition."""
        return tenant_id.encode()

    def send(self, handed: Handed) -> None:
        """Give it to librdkafka's queue."""
        producer = self._connected()
        message, was_alone = handed.message, self._is_each_alone

        def ended(error: KafkaError | None, _: object) -> None:
            """What became of the message, as librdkafka tells it from within `poll` or `flush`."""
            if error is None:
                self._trouble = ""
                handed.ending = ""
                return
            self._failed = True
            handed.ending = f"Kafka: {error.str()}"
            if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                handed.is_too_large = was_alone
                self._has_to_renew = self._has_to_renew or not self._is_each_alone
                self._is_each_alone = True

        try:
            producer.produce(self._destination.topic, message.lines, message.key or None, on_delivery=ended)
        except BufferError:
            raise Busy from None
        except KafkaException as exc:
            error = exc.args[0]
            if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                self._failed, handed.is_too_large = True, True
                handed.ending = f"Kafka: {error.str()}"
                return
            self._on_error(error)
            raise Unavailable(f"Kafka: {error.str()}") from None

    def poll(self, timeout_seconds: float) -> bool:
        """Let librdkafka report."""
        if self._producer is not None:
            self._producer.poll(timeout_seconds)
            if self._has_to_renew:
                self._renew()
        failed, self._failed = self._failed, False
        return failed

    def sync(self) -> bool:
        """What the broker has acknowledged is safe."""
        return True

    def trouble(self) -> str:
        """What librdkafka last complained of, until a message arrives."""
        return self._trouble

    def close(self, timeout_seconds: float) -> None:
        """Wait for nothing that delivery has not waited for."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(timeout_seconds)
            self._producer = None

    def abandon(self) -> None:
        """Keep the parent's client from being destroyed here, where its threads do not exist, by a leak."""
        if self._producer is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._producer))
            self._producer = None

    def _connected(self) -> Any:
        if self._producer is None:
            now = time.monotonic()
            if now < self._renew_at:
                raise Unavailable(self._trouble or "Kafka: the client could not be made")
            self._renew_at = now + RENEW_SECONDS
            try:
                self._producer = confluent_kafka.Producer(self._config())
            except (OSError, UnicodeDecodeError) as exc:
                self._trouble = f"Kafka's password cannot be read: {type(exc).__name__}"
                raise Unavailable(self._trouble) from None
            except KafkaException as exc:
                self._trouble = f"Kafka: {exc.args[0].str()}"
                raise Unavailable(self._trouble) from None
        return self._producer

    def _config(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self._destination.bootstrap,
            **self._destination.security.client_config(),
            "client.id": "meterline",
            "enable.idempotence": True,  # acks=all, retries without end, order kept
            "partitioner": "murmur2_random",  # Java's; librdkafka's own default is another
            "compression.type": "lz4",
            "linger.ms": LINGER_MS,
            "batch.num.messages": 1 if self._is_each_alone else BATCH_MESSAGES_MAX,
            "message.timeout.ms": MESSAGE_TIMEOUT_SECONDS * 1000,
            "queue.buffering.max.kbytes": QUEUE_KILOBYTES,
            "reconnect.backoff.max.ms": RECONNECT_SECONDS_MAX * 1000,
            "log_level": 2,  # the application's standard error is not ours
            "error_cb": self._on_error,
        }

    def _on_error(self, error: KafkaError) -> None:
        self._trouble = f"Kafka: {error.str()}"
        self._has_to_renew = self._has_to_renew or error.fatal()

    def _renew(self) -> None:
        """Give up a client that cannot recover, or joins too much: its messages end; a new one is made."""
        self._producer.purge()
        self._producer.flush(1)
        self._producer = None
        self._has_to_renew = False
