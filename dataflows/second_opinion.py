"""What LiteLLM's price map says of the models that a rate card prices: where the two disagree.

Only the map that the installed package ships is read, and the package itself is never imported: that takes
seconds. The map has floats without dates, so the card is asked for one instant, for base rates of the
standard tier, and a difference of a rounded float is none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import ROUND_HALF_EVEN, Context, Decimal
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from dataflows.connections import PlanError
from dataflows.report import ReportTable
from pricing.card_assign import assign
from pricing.card_text import number_text
from pricing.card_values import TOKEN_CLASSES
from pricing.rate_card import RateCard

PACKAGE = "litellm"
_MAP_NAME = "model_prices_and_context_window_backup.json"
_FLOAT_ERROR = Decimal("1e-12")
"""Relative: far above that of a float, and far below any real difference."""
_CONTEXT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_PERCENT_STEP = Decimal("0.01")
_MILLION_DIGITS = 6

_RATES = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
}
_PROVIDERS = {
    "azure_ai": "azure",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "github_copilot": "github-copilot",
    "moonshot": "moonshotai",
    "together_ai": "together",
    "voyage": "voyageai",
    "xai": "x-ai",
}
"""What genai-prices, and a card made of it, calls a provider that LiteLLM calls something else."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What LiteLLM says of one model, by class of tokens: USD per token."""

    provider: str
    model: str
    rates: Mapping[str, Decimal]


def compare_table(card: RateCard, at: datetime) -> ReportTable:
    """Every rate on which the card, at an instant, and LiteLLM's map disagree.

    Raises:
        PlanError: LiteLLM is not installed, or its map is not where it has been.
    """
    return opinions_table(card, list(read_opinions(_map_text())), version(PACKAGE), at)


def opinions_table(
    card: RateCard, opinions: list[Opinion], package_version: str, at: datetime
) -> ReportTable:
    """As `compare_table`, with what LiteLLM says given."""
    rows: list[tuple[str, ...]] = []
    known = agreed = 0
    for opinion, ours in _priced(card, opinions, at):
        known += 1
        different = [
            (opinion.provider, opinion.model, f"{name}_rate", *_written(ours[name], rate))
            for name, rate in opinion.rates.items()
            if abs(_CONTEXT.subtract(ours[name], rate)) > _FLOAT_ERROR * max(ours[name], rate)
        ]
        rows += different
        agreed += not different
    title = (
        f"LiteLLM {package_version} knows {known} models that the card prices on {at.date()}: {agreed} agree"
        " (USD for a million tokens)"
    )
    return ReportTable(title, ("provider", "model", "number", "card", PACKAGE, "%"), tuple(rows))


def read_opinions(text: str) -> Iterator[Opinion]:
    """The models of LiteLLM's map that have a rate for input and output tokens."""
    for key, entry in json.loads(text, parse_float=Decimal, parse_int=Decimal).items():
        provider = entry.get("litellm_provider", "")
        name = key.removeprefix(f"{provider}/").removeprefix("vertex_ai/")
        rates = {ours: entry[theirs] for ours, theirs in _RATES.items() if entry.get(theirs) is not None}
        if key != "sample_spec" and "input" in rates and "output" in rates:
            yield Opinion(_provider(provider), name, rates)


def _provider(name: str) -> str:
    return "google" if name.startswith("vertex_ai") else _PROVIDERS.get(name, name)


def _map_text() -> str:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise PlanError(f"there is no {PACKAGE} to compare with: pip install {PACKAGE}")
    path = Path(spec.origin).with_name(_MAP_NAME)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise PlanError(f"the prices of {PACKAGE} cannot be read from {path}: {exc.strerror}") from None


def _priced(
    card: RateCard, opinions: list[Opinion], at: datetime
) -> Iterator[tuple[Opinion, dict[str, Decimal]]]:
    """Opinions on models that the card prices, each with the card's own rates."""
    events = pl.DataFrame(
        {
            "tenant_id": [""] * len(opinions),
            "model": [one.model for one in opinions],
            "provider": [one.provider for one in opinions],
            "model_version": [""] * len(opinions),
            "region": [""] * len(opinions),
            "service_tier": [""] * len(opinions),
            "timestamp_ms": [int(at.astimezone(timezone.utc).timestamp() * 1000)] * len(opinions),
            "input_tokens": [0] * len(opinions),
        }
    )
    for opinion, row in zip(opinions, assign(card, events).row.tolist(), strict=True):
        if row >= 0:
            rates = card.costs.rows[row].tokens
            yield opinion, {name: _usd(rate, card) for name, rate in zip(TOKEN_CLASSES, rates, strict=False)}


def _usd(rate: int | None, card: RateCard) -> Decimal:
    assert rate is not None, "a plain class always has a rate"
    return Decimal(rate).scaleb(-card.rate_scale, _CONTEXT)


def _written(ours: Decimal, theirs: Any) -> tuple[str, str, str]:
    numbers = [number_text(one.scaleb(_MILLION_DIGITS, _CONTEXT)) for one in (ours, theirs)]
    if not ours:
        return numbers[0], numbers[1], ""
    percent = _CONTEXT.divide(_CONTEXT.multiply(_CONTEXT.subtract(theirs, ours), Decimal(100)), ours)
    return numbers[0], numbers[1], f"{_CONTEXT.quantize(percent, _PERCENT_STEP):+f}"
