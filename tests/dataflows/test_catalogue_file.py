"""The file that an import of prices writes, and the command that writes it."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from dataflows.catalogue import Wanted
from dataflows.catalogue_file import make_card
from dataflows.cli import main
from pricing.settings import load_settings
from tests.integration.running import ROOT

pytest.importorskip("genai_prices.data", reason="the catalogue wants Python 3.11")


def test_the_file_says_where_it_is_from_and_what_is_not_in_it() -> None:
    card = make_card(["google"], Wanted(), date(2026, 11, 26))
    head = card.text.partition("rules:")[0]
    assert head.startswith("# Prices of google as genai-prices ")
    assert "imported on 2026-11-26." in head
    assert all(f"#   {told}\n" in head for told in card.untold)
    assert "gemma-3: nothing, because it has no price" in card.untold


def meterline(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dataflows.cli", "rates", "import", "genai-prices", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_a_file_is_written_whole_and_never_over_another(tmp_path: Path) -> None:
    out = tmp_path / "openai.yaml"
    flags = ("--provider", "openai", "--model", "GPT-4o", "--multiplier", "1.2", "--out", str(out))
    first = meterline(*flags)
    assert (first.returncode, first.stderr) == (0, "")
    rules = load_settings("pricing: {cards: [x]}", [("x", out.read_text())]).pricing.rules
    assert {rule.multiplier for rule in rules} == {Decimal("1.2")}
    out.write_text("mine")
    refused = meterline(*flags)
    assert (refused.returncode, out.read_text()) == (2, "mine")
    assert f"{out} is there already: give --force to replace it" in refused.stderr
    assert meterline(*flags, "--force").returncode == 0
    assert out.read_text().startswith("# Prices of openai")
    assert [path.name for path in tmp_path.iterdir()] == ["openai.yaml"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--provider", "antropic"), "did you mean 'anthropic'?"),
        (("--provider", "openai", "--model", "gpt-none"), "no price for gpt-none that a card can hold"),
        (("--provider", "openai", "--model", "whisper-1"), "whisper-1: nothing, because it has audio_hours"),
        (("--provider", "openai", "--multiplier", "-1"), "must be positive"),
        (("--provider", "openai", "--out", "/nowhere/x.yaml"), "cannot be written to /nowhere/x.yaml"),
    ],
)
def test_a_mistake_is_one_sentence(flags: tuple[str, ...], told: str) -> None:
    refused = CliRunner().invoke(main, ["rates", "import", "genai-prices", *flags])
    assert refused.exit_code in (1, 2)
    assert told in refused.stderr
    assert isinstance(refused.exception, SystemExit)
