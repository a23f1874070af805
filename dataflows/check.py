"""`meterline check`: everything that could stop a job, looked at without starting one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dataflows.card_file import compiled
from dataflows.connections import (
    CLICKHOUSE_ENV,
    CONFIG_ENV,
    DEFAULT_CONFIG,
    SOURCE_ENV,
    STATE_DIR_ENV,
    file_pattern,
    read_settings,
    read_webhooks,
)
from dataflows.file_source import InputError, find_files
from dataflows.kafka_source import find_partitions, parse_topic
from dataflows.recovery_store import check_store, has_store
from dataflows.state import StateLock, inspect_state
from pricing.rate_card import RateCard
from pricing.settings import InvalidSettings, Settings
from sinks.clickhouse import connect, parse_address
from sinks.migrate import migrations


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: fine or not, and what there is to say of it."""

    what: str
    ok: bool
    lines: tuple[str, ...]


def check_everything(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Findings on the configuration, webhook secrets, the source, ClickHouse and the state directory."""
    settings: Settings | None = None
    path = environment.get(CONFIG_ENV, DEFAULT_CONFIG)
    try:
        settings = read_settings(path)
    except InvalidSettings as exc:
        yield Finding(f"config {path}", ok=False, lines=tuple(str(problem) for problem in exc.problems))
    except Exception as exc:  # noqa: BLE001  # whatever is wrong is a finding
        yield Finding("config", ok=False, lines=(str(exc),))
    if settings is not None:
        known = settings
        card = compiled(known.pricing)
        yield Finding(f"config {path}", ok=True, lines=(_described(card),))
        yield _look("webhooks", lambda: _webhooks(known, environment))
    queue = settings.metering.queue if settings is not None else "ai-metering-events"
    source = environment.get(SOURCE_ENV) or f"kafka://localhost:9092/{queue}"
    yield _look("source", lambda: _source(source))
    yield _look("clickhouse", lambda: _clickhouse(environment))
    yield _look("state", lambda: _state(environment))


def _described(card: RateCard) -> str:
    contracts = f", {len(card.contracts)} contracts" if card.contracts else ""
    return f"{len(card.rules)} rules{contracts}, rate card {card.version}"


def _look(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, ok=True, lines=(look(),))
    except Exception as exc:  # noqa: BLE001  # whatever is wrong is a finding
        return Finding(what, ok=False, lines=(str(exc),))


def _webhooks(settings: Settings, environment: Mapping[str, str]) -> str:
    endpoints = read_webhooks(settings.alerts.webhooks, environment)
    return f"{len(endpoints)} receivers, secrets in place" if endpoints else "none configured"


def _source(source: str) -> str:
    if source.startswith("kafka://"):
        topic = parse_topic(source)
        return f"topic {topic.topic} at {topic.bootstrap} has {len(find_partitions(topic))} partitions"
    if source == "-":
        return "standard input"
    count = len(find_files(file_pattern(source)))
    return f"{count} file{'' if count == 1 else 's'}"


def _clickhouse(environment: Mapping[str, str]) -> str:
    url = environment.get(CLICKHOUSE_ENV)
    if not url:
        raise InputError(f"no ClickHouse is named: use --clickhouse or {CLICKHOUSE_ENV}")
    address = parse_address(url)
    client = connect(address)
    try:
        done = set()
        if client.query("EXISTS TABLE schema_migrations").result_rows[0][0]:
            done = {row[0] for row in client.query("SELECT number FROM schema_migrations").result_rows}
        missing = [one for one in migrations() if one.number not in done]
        told = f"{len(missing)} migrations to apply (the job does it)" if missing else "tables up to date"
        return f"{address} answers as version {client.server_version}; {told}"
    finally:
        client.close()


def _state(environment: Mapping[str, str]) -> str:
    name = environment.get(STATE_DIR_ENV)
    if not name:
        raise InputError(f"no state directory is named: use --state-dir or {STATE_DIR_ENV}")
    directory = Path(name).absolute()
    if not directory.exists():
        parent = next(one for one in directory.parents if one.exists())
        if not parent.is_dir():
            raise InputError(f"{directory} cannot be made: {parent} is a file")
        if not os.access(parent, os.W_OK):
            raise InputError(f"{directory} does not exist, and {parent} cannot be written to")
        return f"{directory} will be made"
    try:
        lock = StateLock.acquire(directory)
    except OSError as exc:
        raise InputError(f"the state directory {directory} cannot be used: {exc.strerror}") from None
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
        inspect_state(directory)
        recovery = directory / "recovery"
        if has_store(recovery):
            check_store(recovery)
    finally:
        lock.release()
    return f"{directory} is free and writable"
