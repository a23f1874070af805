"""The `meterline` command.

Exit codes: 0 done · 1 refused or failed, with a sentence on standard error · 2 wrong usage · 3 the audit
found a break · 130 interrupted.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from clickhouse_connect.driver.exceptions import ClickHouseError

from dataflows.alerts import wall_clock_ms
from dataflows.audit import audit, verdict
from dataflows.audit_money import Check
from dataflows.check import check_everything
from dataflows.cli_options import (
    EXIT_FAILED,
    FORMS,
    clickhouse_address,
    clickhouse_option,
    config_option,
    existing_clickhouse,
    form_option,
    rendered,
    show_progress,
    source_option,
    state_option,
)
from dataflows.cli_rates import rates
from dataflows.cli_rating import COMMANDS
from dataflows.cli_run import run_command, worker_command
from dataflows.cli_statement import statement_command
from dataflows.connections import (
    CONFIG_ENV,
    DEFAULT_CONFIG,
    SOURCE_ENV,
    PlanError,
    read_settings,
)
from dataflows.demo import run_demo
from dataflows.kafka_source import parse_topic
from dataflows.report import (
    DIMENSIONS,
    REPORTS,
    ROWS_MAX,
    ReportTable,
    margin_report,
)
from dataflows.requeue import finish_begun, requeue, waiting_lines
from dataflows.requeue_file import describe, export_lines, read_repaired
from dataflows.run import JobFailedError, log_to_stderr, run_job
from dataflows.start import OPERATOR_ERRORS, prepare
from metering.event import QuarantineReason
from pricing.settings import thresholds
from sinks.clickhouse import ClickHouseUnavailableError, connect, first_line
from sinks.migrate import migrate

EXIT_AUDIT_BROKEN = 3

_FORMAT_CLAUSE = re.compile(r"\bFORMAT\s+\w+[\s;]*\Z", re.IGNORECASE)


class Meterline(click.Group):
    """Turns errors that are written for the operator into one sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (*OPERATOR_ERRORS, JobFailedError) as exc:
            click.echo(f"meterline: {exc}", err=True)
            ctx.exit(EXIT_FAILED)
        except ClickHouseError as exc:
            click.echo(f"meterline: ClickHouse failed: {first_line(exc)}", err=True)
            ctx.exit(EXIT_FAILED)
        except KeyboardInterrupt:
            click.echo("meterline: interrupted; the next run goes on from the last durable epoch", err=True)
            ctx.exit(130)


@click.group(cls=Meterline)
@click.version_option(package_name="meterline")
def main() -> None:
    """Turn raw AI usage events into money you can trust."""
    log_to_stderr()


@main.command(name="migrate")
@clickhouse_option
def migrate_command() -> None:
    """Create the tables and views, or bring them up to date."""
    client = connect(clickhouse_address())
    try:
        applied = migrate(client)
    finally:
        client.close()
    for migration in applied:
        click.echo(f"applied {migration.number:04d} {migration.name}")
    click.echo("the tables are up to date")


@main.command()
@config_option
@source_option
@clickhouse_option
@state_option
def check() -> None:
    """Look at the configuration and every connection, and report all problems in one go."""
    problems = 0
    for finding in check_everything(os.environ):
        problems += not finding.ok
        for line in finding.lines:
            click.echo(f"{'ok ' if finding.ok else 'BAD'} {finding.what}: {line}")
    if problems:
        sys.exit(EXIT_FAILED)


main.add_command(run_command)
main.add_command(worker_command)


@main.command()
@clickhouse_option
@click.argument("what", type=click.Choice(["margin", *REPORTS]))
@click.option(
    "--by", type=click.Choice(list(DIMENSIONS)), default="model", show_default=True, help="of margin"
)
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="first day (UTC) of margin")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="day after the last of margin")
@click.option("--limit", type=click.IntRange(1, ROWS_MAX), default=50, show_default=True)
@form_option
def report(what: str, by: str, since: datetime | None, until: datetime | None, limit: int, form: str) -> None:
    """Show margin, losing tenants, what was dropped or waits for a rate, spend against caps, or alerts."""
    client = connect(existing_clickhouse())
    try:
        migrate(client)
        if what == "margin":
            days = (since.date() if since else None, until.date() if until else None)
            table = margin_report(client, by, *days, limit=limit)
        else:
            table = REPORTS[what](client, limit)
    finally:
        client.close()
    click.echo(rendered(table, form))


main.add_command(statement_command)


