"""The command `meterline statement`."""

from __future__ import annotations

import os
from datetime import date

import click

from dataflows.alerts import wall_clock_ms
from dataflows.cli_options import clickhouse_option, config_option, existing_clickhouse
from dataflows.connections import CONFIG_ENV, DEFAULT_CONFIG, read_settings
from dataflows.statement import (
    UnknownTenantError,
    read_statement,
    statement_csv,
    statement_json,
    statement_text,
)
from pricing import settings_keys as read
from sinks.clickhouse import connect
from sinks.migrate import migrate

FORMATS = {"text": statement_text, "json": statement_json, "csv": statement_csv}


def _month(_: click.Context, __: click.Parameter, value: str) -> date:
    try:
        return read.month(value)
    except read.Unfit as unfit:
        raise click.BadParameter(f"it {unfit}") from None


def _tenant(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes of the shell that are no UTF-8 arrive as surrogates
        raise click.BadParameter("it is not UTF-8 text") from None
    return value


@click.command(name="statement")
@config_option
@clickhouse_option
@click.argument("tenant", callback=_tenant)
@click.argument("month", callback=_month)
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="text", show_default=True)
def statement_command(tenant: str, month: date, form: str) -> None:
    """Show what a tenant owes for a month, such as 2026-11: lines that sum exactly to the total."""
    settings = read_settings(os.environ.get(CONFIG_ENV, DEFAULT_CONFIG))
    client = connect(existing_clickhouse())
    try:
        migrate(client)
        statement = read_statement(client, settings, tenant, month, wall_clock_ms())
    except UnknownTenantError as exc:
        raise click.UsageError(str(exc)) from None
    finally:
        client.close()
    click.echo(FORMATS[form](statement).rstrip("\n"))
