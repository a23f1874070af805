"""What an event used besides plain tokens: attributes named `unit.NAME`, each with a whole number.

`unit.input_audio_tokens` and its like are tokens that are not text, gross as all counts are: the cached ones
are part of `unit.input_audio_tokens`, and this is part of `input_tokens`. Every other name is a unit of its
own, such as `unit.web_searches`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from metering.event import TOKENS_MAX, InvalidEvent, QuarantineReason
from pricing.card_values import ALL_CLASSES, MODALITIES, TOKEN_CLASSES, WHOLE_OF
from pricing.rate_card import RateRow

PREFIX = "unit."

_WHOLE = re.compile(r"\d+", re.ASCII)
_DIGITS_MAX = 40  # more than any count takes, and less than Python refuses to convert


@dataclass(frozen=True, slots=True)
class Units:
    """Counts above 0: `tokens` by the names in `WHOLE_OF`, gross, and `counts` of other units by name."""

    tokens: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


NO_UNITS = Units()


def units_in(attributes: pl.Series) -> dict[int, dict[str, str]]:
    """Positions of the events that may have units, and their attributes, of which the series has the JSON."""
    if (attributes == "{}").all():
        return {}  # as most batches are
    # A letter of a key may be written as an escape.
    positions = attributes.str.contains_any([PREFIX, "\\"]).arg_true()
    return {
        position: json.loads(text)
        for position, text in zip(positions.to_list(), attributes.gather(positions).to_list(), strict=True)
    }


def read_units(attributes: Mapping[str, str]) -> Units:
    """The units of one event; zero counts as none.

    Raises:
        InvalidEvent: a count is no whole number, or too large; the producer is at fault.
    """
    tokens: dict[str, int] = {}
    counts: dict[str, int] = {}
    for key, text in attributes.items():
        if not key.startswith(PREFIX):
            continue
        if not _WHOLE.fullmatch(text):
            raise InvalidEvent(
                QuarantineReason.INVALID_VALUE, f"attributes: {key} is not a whole number of 0 or more"
            )
        digits = text.lstrip("0")
        count = int(digits[:_DIGITS_MAX] or "0")
        if count > TOKENS_MAX:
            raise InvalidEvent(QuarantineReason.OUT_OF_RANGE, f"attributes: {key} is more than {TOKENS_MAX}")
        name = key.removeprefix(PREFIX)
        if count and name.removesuffix("_tokens") in WHOLE_OF and name.endswith("_tokens"):
            tokens[name.removesuffix("_tokens")] = count
        elif count:
            counts[name] = count
    return Units(tokens, counts)


def split_classes(plain: Sequence[int], units: Units) -> list[int]:
    """Counts in the order of `ALL_CLASSES`, each token in one of them.

    Args:
        plain: in the order of `TOKEN_CLASSES`, of text and everything else together.
        units: what of it is not text.

    Raises:
        InvalidEvent: a part is larger than its whole; the producer is at fault.
    """
    counts = dict(zip(TOKEN_CLASSES, plain, strict=True)) | dict.fromkeys(WHOLE_OF, 0)
    counts |= units.tokens
    for modality in MODALITIES:
        for part in ("cache_read", "cache_write"):
            counts[f"input_{modality}"] -= counts[f"{part}_{modality}"]
    for name, whole in WHOLE_OF.items():
        counts[whole] -= counts[name]
    for name, count in counts.items():
        if count < 0:
            told = f"{name}_tokens" if name in WHOLE_OF else f"{name} tokens"
            raise InvalidEvent(
                QuarantineReason.INCONSISTENT_USAGE, f"attributes: parts of the {told} exceed them"
            )
    return [counts[name] for name in ALL_CLASSES]


def without_rate(rates: RateRow, tokens: Sequence[int], units: Units) -> str | None:
    """The first class or unit that an event used and some rates do not name.

    `tokens` are what `split_classes` makes.
    """
    for name, count, rate in zip(ALL_CLASSES, tokens, rates.tokens, strict=True):
        if count and rate is None:
            return f"{name}_tokens"
    return next((name for name in units.counts if name not in rates.units), None)
