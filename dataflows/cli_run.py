"""The commands `meterline run`, and `meterline worker` for the processes that it starts."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import NoReturn

import click

from dataflows.begin_again import BeginAgain
from dataflows.cli_options import (
    EXIT_FAILED,
    clickhouse_option,
    config_option,
    metrics_host_option,
    metrics_port_option,
    say,
    source_option,
    state_option,
)
from dataflows.connections import FOLLOW_ENV, PlanError
from dataflows.price_waiting import with_waiting_priced
from dataflows.rebuild import prepare_rebuilt
from dataflows.run import (
    JobFailedError,
    JobRefusedError,
    OtherWorkerFailedError,
    drain_alerts,
    run_until_wanted_again,
    run_worker,
)
from dataflows.start import OPERATOR_ERRORS, PASSING_ERRORS, Job, held_descriptors, prepare, share_among
from dataflows.supervise import EXIT_REFUSED, Supervisor

_log = logging.getLogger(__name__)


@click.command(name="run")
@config_option
@source_option
@clickhouse_option
@state_option
@metrics_port_option
@metrics_host_option
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="worker processes")
@click.option(
    "--follow/--to-end",
    default=None,
    help="go on for ever, or end with what is there now (by default Kafka is followed and a file ends)",
)
@click.option("--rebuild-state", is_flag=True, help="first make the state anew from ClickHouse")
def run_command(workers: int, follow: bool | None, rebuild_state: bool) -> None:  # noqa: FBT001  # click passes options by name
    """Price events until the input ends, or for ever."""
    if follow is not None:
        os.environ[FOLLOW_ENV] = "1" if follow else "0"
    if rebuild_state:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a rebuild that was cut off has not ended well
    job = prepare_rebuilt(os.environ, say) if rebuild_state else prepare(os.environ)
    if workers > 1 and job.plan.clickhouse.embedded:
        raise PlanError("chdb:// belongs to one process: run one worker, or give --clickhouse a server")
    wish = BeginAgain(job.state.directory)
    wish.withdraw()
    while True:
        job = with_waiting_priced(job, os.environ)
        if workers == 1:
            run_until_wanted_again(job)
        else:
            _run_workers(share_among(job, workers), workers)
        if not wish.grant():
            return
        job = prepare(os.environ)


def _run_workers(job: Job, count: int) -> None:
    wish = BeginAgain(job.state.directory)
    code = Supervisor(count, os.environ, held_descriptors(), wish.is_asked).run()
    if code == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if code == EXIT_REFUSED:
        sys.exit(EXIT_FAILED)  # the worker has said why
    if code:
        raise JobFailedError(
            f"a worker ended with code {code}; the next run goes on from the last durable epoch"
        )
    drain_alerts(job)


@click.command(name="worker", hidden=True)
@click.argument("number", type=int)
@click.argument("addresses")
def worker_command(number: int, addresses: str) -> None:
    """Be one of the worker processes of `run --workers`."""
    try:
        run_worker(prepare(os.environ), number, addresses.split(";"))
    except (*OPERATOR_ERRORS, JobFailedError) as exc:
        _leave(exc)


def _leave(error: Exception) -> NoReturn:
    """Say why this worker ends, unless another one says it, and end at once.

    The engine's thread that failed may still be on its way out. Python would end it when it ends itself, and
    the C library then aborts the process, whose exit code would be lost. What is not durable is done again.
    """
    if isinstance(error, OtherWorkerFailedError):
        _log.warning(str(error))
    else:
        click.echo(f"meterline: {error}", err=True)
    sys.stderr.flush()
    may_pass = isinstance(error, PASSING_ERRORS) or not isinstance(error, (*OPERATOR_ERRORS, JobRefusedError))
    os._exit(EXIT_FAILED if may_pass else EXIT_REFUSED)
