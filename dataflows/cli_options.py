"""What several commands share: flags, the ClickHouse that they name, and the forms of a table."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from clickhouse_connect.driver.client import Client

from dataflows.connections import CLICKHOUSE_ENV, CONFIG_ENV, SOURCE_ENV, STATE_DIR_ENV, PlanError
from dataflows.metrics import DEFAULT_HOST, HOST_ENV, PORT_ENV
from dataflows.report import ReportTable, render_csv, render_json, render_text
from sinks.clickhouse import ClickHouseAddress, connect, parse_address
from sinks.migrate import migrate

Command = TypeVar("Command", bound=Callable[..., Any])


def _option(flag: str, variable: str, text: str) -> Callable[[Command], Command]:
    """A flag that stands for an environment variable: given, it is put there."""

    def put(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
        if value is not None:
            os.environ[variable] = value
        return value

    return click.option(flag, metavar="…", callback=put, expose_value=False, help=f"{text} (or {variable})")


config_option = _option("--config", CONFIG_ENV, "the configuration, meterline.yaml by default")
source_option = _option(
    "--source", SOURCE_ENV, "kafka://host:port/topic, file:///path*.jsonl, or - for stdin"
)
clickhouse_option = _option(
    "--clickhouse", CLICKHOUSE_ENV, "clickhouse://user:password@host:port/db, or chdb:///dir"
)
state_option = _option("--state-dir", STATE_DIR_ENV, "where the job keeps what it must remember")
metrics_port_option = _option(
    "--metrics-port", PORT_ENV, "serve /metrics and /healthz here; worker n at port + n"
)
metrics_host_option = _option("--metrics-host", HOST_ENV, f"on this address, {DEFAULT_HOST} by default")


def clickhouse_address() -> ClickHouseAddress:
    """The address that the flag or the environment names.

    Raises:
        PlanError: none is named, or it cannot be meant.
    """
    url = os.environ.get(CLICKHOUSE_ENV)
    if not url:
        raise PlanError(f"no ClickHouse is named: use --clickhouse or {CLICKHOUSE_ENV}")
    try:
        return parse_address(url)
    except ValueError as exc:
        raise PlanError(str(exc)) from None


def existing_clickhouse() -> ClickHouseAddress:
    """The address of a ClickHouse that is only read: an embedded one is not made by looking at it.

    Raises:
        PlanError: its directory does not exist.
    """
    address = clickhouse_address()
    if address.embedded and not Path(address.directory).is_dir():
        raise PlanError(f"there is no embedded ClickHouse in {address.directory}")
    return address


@contextmanager
def connected_tables() -> Iterator[Client]:
    """A client of that ClickHouse, whose tables are up to date.

    Raises:
        PlanError, ClickHouseUnavailableError: it is not there.
    """
    client = connect(existing_clickhouse())
    try:
        migrate(client)
        yield client
    finally:
        client.close()


EXIT_FAILED = 1


def say(text: str) -> None:
    """One line for the person at the terminal, beside the output."""
    click.echo(text, err=True)


FORMS = {
    "text": lambda table: render_text(
        table, shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    ),
    "json": render_json,
    "csv": render_csv,
}
form_option = click.option(
    "--format", "form", type=click.Choice(list(FORMS)), default="text", show_default=True
)


def rendered(table: ReportTable, form: str) -> str:
    """A table in one of the `FORMS`."""
    return FORMS[form](table).rstrip("\n")


def show_progress(text: str) -> None:
    """Keep one line of progress on a terminal."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}\r", nl=False, err=True)
