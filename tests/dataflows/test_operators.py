"""The steps that remember, fed through the stateless ones: watermarks, late events, restarts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from bytewax.operators import StatefulBatchLogic

from dataflows.batch import Partition, RawBatch
from dataflows.decode import TimeBounds, decode
from dataflows.dedupe import ORIGINAL
from dataflows.operators import (
    DedupeLogic,
    JudgeLogic,
    ShardState,
    SpendLogic,
    SpendOutput,
    Watermarks,
    new_book,
)
from dataflows.rate import rate_events, refuse_unpriced
from dataflows.segments import CorruptStateError, Segment
from dataflows.steps import (
    HOUR_MS,
    SETTLED_EVENTS,
    KeyedBatch,
    ShardVerdicts,
    Tick,
    split_by_key,
    split_by_tenant,
)
from pricing.cap import CapAlert
from pricing.rate_card import compile_card
from pricing.settings import load_settings, thresholds
from pricing.spend import SpendWindow, WindowKey
from tests.auditor_cases import NOON_MS

DAY_MS = 24 * HOUR_MS
RETENTION_HOURS = 72
SHARDS = 2
SETTINGS = load_settings(
    """
pricing:
  rules: [{model: m, input_rate: 1, output_rate: 1, confirm_rates_above: 1}]
limits:
  tenant: {daily_cap: 10, burst_threshold: 0.5}
