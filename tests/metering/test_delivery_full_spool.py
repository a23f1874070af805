"""Delivery beside a spool that holds four messages, and the head of one segment."""

from __future__ import annotations

from pathlib import Path

import pytest

from metering.delivery import ADOPT_SECONDS
from metering.spool_records import HEAD_BYTES
from tests.metering.delivery_rig import SPOOL_AFTER, Rig

ROOM = HEAD_BYTES + 4 * 23


@pytest.mark.parametrize(("held", "new"), [(2, 3), (5, 1), (4, 1), (1, 6), (0, 5)])
def test_a_spool_takes_what_fits_in_order_and_the_rest_waits_in_memory(
    tmp_path: Path, held: int, new: int
) -> None:
    rig = Rig(tmp_path / "spool", bytes_max=ROOM)
    rig.destination.away = True
    rig.record(held)
    rig.turn()
    rig.record(new)
    for _ in range(3):
        rig.turn(SPOOL_AFTER)
    left = held + new - 4
    assert (rig.counted, rig.secure()) == ((0, 4, 0, left), False)
    assert rig.counts.last_error == "the spool: it holds 104 bytes and may hold 104"
    assert ("events wait in memory", rig.counts.last_error, 1) in rig.counts.to_tell
    rig.destination.away = False
    rig.until_idle()
    assert (rig.destination.arrived, rig.counted) == (rig.recorded, (left, 4, 4, 0))


def test_of_what_is_left_at_the_end_the_spool_takes_what_fits_and_the_rest_is_counted(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "spool", bytes_max=ROOM)
    rig.destination.away = True
    rig.record(3)
    rig.turn()
    rig.record(4)
    rig.delivery.give_up(rig.now)
    assert (rig.counts.spooled, rig.counts.dropped, rig.delivery.waiting_events) == (4, {"undelivered": 3}, 0)
    rig.delivery.close(0)
    heir = Rig(tmp_path / "spool")
    heir.turn()
    heir.until_idle()
    assert heir.destination.arrived == rig.recorded[:4]


def test_spools_of_the_dead_wait_where_not_all_in_memory_fits(tmp_path: Path) -> None:
    dead = Rig(tmp_path / "spool")
    dead.record(1)
    dead.delivery.give_up(dead.now)
    rig = Rig(tmp_path / "spool", bytes_max=ROOM)
    rig.turn()  # the dead one holds its lock yet
    rig.destination.away = True
    rig.record(6)
    rig.turn()
    dead.delivery.close(0)
    rig.turn(2 * ADOPT_SECONDS)
    assert rig.counted == (0, 4, 0, 2)
    rig.destination.away = False
    rig.until_idle()
    rig.turn(ADOPT_SECONDS)
    rig.until_idle()
    assert rig.destination.arrived == [*rig.recorded, b"0"]
