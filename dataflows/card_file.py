"""A rate card from a file of its own: a `meterline.yaml`, or a rate card as `pricing.cards` names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dataflows.connections import config_texts
from pricing.rate_card import RateCard, compile_card
from pricing.settings import PricingSettings, load_settings
from pricing.settings_yaml import InvalidSettings, read_tree


@dataclass(frozen=True, slots=True)
class CardFile:
    """Name and text of each file of a card. So kept, it can be read again when the files have changed.

    The first is the file that was named; the others are those that it names as its `pricing.cards`.
    """

    texts: tuple[tuple[str, str], ...]


def read_card_file(path: Path) -> CardFile:
    """Read a card's file, and those that it names.

    Raises:
        PlanError: one of them cannot be read.
    """
    text, cards = config_texts(str(path), "rate card")
    return CardFile(((str(path), text), *cards))


def pricing_of(file: CardFile) -> PricingSettings:
    """What the card says.

    Raises:
        InvalidSettings: with every problem in it.
    """
    (name, text), *cards = file.texts
    if _is_config(text):
        return load_settings(text, cards).pricing
    return load_settings("pricing: {cards: [card]}", [(name, text)]).pricing


def _is_config(text: str) -> bool:
    try:
        tree = read_tree(text, [])
    except InvalidSettings:
        return False  # whoever reads it as a card names the file
    return isinstance(tree, dict) and "pricing" in tree


def read_card(path: Path) -> RateCard:
    """The card of a file, and of those that it names, ready to rate with.

    Raises:
        PlanError, InvalidSettings: as `read_card_file` and `pricing_of`.
    """
    return compiled(pricing_of(read_card_file(path)))


def compiled(pricing: PricingSettings) -> RateCard:
    """The card, ready to rate with."""
    return compile_card(pricing.rules, pricing.contracts)
