"""Where a job reads, writes and keeps its state: from flags, then the environment, then the YAML file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from dataflows.file_source import InputError, find_files
from dataflows.kafka_source import KafkaTopic, find_partitions, parse_topic
from pricing.settings import Settings, WebhookSettings, card_names, load_settings
from sinks.clickhouse import ClickHouseAddress, parse_address
from sinks.webhook import Secret, WebhookEndpoint

CONFIG_ENV = "METERLINE_CONFIG"
SOURCE_ENV = "METERLINE_SOURCE"
CLICKHOUSE_ENV = "METERLINE_CLICKHOUSE_URL"
STATE_DIR_ENV = "METERLINE_STATE_DIR"
FOLLOW_ENV = "METERLINE_FOLLOW"

DEFAULT_CONFIG = "meterline.yaml"
SECRET_BYTES_MAX = 4096


class PlanError(Exception):
    """A connection is missing or cannot be meant. The message is one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class JobPlan:
    """All that a job needs to know before it touches anything.

    With `follow` the job goes on for ever (Kafka, unless told otherwise); without, it ends when it has
    read what was there when it started (files, unless told otherwise).
    """

    config: Path
    settings: Settings
    source: str
    clickhouse: ClickHouseAddress
    state_dir: Path
    follow: bool

    @property
    def kafka(self) -> KafkaTopic | None:
        """The topic, if the source is Kafka."""
        return parse_topic(self.source) if self.source.startswith("kafka://") else None


def read_settings(path: str) -> Settings:
    """Load `meterline.yaml`, and the rate cards that it names, relative to where it stands.

    Raises:
        PlanError: a file cannot be read.
        InvalidSettings: with every problem in them.
    """
    return load_settings(*config_texts(path, "config file"))


def config_texts(path: str, what: str) -> tuple[str, list[tuple[str, str]]]:
    """The text of a file that may have a `pricing` section; name and text of the rate cards that it names.

    Raises:
        PlanError: a file cannot be read; `what` says what the first one is.
    """
    text = _text_of(Path(path), what)
    beside = Path(path).parent
    files = [file for name in card_names(text) for file in _card_files(beside / name)]
    return text, [(os.path.relpath(file, beside), _text_of(file, "rate card")) for file in files]


def _card_files(path: Path) -> list[Path]:
    """The file itself, or the YAML files of a directory, by name."""
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml") and file.is_file())
    if not files:
        raise PlanError(f"the directory {path} has no rate card in it: a file that ends in .yaml or .yml")
    return files


def _text_of(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise PlanError(f"the {what} {path} is not UTF-8 text") from None
    except OSError as exc:
        raise PlanError(f"the {what} {path} cannot be read: {exc.strerror}") from None


def plan_job(environment: Mapping[str, str]) -> JobPlan:
    """A job's plan from the environment (flags are put there by the command line).

    Without a source, the broker's default address and the queue of the config file are meant.

    Raises:
        PlanError, InvalidSettings, InputError, ValueError: each with a sentence for the operator.
    """
    config = environment.get(CONFIG_ENV, DEFAULT_CONFIG)
    settings = read_settings(config)
    source = environment.get(SOURCE_ENV) or f"kafka://localhost:9092/{settings.metering.queue}"
    clickhouse = environment.get(CLICKHOUSE_ENV)
    if not clickhouse:
        raise PlanError(f"no ClickHouse is named: use --clickhouse or {CLICKHOUSE_ENV}")
    state_dir = environment.get(STATE_DIR_ENV)
    if not state_dir:
        raise PlanError(f"no state directory is named: use --state-dir or {STATE_DIR_ENV}")
    try:
        address = parse_address(clickhouse)
    except ValueError as exc:
        raise PlanError(str(exc)) from None
    follow = {"1": True, "0": False}.get(environment.get(FOLLOW_ENV, ""), source.startswith("kafka://"))
    if follow and source == "-":
        raise PlanError("standard input cannot be followed: it ends when it is closed")
    return JobPlan(Path(config), settings, source, address, Path(state_dir).absolute(), follow)


def find_inputs(plan: JobPlan) -> tuple[tuple[str, int], ...]:
    """The inputs that exist now, as (source, number).

    Raises:
        InputError: there are none, or the source is of no kind that is known.
    """
    topic = plan.kafka
    if topic is not None:
        return tuple((topic.topic, number) for number in find_partitions(topic))
    return tuple((path, 0) for path in find_files(file_pattern(plan.source)))


def file_pattern(source: str) -> str:
    """The path or glob of a file source.

    Raises:
        InputError: it has a scheme other than file, or names a host.
    """
    if source == "-":
        return source
    if source.startswith("file://"):
        path = source.removeprefix("file://").removeprefix("localhost")
        if not path.startswith("/"):
            raise InputError(
                "the source begins with file:// and a name, which would be a host: use "
                "file:///absolute/path, or the path alone"
            )
        return unquote(path)
    if "://" in source:
        raise InputError(
            f"the source begins with {source.split('://', 1)[0]}://; "
            "use kafka://host:port/topic, file:///path or -"
        )
    return source


def read_webhooks(
    webhooks: tuple[WebhookSettings, ...], environment: Mapping[str, str]
) -> list[WebhookEndpoint]:
    """Receivers with their secrets, which are read here and nowhere else.

    Raises:
        PlanError: a secret is missing or malformed; the sentence names where it should be.
    """
    endpoints = []
    for webhook in webhooks:
        secrets = []
        for where, text in _secret_texts(webhook, environment):
            try:
                secrets.append(Secret.parse(text))
            except ValueError as exc:
                raise PlanError(f"the webhook secret in {where} cannot be used: {exc}") from None
        try:
            endpoints.append(
                WebhookEndpoint(webhook.name, webhook.url, tuple(secrets), webhook.allow_private)
            )
        except ValueError as exc:
            raise PlanError(str(exc)) from None
    return endpoints


def _secret_texts(webhook: WebhookSettings, environment: Mapping[str, str]) -> list[tuple[str, str]]:
    found = []
    for name in webhook.secret_env:
        if not environment.get(name):
            raise PlanError(f"the webhook {webhook.name} wants its secret in {name}, which is not set")
        found.append((name, environment[name]))
    for file in webhook.secret_files:
        try:
            with Path(file).open(encoding="ascii") as stream:
                found.append((file, stream.read(SECRET_BYTES_MAX).strip()))
        except (OSError, UnicodeDecodeError) as exc:
            raise PlanError(f"the secret file {file} cannot be read: {type(exc).__name__}") from None
    return found


def process_environment() -> Mapping[str, str]:
    """The environment of this process."""
    return os.environ
