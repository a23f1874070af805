"""Flags that several commands share. Each stands for an environment variable, and wins over it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from dataflows.connections import CLICKHOUSE_ENV, CONFIG_ENV, SOURCE_ENV, STATE_DIR_ENV, PlanError
from dataflows.metrics import DEFAULT_HOST, HOST_ENV, PORT_ENV
from sinks.clickhouse import ClickHouseAddress, parse_address

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


EXIT_FAILED = 1


def say(text: str) -> None:
    """One line for the person at the terminal, beside the output."""
    click.echo(text, err=True)