"""
)
CARD = compile_card(SETTINGS.pricing.rules)
NO_BOUNDS = TimeBounds(10**15, 10**15)


def event(key: str, time_ms: int, usd: int = 1, tenant: str = "t") -> bytes:
    fields = {"idempotency_key": key, "tenant_id": tenant, "model": "m", "timestamp": time_ms}
    return json.dumps({**fields, "input_tokens": usd, "output_tokens": 0}).encode()


@dataclass
class Seen:
    """What came out since the last look."""

    priced: dict[str, bool] = field(default_factory=dict)
    """Key to whether it was late."""
    duplicates: list[str] = field(default_factory=list)
    conflicts: int = 0
    spend: dict[tuple[str, int], Decimal] = field(default_factory=dict)
    """Newest spend by tenant and start of the day."""
    alerts: list[CapAlert] = field(default_factory=list)


class Job:
    """The flow from decode to spend, without Bytewax: every shard of both steps, epoch by epoch."""

    def __init__(self, directory: Path, inputs: int = 1) -> None:
        self.directory = directory
        self.inputs = [Partition(ordinal, f"input-{ordinal}", 0) for ordinal in range(inputs)]
        self.offsets = [0] * inputs
        self.snapshots: list[str | None] = [None] * (2 * SHARDS)
        self.start(range(inputs))

    def start(self, chosen: Iterable[int]) -> None:
        """A new process that resumes at the last snapshot and reads some of the inputs."""
        expected = frozenset(chosen)
        keep_ms = RETENTION_HOURS * HOUR_MS
        self.dedupes = [
            DedupeLogic.build(self.directory / "dedupe", state, DAY_MS, DAY_MS + keep_ms, expected)
            for state in self.snapshots[:SHARDS]
        ]
        book = new_book(SETTINGS.limits, thresholds(SETTINGS))
        self.spends = [
            SpendLogic.build(self.directory / "spend", state, book, keep_ms, expected)
            for state in self.snapshots[SHARDS:]
        ]
        self.seen = Seen()

    def feed(self, *lines: bytes, input_number: int = 0, live: bool = True) -> None:
        """One poll of one input; without lines a heartbeat."""
        partition, count = self.inputs[input_number], len(lines)
        first = self.offsets[input_number]
        self.offsets[input_number] += count
        offsets = np.arange(first, first + count, dtype=np.int64)
        data = b"".join(line + b"\n" for line in lines)
        arrivals = np.full(count, NOON_MS, np.int64)
        raw = RawBatch(
            partition,
            data,
            offsets,
            np.zeros(count, np.int32),
            arrivals,
            first + count,
            live,
            age_limited=False,
        )
        decoded = refuse_unpriced(decode(raw, NO_BOUNDS), CARD)
        rated = rate_events(decoded, CARD, SETTINGS.limits, RETENTION_HOURS)
        keyed, slices = split_by_key(rated, SHARDS, seed=7)
        verdicts = [one for part in slices for one in self.dedupes[part.shard].on_batch([part])[0]]
        (judged,), _ = JudgeLogic(SHARDS).on_batch([keyed, *verdicts])
        self.seen.duplicates += judged.duplicates["idempotency_key"].to_list()
        self.seen.conflicts += len(judged.quarantined)
        self.seen.priced |= dict(judged.priced.select("idempotency_key", "late").iter_rows())
        for part in split_by_tenant(judged, SHARDS, SETTINGS.limits):
            self._spend(self.spends[part.shard].on_batch([part])[0])

    def _spend(self, outputs: Iterable[SpendOutput]) -> None:
        for output in outputs:
            if isinstance(output, CapAlert):
                self.seen.alerts.append(output)
                continue
            for one in output.versions:
                if one.window_kind == "day":
                    self.seen.spend[one.tenant_id, one.window_start_ms] = one.spend

    def epoch(self) -> Seen:
        """End the epoch: every step is snapshotted."""
        self.snapshots = [dedupe.snapshot() for dedupe in self.dedupes]
        self.snapshots += [spend.snapshot() for spend in self.spends]
        seen, self.seen = self.seen, Seen()
        return seen

    def windows(self) -> int:
        return sum(len(spend._book.windows) for spend in self.spends)  # noqa: SLF001 - its size is a promise

    def keys(self) -> int:
        return sum(len(dedupe._index) for dedupe in self.dedupes)  # noqa: SLF001 - as above


DAY = NOON_MS // DAY_MS * DAY_MS


def test_an_event_is_late_by_its_own_inputs_watermark_and_is_then_not_in_spend(tmp_path: Path) -> None:
    job = Job(tmp_path)
    end_ms = DAY + DAY_MS + RETENTION_HOURS * HOUR_MS
    job.feed(event("first", NOON_MS))
    job.feed(event("on the edge", end_ms), event("just in time", NOON_MS))
    assert job.epoch().spend == {("t", DAY): 2, ("t", end_ms // DAY_MS * DAY_MS): 1}
    job.feed(event("still in time", NOON_MS))
    assert job.epoch().spend == {("t", DAY): 3}
    job.feed(event("over the edge", end_ms + 1), event("too late", NOON_MS))
    seen = job.epoch()
    assert seen.priced == {"over the edge": False, "too late": True}
    assert ("t", DAY) not in seen.spend


def test_an_input_that_comes_back_with_old_events_does_not_begin_a_forgotten_window_anew(
    tmp_path: Path,
) -> None:
    job = Job(tmp_path, inputs=2)
    job.feed(event("a", NOON_MS, usd=7), input_number=0)
    job.feed(input_number=0, live=False)
    job.feed(event("b", NOON_MS + 10 * DAY_MS), input_number=1)
    job.epoch()
    # Input 0 was idle, so input 1 alone has let the first day's window go.
    job.feed(event("c", NOON_MS, usd=2), input_number=0)
    seen = job.epoch()
    assert seen.priced == {"c": True}
    assert seen.spend == {}


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_new_input_of_old_events_does_not_begin_a_forgotten_window_anew(
    tmp_path: Path, restarts: int
) -> None:
    job = Job(tmp_path, inputs=2)
    job.start([0])
    job.feed(event("a", NOON_MS, usd=7), event("b", NOON_MS + 10 * DAY_MS))
    job.epoch()
    job.feed(live=False)
    job.epoch()
    for _ in range(restarts):
        job.start([1])
        job.feed(input_number=1, live=False)
        job.epoch()
    job.feed(event("c", NOON_MS, usd=2), event("d", NOON_MS + 10 * DAY_MS, usd=5), input_number=1)
    seen = job.epoch()
    assert seen.priced == {"c": True, "d": False}
    assert seen.spend == {("t", DAY + 10 * DAY_MS): 6}


def random_events(chance: random.Random, count: int) -> list[bytes]:
    """A few days of a few tenants, with copies and conflicts among them."""
    lines: list[bytes] = []
    for number in range(count):
        if lines and chance.random() < 0.2:
            lines.append(chance.choice(lines[-20:]))
            continue
        time_ms = NOON_MS + number * 6 * DAY_MS // count - chance.randrange(DAY_MS)
        name = number - chance.randrange(5)
        lines.append(event(f"k-{name}", time_ms, chance.randrange(4), f"t-{name % 5}"))
    return lines


def durable(job: Job, total: Seen) -> None:
    """End the epoch and add what it brought to what is known for good."""
    seen = job.epoch()
    total.priced |= seen.priced
    total.duplicates += seen.duplicates
    total.conflicts += seen.conflicts
    total.spend |= seen.spend
    total.alerts += seen.alerts


@pytest.mark.parametrize("seed", range(4))
def test_crashes_and_restarts_at_any_moment_change_nothing(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    lines = random_events(chance, 400)
    straight, crashing = Job(tmp_path / "straight"), Job(tmp_path / "crashing")
    wanted, found = Seen(), Seen()
    straight.feed(*lines)
    durable(straight, wanted)
    safe = at = 0
    while safe < len(lines):
        size = chance.randrange(1, 40)
        crashing.feed(*lines[at : at + size])
        at = min(at + size, len(lines))
        match chance.choice(["go on", "go on", "end the epoch", "restart", "crash"]):
            case "end the epoch":
                durable(crashing, found)
                safe = at
            case "restart":
                durable(crashing, found)
                safe = at
                crashing.start([0])
            case "crash":
                crashing.start([0])
                at = safe
                crashing.offsets = [safe]
    assert len(wanted.duplicates) > 40
    assert wanted.conflicts > 20
    assert wanted.alerts
    for seen in (found, wanted):
        seen.duplicates.sort()
        seen.alerts.sort(key=lambda alert: alert.alert_id)
    assert found == wanted


def test_an_alert_is_raised_once_whatever_restarts_lie_between(tmp_path: Path) -> None:
    job = Job(tmp_path)
    raised: list[Decimal] = []
    for number in range(12):
        job.feed(event(f"k-{number}", NOON_MS))
        raised += [alert.threshold for alert in job.epoch().alerts]
        job.start([0])
    assert raised == [Decimal("0.5"), Decimal(1)]


def test_memory_and_files_hold_what_the_windows_hold(tmp_path: Path) -> None:
    job = Job(tmp_path)
    sizes = []
    for day in range(30):
        job.feed(
            *(event(f"{day}-{number}", NOON_MS + day * DAY_MS, tenant=f"t-{number}") for number in range(50))
        )
        job.epoch()
        files = list(tmp_path.glob("dedupe/*/*.segment"))
        sizes.append((job.keys(), sum(path.stat().st_size for path in files)))
    keys, size_bytes = max(sizes[15:])
    # Five days are needed, a quarter may wait for the next rebuild, and files leave two snapshots late.
    assert keys <= 5 * 50 * 4 / 3 + 50
    assert size_bytes <= 8 * 50 * 60
    # A tenant has a window for each of the last days, and months.
    assert job.windows() <= 50 * 7


def test_the_log_of_windows_is_rewritten_when_most_of_it_is_old(tmp_path: Path) -> None:
    job = Job(tmp_path)
    sizes = []
    job.feed(event("quiet", NOON_MS, tenant="t-quiet"))
    for number in range(30):
        job.feed(*(event(f"{number}-{one}", NOON_MS, tenant=f"t-{one}") for one in range(200)))
        job.epoch()
        sizes.append(sum(path.stat().st_size for path in tmp_path.glob("spend/*/*.segment")))
    assert sizes[-1] < max(sizes) / 3
    kept = [spend._book.windows for spend in job.spends]  # noqa: SLF001 - what a restart must bring back
    job.start([0])
    again = [spend._book.windows for spend in job.spends]  # noqa: SLF001 - as above
    assert [sums(windows) for windows in again] == [sums(windows) for windows in kept]
    job.feed(event("more", NOON_MS, tenant="t-1"))
    assert job.epoch().spend == {("t-1", DAY): 31}


def sums(windows: dict[WindowKey, SpendWindow]) -> dict[WindowKey, tuple[int, int, list[Decimal]]]:
    return {key: (one.spend_pico, one.events, one.raised) for key, one in windows.items()}


@pytest.mark.parametrize("step", ["dedupe", "spend"])
def test_a_damaged_file_stops_the_start_and_is_named(tmp_path: Path, step: str) -> None:
    job = Job(tmp_path)
    job.feed(*(event(f"k-{number}", NOON_MS, tenant=f"t-{number}") for number in range(20)))
    job.epoch()
    path = next(tmp_path.glob(f"{step}/*/*.segment"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptStateError, match=path.name):
        job.start([0])


def test_a_snapshot_is_text_that_costs_the_same_however_much_is_kept(tmp_path: Path) -> None:
    job = Job(tmp_path)
    sizes = []
    for epoch in range(5):
        job.feed(*(event(f"{epoch}-{number}", NOON_MS) for number in range(1_000)))
        job.epoch()
        sizes.append(max(len(state or "") for state in job.snapshots))
    assert max(sizes) < 800
    state = ShardState(3, (Segment("name", 10, 1, 2),), {4: NOON_MS, 9: -1}, 17, {4: [NOON_MS, 3]})
    assert ShardState.from_json(state.to_json()) == state


LIVE, DONE = True, False


@pytest.mark.parametrize(
    ("news", "slowest_ms"),
    [
        ([], -1),
        ([(0, 50, LIVE)], -1),  # the other expected input has not been heard of
        ([(0, 50, LIVE), (1, 70, LIVE)], 50),
        ([(0, 50, LIVE), (1, 70, LIVE), (0, 90, LIVE)], 70),
        ([(0, 50, LIVE), (1, 70, LIVE), (0, 10, LIVE)], 50),  # watermarks do not go back
        ([(0, 50, DONE), (1, 70, LIVE)], 70),
        ([(0, 50, DONE), (1, 70, DONE)], 50),
        ([(0, 50, LIVE), (1, -1, LIVE)], -1),  # live, and nothing known of it yet
        ([(0, 50, LIVE), (1, -1, DONE)], 50),  # an empty input holds nothing back
    ],
)
def test_the_slowest_watermark(news: list[tuple[int, int, bool]], slowest_ms: int) -> None:
    marks = Watermarks(frozenset({0, 1}))
    for ordinal, peak_ms, live in news:
        marks.advance(Tick(Partition(ordinal, "x", ordinal), peak_ms, live))
    assert marks.slowest_ms() == slowest_ms


def test_what_is_closed_stays_closed_when_a_slow_input_comes_back() -> None:
    marks = Watermarks(frozenset({0, 1}))
    slow, fast = Partition(0, "slow", 0), Partition(1, "fast", 0)
    marks.advance(Tick(slow, 50, LIVE))
    marks.advance(Tick(fast, 70, LIVE))
    assert marks.close() == 50
    marks.advance(Tick(slow, 50, DONE))
    assert marks.before(Tick(slow, 0, LIVE)) == 50
    assert marks.close() == 70
    marks.advance(Tick(slow, 55, LIVE))
    assert marks.slowest_ms() == 55
    assert marks.close() == 70
    assert marks.before(Tick(slow, 0, LIVE)) == 70


def test_a_few_wrong_clocks_make_nothing_be_forgotten() -> None:
    marks = Watermarks(frozenset({0}))
    one = Partition(0, "x", 0)
    marks.advance(Tick(one, NOON_MS, LIVE, (NOON_MS,) * SETTLED_EVENTS))
    assert marks.settled_ms() == NOON_MS
    ahead = NOON_MS + 90 * DAY_MS
    marks.advance(Tick(one, ahead, LIVE, (ahead,) * (SETTLED_EVENTS - 1)))
    assert (marks.settled_ms(), marks.slowest_ms()) == (NOON_MS, ahead)
    marks.advance(Tick(one, ahead, LIVE, (ahead,)))
    assert marks.settled_ms() == ahead


def test_a_copy_is_found_after_an_event_with_a_clock_months_ahead(tmp_path: Path) -> None:
    job = Job(tmp_path)
    keys = [f"k{number}" for number in range(SETTLED_EVENTS)]
    job.feed(*(event(key, NOON_MS) for key in keys), event("ahead", NOON_MS + 90 * DAY_MS))
    for _ in range(3):
        job.feed(event(f"n{_}", NOON_MS))
        job.epoch()
    job.feed(*(event(key, NOON_MS + 1) for key in keys))
    assert (sorted(job.epoch().duplicates), job.keys()) == (sorted(keys), SETTLED_EVENTS + 4)


def keyed_batch(number: int) -> tuple[KeyedBatch, list[ShardVerdicts]]:
    """The nth batch of an input, of n events, and what each shard says: all of them are originals."""
    lines = b"".join(event(f"k-{number}-{one}", NOON_MS) + b"\n" for one in range(number))
    none, arrivals = np.zeros(number, np.int32), np.full(number, NOON_MS, np.int64)
    offsets = np.arange(number, dtype=np.int64)
    partition = Partition(0, "input", 0)
    raw = RawBatch(partition, lines, offsets, none, arrivals, number, live=True, age_limited=False)
    rated = rate_events(refuse_unpriced(decode(raw, NO_BOUNDS), CARD), CARD, SETTINGS.limits, 72)
    keyed, slices = split_by_key(rated, SHARDS, seed=7)
    return keyed, [
        ShardVerdicts(one.shard, one.tick, np.full(len(one.sightings), ORIGINAL, np.int8), -1, "")
        for one in slices
    ]


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_waits_for_the_verdicts_of_every_shard_in_whatever_order_they_come(seed: int) -> None:
    chance = random.Random(seed)
    batches = [keyed_batch(number) for number in range(5)]
    queues: list[list[KeyedBatch | ShardVerdicts]] = [[keyed for keyed, _ in batches]]
    queues += [[verdicts[shard] for _, verdicts in batches] for shard in range(SHARDS)]
    waiting = JudgeLogic(SHARDS)
    judged: list[int] = []
    while any(queues):
        queue = chance.choice([one for one in queues if one])
        count = chance.randint(1, len(queue))
        arrived, queue[:count] = queue[:count], []
        found, is_done = waiting.on_batch(arrived)
        judged += [len(one.priced) for one in found]
        assert judged == list(range(5 - max(map(len, queues))))
        uneven = len(set(map(len, queues))) > 1
        assert is_done == (StatefulBatchLogic.RETAIN if uneven else StatefulBatchLogic.DISCARD)
        if uneven:
            with pytest.raises(AssertionError, match="waits"):
                waiting.snapshot()
