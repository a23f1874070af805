"""Running the job: in this process, or in several that share its work; with progress, and a bounded end."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TextIO

from bytewax.recovery import RecoveryConfig
from bytewax.run import cli_main
from rich.console import Console
from rich.live import Live
from rich.text import Text

from dataflows import lifecycle
from dataflows.begin_again import BeginAgain
from dataflows.counters import PROCESS, Counters
from dataflows.first_cause import FirstCause
from dataflows.metering import build_flow
from dataflows.metrics import serving_metrics
from dataflows.start import OPERATOR_ERRORS, PASSING_ERRORS, Job
from dataflows.state import LOCK_HELD_ENV
from dataflows.supervise import end_with_parent
from sinks.clickhouse import connect
from sinks.engine_output import STANDARD_ERROR, STANDARD_OUTPUT, engine_output_to
from sinks.publish import INSERT_SETTINGS
from sinks.rows import delivery_rows

LOG_PERIOD_SECONDS = 5.0
STOP_SECONDS_MAX = 30.0
SCREEN_PERIOD_SECONDS = 0.25
DRAIN_PAUSE_SECONDS = 0.05
_DELIVERIES_MAX = 100_000
NEW_OBJECTS_MAX = 100_000
"""How many objects may come before Python looks for cycles among them."""

_log = logging.getLogger(__name__)


@cache
def _output() -> TextIO:
    """A copy of standard error, which stays what it is while the engine's own is kept in a file."""
    return os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8")


class JobFailedError(Exception):
    """The job stopped before its input ended. The message is for the operator."""


class JobRefusedError(JobFailedError):
    """The same, for a reason that a restart does not mend."""


class OtherWorkerFailedError(JobFailedError):
    """The same, because another worker did; or the engine, which does not say what failed it."""


def run_job(job: Job) -> None:
    """Run to the end of the input, or until interrupted; then give alerts a bounded time to leave.

    A card that changes meanwhile is taken, and nothing more: see `run_until_wanted_again`.

    Raises:
        JobFailedError: a step failed for a reason that the operator can act on; what was durable is kept,
            and the next run goes on from there.
    """
    _run_flow(job, None, None, lambda: None)
    drain_alerts(job)


def run_until_wanted_again(job: Job) -> None:
    """As `run_job`, but it ends as well when its card has changed and events wait for one (`begin_again`)."""
    _run_flow(job, None, None, BeginAgain(job.state.directory).ask)
    drain_alerts(job)


def run_worker(job: Job, number: int, addresses: list[str]) -> None:
    """Be worker `number` of a cluster whose workers listen at `addresses`; end when the supervisor does.

    Raises:
        JobFailedError: as `run_job`.
        OtherWorkerFailedError: another worker ended.
    """
    _name_in_log(number)
    # Not the parent of this moment: the supervisor may have died while this process came up.
    supervisor = int(os.environ.get(LOCK_HELD_ENV, os.getppid()))
    end_with_parent(supervisor, lambda: os.kill(os.getpid(), signal.SIGTERM))
    _run_flow(job, number, addresses, BeginAgain(job.state.directory).ask)


