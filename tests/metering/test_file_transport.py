"""The file of events: whole lines, in order, whatever the disk and other processes do."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from metering.file_transport import FileTransport
from metering.message import Message
from metering.meter import Meter
from metering.transport import Handed
from tests.metering.disks import files_no_longer_than
from tests.metering.recording import SECONDS, ends, event, keys_in, until
from tests.simulation.disk import Disk


def send(transport: FileTransport, *lines: bytes) -> list[Handed]:
    handed = [Handed(Message(b"", line, 1)) for line in lines]
    for one in handed:
        transport.send(one)
    return handed


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (b"", b"a\nb\nc\n"),
        (b"whole\n", b"whole\na\nb\nc\n"),
        (b"torn", b"torn\na\nb\nc\n"),
    ],
)
def test_lines_are_appended_whole(tmp_path: Path, before: bytes, expected: bytes) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(before)
    transport = FileTransport(file)
    handed = send(transport, b"a", b"b\nc")
    assert not transport.poll(0)
    assert (file.read_bytes(), [one.ending for one in handed]) == (expected, ["", ""])


def test_a_full_disk_keeps_nothing_of_an_append(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    transport = FileTransport(file)
    send(transport, b"before")
    transport.poll(0)
    with files_no_longer_than(20):
        handed = send(transport, b"x" * 30)
        assert transport.poll(0)
    assert handed[0].ending == f"{file}: File too large"
    assert file.read_bytes() == b"before\n"
    send(transport, b"after")
    assert not transport.poll(0)
    assert file.read_bytes() == b"before\nafter\n"


def test_a_file_that_another_process_has_locked_is_not_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    transport = FileTransport(file)
    with file.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        handed = send(transport, b"a")
        assert not transport.poll(0)
        handed += send(transport, b"b")
        assert not transport.poll(0)
        assert [one.ending for one in handed] == [None, None]
        assert transport.trouble() == f"{file} is locked by another process"
        assert file.read_bytes() == b""
    assert not transport.poll(0)
    assert ([one.ending for one in handed], transport.trouble()) == (["", ""], "")
    assert file.read_bytes() == b"a\nb\n"


def test_the_spool_makes_up_for_a_file_that_stays_locked(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    with Meter(f"file://{file}", spool_dir=tmp_path / "spool", spool_after_seconds=0.05) as meter:
        with file.open("wb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            meter.record(event(1))
            assert meter.flush(SECONDS)
            assert ends(meter.stats()) == (1, 0, 1, 0)
        until(lambda: meter.stats().spool_bytes == 0)
    assert keys_in(file) == ["k1"]


def test_what_was_synced_outlives_a_loss_of_power(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.touch()
    disk = Disk(tmp_path)
    real = os.fsync
    disk.watch()
    try:
        transport = FileTransport(file)
        send(transport, b"a")
        transport.poll(0)
        assert transport.sync()
        send(transport, b"b")
        transport.poll(0)
        disk.lose_power()
    finally:
        os.fsync = real
    assert file.read_bytes() == b"a\n"


def test_a_device_that_keeps_nothing_is_as_safe_as_it_gets() -> None:
    transport = FileTransport(Path("/dev/null"))
    handed = send(transport, b"a")
    assert not transport.poll(0)
    assert (handed[0].ending, transport.sync()) == ("", True)


def test_a_full_device_refuses(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    transport = FileTransport(full)
    handed = send(transport, b"a")
    assert transport.poll(0)
    assert handed[0].ending is not None
    assert list(tmp_path.iterdir()) == []
