"""What goes wrong is counted each time, and logged ever more rarely."""

from __future__ import annotations

import logging

import pytest

from metering import mishaps


def test_the_first_the_tenth_and_the_hundredth_are_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mishaps, "_counts", dict.fromkeys(mishaps.counts(), 0))
    with caplog.at_level(logging.WARNING, "meterline"):
        for _ in range(250):
            mishaps.note("refused", "a sentence", ValueError("secret"))
    assert mishaps.counts()["refused"] == 250
    assert [record.getMessage() for record in caplog.records] == [
        f"refused, {count} in all: a sentence (ValueError)" for count in (1, 10, 100)
    ]


class Failing(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.getMessage())


def test_a_handler_that_raises_is_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mishaps, "_counts", dict.fromkeys(mishaps.counts(), 0))
    handler = Failing()
    mishaps.LOG.addHandler(handler)
    try:
        mishaps.note("refused", "a sentence")
    finally:
        mishaps.LOG.removeHandler(handler)
    assert mishaps.counts()["refused"] == 1
