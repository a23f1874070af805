"""The state directory: who holds it, which inputs it knows, and the numbers that must never change.

Layout: `lock` · `job.json` · `topics.json` (the Kafka topics, by their identity) · `recovery/` (Bytewax) ·
`dedupe/shard-NN/` · `spend/shard-NN/` (segment files) · `staged/` (blocks on their way to ClickHouse) ·
`outbox.sqlite3` · `requeue/` (lines out of quarantine) · `crash-N.log` (what the engine of worker N wrote on
standard error, and what failed it) · `REBUILDING` (the state is being made anew) · `before-rebuild-TIME/`
(what stood there before). Nothing deletes the last of these: they are the operator's.

`job.json` is written once, and then inputs and sink partitions are added: the hash seed and the number of
shards decide where an event's key belongs, the shards' own keys where Bytewax keeps them, and each input
keeps its ordinal for ever, because dedupe entries hold it. It holds a checksum of itself: with another
seed every key would look new, and be priced again.
Delivery: it is replaced by rename after an fsync; a crash leaves the old or the new file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dataflows.batch import Partition
from dataflows.recovery_store import has_store, make_store
from dataflows.routing import shard_keys
from dataflows.segments import CorruptStateError, fsync_directory

SHARDS = 8
"""Virtual shards of dedupe and of spend: the most workers that can share the work of one job."""

FORMAT = 2
"""Of `job.json`. A file that tells none is of the first: it has a number of shards or, later, their keys."""

PARTITIONS_MAX = 65_535
"""Inputs that one state directory can ever know: their ordinals are 16-bit."""

OUTBOX = "outbox.sqlite3"

LOCK_HELD_ENV = "METERLINE_STATE_LOCKED_BY"
"""Set by the process that holds the lock for the workers that it starts."""


class TopicNotRecognisedError(Exception):
    """The topic is not, or cannot be told to be, the one that the state knows. The message is a sentence."""


class NewerStateError(Exception):
    """The state was written by a version that knows more. The message is a sentence."""


class StateHeldError(Exception):
    """Another job, or workers that it left, have the state directory. The message names its process."""


@dataclass(frozen=True, slots=True)
class JobState:
    """What `job.json` holds."""

    directory: Path
    hash_seed: int
    shard_keys: tuple[str, ...]
    """The keys under which Bytewax knows the shards, by their numbers; of dedupe and of spend alike."""
    sink_partitions: int
    progress_partitions: int
    """How many of these keep the progress of inputs: as many as there were when the state began, since what
    one of them remembers of an input cannot be moved to another."""
    generation: int
    """Of the sums of spend: those of a greater one prevail (see `sinks.rows.window_rows`)."""
    partitions: Mapping[str, Partition]

    @property
    def shards(self) -> int:
        """How many shards of keys there are, and of tenants."""
        return len(self.shard_keys)

    @property
    def recovery(self) -> Path:
        """Bytewax's recovery store."""
        return self.directory / "recovery"

    @property
    def outbox(self) -> Path:
        """Alerts on their way out."""
        return self.directory / OUTBOX


def _told(holder: str) -> str:
    """Who holds the lock, by the process number that stands in it.

    One that is not there has ended and left its workers, which share the lock; or it runs elsewhere: another
    container has numbers of its own.
    """
    gone = ""
    try:
        os.kill(int(holder), 0)
    except ProcessLookupError:
        gone = ", which does not run here: if it has ended, its workers end within a minute"
    except (ValueError, OverflowError, OSError):
        pass  # not written yet, or somebody else's process
    return f"another Meterline job (process {holder}{gone})"


class StateLock:
    """An exclusive hold on a state directory, for the life of the process or until `release`."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def acquire(cls, directory: Path) -> StateLock:
        """Take the lock.

        Raises:
            StateHeldError: another process has it.
        """
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StateHeldError(f"the state directory {directory} is in use by {_told(holder)}") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        return cls(descriptor)

    def release(self) -> None:
        """Let the next job in."""
        os.close(self.descriptor)


MARKER_OF_REBUILD = "REBUILDING"
"""A file that stands in the state directory while its state is being rebuilt."""

REBUILD_TOKEN = uuid.uuid4().hex
"""What the marker holds: it lets in the process that rebuilds, and no later one of the same number."""


def open_state(
    directory: Path, inputs: Iterable[tuple[str, int]], sink_partitions: int, generation: int = 0
) -> JobState:
    """Open or begin a state directory, with these inputs (source, number) added to those it knows.

    Call it with the lock held. `sink_partitions` may grow from run to run, never shrink: a block
    that is staged for one must find it again. `generation` is that of a state which begins here.

    Raises:
        CorruptStateError: `job.json` is missing beside other state, is altered, or cannot be read.
        NewerStateError: a newer version wrote it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    inspect_state(directory)
    path = directory / "job.json"
    known = _read(path, generation)
    partitions = {partition.name: partition for partition in known.partitions.values()}
    for source, number in inputs:
        partition = Partition(len(partitions), source, number)
        partitions.setdefault(partition.name, partition)
    if len(partitions) > PARTITIONS_MAX:
        raise CorruptStateError(f"{directory} would know more than {PARTITIONS_MAX} inputs: begin a new one")
    state = replace(
        known,
        sink_partitions=max(known.sink_partitions, sink_partitions),
        progress_partitions=known.progress_partitions or sink_partitions,
        partitions=MappingProxyType(partitions),
    )
    if state != known or not path.exists():
        _write(path, state)
    if not has_store(state.recovery):
        make_store(state.recovery)
    return state


