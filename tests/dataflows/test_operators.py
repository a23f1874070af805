"""The steps that remember, fed through the stateless ones: late events, alerts, restarts, damage."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path

import pytest

from dataflows.operators import ShardState
from dataflows.segments import CorruptStateError, Segment
from dataflows.steps import HOUR_MS
from pricing.spend import SpendWindow, WindowKey
from tests.auditor_cases import NOON_MS
from tests.dataflows.remembering import DAY, DAY_MS, RETENTION_HOURS, Job, Seen, event


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
