"""What cannot be read is counted, and told once, without its words."""

from __future__ import annotations

from collections import Counter

import pytest

from metering import misread
from metering.responses import usages_of


@pytest.fixture(autouse=True)
def _nothing_counted_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(misread, "_counts", Counter())


class Odd:
    @property
    def choices(self) -> object:
        raise ValueError("the user's secret")


def test_a_kind_is_told_once_without_the_words_of_a_payload(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        assert usages_of(Odd()) == []
    kind = "a field of a payload: ValueError"
    assert misread.counts()[kind] >= 3
    assert [record.message for record in caplog.records] == [
        f"meterline could not read {kind}; its usage may be counted instead"
    ]
    assert "secret" not in caplog.text


def test_kinds_are_bounded_and_nothing_goes_uncounted(caplog: pytest.LogCaptureFixture) -> None:
    for number in range(200):
        misread.note(f"place {number}", ValueError())
    counted = misread.counts()
    assert len(counted) == misread.KINDS_MAX + 1
    assert sum(counted.values()) == 200
    assert len(caplog.records) == misread.KINDS_MAX + 1
