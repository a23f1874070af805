"""A meter that keeps what it is given, and shows it as the job would read it."""

from __future__ import annotations

import json
from typing import Any

from metering.event import UsageEvent, parse_line


class CollectingMeter:
    """`record` appends; `events` expands, as a meter's sender thread does, and reads each by the contract."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def record(self, event: Any) -> None:
        self.records.append(event)

    def fields(self) -> list[dict[str, Any]]:
        """All events, as they would be sent."""
        return [fields for record in self.records for fields in record.events()]

    def events(self) -> list[UsageEvent]:
        """All events. One that the job would keep in quarantine fails."""
        return [parse_line(json.dumps(fields).encode())[0] for fields in self.fields()]

    def event(self) -> UsageEvent:
        """The one event that there is."""
        [event] = self.events()
        return event
