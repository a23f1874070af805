"""A spool of which bytes or files are lost or changed: what it costs, and what is kept aside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering.spool import Spool
from tests.metering.spooling import Watched, crash, files, message, messages, opened, replay


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
