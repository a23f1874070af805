"""What a job does before its first batch: read the plan, hold the state, find the inputs, make the tables.

Everything that can be wrong with a configuration or a connection is found here, and said in a
sentence, before Bytewax starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dataflows.alerts import AlertRoutes
from dataflows.connections import (
    JobPlan,
    PlanError,
    find_inputs,
    plan_job,
    process_environment,
    read_webhooks,
)
from dataflows.file_source import InputError, InputUnavailableError
from dataflows.kafka_source import topic_identity
from dataflows.recovery_store import check_store
from dataflows.segments import CorruptStateError
from dataflows.state import (
    LOCK_HELD_ENV,
    OUTBOX,
    JobState,
    NewerStateError,
    StateHeldError,
    StateLock,
    TopicNotRecognisedError,
    open_state,
    recognise_topic,
)
from pricing.settings import InvalidSettings
from sinks.clickhouse import ClickHouseUnavailableError, connect
from sinks.migrate import migrate
from sinks.outbox import OutboxError
from sinks.outbox_file import open_outbox_file
from sinks.publish import RefusedInsertError
from sinks.spend_sums import newest_generation
from sinks.stage import DamagedBlockError
from sinks.webhook import WebhookEndpoint

OPERATOR_ERRORS = (
    PlanError,
    InputError,
    InvalidSettings,
    StateHeldError,
    TopicNotRecognisedError,
    CorruptStateError,
    NewerStateError,
    ClickHouseUnavailableError,
    DamagedBlockError,
    RefusedInsertError,
    OutboxError,
)
"""Errors whose message is written for the operator; everything else is a defect of ours."""

PASSING_ERRORS = (ClickHouseUnavailableError, InputUnavailableError)
"""Those of them that a restart may mend."""


@dataclass(frozen=True)
class Job:
    """A job that may begin: its plan, the state it holds, the inputs it found, who hears of alerts."""

    plan: JobPlan
    state: JobState
    chosen: frozenset[str]
    routes: AlertRoutes


_HELD: list[StateLock] = []
"""The lock of this process: it is held until the process ends."""


@dataclass(frozen=True)
class Ready:
    """A job of which all is in order but its state, which has not been touched yet."""

    plan: JobPlan
    webhooks: tuple[WebhookEndpoint, ...]
    inputs: tuple[tuple[str, int], ...]
    generation: int
    """The greatest of the sums in ClickHouse."""


def prepare(environment: Mapping[str, str]) -> Job:
    """Everything up to the first batch.

    Raises:
        OPERATOR_ERRORS: something is wrong with the plan, an input, the state or ClickHouse.
    """
    ready = make_ready(environment)
    # A new state sums as the one before it did: it cannot know better, and the greater sum prevails.
    return begin(ready, ready.generation)


def make_ready(environment: Mapping[str, str]) -> Ready:
    """Hold the state directory, and look at everything that can be wrong outside of its state.

    Raises:
        OPERATOR_ERRORS: something is wrong with the plan, an input, the outbox or ClickHouse.
    """
    plan = plan_job(environment)
    webhooks = tuple(read_webhooks(plan.settings.alerts.webhooks, environment))
    inputs = find_inputs(plan)
    hold(plan, environment)
    outbox = plan.state_dir / OUTBOX
    if outbox.exists():
        open_outbox_file(outbox).close()
    if plan.kafka is not None:
        recognise_topic(plan.state_dir, plan.kafka.topic, topic_identity(plan.kafka))
    client = connect(plan.clickhouse)
    try:
        migrate(client)
        generation = newest_generation(client)
    finally:
        client.close()
    return Ready(plan, webhooks, inputs, generation)


def begin(ready: Ready, generation: int) -> Job:
    """Open the state, or begin one whose sums are of this generation.

    Raises:
        CorruptStateError, NewerStateError: the state is damaged, or a newer version's.
    """
    plan = ready.plan
    state = open_state(plan.state_dir, ready.inputs, 1, generation)
    if _HELD:  # of several workers the process that started them looks: no flow runs yet
        check_store(state.recovery)
    routes = AlertRoutes(
        state.outbox,
        plan.settings.alerts,
        ready.webhooks,
        plan.kafka,
        plan.settings.limits.tenant.fallback_model,
    )
    chosen = frozenset(f"{source}/{number}" for source, number in ready.inputs)
    return Job(plan, state, chosen, routes)


def share_among(job: Job, workers: int) -> Job:
    """The job with a sink partition for each worker, so that judged events are published where they are read.

    Lines that decoding or rating refused go to the partition that keeps the progress of their input, whoever
    has it. Workers that `bytewax.run` starts share the one partition of a new state.

    One that was shared among more keeps theirs. Each partition inserts by itself: more than there are workers
    would only make ClickHouse's inserts smaller.
    """
    return replace(job, state=open_state(job.plan.state_dir, (), min(workers, job.state.shards)))


def hold(plan: JobPlan, environment: Mapping[str, str]) -> None:
    """Take the state directory, unless the process that started this one has it.

    Raises:
        StateHeldError: another job has it.
        PlanError: the directory cannot be used.
    """
    if environment.get(LOCK_HELD_ENV) == str(os.getppid()) or _HELD:
        return
    try:
        _HELD.append(StateLock.acquire(plan.state_dir))
    except OSError as exc:
        raise PlanError(f"the state directory {plan.state_dir} cannot be used: {exc.strerror}") from None


def held_descriptors() -> tuple[int, ...]:
    """Descriptors of the lock, for processes that are to share it."""
    return tuple(lock.descriptor for lock in _HELD)


def release() -> None:
    """Let go of the state directory."""
    while _HELD:
        _HELD.pop().release()


def prepare_or_exit() -> Job:
    """As `prepare`, from this process's environment.

    Raises:
        SystemExit: what `prepare` raises, as its message on standard error and exit code 1.
    """
    try:
        return prepare(process_environment())
    except OPERATOR_ERRORS as exc:
        sys.stderr.write(f"meterline: {exc}\n")
        raise SystemExit(1) from None
