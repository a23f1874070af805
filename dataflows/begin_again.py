"""How a running job is made to begin again: it stops reading, publishes what it has read, and is started.

A new card may price events that wait in quarantine; they are put through when a job begins, not beside one
that runs. A worker asks with a file in the state directory, because it is the supervisor that starts workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dataflows.lifecycle import STOPPING, asked_to_stop


@dataclass(frozen=True, slots=True)
class BeginAgain:
    """The wish that a job begins again, in its state directory."""

    state_dir: Path

    @property
    def _wish(self) -> Path:
        return self.state_dir / "begin-again"

    def ask(self) -> None:
        """Have the job begin again; the inputs of this process end where they are."""
        self._wish.touch()
        STOPPING.set()

    def is_asked(self) -> bool:
        """Whether somebody has."""
        return self._wish.exists()

    def withdraw(self) -> None:
        """Forget the wish: a job that begins has no need of it."""
        self._wish.unlink(missing_ok=True)

    def grant(self) -> bool:
        """Whether the job, which has ended, is to begin again; the wish is gone then."""
        asked = self.is_asked()
        self.withdraw()
        if not asked or asked_to_stop():
            return False
        STOPPING.clear()
        return True
