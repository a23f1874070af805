"""A rate-card file made of a price catalogue that is installed, with all that it leaves out at its top."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dataflows.catalogue import Imported, Wanted, import_provider
from dataflows.connections import PlanError
from pricing.card_text import card_text
from pricing.settings import load_settings
from pricing.settings_keys import closest

PACKAGE = "genai-prices"
_CARD_ALONE = "pricing: {cards: [it]}"


@dataclass(frozen=True, slots=True)
class CardFile:
    """The text of a card that loads, how many entries it has, and sentences on what is not in it."""

    text: str
    entries: int
    untold: tuple[str, ...]


def make_card(provider_names: Sequence[str], wanted: Wanted, today: date) -> CardFile:
    """A card with the prices that genai-prices ships for some providers.

    Raises:
        PlanError: the package is not installed, knows no such provider, or has no price for what is wanted.
        InvalidSettings: the card would not load, because it is too large.
    """
    providers = {provider.id: provider for provider in _providers()}
    for name in provider_names:
        if name not in providers:
            hint = closest(name, list(providers))
            raise PlanError(f"{PACKAGE} has no provider {name!r} among {', '.join(providers)}{hint}")
    found = [import_provider(providers[name], wanted) for name in dict.fromkeys(provider_names)]
    together = Imported(
        tuple(rule for one in found for rule in one.rules),
        tuple(told for one in found for told in one.untold),
    )
    if not together.rules:
        why = f": {'; '.join(together.untold)}" if together.untold else ""
        raise PlanError(f"{PACKAGE} has no price for {' '.join(wanted.patterns)} that a card can hold{why}")
    text = card_text(together.rules, _head(provider_names, together, today))
    load_settings(_CARD_ALONE, [("the card", text)])
    return CardFile(text, len(together.rules), together.untold)


def write_card(card: CardFile, path: Path) -> None:
    """Put a card in place, whole or not at all.

    Raises:
        PlanError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with draft.open("x", encoding="utf-8") as file:
                file.write(card.text)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as exc:
        raise PlanError(f"the rate card cannot be written to {path}: {exc.strerror}") from None


def _providers() -> Sequence[Any]:
    if find_spec("genai_prices") is None:
        raise PlanError(
            f"{PACKAGE} is not installed: pip install 'meterline[catalogue]' (with Python 3.11 or later)"
        )
    providers: Sequence[Any] = importlib.import_module("genai_prices.data").providers
    return providers


def _head(names: Sequence[str], found: Imported, today: date) -> list[str]:
    lines = [
        f"Prices of {', '.join(names)} as {PACKAGE} {version(PACKAGE)} has them, imported on {today}.",
        "Check them against your contracts. An entry of your own with an exact `model` in another file would",
        "contradict one here: change it here, or leave its model out of the import.",
    ]
    if found.untold:
        lines += ["", "The catalogue has more, which is not in this card (such events wait in quarantine):"]
        lines += [f"  {told}" for told in found.untold]
    return lines
