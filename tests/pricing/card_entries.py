"""Entries of a rate card as they are written, read, and complained of."""

from __future__ import annotations

from decimal import Decimal

import pytest

from pricing.card_values import Rule
from pricing.settings import InvalidSettings, load_settings

PLAIN = "model: m, input_rate: 3e-6, output_rate: 15e-6"
FREE = "input_rate: 0, output_rate: 0"
READ = Rule(model="m", input_rate=Decimal("0.000003"), output_rate=Decimal("0.000015"))


def rules(*entries: str, contracts: str = "") -> str:
    listed = "".join(f"\n  - {{{entry}}}" for entry in entries)
    return f"pricing:\n  contracts: [{contracts}]\n  rules:{listed}\n".replace("\n  - ", "\n    - ")


def problems(text: str, *cards: tuple[str, str]) -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(text, cards)
    return str(caught.value).splitlines()
