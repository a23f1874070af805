"""What a rate card says, as values: entries, their context tiers, and contracts with tenants.

`pricing.card_entry` reads them, `pricing.card_match` says which of them applies to an event. No number here
was ever a float; instants are epoch milliseconds UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias

_ZERO = Decimal(0)
_ONE = Decimal(1)

TOKEN_CLASSES = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")
"""Priced classes of plain tokens: `input` is what was neither read from nor written to the provider's
cache, `cache_write` what was written for five minutes, `output` what was not reasoning."""

MODALITIES = ("audio", "image", "video")
WHOLE_OF = {
    f"{whole}_{modality}": whole
    for whole in ("input", "cache_read", "cache_write", "output")
    for modality in MODALITIES
}
"""By the name of each class of tokens that are not text: the class that they are taken out of."""

ALL_CLASSES = (*TOKEN_CLASSES, *WHOLE_OF)
"""Each token of an event is in exactly one of these."""

STANDARD_TIERS = ("", "default", "standard")
"""The names under which providers report the tier that nobody asked for."""
EVERY_TIER = "*"

MODEL_CLAUSES = ("equals", "starts_with", "ends_with", "contains", "regex")


PLAIN_RATES = (
    "input_rate",
    "output_rate",
    "cache_read_rate",
    "cache_write_rate",
    "cache_write_1h_rate",
    "reasoning_rate",
)
"""Keys of the rates of plain token classes; the first two are required."""


@dataclass(frozen=True, slots=True)
class Clause:
    """A condition on the name of a model.

    `kind` is one of `MODEL_CLAUSES`, about `text`, or "and" or "or", about `parts`. A regex may match
    anywhere in the name.
    """

    kind: str
    text: str = ""
    parts: tuple[Clause, ...] = ()


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    """Hours of local days, `[from_minute, until_minute)` in minutes since midnight.

    With `until_minute` at or before `from_minute` they run over midnight. `weekdays` (0 is Monday) are the
    days on which they begin.
    """

    from_minute: int
    until_minute: int
    weekdays: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """USD per token; USD per unit for `unit_rates`; USD per event for `request_fee`.

    A rate of plain tokens that is None has no price of its own: such tokens cost what their whole does.
    `modality_rates` is by the names in `WHOLE_OF`; what neither it nor `unit_rates` names has no price.
    """

    input_rate: Decimal
    output_rate: Decimal
    cache_read_rate: Decimal | None = None
    cache_write_rate: Decimal | None = None
    cache_write_1h_rate: Decimal | None = None
    reasoning_rate: Decimal | None = None
    modality_rates: Mapping[str, Decimal] = field(default_factory=dict)
    unit_rates: Mapping[str, Decimal] = field(default_factory=dict)
    request_fee: Decimal = _ZERO


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextTier(Rates):
    """Rates of a whole request with `tokens_min` input tokens or more. Units and fee are the entry's."""

    tokens_min: int
    price: Rates | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Rates):
    """One entry: which events it is for, what they cost us, and what we charge for them.

    Exactly one of `model`, `model_prefix` and `match` is given. "" stands for any provider, version and
    region; `service_tier` "" for the standard tier, "*" for every one. `minimum_charge` is the least cost of
    an event, in USD. The price is the cost x `multiplier`, or what own rates in `price` make x `multiplier`.
    `credits` has credits per token by class; without it every token counts `credit_multiplier`.
    """

    model: str = ""
    model_prefix: str = ""
    match: Clause | None = None
    provider: str = ""
    model_version: str = ""
    region: str = ""
    service_tier: str = ""
    effective_from_ms: int | None = None
    effective_until_ms: int | None = None
    gap_intended: bool = False
    time_of_day: TimeOfDay | None = None
    context_tiers: tuple[ContextTier, ...] = ()
    minimum_charge: Decimal = _ZERO
    price: Rates | None = None
    multiplier: Decimal = _ONE
    credit_multiplier: Decimal = _ONE
    credits: Mapping[str, Decimal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What one tenant pays instead of the list price; costs stay as they are.

    At most one of `model`, `model_prefix` and `match` is given; what is not given stands for any. Exactly one
    of `multiplier` (price = cost x it), `discount` (a fraction off the list price) and `price` is given.
    """

    tenant: str
    model: str = ""
    model_prefix: str = ""
    match: Clause | None = None
    provider: str = ""
    model_version: str = ""
    region: str = ""
    service_tier: str = EVERY_TIER
    effective_from_ms: int | None = None
    effective_until_ms: int | None = None
    multiplier: Decimal | None = None
    discount: Decimal | None = None
    price: Rates | None = None


Entry: TypeAlias = "Rule | Contract"
