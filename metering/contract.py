"""The contract's judgement in one pass of compiled code, for the events that nearly all applications record.

`fits` says yes only to what `metering.event.parse_line` takes; what it says no to may still be an event, and
`parse_line` decides. A property test holds the two together. It reads an event in a third of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import NotRequired, TypedDict

from metering.event import (
    ATTRIBUTE_VALUE_CHARS_MAX,
    ATTRIBUTES_MAX,
    LABEL_CHARS_MAX,
    TIMESTAMP_MS_END,
    Count,
    Key,
    Label,
    Name,
)

Milliseconds = Annotated[int, Field(ge=0, lt=TIMESTAMP_MS_END)]
PlainDecimal = Annotated[str, Field(pattern=r"^[0-9]{1,20}(\.[0-9]{1,30})?$")]
Attributes = Annotated[
    dict[Name, Annotated[str, Field(max_length=ATTRIBUTE_VALUE_CHARS_MAX)]], Field(max_length=ATTRIBUTES_MAX)
]


class CommonEvent(TypedDict):
    """The contract's fields in their commonest form: epoch milliseconds, no null, nothing unknown."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]  # pydantic reads it so

    idempotency_key: Key
    tenant_id: Name
    feature_id: NotRequired[Name]
    provider: NotRequired[Label]
    model: Name
    model_version: NotRequired[Label]
    region: NotRequired[Label]
    service_tier: NotRequired[Label]
    timestamp: Milliseconds
    input_tokens: Count
    output_tokens: Count
    cache_read_tokens: NotRequired[Count]
    cache_write_tokens: NotRequired[Count]
    cache_write_1h_tokens: NotRequired[Count]
    reasoning_tokens: NotRequired[Count]
    latency_ms: NotRequired[Count]
    retry_count: NotRequired[Count]
    cache_status: NotRequired[Literal["miss", "hit"]]
    status: NotRequired[Literal["success", "error", "validation_failed"]]
    usage_source: NotRequired[Literal["provider", "tokenizer", "estimate"]]
    provider_cost: NotRequired[PlainDecimal]
    attributes: NotRequired[Attributes]


_is_common = TypeAdapter(CommonEvent).validator.isinstance_python

assert LABEL_CHARS_MAX == 128, "a key of an attribute is as long as a Name"


def fits(event: Mapping[str, Any]) -> bool:
    """Whether the event is one beyond doubt. No other answer than yes or no, whatever it is given."""
    if not _is_common(event):
        return False
    cached = event.get("cache_read_tokens", 0)
    written = event.get("cache_write_tokens", 0)
    return bool(
        cached + written <= event["input_tokens"]
        and event.get("cache_write_1h_tokens", 0) <= written
        and event.get("reasoning_tokens", 0) <= event["output_tokens"]
    )
