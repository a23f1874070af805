"""Delivery, one turn at a time, with a destination that does as it is told and a clock that is passed in."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering import delivery as delivery_module
from metering.delivery import ADOPT_SECONDS, RETRY_SECONDS_MAX
from metering.transport import Busy, Unavailable
from tests.metering.delivery_rig import SPOOL_AFTER, Rig


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "spool")


def test_while_the_destination_takes_events_no_disk_is_touched(rig: Rig, tmp_path: Path) -> None:
    rig.record(3)
    assert not rig.secure()
    rig.turn()
    assert not rig.secure()
    rig.turn()
    assert rig.secure()
    assert (rig.destination.arrived, rig.counted) == (rig.recorded, (3, 0, 0, 0))
    assert not (tmp_path / "spool").exists()


def test_what_waits_too_long_goes_to_the_spool_and_what_follows_goes_after_it(rig: Rig) -> None:
    rig.destination.away = True
    rig.record(2)
    rig.turn()
    rig.turn(SPOOL_AFTER - 0.01)
    assert rig.counted == (0, 0, 0, 2)
    rig.turn(0.01)
    assert rig.counted == (0, 2, 0, 0)
    assert rig.secure()
    rig.record(2)
    rig.turn()
    assert (rig.counted, rig.secure(), rig.destination.sent) == ((0, 4, 0, 0), True, 2)
    rig.destination.away = False
    rig.until_idle()
    assert (rig.destination.arrived, rig.counted) == (rig.recorded, (0, 4, 4, 0))
    rig.record(1)
    rig.turn()
    rig.turn()
    assert (rig.destination.arrived, rig.counted) == (rig.recorded, (1, 4, 4, 0))


@pytest.mark.parametrize("late", [0, 1, 2])
def test_the_spool_is_left_though_events_never_pause_and_acknowledgements_are_late(
    rig: Rig, late: int
) -> None:
    rig.destination.away = True
    rig.record(3)
    rig.turn()
    rig.turn(SPOOL_AFTER)
    rig.destination.away, rig.destination.late = False, late
    for _ in range(20):
        rig.record()
        rig.turn(0.02)
    spooled = rig.counts.spooled
    assert spooled == 3
    rig.destination.late = 0
    rig.turn()
    assert rig.counted == (23 - spooled, spooled, spooled, 0)
    assert rig.destination.arrived == rig.recorded


def test_a_destination_that_goes_away_again_while_the_spool_is_acknowledged(rig: Rig, tmp_path: Path) -> None:
    rig.destination.away = True
    rig.record(3)
    rig.turn()
    rig.turn(SPOOL_AFTER)
    rig.destination.away, rig.destination.late = False, 2
    for _ in range(2):
        rig.record()
        rig.turn()
    rig.destination.away = True
    rig.record()
    rig.turn(SPOOL_AFTER)
    assert (rig.counted[1:], rig.secure()) == ((6, 2, 0), True)
    arrived = list(rig.destination.arrived)
    rig.delivery.abandon()  # `kill -9`
    heir = Rig(tmp_path / "spool")
    heir.turn()
    heir.until_idle()
    assert arrived + heir.destination.arrived == rig.recorded


def test_an_acknowledgement_that_comes_late_saves_the_second_sending(rig: Rig) -> None:
    rig.destination.away = True
    rig.record(3)
    rig.turn()
    rig.turn(5)
    rig.destination.away = False
    rig.turn()
    assert (rig.destination.sent, rig.destination.arrived, rig.delivery.is_idle) == (3, rig.recorded, True)


def test_a_message_that_failed_is_spooled_at_once_and_sent_again(rig: Rig) -> None:
    rig.destination.away = True
    rig.record(2)
    rig.turn()
    rig.destination.fail()
    rig.turn()
    assert rig.counted == (0, 2, 0, 0)
    rig.destination.away = False
    rig.until_idle()
    assert (rig.destination.arrived, rig.destination.sent) == (rig.recorded, 4)


@pytest.mark.parametrize("refusal", [Busy, Unavailable])
def test_a_destination_that_takes_nothing_is_tried_again(rig: Rig, refusal: type[Exception]) -> None:
    rig.destination.refusal = refusal
    rig.record(3)
    for _ in range(20):
        rig.turn(0.5)
    assert (rig.counted, rig.destination.sent) == ((0, 3, 0, 0), 0)
    rig.destination.refusal = None
    rig.until_idle()
    assert rig.destination.arrived == rig.recorded


def test_tries_become_rarer_up_to_a_bound(rig: Rig) -> None:
    tries = []
    rig.destination.away = True
    rig.record()
    for _ in range(600):
        rig.turn(0.125)
        if rig.destination.handed:
            tries.append(rig.now)
            rig.destination.fail()
            rig.turn()
            pauses = [later - before for before, later in pairwise(tries)]
    assert pauses[:5] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert set(pauses[5:]) == {RETRY_SECONDS_MAX}


def test_without_a_spool_events_wait_in_memory(tmp_path: Path) -> None:
    rig = Rig(None)
    rig.destination.away = True
    rig.record(2)
    rig.turn()
    rig.destination.fail()
    rig.turn(10)
    assert (rig.counted, rig.secure()) == ((0, 0, 0, 2), False)
    rig.destination.away = False
    rig.until_idle()
    assert (rig.destination.arrived, rig.counted) == (rig.recorded, (2, 0, 0, 0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("has_spool", [True, False])
def test_no_more_is_held_than_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_spool: bool
) -> None:
    monkeypatch.setattr(delivery_module, "HELD_MESSAGES_MAX", 10)
    rig = Rig(tmp_path / "spool" if has_spool else None)
    rig.destination.away = True
    rig.record(25)
    rig.turn()
    assert (rig.destination.sent, rig.delivery.has_room) == (10, False)
    rig.turn()
    assert (rig.destination.sent, rig.delivery.has_room) == (10, has_spool)
    rig.destination.away = False
    rig.until_idle()
    assert rig.destination.arrived == rig.recorded


def test_a_message_too_large_for_the_broker_is_sent_in_parts(rig: Rig) -> None:
    rig.destination.lines_max = 3
    rig.record(1, lines=20)
    rig.record(2)
    rig.until_idle()
    assert sorted(rig.destination.arrived) == sorted(rig.recorded)
    assert (rig.counts.dropped, rig.delivery.waiting_events) == ({}, 0)


def test_an_event_too_large_for_the_broker_is_kept_aside_and_holds_up_nothing(
    rig: Rig, tmp_path: Path
) -> None:
    rig.destination.lines_max = 0
    rig.record(1, lines=2)
    rig.until_idle()
    rig.destination.lines_max = 10
    rig.record(1)
    rig.until_idle()
    assert rig.destination.arrived == [b"2"]
    assert (rig.counts.dropped, rig.delivery.waiting_events) == ({"refused": 2}, 0)
    assert (tmp_path / "spool" / "refused.jsonl").read_bytes() == b"0\n1\n"
    assert [(kind, count) for kind, _, count in rig.counts.to_tell] == [("event dropped, refused", 1)] * 2


def test_an_event_too_large_for_the_broker_that_cannot_be_kept_is_counted_as_such(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "spool", bytes_max=4)
    rig.destination.lines_max = 0
    rig.record(1, lines=3)
    rig.until_idle()
    assert (rig.counts.dropped, rig.delivery.waiting_events) == ({"refused": 2, "refused_unkept": 1}, 0)
    assert (tmp_path / "spool" / "refused.jsonl").read_bytes() == b"0\n1\n"


def test_what_is_left_at_the_end_goes_to_the_spool_or_is_counted(tmp_path: Path) -> None:
    for place, lost in ((tmp_path / "spool", 0), (None, 3)):
        rig = Rig(place)
        rig.destination.away = True
        rig.record(3)
        rig.turn()
        rig.delivery.give_up(rig.now)
        rig.delivery.close(0)
        assert (rig.counts.dropped["undelivered"], rig.delivery.waiting_events) == (lost, 0)
    heir = Rig(tmp_path / "spool")
    heir.until_idle()
    heir.turn()
    heir.until_idle()
    assert (heir.destination.arrived, heir.counted) == ([b"0", b"1", b"2"], (0, 0, 3, 0))


def test_spools_of_the_dead_are_looked_for_at_the_start_and_then_now_and_then(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "spool")
    rig.turn()
    dead = Rig(tmp_path / "spool")
    dead.destination.away = True
    dead.record(2)
    dead.delivery.give_up(dead.now)
    dead.delivery.close(0)
    rig.turn(ADOPT_SECONDS - 1)
    assert rig.delivery.is_idle
    rig.turn(1)
    rig.until_idle()
    assert (rig.destination.arrived, rig.counted) == (dead.recorded, (0, 0, 2, 0))


@pytest.mark.parametrize(
    ("late", "seconds", "expected"),
    [
        (0, ADOPT_SECONDS, 1),
        (1, ADOPT_SECONDS, 0),
        (1, 2 * ADOPT_SECONDS, 1),
    ],
)
def test_spools_of_the_dead_are_taken_over_under_steady_traffic(
    tmp_path: Path, late: int, seconds: float, expected: int
) -> None:
    rig = Rig(tmp_path / "spool")
    rig.turn()
    dead = Rig(tmp_path / "spool")
    dead.record(2)
    dead.delivery.give_up(dead.now)
    dead.delivery.close(0)
    rig.destination.late = late
    begin = rig.now
    while rig.now < begin + seconds + 3:
        rig.record()
        rig.turn(0.5)
    assert rig.destination.arrived.count(dead.recorded[0]) - 1 == expected
    rig.destination.late = 0
    rig.until_idle()
    assert set(rig.destination.arrived) == set(rig.recorded)


def test_a_disk_that_fails_to_sync_makes_nothing_secure(rig: Rig) -> None:
    rig.destination.is_synced = False
    rig.record()
    rig.turn()
    rig.turn()
    assert not rig.secure()


def test_what_arrived_before_its_turn_is_not_spooled(rig: Rig) -> None:
    rig.destination.away = True
    rig.record(3)
    rig.turn()
    rig.destination.take(1)
    rig.turn(SPOOL_AFTER)
    assert rig.counts.spooled == 2
    rig.destination.away = False
    rig.until_idle()
    assert rig.counted == (1, 2, 2, 0)


def test_a_message_on_its_second_way_is_not_planned_a_third(rig: Rig) -> None:
    rig.destination.away = True
    rig.record(2)
    rig.turn()
    for _ in range(2):
        rig.destination.fail(1)
        rig.turn()
        rig.turn(0.25)
    rig.turn(1.0)
    assert rig.destination.sent == 4


def test_messages_do_not_overtake_one_that_is_refused(rig: Rig) -> None:
    rig.destination.refusal = Busy
    rig.record(4)
    rig.turn()
    rig.turn()
    rig.destination.refusal, rig.destination.refuse_next = None, 1
    rig.until_idle()
    assert rig.destination.arrived == rig.recorded


def test_spools_are_not_taken_over_among_messages_that_are_in_memory_alone(rig: Rig, tmp_path: Path) -> None:
    rig.destination.away = True
    rig.record(2)
    rig.turn()
    dead = Rig(tmp_path / "spool")
    dead.record(2)
    dead.delivery.give_up(dead.now)
    dead.delivery.close(0)
    rig.turn(ADOPT_SECONDS)
    assert rig.secure()


def test_a_disk_that_failed_is_left_alone_for_a_while_but_not_at_the_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def append(*_: object) -> None:
        tries.append(rig.now)
        raise OSError(28, "No space left on device")

    rig.destination.away = True
    rig.record(2)
    with monkeypatch.context() as disk:
        disk.setattr(rig.spool, "append", append)
        for _ in range(10):
            rig.turn(0.25)
    assert [moment - tries[0] for moment in tries] == [0, 1]
    assert rig.counts.last_error == "the spool: No space left on device"
    rig.delivery.give_up(rig.now)
    assert rig.counted == (0, 2, 0, 0)


def test_what_the_spool_could_not_sync_is_not_secure(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.destination.away = True
    rig.record()
    rig.turn()
    rig.turn(SPOOL_AFTER)
    monkeypatch.setattr(rig.spool, "sync", lambda: False)
    assert (rig.counts.spooled, rig.secure()) == (1, False)


Step = Callable[[Rig], None]


STEPS: dict[str, Step] = {
    "record": lambda rig: rig.record(2) if rig.delivery.has_room else None,
    "turn": lambda rig: rig.turn(0.3),
    "a second": lambda rig: rig.turn(1.0),
    "away": lambda rig: setattr(rig.destination, "away", True),
    "back": lambda rig: setattr(rig.destination, "away", False),
    "late": lambda rig: setattr(rig.destination, "late", 2),
    "in time": lambda rig: setattr(rig.destination, "late", 0),
    "fail": lambda rig: rig.destination.fail(),
    "busy": lambda rig: setattr(rig.destination, "refusal", Busy),
    "unavailable": lambda rig: setattr(rig.destination, "refusal", Unavailable),
    "willing": lambda rig: setattr(rig.destination, "refusal", None),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=40), bytes_max=st.sampled_from([150, 400, 2**30])
)
def test_everything_arrives_and_what_is_secure_survives_a_crash(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], bytes_max: int
) -> None:
    directory = tmp_path_factory.mktemp("delivery")
    rig, secured = Rig(directory / "spool", bytes_max), 0
    for step in steps:
        STEPS[step](rig)
        if rig.secure():
            secured = len(rig.recorded)
        counts = rig.counts
        assert counts.delivered + counts.spooled + rig.delivery.waiting_events == len(rig.recorded)
    rig.delivery.abandon()  # `kill -9`
    heir = Rig(directory / "spool")
    heir.turn()
    heir.until_idle()
    assert set(rig.destination.arrived) | set(heir.destination.arrived) >= set(rig.recorded[:secured])
    whole = Rig(directory / "other", bytes_max)
    for step in [*steps, "willing", "back", "in time"]:
        STEPS[step](whole)
    whole.until_idle()
    assert set(whole.destination.arrived) == set(whole.recorded)
    assert whole.counts.delivered + whole.counts.replayed == len(whole.recorded)
