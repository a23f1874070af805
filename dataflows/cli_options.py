"""Flags that several commands share. Each stands for an environment variable, and wins over it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from dataflows.connections import CLICKHOUSE_ENV, CONFIG_ENV, SOURCE_ENV, STATE_DIR_ENV
from dataflows.metrics import DEFAULT_HOST, HOST_ENV, PORT_ENV

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