def _run_flow(
    job: Job, process_id: int | None, addresses: list[str] | None, on_card_awaited: Callable[[], None]
) -> None:
    epoch = timedelta(seconds=float(job.plan.settings.metering.epoch_interval_seconds))
    recovery = RecoveryConfig(str(job.state.recovery), timedelta(0))
    details = job.state.directory / f"crash-{process_id or 0}.log"
    cause = FirstCause()
    PROCESS.begin_run()
    with (
        serving_metrics(os.environ, process_id or 0, PROCESS, epoch.total_seconds()),
        _progress(PROCESS),
        _engine_words_in(details),
        _stopping_on_sigterm(),
        _rare_collections(),
    ):
        try:
            cli_main(
                cause.watch(build_flow(job, process_id or 0, len(addresses or [""]), on_card_awaited)),
                process_id=process_id,
                addresses=addresses,
                epoch_interval=epoch,
                recovery_config=recovery,
            )
        except SystemExit:
            raise
        except BaseException as exc:  # a panic of the engine is no Exception
            if _was_interrupted(exc):
                raise KeyboardInterrupt from None
            with suppress(OSError), details.open("a", encoding="utf-8") as file:  # the disk may be full
                traceback.print_exception(exc, file=file)  # with one worker, it names the step and the cause
                if cause.error is not None and cause.error not in _causes(exc):
                    traceback.print_exception(cause.error, file=file)
            raise explain(cause.error or exc, details) from exc


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Have Python look for cycles rarely, and not in what was there before.

    A poll brings tens of thousands of objects where a message is one event, and hardly a cycle. By default
    Python would look through all that was imported again and again, for a fifth of the job's time.
    """
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    if not frozen:
        gc.freeze()
    gc.set_threshold(NEW_OBJECTS_MAX, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if not frozen:
            gc.unfreeze()


def _was_interrupted(exc: BaseException) -> bool:
    """Whether Ctrl-C is behind an error of the engine, which wraps it, sometimes only in words."""
    return any(
        isinstance(cause, KeyboardInterrupt)
        or "KeyboardInterrupt" in str(cause)
        or "signal received" in str(cause)
        for cause in _causes(exc)
    )


def explain(exc: BaseException, details: Path) -> JobFailedError:
    """The operator's sentence somewhere in a chain of causes, or the nearest thing to one."""
    causes = list(_causes(exc))
    for cause in causes:
        if isinstance(cause, PASSING_ERRORS):
            return JobFailedError(str(cause))
        if isinstance(cause, OPERATOR_ERRORS):
            return JobRefusedError(str(cause))
    for cause in causes:
        if isinstance(cause, OSError):
            # Raised by a library that is not Python's, it has a text and no number.
            what = f"{cause.strerror or cause}{f': {cause.filename}' if cause.filename else ''}"
            return JobFailedError(f"the job failed: {what} (its state is in {details.parent})")
    first = causes[-1]
    text = (str(first).splitlines() or [""])[0]
    if "thread panic" in text:  # of a thread that talks with the other workers
        return OtherWorkerFailedError(
            f"this worker ended with the others: one of them failed, or the engine (details in {details})"
        )
    return JobFailedError(f"the job failed with {type(first).__name__}: {text} (details in {details})")


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """An error and those behind it, the first of all last."""
    cause: BaseException | None = exc
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """On SIGTERM end every input where it is: what was read gets published, and the job exits 0.

    If that takes longer than `STOP_SECONDS_MAX` (ClickHouse is away, say), the process ends at once;
    the next run publishes what is staged and reads the rest again.
    """

    def give_up() -> None:
        _log.error("stopping took too long: the next run goes on from the last durable epoch")
        os._exit(1)

    timers: list[threading.Timer] = []

    def stop(_: int, __: FrameType | None) -> None:
        lifecycle.stop()
        timer = threading.Timer(STOP_SECONDS_MAX, give_up)
        timer.daemon = True
        timer.start()
        timers.append(timer)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for timer in timers:
            timer.cancel()


@contextmanager
def _engine_words_in(path: Path) -> Iterator[None]:
    """Keep what the engine writes on the screen (backtraces, attempts to reach its peers) in a file instead.

    Our log and the progress line have a copy of standard error of their own. After a job that ended well, or
    without a word, the file goes.
    """
    ended_well = False
    try:
        with engine_output_to(path, STANDARD_OUTPUT, STANDARD_ERROR):
            yield
        ended_well = True
    finally:
        if ended_well or path.stat().st_size == 0:
            path.unlink()


