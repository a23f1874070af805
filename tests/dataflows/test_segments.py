"""Segment files: what a manifest counts is there after any crash, and what is damaged is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflows.segments import CorruptStateError, SegmentLog, manifest_from_json, manifest_to_json

SPAN = 1_000


def filled(directory: Path) -> tuple[SegmentLog, list[bytes]]:
    log = SegmentLog.open(directory, (), SPAN)
    blocks = [b"one", b"", b"three" * 1_000]
    for number, block in enumerate(blocks):
        log.append(block, number, number)
    return log, blocks


def test_blocks_come_back_in_order_from_a_manifest_that_went_through_json(tmp_path: Path) -> None:
    log, blocks = filled(tmp_path)
    manifest = manifest_from_json(manifest_to_json(log.snapshot()))
    assert list(SegmentLog.open(tmp_path, manifest, SPAN).blocks()) == blocks


def test_what_was_written_after_the_manifest_is_not_read_and_not_appended_to(tmp_path: Path) -> None:
    log, blocks = filled(tmp_path)
    manifest = log.snapshot()
    log.append(b"ahead", 3, 3)
    log.append(b"another file", 5_000, 5_000)
    reopened = SegmentLog.open(tmp_path, manifest, SPAN)
    assert list(reopened.blocks()) == blocks
    assert {path.name for path in tmp_path.iterdir()} == {segment.name for segment in manifest}
    reopened.append(b"new", 4, 4)
    again = SegmentLog.open(tmp_path, reopened.snapshot(), SPAN)
    assert list(again.blocks()) == [*blocks, b"new"]


def test_what_is_no_segment_is_left_alone(tmp_path: Path) -> None:
    log, blocks = filled(tmp_path)
    manifest = log.snapshot()
    for name in ("lost+found", "odd.segment"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "orphan.segment").touch()
    assert list(SegmentLog.open(tmp_path, manifest, SPAN).blocks()) == blocks
    left = {path.name for path in tmp_path.iterdir()} - {segment.name for segment in manifest}
    assert left == {"lost+found", "odd.segment", "notes.txt"}


@pytest.mark.parametrize("damage", ["missing", "short", "flipped", "header"])
def test_damage_is_found_and_the_file_is_named(tmp_path: Path, damage: str) -> None:
    log, _ = filled(tmp_path)
    manifest = log.snapshot()
    path = tmp_path / manifest[0].name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(content[:-1])
    else:
        content[-1 if damage == "flipped" else 0] ^= 1
        path.write_bytes(content)
    with pytest.raises(CorruptStateError, match=manifest[0].name):
        list(SegmentLog.open(tmp_path, manifest, SPAN).blocks())


def test_an_expired_file_leaves_two_snapshots_after_the_manifest_let_go_of_it(tmp_path: Path) -> None:
    log, _ = filled(tmp_path)
    log.append(b"young", 5_000, 5_000)
    old, young = log.snapshot()
    log.drop_before(1_000)
    there = []
    for _ in range(3):
        assert log.snapshot() == (young,)
        there.append((tmp_path / old.name).exists())
    assert there == [True, False, False]
