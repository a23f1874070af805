"""Events that no card could price are priced by themselves once one can.

They wait in quarantine as `unpriced`. `meterline run` looks at them before it begins: lines of the models
that its card knows by now go through the job as a requeue does (`dataflows.requeue`), exactly once, with
their own event times. A running job whose card changes begins again for them (`dataflows.begin_again`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from clickhouse_connect.driver.client import Client

from dataflows.alerts import wall_clock_ms
from dataflows.awaited import models_awaiting
from dataflows.card_file import compiled
from dataflows.requeue import finish_begun, requeue, waiting_lines
from dataflows.run import run_job
from dataflows.start import Job, prepare
from metering.event import QuarantineReason
from sinks.clickhouse import connect

_log = logging.getLogger(__name__)


def with_waiting_priced(job: Job, environment: Mapping[str, str]) -> Job:
    """The job, prepared again as often as events that waited in quarantine were put through it.

    Raises:
        OPERATOR_ERRORS, JobFailedError: as `prepare` and a run do.
    """
    while True:
        client = connect(job.plan.clickhouse)
        try:
            priced = price_waiting(job, client, wall_clock_ms(), run_job)
        finally:
            client.close()
        if not priced:
            return job
        job = prepare(environment)  # whose card may be another one by now, which knows more of what waits


def price_waiting(job: Job, client: Client, now_ms: int, run: Callable[[Job], None]) -> int:
    """Put through the job what waits and can be priced by now, and what an interrupted requeue left.

    Returns 0 if that was nothing; otherwise the state has more inputs by now than the job knows.

    Args:
        job: prepared, with the state's lock held.
        now_ms: the wall clock.
        run: runs a job to the end of its input.
    """
    begun = finish_begun(job, client, run)
    models = models_awaiting(client, compiled(job.plan.settings.pricing))
    if not models:
        return begun
    pages = waiting_lines(client, QuarantineReason.UNPRICED.value, "", models)
    done = requeue(job, client, pages, now_ms, run)
    if done.put_through:
        _log.info("events that waited for a rate are priced", extra={"events": done.put_through})
    return begun + done.put_through
