"""Files that grow, end without a newline, or are no longer what they were, between one run and the next."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest

from dataflows import file_source
from dataflows.batch import Partition
from dataflows.edges import EDGE_BYTES
from dataflows.file_source import (
    BYTES_UNKNOWN,
    READ_BYTES,
    FilePartition,
    FileSource,
    FileState,
    InputError,
    InputUnavailableError,
    read_bytes,
)
from dataflows.metering import _source
from dataflows.recount import Ledger, recount_file
from dataflows.start import Job
from metering.event import LINE_BYTES_MAX

ONE, TWO, THREE = b'{"k": 1}', b'{"k": 2}', b'{"k": 3}'
ENDLESS = b"x" * (LINE_BYTES_MAX + READ_BYTES + 5_000_000)
CUT = ENDLESS[: LINE_BYTES_MAX + 1]


def opened(path: Path, state: FileState | None, *, follow: bool = False) -> FilePartition:
    partition = Partition(0, str(path), 0)
    source = FileSource({partition.name: partition}, frozenset({partition.name}), follow, lambda: 0)
    part = source.build_part("read", partition.name, state)
    assert isinstance(part, FilePartition)
    return part


def lines_of(part: FilePartition) -> list[bytes]:
    """What there is to read now."""
    found: list[bytes] = []
    while batches := part.next_batch():
        data = batches[0].lines.data
        if not data:
            break
        assert data.endswith(b"\n")
        found += data.split(b"\n")[:-1]
    return found


def read(path: Path, state: FileState | None) -> tuple[list[bytes], FileState]:
    part = opened(path, state)
    try:
        return lines_of(part), part.snapshot()
    finally:
        part.close()


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        pytest.param([ONE + b"\n" + TWO + b"\n"], [[ONE, TWO]], id="whole lines"),
        pytest.param([ONE + b"\n" + TWO], [[ONE, TWO]], id="an object needs no newline at the end"),
        pytest.param([ONE + b"\n" + TWO[:5], TWO[5:] + b"\n"], [[ONE], [TWO]], id="half a line waits"),
        pytest.param([TWO[:5], b"", TWO[5:]], [[], [], [TWO]], id="and waits, until it is an object"),
        pytest.param([ONE, b"\n" + TWO + b"\n"], [[ONE], [TWO]], id="the newline of an object comes later"),
        pytest.param([ONE, b" \r", b"\n" + TWO], [[ONE], [], [TWO]], id="as white space, bit by bit"),
        pytest.param([ONE + b"\n" + b"no", b" json\n" + TWO], [[ONE], [b"no json", TWO]], id="no JSON waits"),
        pytest.param([b"12", b"34\n"], [[], [b"1234"]], id="a number may go on"),
        pytest.param([ONE + b"\n  ", b"\n" + TWO], [[ONE], [b"  ", TWO]], id="blanks wait"),
        pytest.param([ENDLESS, b"x\n" + ONE + b"\n", TWO], [[], [CUT, ONE], [TWO]], id="endless for now"),
        pytest.param([ENDLESS + b"\n" + ONE, b"\n", TWO], [[CUT, ONE], [], [TWO]], id="endless, and it ends"),
    ],
)
def test_each_line_is_read_once_and_whole_however_it_is_written(
    tmp_path: Path, written: list[bytes], lines: list[list[bytes]]
) -> None:
    path = tmp_path / "events.jsonl"
    state: FileState | None = None
    for data, expected in zip(written, lines, strict=True):
        with path.open("ab") as file:
            file.write(data)
        found, state = read(path, state)
        assert found == expected
        recounted = recount_file(str(path), state[1] + 1, Ledger(recounted_positions(state)), lambda _: None)
        assert recounted.refusal == ""
    assert state is not None
    assert state[0] == path.stat().st_size


def recounted_positions(state: FileState) -> npt.NDArray[np.uint64]:
    packed: npt.NDArray[np.uint64] = np.arange(1, state[1] + 1, dtype=np.uint64) << np.uint64(20)
    return packed


def test_lines_that_are_written_while_they_are_followed_are_read_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(ONE)
    _, state = read(path, None)
    part = opened(path, state, follow=True)
    found = []
    for data in (b"", b" ", b"\n" + TWO, b"\n" + ENDLESS, b"xx", b"\n" + THREE, b"\n"):
        with path.open("ab") as file:
            file.write(data)
        found.append(lines_of(part))
        state = part.snapshot()
    part.close()
    assert found == [[], [], [], [TWO], [], [CUT], [THREE]]
    assert read(path, state) == ([], state)


def test_an_unfinished_line_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "events.jsonl"
    with caplog.at_level(logging.WARNING):
        for data, told in ((ONE + b"\n  ", 0), (b"\n" + TWO[:5], 1), (b"", 2), (TWO[5:], 2)):
            with path.open("ab") as file:
                file.write(data)
            read(path, None)
            assert [record.getMessage().split(":")[0] for record in caplog.records] == [
                f"1 unfinished line of {path} waits"
            ] * told


def test_an_object_that_goes_on_after_all_is_said(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(ONE)
    _, state = read(path, None)
    path.write_bytes(ONE + b"," + TWO + b"\n")
    with pytest.raises(InputError, match=r"line 1 of .*events.jsonl was a whole JSON object"):
        read(path, state)


LONG = [b'{"k": %06d}\n' % number for number in range(2_000)]
OTHERS = [b'{"k": %06d}\n' % number for number in range(500_000, 502_000)]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        pytest.param(LONG, "", id="as it was"),
        pytest.param(LONG + OTHERS, "", id="longer"),
        pytest.param(LONG[:-1], "is shorter than what was already read", id="cut"),
        pytest.param(OTHERS, "does not begin with the 28000 bytes", id="another of the same length"),
        pytest.param(OTHERS + LONG, "does not begin with the 28000 bytes", id="another that is longer"),
        pytest.param(LONG[:1000] + OTHERS[:1] + LONG[1000:], "does not begin with", id="a line put in"),
        pytest.param(LONG[:1000] + LONG[1001:] + OTHERS, "does not begin with", id="a line taken out"),
    ],
)
def test_a_file_that_was_replaced_is_refused(
    tmp_path: Path, suffix: str, now: list[bytes], sentence: str
) -> None:
    path = tmp_path / f"events.jsonl{suffix}"
    pack = gzip.compress if suffix else bytes
    path.write_bytes(pack(b"".join(LONG)))
    found, state = read(path, None)
    assert len(found) == len(LONG)
    path.write_bytes(pack(b"".join(now)))
    if not sentence:
        assert len(read(path, state)[0]) == len(now) - len(LONG)
        return
    with pytest.raises(InputError, match=sentence):
        read(path, state)


@pytest.mark.parametrize("size", [1, EDGE_BYTES - 1, EDGE_BYTES, EDGE_BYTES + 1, 3 * EDGE_BYTES])
def test_the_edges_of_what_was_read_are_those_of_the_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "events.jsonl"
    state: FileState | None = None
    for number in range(4):  # each run reads a line of this length
        with path.open("ab") as file:
            file.write(b"%d" % number * size + b"\n")
        found, state = read(path, state)
        assert len(found) == 1


@pytest.mark.parametrize(("files", "mebibytes"), [(1, 24), (8, 24), (9, 21), (64, 3), (192, 1), (10_000, 1)])
def test_many_files_are_read_in_smaller_pieces(files: int, mebibytes: int) -> None:
    assert read_bytes(files) >> 20 == mebibytes


@pytest.mark.parametrize(("workers", "lines"), [(1, 2), (2, 4), (3, 4), (4, 8), (8, 8)])
def test_workers_share_the_files_and_not_what_one_reads_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, lines: int
) -> None:
    monkeypatch.setattr(file_source, "READ_BYTES_MIN", 1)
    monkeypatch.setattr(file_source, "ALL_READS_BYTES", 4 * 20)
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"123456789\n" * 20)
    partitions = {name: Partition(0, str(path), 0) for name in ("a", "b", "c", "d")}
    source = FileSource(partitions, frozenset(partitions), follow=False, now_ms=lambda: 0, workers=workers)
    part = source.build_part("read", "a", None)
    (batch,) = part.next_batch()
    part.close()
    assert len(batch.lines) == lines


def test_a_job_tells_its_files_how_many_workers_share_them() -> None:
    plan = SimpleNamespace(kafka=None, follow=False)
    job = SimpleNamespace(plan=plan, state=SimpleNamespace(partitions={}), chosen=frozenset())
    source = _source(cast(Job, job), 3)
    assert isinstance(source, FileSource)
    assert source.workers == 3


PACKED = gzip.compress(b"".join(b'{"k": %d}\n' % number for number in range(1_000)))


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(PACKED[:-100], id="cut"),
        pytest.param(b"no gzip at all", id="something else"),
        pytest.param(PACKED[:60] + bytes([PACKED[60] ^ 1]) + PACKED[61:], id="a bit"),
    ],
)
@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        pytest.param(None, r"events\.jsonl\.gz, after line \d+, is damaged: ", id="new"),
        pytest.param((11_000, 1_000, 0), r"events\.jsonl\.gz is damaged: ", id="read before"),
        pytest.param((BYTES_UNKNOWN, 1_000, 0), r"events\.jsonl\.gz is damaged: ", id="after a rebuild"),
    ],
)
def test_a_damaged_archive_is_refused(
    tmp_path: Path, damaged: bytes, state: FileState | None, sentence: str
) -> None:
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=sentence) as refused:
        lines_of(opened(path, state))
    assert not isinstance(refused.value, InputUnavailableError)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (None, r"events\.jsonl, after line 0, cannot be read: .*Input/output error"),
        ((len(ONE) + 1, 1, 0), r"events\.jsonl cannot be read: .*Input/output error"),
        ((BYTES_UNKNOWN, 1, 0), r"events\.jsonl cannot be read: .*Input/output error"),
    ],
)
def test_a_disk_that_fails_may_recover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: FileState | None, sentence: str
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(ONE + b"\n" + TWO + b"\n")

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    broken = SimpleNamespace(read=fail, seek=lambda _: 0, tell=lambda: 0, close=lambda: None)
    monkeypatch.setattr(file_source, "_open", lambda _: broken)
    with pytest.raises(InputUnavailableError, match=sentence):
        lines_of(opened(path, state))
