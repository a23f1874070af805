"""One call to a model, from the caller's side, and the events that it comes to. Pure: time is passed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from metering.keys import is_unique, response_key
from metering.usage import Status, Usage
from metering.usage_bedrock import model_and_region

Fields = dict[str, object]
"""An event as a flat object, named and typed as the contract has it, ready for JSON."""


@dataclass(frozen=True, slots=True)
class Call:
    """Who called what, when. `started_ms` is event time, epoch milliseconds, taken when the request left.

    `provider` and `model` are what was asked for: they stand in where the answer does not say what was
    served. Of a `model` that is an ARN of Bedrock's the event has the name and the region, not the account.
    `retry_count` is 0 for the first try. `cache_status` is `hit` where our own cache of responses answered.
    """

    tenant_id: str
    model: str
    started_ms: int
    feature_id: str = "unknown"
    provider: str = ""
    region: str = ""
    retry_count: int = 0
    cache_status: str = "miss"
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended: its status, and milliseconds from its start to the last token and to the first.

    `first_token_latency_ms` is None where nothing was streamed, or nothing came. `is_cut` says that the
    stream ended before the provider had told its usage to the end.
    """

    latency_ms: int
    status: Status = "success"
    first_token_latency_ms: int | None = None
    is_cut: bool = False


def events_of(
    call: Call, usages: Sequence[Usage], ending: Ending, new_key: Callable[[], str]
) -> list[Fields]:
    """The events of one call: one for each leg.

    Args:
        usages: Each with its token counts known (see `metering/fill.py`), the response's own first.
        new_key: Makes a key for a leg whose response bears no id, or one that another may bear too.
    """
    return [_event(call, usage, ending, new_key) for usage in usages]


def _event(call: Call, usage: Usage, ending: Ending, new_key: Callable[[], str]) -> Fields:
    if is_unique(usage.response_id):
        key = response_key(usage.response_id, call.retry_count + 1, usage.leg)
    else:
        key = new_key()
    asked, place = model_and_region(call.model)
    event: Fields = {
        "idempotency_key": key,
        "tenant_id": call.tenant_id,
        "feature_id": call.feature_id,
        "provider": usage.provider or call.provider,
        "model": usage.model or asked,
        "model_version": usage.model_version,
        "region": usage.region or call.region or place,
        "service_tier": usage.service_tier,
        "timestamp": call.started_ms,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "latency_ms": ending.latency_ms,
        "retry_count": call.retry_count,
        "cache_status": call.cache_status,
        "status": ending.status,
        "usage_source": usage.usage_source,
    }
    if usage.provider_cost is not None:
        event["provider_cost"] = format(usage.provider_cost, "f")
    attributes = {**call.attributes, **usage.attributes}
    attributes |= {f"unit.{name}": str(count) for name, count in usage.units.items() if count}
    if ending.first_token_latency_ms is not None:
        attributes["first_token_latency_ms"] = str(ending.first_token_latency_ms)
    if ending.is_cut:
        attributes["stream"] = "cut"
    if attributes:
        event["attributes"] = attributes
    return event
