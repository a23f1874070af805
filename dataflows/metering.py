"""The metering job, from source to sink.

    read ─▶ decode ─▶ rate ─▶ key ───── events ──────▶ judge ─▶ sum ────── rows ───────▶ alert ─▶ publish
               │               └─ by key ─▶ dedupe ─▶──┘ │       └─ by tenant ─▶ spend ─▶──┘         ▲
               │                                         │                         └──── windows ────┤
               └─────── quarantine, progress ────────────┴─────────── priced, copies ────────────────┘

One item is one poll of one input, thousands of events in columns. Two steps remember something
(`dedupe`, `spend`). Events stay in the process that read them: only their keys go to the shards of dedupe,
and `judge`, in the same process, has the batch wait for the verdicts. So only sums go to the shards of spend,
and `alert` has the rows wait for the caps that they cross (several processes that Bytewax starts by itself do
not know which one they are: there, batches and rows travel). The others are functions. Every poll, the
empty heartbeats too, reaches every shard and every sink partition, so that each of them takes part in every
epoch.

Run it with `meterline run`, or the Bytewax way, with the same environment:

    python -m bytewax.run dataflows.metering -w 2 -r STATE/recovery -s 1 -b 0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import bytewax.operators as op
import polars as pl
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource
from clickhouse_connect.driver.exceptions import ClickHouseError

from dataflows.alerts import wall_clock_ms
from dataflows.awaited import models_awaiting
from dataflows.batch import Decoded, RawBatch
from dataflows.card_in_force import CardInForce
from dataflows.counters import PROCESS
from dataflows.decode import TimeBounds, decode
from dataflows.file_source import FileSource, FileState
from dataflows.gather import GatherLogic
from dataflows.kafka_source import KafkaSource
from dataflows.operators import DedupeLogic, SpendLogic, SpendOutput, new_book
from dataflows.rate import rate_events, refuse_unpriced
from dataflows.routing import keys_of
from dataflows.start import Job, prepare_or_exit
from dataflows.state import JobState
from dataflows.steps import (
    DAY_MS,
    HOUR_MS,
    Judged,
    KeyedBatch,
    ShardCrossings,
    ShardSlice,
    ShardVerdicts,
    SpendSlice,
    Spent,
    alerts_of,
    judge,
    split_by_key,
    split_by_tenant,
)
from dataflows.tables import duplicate_rows, priced_rows, quarantine_rows
from pricing.cap import CapAlert
from pricing.rate_card import RateCard
from pricing.settings import LimitSettings, Settings, thresholds
from sinks.clickhouse import ClickHouseAddress, ClickHouseUnavailableError, connect
from sinks.metering_sink import MeteringSink
from sinks.publish import Publisher
from sinks.rows import Heartbeat, Progress, SinkItem, TableRows, WindowVersions


def flow() -> Dataflow:
    """The dataflow as the environment asks for it: what `python -m bytewax.run dataflows.metering` calls.

    Takes the state directory's lock, finds the inputs and migrates the tables. Nobody begins it again when
    its card has changed, so what waits for a rate waits for `meterline run` or `meterline requeue`.

    Raises:
        SystemExit: with one sentence for each thing that is wrong.
    """
    return build_flow(prepare_or_exit())


def _nothing() -> None:
    pass


def build_flow(
    job: Job, worker: int = 0, workers: int = 1, on_card_awaited: Callable[[], None] = _nothing
) -> Dataflow:
    """The steps in their order, for a process that is this one of so many.

    Nothing is connected before Bytewax runs them. `on_card_awaited` is called when another card has come into
    force that may price events which wait.
    """
    settings, state = job.plan.settings, job.state
    taken = partial(_tell_if_awaited, clickhouse=job.plan.clickhouse, on_card_awaited=on_card_awaited)
    cards = CardInForce(job.plan.config, settings, taken, wall_clock_ms)
    bounds = TimeBounds(
        settings.metering.max_future_minutes * 60_000, settings.metering.max_age_days * DAY_MS
    )

    dataflow = Dataflow("metering")
    raw = op.input("read", dataflow, _source(job, workers))
    decoded = op.map("decode", raw, partial(_decode, bounds=bounds))
    rated = op.map("rate", decoded, partial(_rate, cards=cards, settings=settings))
    # Started by Bytewax, several workers look like one: keys that are spread will do for each of them.
    homes = keys_of(worker, workers, state.shards) if workers > 1 else state.shard_keys
    keyed = op.map("key", rated, partial(_keyed, state=state, homes=homes))
    verdicts = op.stateful_batch(
        "dedupe", op.flat_map("by_key", keyed, partial(_by_key, state=state)), partial(_dedupe_shard, job=job)
    )
    waiting = op.merge(
        "waiting", op.map("of_batch", keyed, _of_batch), op.map("of_verdicts", verdicts, _of_verdicts)
    )
    judged = op.stateful_batch("judge", waiting, lambda _: GatherLogic(KeyedBatch, judge))
    summed = op.map("sum", judged, partial(_summed, state=state, limits=settings.limits))
    by_tenant = op.flat_map("by_tenant", summed, partial(_by_tenant, state=state))
    spend = op.stateful_batch("spend", by_tenant, partial(_spend_shard, job=job))
    crossing = op.merge(
        "crossing", op.flat_map("of_rows", summed, _of_rows), op.flat_map("of_shards", spend, _of_shards)
    )
    alerts = op.stateful_batch("alert", crossing, lambda _: GatherLogic(Spent, alerts_of))

    sink = _sink(job)
    rows = op.merge(
        "rows",
        op.flat_map("rated_rows", rated, partial(_rated_rows, state=state)),
        op.flat_map("judged_rows", judged, partial(_judged_rows, sink=sink)),
        op.flat_map("window_rows", spend, partial(_window_rows, state=state)),
        op.flat_map("alert_rows", alerts, _alert_rows),
    )
    op.output("publish", rows, sink)
    return dataflow


def _source(job: Job, workers: int) -> FixedPartitionedSource[RawBatch, FileState]:
    topic = job.plan.kafka
    if topic is not None:
        return KafkaSource(topic, job.state.partitions, job.chosen, job.plan.follow, wall_clock_ms)
    return FileSource(job.state.partitions, job.chosen, job.plan.follow, wall_clock_ms, workers)


def _decode(batch: RawBatch, bounds: TimeBounds) -> Decoded:
    decoded = decode(batch, bounds)
    PROCESS.add(read=decoded.read)
    if len(decoded.events):
        PROCESS.saw_event_time(int(decoded.events["timestamp_ms"].to_numpy().max()))
    PROCESS.unknown(decoded.unknown_fields)
    return decoded


def _count_quarantine(quarantined: pl.DataFrame) -> None:
    if len(quarantined):
        PROCESS.quarantine(dict(quarantined["reason"].value_counts().rows()))


def _rate(decoded: Decoded, cards: CardInForce, settings: Settings) -> Decoded:
    card = cards.current(PROCESS.epochs)
    known = refuse_unpriced(decoded, card)
    _count_quarantine(known.quarantined)
    return rate_events(known, card, settings.limits, settings.metering.window_retention_hours)


def _tell_if_awaited(
    card: RateCard, clickhouse: ClickHouseAddress, on_card_awaited: Callable[[], None]
) -> None:
    # What this run has found unpriced may not be published yet.
    if PROCESS.unpriced_in_run() or _is_awaited(card, clickhouse):
        on_card_awaited()


def _is_awaited(card: RateCard, clickhouse: ClickHouseAddress) -> bool:
    try:
        client = connect(clickhouse)
        try:
            return bool(models_awaiting(client, card))
        finally:
            client.close()
    except (ClickHouseError, ClickHouseUnavailableError):
        return True  # it is looked at again when the job begins


def _keyed(rated: Decoded, state: JobState, homes: tuple[str, ...]) -> tuple[KeyedBatch, list[ShardSlice]]:
    home = homes[rated.partition.ordinal % len(homes)]
    return split_by_key(rated, state.shards, state.hash_seed, home)


def _by_key(keyed: tuple[KeyedBatch, list[ShardSlice]], state: JobState) -> Iterator[tuple[str, ShardSlice]]:
    for sliced in keyed[1]:
        yield state.shard_keys[sliced.shard], sliced


def _of_batch(keyed: tuple[KeyedBatch, list[ShardSlice]]) -> tuple[str, KeyedBatch | ShardVerdicts]:
    batch = keyed[0]
    return batch.home, batch


def _of_verdicts(item: tuple[str, ShardVerdicts]) -> tuple[str, KeyedBatch | ShardVerdicts]:
    verdicts = item[1]
    return verdicts.home, verdicts


def _dedupe_shard(resumed: str | None, job: Job) -> DedupeLogic:
    metering = job.plan.settings.metering
    window_ms = metering.idempotency_window_hours * HOUR_MS
    keep_ms = window_ms + metering.allowed_lateness_hours * HOUR_MS
    return DedupeLogic.build(job.state.directory / "dedupe", resumed, window_ms, keep_ms, _ordinals(job))


def _summed(
    item: tuple[str, Judged], state: JobState, limits: LimitSettings
) -> tuple[str, Spent, list[SpendSlice]]:
    home, judged = item
    return home, *split_by_tenant(judged, state.shards, limits, home)


def _by_tenant(
    summed: tuple[str, Spent, list[SpendSlice]], state: JobState
) -> Iterator[tuple[str, SpendSlice]]:
    for sliced in summed[2]:
        yield state.shard_keys[sliced.shard], sliced


def _of_rows(
    summed: tuple[str, Spent, list[SpendSlice]],
) -> Iterator[tuple[str, Spent | ShardCrossings]]:
    home, spent, _ = summed
    if spent.shards:
        yield home, spent


def _of_shards(item: tuple[str, SpendOutput]) -> Iterator[tuple[str, Spent | ShardCrossings]]:
    output = item[1]
    if isinstance(output, ShardCrossings):
        yield output.home, output


def _spend_shard(resumed: str | None, job: Job) -> SpendLogic:
    settings = job.plan.settings
    keep_ms = settings.metering.window_retention_hours * HOUR_MS
    book = new_book(settings.limits, thresholds(settings))
    directory = job.state.directory / "spend"
    return SpendLogic.build(directory, resumed, book, keep_ms, _ordinals(job))


def _ordinals(job: Job) -> frozenset[int]:
    return frozenset(job.state.partitions[name].ordinal for name in job.chosen)


def _rated_rows(rated: Decoded, state: JobState) -> Iterator[tuple[str, SinkItem]]:
    keeper = rated.partition.ordinal % state.progress_partitions
    for number in range(state.sink_partitions):
        if number == keeper:
            partition = rated.partition
            yield str(number), Progress(partition.source, partition.number, rated.next_offset, rated.read)
        else:
            yield str(number), Heartbeat()
    if len(rated.quarantined):
        yield str(keeper), TableRows("quarantine_log", quarantine_rows(rated.quarantined, rated.partition))


def _judged_rows(item: tuple[str, Judged], sink: MeteringSink) -> Iterator[tuple[str, SinkItem]]:
    judged = item[1]
    to = sink.near(judged.tick.partition.ordinal)
    PROCESS.add(
        priced=len(judged.priced), duplicates=len(judged.duplicates), late=int(judged.priced["late"].sum())
    )
    _count_quarantine(judged.quarantined)
    if len(judged.priced):
        yield to, TableRows("priced_events", judged.priced)
    if len(judged.duplicates):
        yield to, TableRows("duplicates", judged.duplicates)
    if len(judged.quarantined):
        yield to, TableRows("quarantine_log", quarantine_rows(judged.quarantined, judged.tick.partition))


def _window_rows(item: tuple[str, SpendOutput], state: JobState) -> Iterator[tuple[str, SinkItem]]:
    key, output = item
    if isinstance(output, WindowVersions):
        yield str(state.shard_keys.index(key) % state.sink_partitions), output


def _alert_rows(item: tuple[str, list[CapAlert]]) -> Iterator[tuple[str, SinkItem]]:
    for alert in item[1]:
        PROCESS.add(alerts=1)
        yield "0", alert  # the partition that has the outbox


def _sink(job: Job) -> MeteringSink:
    return MeteringSink(
        job.state.sink_partitions,
        job.state.directory / "staged",
        partial(connect, job.plan.clickhouse),
        partial(Publisher, observer=PROCESS),
        job.routes.open,
        {"priced_events": priced_rows, "duplicates": duplicate_rows},
        job.state.generation,
        wall_clock_ms,
    )
