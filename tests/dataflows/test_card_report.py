"""Two cards side by side, as a user sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from dataflows.card_file import read_card
from dataflows.card_report import diff_table
from dataflows.cli import main

CARD = "rules: [{model: m, per: 1_000_000, input_rate: 2.5, output_rate: 10%s}]"
JUNE = "2026-06-01T00:00:00Z"
ADDED = "{model_prefix: n, provider: p, service_tier: batch, input_rate: 1e-6, output_rate: 2e-6, %s}"
ADDED %= "reasoning_rate: 3e-6"
ADDED_RATES = "input_rate 1, output_rate 2, reasoning_rate 3"
CONTRACT = "{tenant: acme, model: m, discount: 0.15}"


@pytest.fixture
def cards(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "old.yaml", tmp_path / "new.yaml"


def rows(cards: tuple[Path, Path], old: str, new: str) -> list[str]:
    for path, text in zip(cards, (old, new), strict=True):
        path.write_text(text)
    table = diff_table(*(read_card(path) for path in cards))
    return [" | ".join(row) for row in table.rows]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(CARD % "", CARD % "", [], id="the same"),
        pytest.param(CARD % ", cache_read_rate: 1", CARD % ", cache_read_rate: 1.25",
                     ["changed | m |  |  | cache_read_rate | 1 | 1.25 | +25.00"], id="a rate for a million"),
        pytest.param(CARD % ", multiplier: 1.5", CARD % "",
                     ["changed | m |  |  | multiplier | 1.5 | 1 | -33.33"], id="a factor as it is"),
        pytest.param(CARD % "", CARD % ", units: {searches: {rate: 10, per: 1_000}}",
                     ["changed | m |  |  | units.searches |  | 0.01 | "], id="a unit that had no rate"),
        pytest.param(CARD % f", effective_until: {JUNE}",
                     (CARD % f", effective_until: {JUNE}}}, {ADDED[:-1]}, effective_from: {JUNE}"),
                     [f"added | p n* tier batch | {JUNE} |  |  |  | {ADDED_RATES} | "],
                     id="an entry, with what does not follow from the rest"),
        pytest.param(CARD % "", (CARD % ", time_of_day: {from: '22:00', until: '06:30'}"),
                     ["added | m 22:00 to 06:30 UTC |  |  |  |  | input_rate 2.5, output_rate 10 | ",
                      "removed | m |  |  |  | input_rate 2.5, output_rate 10 |  | "], id="hours"),
        pytest.param(CARD % "", f"{CARD % ''}\ncontracts: [{CONTRACT}]",
                     ["added | tenant acme m |  |  |  |  | discount 0.15 | "], id="a contract"),
    ],
)  # fmt: skip
def test_each_change_is_a_row(cards: tuple[Path, Path], old: str, new: str, expected: list[str]) -> None:
    assert rows(cards, old, new) == expected


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (CARD % f"}}, {ADDED[:-1]}", "no event that the old one priced comes to something else"),
        (CARD % ", multiplier: 2", "may come to something else, whenever they happened"),
        (
            f"rules: [{{model: m, input_rate: 2.5e-6, output_rate: 1e-5, effective_until: {JUNE}}}]",
            f"may come to something else, from {JUNE} on",
        ),
    ],
)
def test_the_title_says_from_when_on_it_matters(cards: tuple[Path, Path], new: str, told: str) -> None:
    rows(cards, CARD % "", new)
    shown = CliRunner().invoke(main, ["rates", "diff", *map(str, cards)])
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[0].endswith(told)


def test_a_configuration_is_a_card_too_with_the_files_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "one.yaml").write_text(CARD % "")
    (tmp_path / "meterline.yaml").write_text("pricing: {cards: cards}")
    alone, named = (
        read_card(tmp_path / "cards" / "one.yaml"),
        read_card(tmp_path / "meterline.yaml"),
    )
    assert alone.version == named.version


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rules: []\ncurrency: EUR", "new.yaml rules: must have 1 or more entries"),
        ("pricing: {rules: []}", "pricing.rules: must have 1 or more entries"),
        ("a: [", "new.yaml line 1: is not YAML"),
        ("rates", "new.yaml: must be a mapping"),
    ],
)
def test_a_card_that_is_wrong_is_named_with_its_problems(
    cards: tuple[Path, Path], text: str, told: str
) -> None:
    cards[0].write_text(CARD % "")
    cards[1].write_text(text)
    shown = CliRunner().invoke(main, ["rates", "diff", *map(str, cards)])
    assert (shown.exit_code, told in shown.stderr) == (1, True), shown.stderr
