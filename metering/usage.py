"""What one answer of a provider used, in the contract's terms: the form into which every payload is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

UsageSource = Literal["provider", "tokenizer", "estimate"]
Status = Literal["success", "error", "validation_failed"]


@dataclass(frozen=True, slots=True)
class Usage:
    """One leg of one response. Most responses have one; each further model that answered has its own.

    Counts are gross, as the event contract has them: `input_tokens` are all prompt tokens, cached ones
    included, `output_tokens` all completion tokens, reasoning included; the others are parts of these. `None`
    in either of the two means that the provider has not said, which is never the same as zero. `provider` is
    the name that rate cards know (`openai`, `anthropic`, `aws`, `google`, …), `model` and `service_tier` what
    was served, `response_id` the provider's own ("" where it gives none). `leg` numbers the further legs of a
    response from 1; the response's own is 0. `units` counts what plain tokens do not say, by the names after
    `unit.`. `attributes` are kept with the event and priced by nobody; they win over those of the call.
    """

    provider: str = ""
    model: str = ""
    model_version: str = ""
    region: str = ""
    service_tier: str = ""
    response_id: str = ""
    leg: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    units: Mapping[str, int] = field(default_factory=dict)
    provider_cost: Decimal | None = None
    usage_source: UsageSource = "provider"
    attributes: Mapping[str, str] = field(default_factory=dict)
