"""The rate card of a running job, which may change while it runs.

The files that make the card are looked at once an epoch. When they have changed and then stayed the same for
an epoch (whoever writes them may not be done before), they are read again; so they are once after the start,
since they may have changed while the job was preparing. A card in which anything is wrong is refused with all
its problems, and the one before stays in force until the file is mended.

A card is taken between two batches, never within one. Which events it prices is decided by its dates and the
events' own times, so several workers may take it an epoch apart, and a replay prices as the first run did, as
long as cards grow by dated entries.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeAlias

from dataflows.card_file import compiled
from dataflows.connections import PlanError, read_settings
from dataflows.counters import PROCESS
from pricing.card_diff import changes, repriced_from_ms
from pricing.rate_card import RateCard
from pricing.settings import InvalidSettings, Settings

Stamp: TypeAlias = "tuple[tuple[str, int, int, int], ...]"
"""Path, inode, size and time of the last change (ns), of rights too, of every file; noughts without one."""

_log = logging.getLogger(__name__)


def stamp_of(config: Path, settings: Settings) -> Stamp:
    """Differs when a file that makes the card has been changed, replaced, added or taken away."""
    paths = [config]
    for name in settings.pricing.cards:
        path = config.parent / name
        paths += sorted(path.glob("*.y*ml")) if path.is_dir() else [path]
    return tuple(_stamp_of_file(path) for path in paths)


def _stamp_of_file(path: Path) -> tuple[str, int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), found.st_ino, found.st_size, found.st_ctime_ns


class CardInForce:
    """The card of this process. `current` is asked for each batch, with the number of closed epochs."""

    def __init__(
        self,
        config: Path,
        settings: Settings,
        taken: Callable[[RateCard], None],
        now_ms: Callable[[], int],
    ) -> None:
        """`settings` are those that the job started with, of which `config` is the file.

        `taken` is called with another card that has come into force; `now_ms` is the wall clock, by which
        alone an operator is warned of what may be published already.
        """
        self._now_ms = now_ms
        self._config = config
        self._on_taken = taken
        self._settings = settings
        self._card = compiled(settings.pricing)
        self._epoch = -1
        self._taken: Stamp | None = None
        self._seen: Stamp | None = None
        PROCESS.rate_card_version = self._card.version

    def current(self, epoch: int) -> RateCard:
        """The card to price the next batch with."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._look()
        return self._card

    def _look(self) -> None:
        stamp = stamp_of(self._config, self._settings)
        if stamp != self._taken and stamp == self._seen:
            self._taken = stamp
            self._read()
        self._seen = stamp

    def _read(self) -> None:
        try:
            settings = read_settings(str(self._config))
        except (PlanError, InvalidSettings) as exc:
            PROCESS.rate_cards_refused += 1
            PROCESS.rate_card_is_refused = True
            _log.error("the changed rate card is refused, and the one before stays in force: %s", exc)
            return
        PROCESS.rate_card_is_refused = False
        if replace(settings, pricing=self._settings.pricing) != self._settings:
            _log.warning(
                "more than the rate card has changed in the configuration: that takes effect at a restart"
            )
        self._settings = settings
        before, self._card = self._card, compiled(settings.pricing)
        if before.version != self._card.version:
            PROCESS.rate_card_version = self._card.version
            _log.info(
                "another rate card is in force",
                extra={"version": self._card.version, "before": before.version},
            )
            self._tell_if_repriced(before)
            self._on_taken(self._card)

    def _tell_if_repriced(self, before: RateCard) -> None:
        """What is published keeps its rating, until somebody re-rates it."""
        from_ms, now_ms = repriced_from_ms(changes(before, self._card)), self._now_ms()
        if from_ms is None or from_ms > now_ms:
            return
        today = datetime.fromtimestamp(now_ms / 1000, timezone.utc).date()
        _log.warning(
            "the new rate card also changes what events from %s on come to; those that are published keep "
            "their rating: meterline rerate --from %s --to %s --card %s shows the difference",
            datetime.fromtimestamp(from_ms / 1000, timezone.utc).isoformat(timespec="milliseconds"),
            datetime.fromtimestamp(from_ms / 1000, timezone.utc).date(),
            today + timedelta(days=1),
            self._config,
        )
