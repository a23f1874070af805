"""Where LiteLLM's price map and a card disagree."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dataflows.cli import main
from dataflows.second_opinion import opinions_table, read_opinions
from pricing.rate_card import RateCard, compile_card
from pricing.settings import load_settings

AT = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
RATES = "per: 1_000_000, input_rate: 2.5, output_rate: 10"


def card(*entries: str) -> RateCard:
    rules = ", ".join(f"{{{entry}, {RATES}}}" for entry in entries)
    return compile_card(load_settings(f"pricing: {{rules: [{rules}]}}").pricing.rules)


def entry(provider: str = "openai", inputs: str = "2.5e-06", outputs: str = "1e-05", **more: str) -> str:
    prices = {"input_cost_per_token": inputs, "output_cost_per_token": outputs, **more}
    listed = ", ".join(f'"{name}": {number}' for name, number in prices.items())
    return f'{{"litellm_provider": "{provider}", {listed}}}'


def asked(ours: RateCard, entries: dict[str, str]) -> tuple[str, list[str]]:
    text = "{" + ", ".join(f"{json.dumps(name)}: {one}" for name, one in entries.items()) + "}"
    table = opinions_table(ours, list(read_opinions(text)), "1.0", AT)
    return table.title, [" ".join(row) for row in table.rows]


@pytest.mark.parametrize(
    ("ours", "name", "theirs", "expected"),
    [
        pytest.param("model: m", "m", entry(), [], id="they agree"),
        pytest.param("model: m", "m", entry(inputs="2.5000000000000002e-06"), [], id="as far as a float can"),
        pytest.param("model: m", "m", entry(inputs="2.50001e-06"),
                     ["openai m input_rate 2.5 2.50001 +0.00"], id="by a little"),
        pytest.param("model: m", "m", entry(inputs="5e-06", outputs="0"),
                     ["openai m input_rate 2.5 5 +100.00", "openai m output_rate 10 0 -100.00"], id="much"),
        pytest.param("model: m", "m", entry(cache_read_input_token_cost="1.25e-06"),
                     ["openai m cache_read_rate 2.5 1.25 -50.00"],
                     id="a class without a rate of its own costs what its whole does"),
        pytest.param("model: m", "m", entry(cache_creation_input_token_cost="2.5e-06",
                                           cache_creation_input_token_cost_above_1hr="5e-06"),
                     ["openai m cache_write_1h_rate 2.5 5 +100.00"], id="writes for an hour"),
        pytest.param("provider: google, model: m", "gemini/m", entry("gemini", inputs="5e-06"),
                     ["google m input_rate 2.5 5 +100.00"], id="a provider with another name"),
        pytest.param("provider: google, model_prefix: m", "m-1", entry("vertex_ai-x-models", inputs="5e-06"),
                     ["google m-1 input_rate 2.5 5 +100.00"], id="a prefix"),
        pytest.param("model: m, effective_until: 2026-06-01T12:00:00Z", "m", entry(inputs="5e-06"), None,
                     id="an entry that has ended"),
        pytest.param("model: m, service_tier: batch", "m", entry(inputs="5e-06"), None, id="another tier"),
        pytest.param("provider: p, model: m", "m", entry(inputs="5e-06"), None, id="another provider"),
        pytest.param("model: sample_spec", "sample_spec", entry(), None, id="no model"),
        pytest.param("model: m", "m", '{"input_cost_per_token": 1}', None, id="half a price"),
    ],
)  # fmt: skip
def test_what_they_disagree_on_is_told(ours: str, name: str, theirs: str, expected: list[str] | None) -> None:
    title, rows = asked(card(ours), {name: theirs})
    known = 0 if expected is None else 1
    agree = 0 if expected is None or expected else 1
    assert title == (
        f"LiteLLM 1.0 knows {known} models that the card prices on 2026-06-01: {agree} agree"
        " (USD for a million tokens)"
    )
    assert rows == (expected or [])


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["rates", "compare", "litellm", *arguments])


@pytest.mark.skipif(find_spec("litellm") is None, reason="LiteLLM is not installed")
def test_the_map_that_is_installed_is_read(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text("rules: [{model: gpt-4o, input_rate: 5e-6, output_rate: 1e-5}]")
    found = run("--card", str(tmp_path / "card.yaml"), "--format", "csv")
    assert found.exit_code == 0
    assert "openai,gpt-4o,input_rate,5,2.5,-50.00" in found.stdout.splitlines()


@pytest.mark.skipif(find_spec("litellm") is not None, reason="LiteLLM is installed")
def test_without_the_package_a_sentence_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text("rules: [{model: gpt-4o, input_rate: 5e-6, output_rate: 1e-5}]")
    refused = run("--card", str(tmp_path / "card.yaml"))
    assert (refused.exit_code, refused.stderr) == (
        1,
        "meterline: there is no litellm to compare with: pip install litellm\n",
    )
