"""What instrumentation hands its records to."""

from __future__ import annotations

from typing import Any, Protocol


class Recorder(Protocol):
    """Whatever takes records: a `metering.meter.Meter`, or a double in a test."""

    def record(self, event: Any) -> object:
        """Take a mapping of the contract's fields, a `UsageEvent`, or what has `events()`; return at once."""
