"""A contract's own price says every rate that the rules for its events say: none is taken from a whole."""

from __future__ import annotations

import pytest

from pricing.settings import InvalidSettings, load_settings

PLAIN = "model: m, input_rate: 1e-6, output_rate: 2e-6"
CACHED = f"{PLAIN}, cache_read_rate: 1e-7"
AUDIO = f"{PLAIN}, input_audio_rate: 1e-5"
PRICE = "input_rate: 1e-6, output_rate: 2e-6"


@pytest.mark.parametrize(
    ("rules", "contract", "told"),
    [
        (f"{{{PLAIN}}}", f"price: {{{PRICE}}}", ""),
        (f"{{{CACHED}}}", f"price: {{{PRICE}}}", "price: lacks cache_read_rate, which pricing.rules[0] has"),
        (f"{{{CACHED}}}", f"price: {{{PRICE}, cache_read_rate: 1e-7}}", ""),
        (f"{{{AUDIO}}}", f"price: {{{PRICE}}}", "price: lacks input_audio_rate, which pricing.rules[0] has"),
        (f"{{{CACHED}}}", "discount: 0.1", ""),
        (f"{{{CACHED}}}", f"model: other, price: {{{PRICE}}}", ""),
        (
            f"{{{PLAIN}}}, {{{CACHED}, service_tier: flex}}",
            f"price: {{{PRICE}}}",
            "price: lacks cache_read_rate, which pricing.rules[1] has",
        ),
        (f"{{{CACHED}, service_tier: flex}}", f"service_tier: batch, price: {{{PRICE}}}", ""),
        (
            f"{{{CACHED}, effective_from: 2026-06-01T00:00:00Z}}",
            f"effective_until: 2026-06-01T00:00:00Z, price: {{{PRICE}}}",
            "",
        ),
    ],
    ids=[
        "plain",
        "cached tokens at the price of plain ones",
        "all said",
        "audio",
        "a discount says all",
        "another model",
        "one of two rules",
        "another tier",
        "another time",
    ],
)
def test_a_contract_names_what_its_rules_name(rules: str, contract: str, told: str) -> None:
    text = f"pricing: {{rules: [{rules}], contracts: [{{tenant: acme, {contract}}}]}}"
    try:
        load_settings(text)
        problems = ""
    except InvalidSettings as exc:
        problems = str(exc)
    assert problems == (f"pricing.contracts[0].{told}" if told else "")
