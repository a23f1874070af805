"""A meter's counts for Prometheus, for applications that have its client library already.

    from prometheus_client import REGISTRY, core
    REGISTRY.register(MeterCollector(meter, core))

The library comes as an argument: the SDK needs it for nothing, and asks nobody to install it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metering.meter import Meter

_COUNTERS = {
    "recorded": "Events recorded.",
    "without_event": "Observations that came to no event: recorded by a client inside, say.",
    "delivered": "Events acknowledged by the destination straight from memory.",
    "spooled": "Events written to the spool.",
    "replayed": "Events acknowledged from the spool.",
    "damaged_bytes": "Bytes of spools that were no records and were kept aside.",
    "failures": "Failures of the sender itself, which went on.",
}
_GAUGES = {
    "waiting": "Events in memory alone.",
    "queue_depth": "Of these, in the queue.",
    "spool_bytes": "Bytes in the spool that wait to be replayed.",
}
_BY_REASON = {
    "invalid": "Events that the contract refuses: sent, and quarantined by the job.",
    "dropped": "Events that will never arrive.",
}


class MeterCollector:
    """A custom collector of `prometheus_client`. Every name begins with `meterline_meter_`.

    Args:
        core: The module `prometheus_client.core`.
    """

    def __init__(self, meter: Meter, core: Any) -> None:
        self._meter = meter
        self._core = core

    def collect(self) -> Iterator[Any]:
        """Every figure as it is now."""
        stats = self._meter.stats()
        for name, text in _COUNTERS.items():
            yield self._core.CounterMetricFamily(f"meterline_meter_{name}", text, value=getattr(stats, name))
        for name, text in _GAUGES.items():
            yield self._core.GaugeMetricFamily(f"meterline_meter_{name}", text, value=getattr(stats, name))
        for name, text in _BY_REASON.items():
            family = self._core.CounterMetricFamily(f"meterline_meter_{name}", text, labels=["reason"])
            for reason, count in getattr(stats, name).items():
                family.add_metric([reason], count)
            yield family
