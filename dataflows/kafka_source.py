"""A Kafka topic as a source: one Bytewax partition a Kafka partition, one item a poll.

Delivery: the snapshot of a partition is the offset after the last message that left in the epoch. A
crash before it is durable reads from the older offset again. The group's committed offsets are for
lag tools only: they follow the snapshots once those are durable, and are never resumed from. An
offset that the broker no longer has stops the job (`auto.offset.reset=error`): jumping over what was
not read would lose it in silence.

Bounds: `POLL_MESSAGES` a poll, 16 MB of prefetch a partition (`PREFETCH`), `FETCH_WAIT_MS_MAX` for the
broker to collect a fetch, `METADATA_TIMEOUT_SECONDS` for the first answer of a broker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit

import numpy as np
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from dataflows.batch import Partition, RawBatch
from dataflows.counters import PROCESS
from dataflows.file_source import AbsentPartition, FileState, InputError, InputUnavailableError
from dataflows.lifecycle import EpochLifecycle, Turn
from dataflows.lines import split_lines

POLL_MESSAGES = 50_000
PREFETCH: Mapping[str, str | int | bool] = {
    "queued.max.messages.kbytes": 16_384,
    # How soon after the queue was full more is asked for. By default librdkafka lets a second pass, in most
    # of which a worker that has emptied the queue stands idle.
    "fetch.queue.backoff.ms": 10,
}
FETCH_BYTES_MIN = 1 << 19
FETCH_WAIT_MS_MAX = 100
"""The broker answers a fetch when it has so many bytes, and at the latest after so long: small batches when
little comes, large ones under load. With 100,000 events a second in four partitions the worker takes a fifth
less time than with 50 ms."""
METADATA_TIMEOUT_SECONDS = 10
GROUP = "meterline"

_IDLE = timedelta(milliseconds=5)
_PASSING = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
"""Errors that librdkafka recovers from by itself; the partition waits meanwhile."""

_log = logging.getLogger(__name__)


_NO_IDENTITY = "AAAAAAAAAAAAAAAAAAAAAA"  # the id of all zeros: brokers before Kafka 2.8


@dataclass(frozen=True, slots=True)
class KafkaTopic:
    """Where events come from: `kafka://host:port[,host:port]/topic`."""

    bootstrap: str
    topic: str

    @property
    def client_config(self) -> dict[str, str | int | bool]:
        """What every client of this broker needs."""
        # librdkafka would write every attempt to connect on standard error; we say it once, in a sentence.
        return {"bootstrap.servers": self.bootstrap, "log_level": 2}


def parse_topic(url: str) -> KafkaTopic:
    """Read a `kafka://` URL.

    Raises:
        InputError: it names no broker or no topic.
    """
    if "@" in url:  # what follows is shown in errors
        raise InputError("a kafka:// source takes no user and no password")
    parts = urlsplit(url)
    topic = parts.path.strip("/")
    if not parts.netloc or not topic or "/" in topic:
        raise InputError(f"{url} is not kafka://host:port/topic")
    return KafkaTopic(parts.netloc, topic)


def find_partitions(topic: KafkaTopic) -> tuple[int, ...]:
    """The partitions that the topic has now.

    Raises:
        InputUnavailableError: no broker answers.
        InputError: the topic does not exist.
    """
    consumer = Consumer({**topic.client_config, "group.id": GROUP})
    try:
        metadata = consumer.list_topics(topic.topic, timeout=METADATA_TIMEOUT_SECONDS)
    except KafkaException:
        raise InputUnavailableError(f"no Kafka broker answers at {topic.bootstrap}") from None
    finally:
        consumer.close()
    found = metadata.topics[topic.topic]
    if found.error is not None or not found.partitions:
        raise InputError(f"the Kafka topic {topic.topic} does not exist at {topic.bootstrap}")
    return tuple(sorted(found.partitions))


def topic_identity(topic: KafkaTopic) -> str:
    """The id that the broker gave the topic when it was created; empty where it has none to tell.

    Raises:
        InputUnavailableError: no broker answers.
    """
    admin = AdminClient({**topic.client_config})
    try:
        known = admin.list_topics(topic.topic, timeout=METADATA_TIMEOUT_SECONDS)
        if known.controller_id not in known.brokers:
            _log.warning("the brokers tell no topic ids: a topic created anew would not be recognised")
            return ""
        name = TopicCollection([topic.topic])
        described = admin.describe_topics(name, request_timeout=METADATA_TIMEOUT_SECONDS)[
            topic.topic
        ].result()
    except KafkaException as exc:
        raise InputUnavailableError(
            f"Kafka at {topic.bootstrap} does not describe {topic.topic}: {exc}"
        ) from None
    identity = str(described.topic_id or "")
    return "" if identity == _NO_IDENTITY else identity


def oldest_offset(topic: KafkaTopic, number: int) -> int:
    """The offset of the oldest message that a partition still has.

    Raises:
        InputUnavailableError: the broker does not say.
    """
    consumer = Consumer({**topic.client_config, "group.id": GROUP})
    try:
        oldest, _ = consumer.get_watermark_offsets(
            TopicPartition(topic.topic, number), timeout=METADATA_TIMEOUT_SECONDS
        )
    except KafkaException as exc:
        raise InputUnavailableError(
            f"Kafka does not say what {topic.topic}/{number} still has: {exc}"
        ) from None
    finally:
        consumer.close()
    return int(oldest)


class KafkaPartition(StatefulSourcePartition[RawBatch, FileState]):
    """One partition of a topic. `end_offset`, where given, ends it there."""

    def __init__(
        self,
        partition: Partition,
        consumer: Consumer,
        next_offset: int | None,
        end_offset: int | None,
        now_ms: Callable[[], int],
    ) -> None:
        self._partition = partition
        self._consumer = consumer
        self._next_offset = next_offset
        self._end_offset = end_offset
        self._now_ms = now_ms
        self._lifecycle = EpochLifecycle()
        self._awake_at: datetime | None = None
        self._live = True
        self._end_seen = 0
        self._durable: list[int | None] = [None]

    def next_batch(self) -> list[RawBatch]:
        """What the consumer has prefetched; when idle, one heartbeat an epoch."""
        self._awake_at = None
        turn = self._lifecycle.turn()
        if turn is Turn.READ:
            messages = self._poll()
            if messages:
                self._lifecycle.sent()
                return [self._batch(messages)]
            if self._at_end():
                self._lifecycle.end_of_input()
            self._awake_at = datetime.now(timezone.utc) + _IDLE
            turn = self._lifecycle.idle_turn()
        if turn is Turn.END:
            raise StopIteration
        if turn is Turn.WAIT:
            self._awake_at = datetime.now(timezone.utc) + _IDLE
            return []
        self._lifecycle.sent()
        return [RawBatch.heartbeat(self._partition, self._next_offset or 0, live=self._live)]

    def next_awake(self) -> datetime | None:
        """Poll again in a few milliseconds when there was nothing."""
        return self._awake_at

    def snapshot(self) -> FileState:
        """The next offset. The one of the epoch before is durable by now, and is committed."""
        self._lifecycle.close_epoch()
        durable = self._durable.pop(0)
        self._durable.append(self._next_offset)
        if durable is not None:
            self._commit(durable)
        self._tell_lag()
        return (-1 if self._next_offset is None else self._next_offset, 0, 0)

    def _tell_lag(self) -> None:
        """Note how much is left to read, as the last fetch said: no question to the broker."""
        topic = TopicPartition(self._partition.source, self._partition.number)
        low, high = self._consumer.get_watermark_offsets(topic, cached=True) or (0, 0)
        if high >= 0:
            lag = max(0, high - max(self._next_offset or 0, low))
            PROCESS.lag[self._partition.source, self._partition.number] = lag

    def close(self) -> None:
        """Leave the broker. Nothing is committed here: this epoch may never become durable."""
        self._consumer.close()

    def _at_end(self) -> bool:
        # The last offsets may be control records, which end a transaction and are no messages.
        return (
            self._end_offset is not None and max(self._next_offset or 0, self._end_seen) >= self._end_offset
        )

    def _commit(self, offset: int) -> None:
        try:
            self._consumer.commit(
                offsets=[TopicPartition(self._partition.source, self._partition.number, offset)],
                asynchronous=True,
            )
        except KafkaException as exc:
            _log.warning("offsets for lag tools were not committed", extra={"reason": str(exc)})

    def _poll(self) -> list[Message]:
        if self._at_end():
            return []
        messages = []
        for message in self._consumer.consume(POLL_MESSAGES, timeout=0):
            error = message.error()
            if error is None:
                if self._end_offset is None or (message.offset() or 0) < self._end_offset:
                    messages.append(message)
                self._live = True
            elif error.code() == KafkaError._PARTITION_EOF:
                self._live = False
                self._end_seen = message.offset() or 0
            elif error.code() not in _PASSING:
                raise self._refusal(error)
        return messages

    def _refusal(self, error: KafkaError) -> InputError:
        name = self._partition.name
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            return InputError(
                f"Kafka no longer has offset {self._next_offset} of {name}: messages were deleted before "
                "they were read; nothing was skipped, and the job has stopped. "
                "`meterline run --rebuild-state` goes on with what is left"
            )
        return InputUnavailableError(f"Kafka refuses to serve {name}: {error.str()}")

    def _batch(self, messages: list[Message]) -> RawBatch:
        values = [message.value() or b"" for message in messages]
        offsets = np.array([message.offset() for message in messages], np.int64)
        clock = self._now_ms()
        arrivals = np.array(
            [stamp if kind else clock for kind, stamp in (message.timestamp() for message in messages)],
            np.int64,
        )
        self._next_offset = int(offsets[-1]) + 1
        lines = split_lines(b"\n".join([*values, b""]))
        if len(lines) == len(values):
            numbers = np.zeros(len(values), np.int32)
        else:
            message_ends = np.cumsum(np.fromiter(map(len, values), np.int64, len(values)) + 1)
            counts = np.diff(np.searchsorted(lines.ends, message_ends), prepend=0)
            firsts = np.repeat(np.cumsum(counts) - counts, counts)
            numbers = (np.arange(len(firsts)) - firsts).astype(np.int32)
            offsets, arrivals = np.repeat(offsets, counts), np.repeat(arrivals, counts)
        return RawBatch(
            self._partition,
            lines,
            offsets,
            numbers,
            arrivals,
            self._next_offset,
            self._live,
            age_limited=True,
        )


@dataclass(frozen=True)
class KafkaSource(FixedPartitionedSource[RawBatch, FileState]):
    """The topic's partitions as found at start, among all inputs that the state directory knows.

    Without `follow` the job ends where the topic ended when it started.
    """

    topic: KafkaTopic
    partitions: Mapping[str, Partition]
    chosen: frozenset[str]
    follow: bool
    now_ms: Callable[[], int]

    def list_parts(self) -> list[str]:
        """Every input ever known: Bytewax cannot resume with fewer than it has state for."""
        return list(self.partitions)

    def build_part(
        self, step_id: str, for_part: str, resume_state: FileState | None
    ) -> StatefulSourcePartition[RawBatch, FileState]:
        """Assign the partition at the offset that the last durable epoch left."""
        if for_part not in self.chosen:
            return AbsentPartition(resume_state)
        partition = self.partitions[for_part]
        offset = resume_state[0] if resume_state is not None and resume_state[0] >= 0 else None
        consumer = Consumer(
            {
                **self.topic.client_config,
                "group.id": GROUP,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                **PREFETCH,
                # Many a fetch for a few messages each would keep broker and worker busy with nothing.
                "fetch.min.bytes": FETCH_BYTES_MIN,
                "fetch.wait.max.ms": FETCH_WAIT_MS_MAX,
            }
        )
        start = OFFSET_BEGINNING if offset is None else offset
        consumer.assign([TopicPartition(partition.source, partition.number, start)])
        end = None
        if not self.follow:
            where = TopicPartition(partition.source, partition.number)
            _, end = consumer.get_watermark_offsets(where, timeout=METADATA_TIMEOUT_SECONDS)
        return KafkaPartition(partition, consumer, offset, end, self.now_ms)
