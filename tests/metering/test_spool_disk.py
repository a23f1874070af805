"""A spool on a disk that takes no more, and what outlives a loss of power."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metering.spool import SpoolFull
from tests.metering.disks import files_no_longer_than
from tests.metering.spooling import Watched, crash, message, messages, opened, replay
from tests.simulation.disk import Disk


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
