"""Puts a delivery together for a destination: which transport, which spool."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from metering.counts import Counts
from metering.delivery import Delivery
from metering.destination import FileDestination, KafkaDestination
from metering.file_transport import FileTransport
from metering.kafka_transport import KafkaTransport
from metering.spool import Spool
from metering.spool_directory import destination_directory, waiting_elsewhere
from metering.transport import Transport

_log = logging.getLogger("meterline")


def make_delivery(
    where: KafkaDestination | FileDestination,
    spool_dir: Path | None,
    spool_bytes_max: int,
    spool_after_seconds: float,
    counts: Counts,
    on_damage: Callable[[str, int], None],
) -> Delivery:
    """A delivery that has written nothing yet."""
    spool = None
    if spool_dir is None:
        _log.warning("events for %s have no spool: they wait in memory, and end with the process", where.name)
    else:
        place = destination_directory(spool_dir, where.name)
        spool = Spool(place, spool_bytes_max, on_damage)
        for other in waiting_elsewhere(place):
            _log.warning("events for another destination wait in %s", other)
    return Delivery(_transport(where), spool, counts, spool_after_seconds)


def _transport(where: KafkaDestination | FileDestination) -> Transport:
    return FileTransport(where.path) if isinstance(where, FileDestination) else KafkaTransport(where)