def inspect_state(directory: Path) -> None:
    """Look at what there is of a state, and change nothing.

    Raises:
        CorruptStateError: it was being rebuilt; `job.json` is damaged, or missing beside a recovery store;
            the recovery store is missing beside segments.
        NewerStateError: as `open_state`.
    """
    marker = directory / MARKER_OF_REBUILD
    if marker.exists() and marker.read_text() != REBUILD_TOKEN:
        raise CorruptStateError(f"the state in {directory} was being rebuilt when that job ended")
    path = directory / "job.json"
    recovery = directory / "recovery"
    if path.exists():
        _read(path, 0)
    elif has_store(recovery):
        # A new seed would make every key look new, to a job that resumes behind them.
        raise CorruptStateError(f"the state file {path} is missing")
    if not has_store(recovery) and any(directory.glob("*/shard-*/*.segment")):
        raise CorruptStateError(f"the recovery store {recovery} is missing beside its segments")


def recognise_topic(directory: Path, topic: str, identity: str) -> None:
    """Remember the identity of a topic at the first run, and insist on it at each later one.

    Offsets mean nothing in a topic that was deleted and created anew, even if it has as many.

    Raises:
        TopicNotRecognisedError: the topic is another one than the state was written for, or the note of it
            cannot be read.
    """
    if not identity:
        return
    path = directory / "topics.json"
    try:
        known: dict[str, str] = _read_json(path) if path.exists() else {}
    except (ValueError, OSError):
        raise TopicNotRecognisedError(
            f"the state file {path} is damaged: remove it to accept the topic as it is"
        ) from None
    if known.get(topic, identity) != identity:
        raise TopicNotRecognisedError(
            f"the Kafka topic {topic} was created anew since {directory} was written (its id was "
            f"{known[topic]} and is {identity}): nothing was read; begin with a new state directory"
        )
    if topic not in known:
        _write_json(path, {**known, topic: identity})


def _read(path: Path, generation: int) -> JobState:
    """What the file holds; the beginning of a state of this generation where there is none."""
    if not path.exists():
        seed, keys = secrets.randbits(63), shard_keys(SHARDS)
        return JobState(path.parent, seed, keys, 0, 0, generation, MappingProxyType({}))
    try:
        content = _read_json(path)
        _insist_on_known_format(path.parent, int(content.get("format", 1)))
        partitions = [
            Partition(ordinal, entry["source"], entry["number"])
            for ordinal, entry in enumerate(content["partitions"])
        ]
        return JobState(
            path.parent,
            int(content["hash_seed"]),
            _shard_keys(content),
            int(content["sink_partitions"]),
            int(content.get("progress_partitions", content["sink_partitions"])),
            int(content["generation"]),
            MappingProxyType({partition.name: partition for partition in partitions}),
        )
    except OSError as exc:
        raise CorruptStateError(f"the state file {path} cannot be read: {exc.strerror}") from None
    except (ValueError, KeyError, TypeError) as exc:
        raise CorruptStateError(f"the state file {path} is damaged: {exc}") from None


def _insist_on_known_format(directory: Path, found: int) -> None:
    if found > FORMAT:
        raise NewerStateError(
            f"the state in {directory} was written by a newer version of Meterline (its format is {found}, "
            f"and this one knows {FORMAT} at most): use that version"
        )


def _shard_keys(content: dict[str, Any]) -> tuple[str, ...]:
    if "shard_keys" in content:
        return tuple(map(str, content["shard_keys"]))
    # A state that was begun before keys were chosen to spread: under these its shards are known.
    return tuple(f"{number:02d}" for number in range(int(content["shards"])))


def _write(path: Path, state: JobState) -> None:
    content = {
        "format": FORMAT,
        "hash_seed": state.hash_seed,
        "shard_keys": state.shard_keys,
        "sink_partitions": state.sink_partitions,
        "progress_partitions": state.progress_partitions,
        "generation": state.generation,
        "partitions": [
            {"source": partition.source, "number": partition.number}
            for partition in state.partitions.values()
        ],
    }
    _write_json(path, content)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    draft = path.with_suffix(".tmp")
    with draft.open("w", encoding="utf-8") as file:
        json.dump({"checksum": _checksum(content), **content}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    fsync_directory(path.parent)


def _read_json(path: Path) -> dict[str, Any]:
    """Inverse of `_write_json`.

    Raises:
        ValueError: the content is not what was written.
        OSError: the file cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError("it is not JSON") from None
    told = content.pop("checksum", None) if isinstance(content, dict) else None
    if told is None or told != _checksum(content):
        raise ValueError("its checksum is wrong")
    found: dict[str, Any] = content
    return found


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