def drain_alerts(job: Job) -> None:
    """After the last epoch: deliver what is due, within the configured time, and note it in ClickHouse."""
    routes = job.routes
    if not routes.webhooks and routes.topic is None:
        return
    post = routes.open()
    try:
        deadline = time.monotonic() + job.plan.settings.alerts.drain_seconds
        while post.pending() and time.monotonic() < deadline:
            time.sleep(DRAIN_PAUSE_SECONDS)
        if post.pending():
            _log.warning("alerts wait in the outbox", extra={"pending": post.pending()})
        delivered = post.delivered(_DELIVERIES_MAX)
        if delivered:
            client = connect(job.plan.clickhouse)
            try:
                rows = delivery_rows(delivered).to_arrow()
                client.insert_arrow("cap_alert_deliveries", rows, settings=INSERT_SETTINGS)
            finally:
                client.close()
            post.reported([alert_id for alert_id, _ in delivered])
    finally:
        post.close()


@contextmanager
def _progress(counters: Counters) -> Iterator[None]:
    """A line on the terminal that keeps up with the job; without one, a JSON log line now and then.

    The last of these is `done`, `stopped` (its inputs were ended where they are: somebody asked, or it begins
    again) or `failed`.
    """
    done = threading.Event()
    on_screen = _output().isatty()
    show = _show_on_screen if on_screen else _show_in_log
    thread = threading.Thread(target=show, args=(counters, done), name="progress", daemon=True)
    thread.start()
    last_word = "failed"
    try:
        yield
        last_word = "stopped" if lifecycle.STOPPING.is_set() else "done"
    except (KeyboardInterrupt, SystemExit):
        last_word = "stopped"
        raise
    finally:
        done.set()
        thread.join(2 * SCREEN_PERIOD_SECONDS)
        if not on_screen:
            _log.info(last_word, extra=counters_for_log(counters))


def _show_on_screen(counters: Counters, done: threading.Event) -> None:
    started = time.monotonic()
    console = Console(file=_output())
    with Live(console=console, auto_refresh=False) as live:
        while not done.wait(SCREEN_PERIOD_SECONDS):
            live.update(Text(progress_line(counters, time.monotonic() - started)), refresh=True)
        live.update(Text(progress_line(counters, time.monotonic() - started)), refresh=True)


def progress_line(counters: Counters, elapsed_seconds: float) -> str:
    """What has happened so far, in one line."""
    rate = counters.read / elapsed_seconds if elapsed_seconds > 0 else 0
    quarantined = sum(counters.quarantined.values())
    return (
        f"{counters.read:,} read · {rate:,.0f}/s · {counters.priced:,} priced · "
        f"{counters.duplicates:,} duplicates · {quarantined:,} quarantined · {counters.alerts:,} alerts · "
        f"{counters.published_rows:,} rows published"
    )


def _show_in_log(counters: Counters, done: threading.Event) -> None:
    while not done.wait(LOG_PERIOD_SECONDS):
        _log.info("progress", extra=counters_for_log(counters))


def counters_for_log(counters: Counters) -> dict[str, object]:
    """The counters as fields of a log record."""
    return {
        "read": counters.read,
        "priced": counters.priced,
        "duplicates": counters.duplicates,
        "quarantined": dict(counters.quarantined),
        "unknown_fields": dict(counters.unknown_fields.most_common(20)),
        "late": counters.late,
        "alerts": counters.alerts,
        "published_rows": counters.published_rows,
    }


_PLAIN_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a record, its extra fields beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name, value in vars(record).items() if name not in _PLAIN_RECORD}
        if record.exc_info and record.exc_info[0] is not None:
            entry["exception"] = record.exc_info[0].__name__
        return json.dumps(entry, default=str)


def _name_in_log(worker: int) -> None:
    """Have the JSON lines that this process logs from here on tell which worker wrote them."""

    def named(record: logging.LogRecord) -> bool:
        record.worker = worker
        return True

    for handler in logging.getLogger().handlers:
        handler.addFilter(named)


def log_to_stderr() -> None:
    """JSON lines on standard error; on a terminal only what needs attention, as plain text."""
    handler = logging.StreamHandler(_output())
    terminal = _output().isatty()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s") if terminal else JsonLines())
    logging.basicConfig(level=logging.WARNING if terminal else logging.INFO, handlers=[handler], force=True)
    # These report each attempt of what we report once, in a sentence.
    for noisy in ("clickhouse_connect", "httpx", "httpcore", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
