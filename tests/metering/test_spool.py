"""The spool on a real disk: in order, once, whatever happened to process, disk and bytes."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering import spool as spool_module
from metering.message import Message
from metering.spool import Place, Spool, SpoolFull
from metering.spool_directory import destination_directory, lock, segments, waiting_elsewhere
from tests.metering.disks import files_no_longer_than
from tests.simulation.disk import Disk

ROOM = 2**30


def message(number: int, size: int = 20) -> Message:
    return Message(b"acme", b"%d " % number + b"x" * size, 1)


def messages(count: int, first: int = 0) -> list[Message]:
    return [message(number) for number in range(first, first + count)]


class Watched:
    """A spool, and the damage that it reported."""

    def __init__(self, directory: Path, bytes_max: int = ROOM) -> None:
        self.damages: list[int] = []
        self.spool = Spool(directory, bytes_max, lambda _, length: self.damages.append(length))


def opened(directory: Path, bytes_max: int = ROOM) -> Spool:
    return Spool(directory, bytes_max, lambda *_: None)


def crash(spool: Spool) -> None:
    """What `kill -9` leaves: nothing is closed in order, and the lock is gone."""
    spool.abandon()


def read_all(spool: Spool) -> list[tuple[Place, Message]]:
    return list(iter(spool.read, None))


def replay(spool: Spool) -> list[Message]:
    found = read_all(spool)
    for place, _ in found:
        spool.acknowledge(place)
    spool.save()
    return [one for _, one in found]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return destination_directory(tmp_path / "spool", "topic@broker")


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


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


# Damage


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data())
def test_a_changed_byte_costs_one_record_and_is_kept_aside(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("spool") / "destination"
    dead = opened(directory)
    places = dead.append([message(number, size=number) for number in range(5)])
    crash(dead)
    (path,) = directory.glob("*/*.seg")
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    hit = next(number for number, place in enumerate(places) if at < place.end) if at >= 12 else None
    watched = Watched(directory)
    watched.spool.adopt()
    expected = [message(number, size=number) for number in range(5) if number != hit]
    assert replay(watched.spool) == expected
    assert watched.spool.is_empty
    kept = list(directory.glob("*.corrupt"))
    assert [one.read_bytes() == bytes(content) or at < 12 for one in kept] == [True] * (hit is not None)
    assert len(watched.damages) == len(kept)


@pytest.mark.parametrize(("cut", "expected", "kept"), [(1, 2, 1), (30, 2, 1), (50, 1, 1), (0, 3, 0)])
def test_a_torn_end_costs_what_was_being_written(directory: Path, cut: int, expected: int, kept: int) -> None:
    dead = opened(directory)
    dead.append(messages(3))
    crash(dead)
    (path,) = directory.glob("*/*.seg")
    os.truncate(path, path.stat().st_size - cut)
    successor = opened(directory)
    successor.adopt()
    assert replay(successor) == messages(expected)
    assert len(list(directory.glob("*.corrupt"))) == kept


def test_a_segment_without_a_single_record_does_not_stop_the_others(directory: Path) -> None:
    dead = opened(directory)
    dead.append(messages(1))
    crash(dead)
    (own,) = directory.iterdir()
    (own / "00000002.seg").write_bytes(b"")
    (own / "00000003.seg").write_bytes(b"\0" * 5_000)
    (own / "notes.txt").write_text("not ours")
    watched = Watched(directory)
    assert watched.spool.adopt() == 3
    assert replay(watched.spool) == messages(1)
    assert (watched.spool.is_empty, watched.damages) == (True, [4_988])


def test_a_segment_that_somebody_deleted_is_told_and_passed(directory: Path) -> None:
    watched = Watched(directory)
    watched.spool.append(messages(1))
    (path,) = directory.glob("*/*.seg")
    path.unlink()
    assert (replay(watched.spool), watched.spool.is_empty, len(watched.damages)) == ([], True, 1)
    path.parent.rmdir()
    watched.spool.append(messages(2))
    assert replay(watched.spool) == messages(2)


# A disk that takes no more


def test_an_append_that_the_disk_cuts_leaves_nothing_of_itself(directory: Path) -> None:
    watched = Watched(directory)
    watched.spool.append(messages(2))
    size = watched.spool.size_bytes
    with files_no_longer_than(size + 100), pytest.raises(OSError, match="too large"):
        watched.spool.append(messages(5, first=2))
    (path,) = directory.glob("*/*.seg")
    assert path.stat().st_size == watched.spool.size_bytes == size
    watched.spool.append(messages(1, first=9))
    assert (replay(watched.spool), watched.damages) == ([*messages(2), *messages(1, first=9)], [])


def test_a_disk_that_takes_nothing_at_all_is_tried_again(directory: Path) -> None:
    spool = opened(directory)
    for _ in range(3):
        with files_no_longer_than(5), pytest.raises(OSError, match="too large"):
            spool.append(messages(1))
        assert (spool.is_empty, spool.size_bytes) == (True, 0)
    spool.append(messages(2))
    assert replay(spool) == messages(2)


def test_a_full_spool_takes_no_more_until_there_is_room(directory: Path) -> None:
    spool = opened(directory, bytes_max=1_000)
    spool.append([message(1, size=600)])
    with pytest.raises(SpoolFull):
        spool.append([message(2, size=600)])
    assert replay(spool) == [message(1, size=600)]
    spool.append([message(2, size=600)])
    assert replay(spool) == [message(2, size=600)]


@pytest.mark.parametrize(
    ("bytes_max", "taken"), [(125, 0), (126, 1), (239, 1), (240, 2), (354, 3), (9_999, 3)]
)
def test_an_append_takes_what_fits_from_the_front(directory: Path, bytes_max: int, taken: int) -> None:
    spool, three = opened(directory, bytes_max), [message(number, size=90) for number in range(3)]
    if taken:
        assert [place.end for place in spool.append(three)] == [126, 240, 354][:taken]
    else:
        with pytest.raises(SpoolFull, match=f"it holds 0 bytes and may hold {bytes_max}"):
            spool.append(three)
    assert spool.size_bytes <= bytes_max
    assert replay(spool) == three[:taken]


def test_what_is_kept_aside_is_bounded_for_all_processes(directory: Path) -> None:
    told: list[str] = []
    spools = [Spool(directory, 100, lambda sentence, _: told.append(sentence)) for _ in range(2)]
    assert [spool.set_aside(b"x" * 39) for spool in [*spools, *spools]] == [True, True, False, False]
    kept = directory / "refused.jsonl"
    assert kept.read_bytes() == 2 * (b"x" * 39 + b"\n")
    assert kept.stat().st_mode & 0o777 == 0o600
    spools[0].append([message(1)])
    (segment,) = directory.rglob("*.seg")
    segment.write_bytes(segment.read_bytes().replace(b"1 x", b"1 y"))
    assert replay(spools[0]) == []
    assert (files(directory), spools[0].is_empty) == (["refused.jsonl"], True)
    assert told[-1].endswith("00000001.damaged is deleted: too much is kept aside already")


@pytest.mark.parametrize("is_away", [True, False])
def test_what_is_refused_outlives_a_loss_of_power(directory: Path, is_away: bool) -> None:
    directory.mkdir(parents=True)
    if is_away:
        (directory / "refused.jsonl").mkdir()  # a disk that does not take it
        assert not opened(directory).set_aside(b"x")
        return
    disk = Disk(directory)
    real = os.fsync
    disk.watch()
    try:
        assert opened(directory).set_aside(b"x")
        disk.lose_power()
    finally:
        os.fsync = real
    assert (directory / "refused.jsonl").read_bytes() == b"x\n"


def test_after_a_failed_fsync_nothing_counts_as_safe_until_it_is_replayed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(directory)
    spool.append(messages(1))

    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", fails)
        assert not spool.sync()
    assert not spool.sync()
    replay(spool)
    spool.append(messages(1))
    assert spool.sync()


def test_what_was_synced_outlives_a_loss_of_power(directory: Path) -> None:
    directory.mkdir(parents=True)
    disk = Disk(directory)
    real = os.fsync
    disk.watch()
    try:
        spool = opened(directory)
        spool.append(messages(2))
        assert spool.sync()
        spool.append(messages(2, first=2))
        disk.lose_power()
    finally:
        os.fsync = real
    crash(spool)
    successor = opened(directory)
    successor.adopt()
    assert replay(successor) == messages(2)


def test_a_process_whose_directory_is_new_makes_its_name_outlive_a_loss_of_power(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))
    spool = opened(directory)
    spool.append(messages(1))
    assert spool.sync()
    (own,) = directory.iterdir()
    assert {path.stat().st_ino for path in (directory.parent, directory, own, *own.iterdir())} <= synced


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