@main.command(name="clickhouse")
@click.option(
    "--path",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="directory of the database; made if it is not there",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8123, show_default=True, help="0 takes a free one"
)
def clickhouse_command(directory: Path, port: int) -> None:
    """Serve a development database: the embedded ClickHouse over HTTP, on 127.0.0.1 alone, with no login.

    Several workers, SQL clients and a dashboard can share it. For production, use a ClickHouse server.
    """
    try:
        # The embedded engine is an extra, which the other commands do without.
        from sinks.clickhouse_server import HOST, serve  # noqa: PLC0415
    except ImportError as exc:
        raise ClickHouseUnavailableError(
            "the embedded ClickHouse is not installed: pip install 'meterline[pipeline,embedded]'"
        ) from exc

    def announce(bound: int) -> None:
        click.echo(f"ClickHouse answers at http://{HOST}:{bound} (clickhouse://{HOST}:{bound}/meterline)")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    serve(directory.absolute(), port, announce)


@main.command(name="requeue")
@config_option
@source_option
@clickhouse_option
@state_option
@click.option(
    "--reason", type=click.Choice([reason.value for reason in QuarantineReason]), help="lines of this reason"
)
@click.option("--tenant", default="", help="of this tenant alone")
@click.option(
    "--export", type=click.Path(path_type=Path, dir_okay=False), help="write them here for repair, no more"
)
@click.option(
    "--from",
    "repaired",
    type=click.Path(path_type=Path, dir_okay=False),
    help="put through what was exported and repaired",
)
def requeue_command(reason: str | None, tenant: str, export: Path | None, repaired: Path | None) -> None:
    """Put quarantined lines through the job again: those that can be priced by now, or were repaired.

    The job that uses the state directory must be stopped meanwhile. What cannot be priced stays in
    quarantine. Doing it again does nothing more.
    """
    if (reason is None) == (repaired is None):
        raise click.UsageError("give --reason, or --from with a repaired export")
    if tenant and repaired is not None:
        raise click.UsageError("--tenant goes with --reason: --from puts through what the file holds")
    if export is not None:
        if reason is None:
            raise click.UsageError("--export needs --reason")
        client = connect(existing_clickhouse())
        try:
            count = export_lines(waiting_lines(client, reason, tenant), export)
        finally:
            client.close()
        click.echo(f"{count} lines written to {export}: repair `raw`, then requeue --from {export}")
        return
    job = prepare(os.environ)
    client = connect(job.plan.clickhouse)
    try:
        begun = finish_begun(job, client, run_job)
        pages = (
            read_repaired(repaired) if repaired is not None else waiting_lines(client, reason or "", tenant)
        )
        done = requeue(job, client, pages, wall_clock_ms(), run_job)
    finally:
        client.close()
    for text in describe(done, begun):
        click.echo(text)


@main.command(name="audit")
@config_option
@source_option
@clickhouse_option
@state_option
def audit_command() -> None:
    """Count again from the sources and from ClickHouse, and prove that nothing was lost or doubled."""
    settings = read_settings(os.environ.get(CONFIG_ENV, DEFAULT_CONFIG))
    source = os.environ.get(SOURCE_ENV, "")
    topic = parse_topic(source) if source.startswith("kafka://") else None
    client = connect(existing_clickhouse())
    found: list[Check] = []
    try:
        migrate(client)
        hours = settings.metering.idempotency_window_hours
        for check in audit(client, topic, thresholds(settings), hours, show_progress):
            found.append(check)
            mark = "BROKEN" if not check.ok else "open  " if check.unproved else "ok    "
            click.echo(f"{mark} {check.name}: {check.detail}")
    finally:
        client.close()
    click.echo(verdict(found))
    if not all(check.ok for check in found):
        sys.exit(EXIT_AUDIT_BROKEN)


@main.command()
@clickhouse_option
@click.argument("sql")
@form_option
def query(sql: str, form: str) -> None:
    """Ask ClickHouse something in SQL: the embedded engine has no other client."""
    if _FORMAT_CLAUSE.search(sql):
        raise PlanError(f"leave FORMAT out of the query: --format takes {', '.join(FORMS)}")
    client = connect(existing_clickhouse())
    try:
        result = client.query(sql)
    except ClickHouseError as exc:
        raise PlanError(f"ClickHouse refuses the query: {first_line(exc)}") from None
    finally:
        client.close()
    table = ReportTable("", tuple(result.column_names), tuple(tuple(row) for row in result.result_rows))
    click.echo(rendered(table, form).lstrip("\n"))


@main.command()
@click.option(
    "--directory", type=click.Path(path_type=Path), default=Path(".meterline-demo"), show_default=True
)
@click.option("--events", type=click.IntRange(1_000, 100_000_000), default=1_000_000, show_default=True)
@click.option("--seed", type=int, default=7, show_default=True)
def demo(directory: Path, events: int, seed: int) -> None:
    """Make a day of an AI product's events, price it, and show the margin."""
    run_demo(directory.absolute(), events, seed, click.echo)


main.add_command(rates)
for _command in COMMANDS:
    main.add_command(_command)


if __name__ == "__main__":
    main()
