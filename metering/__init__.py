"""The boundary: what runs inside the customer's app. The event contract, and the SDK.

The names of the SDK stand here, and are imported when they are first used: an application that needs the
contract alone, as the job does, pays for nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metering.asgi import MeteringMiddleware
    from metering.contexts import MissingTenant, context
    from metering.decorate import cache_hit, meter_call, metered
    from metering.event import UsageEvent
    from metering.instrumentation import instrument, uninstrument
    from metering.meter import Meter
    from metering.resolvers import first_of, header, jwt_claim
    from metering.usage import Usage

__all__ = [
    "Meter",
    "MeteringMiddleware",
    "MissingTenant",
    "Usage",
    "UsageEvent",
    "cache_hit",
    "context",
    "first_of",
    "header",
    "instrument",
    "jwt_claim",
    "meter_call",
    "metered",
    "uninstrument",
]

_HOMES = {
    "asgi": ("MeteringMiddleware",),
    "contexts": ("MissingTenant", "context"),
    "decorate": ("cache_hit", "meter_call", "metered"),
    "event": ("UsageEvent",),
    "instrumentation": ("instrument", "uninstrument"),
    "meter": ("Meter",),
    "resolvers": ("first_of", "header", "jwt_claim"),
    "usage": ("Usage",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name of the SDK from where it is.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"metering.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
