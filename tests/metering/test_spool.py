"""The spool on a real disk: in order, once, whatever happened to its processes."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering import spool as spool_module
from metering.message import Message
from metering.spool import Place, Spool, SpoolFull
from metering.spool_directory import destination_directory, lock, segments, waiting_elsewhere
from tests.metering.spooling import crash, files, message, messages, opened, read_all, replay


def test_nothing_touches_the_disk_before_the_first_append(directory: Path) -> None:
    spool = opened(directory)
    assert (spool.is_empty, spool.read(), spool.adopt(), spool.sync()) == (True, None, 0, True)
    spool.close()
    assert not directory.exists()


def test_messages_come_back_in_order_and_leave_nothing_behind(directory: Path) -> None:
    spool = opened(directory)
    spool.append(messages(3))
    spool.append(messages(2, first=3))
    assert not spool.is_empty
    assert replay(spool) == messages(5)
    assert (spool.is_empty, spool.size_bytes, files(directory)) == (True, 0, [])
    spool.append(messages(1, first=9))
    assert replay(spool) == messages(1, first=9)
    spool.close()
    assert list(directory.iterdir()) == []


def test_a_segment_goes_when_all_of_it_is_acknowledged_and_not_before(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 100)
    spool = opened(directory)
    for number in range(6):
        spool.append([message(number)])
    assert files(directory) == ["00000001.seg", "00000002.seg"]
    found = read_all(spool)
    spool.acknowledge(found[1][0])
    spool.save()
    assert files(directory) == ["00000001.seg", "00000002.seg"]
    spool.acknowledge(found[2][0])
    spool.save()
    assert files(directory) == ["00000002.seg"]


def test_what_is_held_elsewhere_is_read_after_a_crash_alone(directory: Path) -> None:
    spool = opened(directory)
    places = spool.append(messages(4))
    spool.skip(places[:2])
    assert [one for _, one in read_all(spool)] == messages(2, first=2)
    crash(spool)
    successor = opened(directory)
    assert (successor.adopt(), replay(successor)) == (1, messages(4))


@pytest.mark.parametrize(("acknowledged", "expected"), [(0, 0), (1, 1), (3, 3)])
def test_after_a_crash_the_next_process_goes_on_where_it_was_saved(
    directory: Path, acknowledged: int, expected: int
) -> None:
    spool = opened(directory)
    spool.append(messages(4))
    for place, _ in read_all(spool)[:acknowledged]:
        spool.acknowledge(place)
    spool.save()
    crash(spool)
    successor = opened(directory)
    assert successor.adopt() == 1
    assert replay(successor) == messages(4)[expected:]
    assert files(directory) == []
    successor.close()
    assert list(directory.iterdir()) == []


def test_what_was_acknowledged_but_not_saved_comes_again(directory: Path) -> None:
    spool = opened(directory)
    spool.append(messages(2))
    spool.acknowledge(read_all(spool)[1][0])
    crash(spool)
    successor = opened(directory)
    successor.adopt()
    assert replay(successor) == messages(2)


def test_a_living_process_is_left_alone_and_one_that_closed_is_not(directory: Path) -> None:
    alive, left = opened(directory), opened(directory)
    alive.append(messages(1))
    left.append(messages(1, first=1))
    left.close()
    other = opened(directory)
    assert (other.adopt(), replay(other)) == (1, messages(1, first=1))
    assert replay(alive) == messages(1)


def test_a_directory_that_went_while_its_lock_was_taken_is_nobodys(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.mkdir(parents=True)
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        directory.rmdir()  # its heir was faster
        directory.mkdir()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert lock(directory) is None


def test_own_messages_and_adopted_ones_keep_their_orders(directory: Path) -> None:
    dead, alive = opened(directory), opened(directory)
    dead.append(messages(2))
    crash(dead)
    alive.append(messages(2, first=10))
    assert alive.adopt() == 1
    alive.append(messages(2, first=12))
    assert replay(alive) == [*messages(2, first=10), *messages(2), *messages(2, first=12)]


def test_no_more_is_taken_over_than_fits(directory: Path) -> None:
    for number in range(3):
        dead = opened(directory)
        dead.append([message(number, size=400)])
        crash(dead)
    alive = opened(directory, bytes_max=1_000)
    with pytest.raises(SpoolFull, match=r"00000001.seg is left by another process and does not fit: 8\d\d "):
        alive.adopt()
    assert (len(replay(alive)), alive.adopt(), len(replay(alive)), alive.adopt()) == (2, 1, 1, 0)


def test_what_waits_for_another_destination_is_named_and_left(tmp_path: Path) -> None:
    mine, other = (destination_directory(tmp_path, name) for name in ("topic@a:1", "topic@a_1"))
    spool = opened(other)
    spool.append(messages(1))
    assert waiting_elsewhere(mine) == []  # its process lives
    crash(spool)
    assert (waiting_elsewhere(mine), waiting_elsewhere(other)) == ([other], [])
    (segment,) = other.rglob("*.seg")
    segment.rename(segment.with_suffix(".damaged"))
    assert waiting_elsewhere(mine) == [other]
    assert (opened(mine).adopt(), opened(other).adopt()) == (0, 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    steps=st.lists(
        st.sampled_from(["append", "read", "acknowledge", "save", "crash", "close"]), min_size=1, max_size=40
    ),
    segment_bytes=st.sampled_from([1, 100, 10_000]),
)
def test_nothing_is_lost_and_no_order_changes_whatever_is_done_in_between(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], segment_bytes: int
) -> None:
    directory = tmp_path_factory.mktemp("spool") / "destination"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "SEGMENT_BYTES", segment_bytes)
        spool, written, delivered = opened(directory), 0, 0
        read: list[tuple[Place, Message]] = []
        for step in steps:
            if step == "append":
                spool.append(messages(3, first=written))
                written += 3
            elif step == "read" and (one := spool.read()) is not None:
                assert one[1] == message(delivered + len(read))
                read.append(one)
            elif step == "acknowledge" and read:
                spool.acknowledge(read.pop(0)[0])
                delivered += 1
            elif step == "save":
                spool.save()
            elif step in ("crash", "close"):
                spool.save()  # what is not saved comes again: shown elsewhere
                (crash if step == "crash" else Spool.close)(spool)
                spool, read = opened(directory), []
                spool.adopt()
        expected = messages(written - delivered - len(read), first=delivered + len(read))
        assert [one for _, one in read_all(spool)] == expected
        crash(spool)


def test_segments_are_numbered_without_end(directory: Path) -> None:
    directory.mkdir(parents=True)
    for name in ("00000002.seg", "100000000.seg", "00000001.damaged", "1.seg", "00000003.corrupt"):
        (directory / name).write_bytes(b"")
    assert [number for number, _ in segments(directory)] == [1, 2, 100_000_000]
