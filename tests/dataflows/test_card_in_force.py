"""A changed rate card comes into force between two batches, or is refused and changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from dataflows.card_file import compiled
from dataflows.card_in_force import CardInForce
from dataflows.connections import read_settings
from dataflows.counters import PROCESS
from pricing.rate_card import RateCard

CONFIG = "pricing: {{cards: [cards], rules: [{{model: a, input_rate: {rate}, output_rate: 0}}]}}\n{more}"
BROKEN = "pricing: {cards: [cards], rules: [{model: a, input_rate: -1, output_rate: 0}]}\n"


class Running:
    """A card in force whose epochs pass one by one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.epoch = 0
        self.taken = 0
        (root / "cards").mkdir()
        self.write("cards/b.yaml", "rules: [{model: b, input_rate: 0.002, output_rate: 0}]\n")
        self.write("meterline.yaml", CONFIG.format(rate="0.001", more=""))
        self.first = self.on_disk()
        self.now_ms = 0
        settings = read_settings(str(self.config))
        self.cards = CardInForce(self.config, settings, self.count, lambda: self.now_ms)
        self.version()

    @property
    def config(self) -> Path:
        return self.root / "meterline.yaml"

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def on_disk(self) -> str:
        return compiled(read_settings(str(self.config)).pricing).version

    def count(self, _: RateCard) -> None:
        self.taken += 1

    def version(self) -> str:
        """That of the card for the first batch of the next epoch."""
        self.epoch += 1
        return self.cards.current(self.epoch).version


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return Running(tmp_path)


def dearer(running: Running) -> None:
    running.write("meterline.yaml", CONFIG.format(rate="0.003", more=""))


def another_file(running: Running) -> None:
    running.write("cards/c.yaml", "rules: [{model: c, input_rate: 0.002, output_rate: 0}]\n")


def replaced_file(running: Running) -> None:
    running.write("new.yaml", "rules: [{model: b, input_rate: 0.009, output_rate: 0}]\n")
    (running.root / "new.yaml").rename(running.root / "cards/b.yaml")


@pytest.mark.parametrize("change", [dearer, another_file, replaced_file])
def test_a_card_that_has_changed_is_taken_once_it_has_stayed_the_same_for_an_epoch(
    running: Running, change: Callable[[Running], None]
) -> None:
    change(running)
    new = running.on_disk()
    assert new != running.first
    assert running.version() == running.first  # seen, and perhaps not written to its end
    assert running.version() == new
    assert running.cards.current(running.epoch).version == new
    assert (running.taken, PROCESS.rate_card_version) == (1, new)


def test_a_card_that_changed_while_the_job_was_preparing_is_taken(tmp_path: Path) -> None:
    running = Running(tmp_path)
    stale = read_settings(str(running.config))
    dearer(running)
    cards = CardInForce(running.config, stale, running.count, lambda: 0)
    assert [cards.current(epoch).version for epoch in (1, 2)] == [running.first, running.on_disk()]


def test_within_an_epoch_nobody_looks(running: Running) -> None:
    dearer(running)
    for _ in range(3):
        assert running.cards.current(running.epoch).version == running.first


def test_a_file_that_is_being_written_is_not_read_before_it_is_done(running: Running) -> None:
    for rate in ("0.004", "0.0045", "0.00455"):
        running.write("meterline.yaml", CONFIG.format(rate=rate, more=""))
        assert running.version() == running.first
    assert running.version() == running.on_disk()


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("meterline.yaml", BROKEN, "pricing.rules[0].input_rate"),
        ("meterline.yaml", "pricing: [", "is not YAML"),
        ("cards/b.yaml", "rules: [{model: b}]\n", "cards/b.yaml"),
        ("cards/b.yaml", "rules: [{model: a, input_rate: 1, output_rate: 0}]\n", "cards/b.yaml"),
    ],
    ids=["negative", "no YAML", "a key missing", "an absurd rate"],
)
def test_a_broken_card_is_refused_with_its_problems_and_the_one_before_stays(
    running: Running, caplog: pytest.LogCaptureFixture, file: str, text: str, told: str
) -> None:
    refused, sound = PROCESS.rate_cards_refused, (running.root / file).read_text()
    running.write(file, text)
    assert [running.version() for _ in range(4)] == [running.first] * 4
    assert PROCESS.rate_cards_refused == refused + 1  # said once, not every epoch
    assert PROCESS.rate_card_is_refused
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "the one before stays in force" in record.getMessage()
    assert told in record.getMessage()

    running.write(file, sound)
    assert [running.version() for _ in range(2)] == [running.first] * 2
    assert not PROCESS.rate_card_is_refused
    assert running.taken == 0


def test_a_file_that_is_gone_is_refused_too(running: Running) -> None:
    running.config.unlink()
    assert [running.version() for _ in range(3)] == [running.first] * 3
    assert PROCESS.rate_card_is_refused


def test_the_same_card_in_other_words_changes_nothing(running: Running) -> None:
    running.write("meterline.yaml", "# dated today\n" + CONFIG.format(rate="0.0010", more=""))
    assert [running.version() for _ in range(3)] == [running.first] * 3
    assert (running.taken, PROCESS.rate_card_is_refused) == (0, False)


def test_what_is_no_card_waits_for_a_restart(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    more = "limits: {tenant: {daily_cap: 1}}\n"
    running.write("meterline.yaml", CONFIG.format(rate="0.003", more=more))
    assert [running.version() for _ in range(2)] == [running.first, running.on_disk()]
    assert "takes effect at a restart" in caplog.text


@pytest.mark.parametrize(
    ("more", "today", "told"),
    [
        ("effective_until: 2026-03-01T00:00:00Z", "2026-03-02", "--from 2026-03-01 --to 2026-03-03 --card"),
        ("effective_until: 2026-03-01T00:00:00Z", "2026-02-28", ""),
        ("multiplier: 2", "2026-02-28", "--from 1970-01-01 --to 2026-03-01 --card"),
        ("multiplier: 1", "2026-02-28", ""),
    ],
    ids=["from a date that is past", "from one to come", "from the beginning", "nothing"],
)
def test_a_card_that_reprices_what_is_published_says_so(
    running: Running,
    caplog: pytest.LogCaptureFixture,
    more: str,
    today: str,
    told: str,
) -> None:
    running.now_ms = int(datetime.fromisoformat(f"{today}T00:00:00+00:00").timestamp() * 1000)
    running.write(
        "meterline.yaml",
        f"pricing: {{cards: [cards], rules: [{{model: a, input_rate: 0.001, output_rate: 0, {more}}}]}}",
    )
    for _ in range(2):
        running.version()
    warned = [record.getMessage() for record in caplog.records if "rerate" in record.getMessage()]
    assert [told in text for text in warned] == [True] * bool(told)
