"""Who does something that is noted for ever."""

from __future__ import annotations

import getpass
from collections.abc import Mapping

ACTOR_ENV = "METERLINE_ACTOR"


def actor_of(environment: Mapping[str, str]) -> str:
    """METERLINE_ACTOR, or the name of the user of the operating system."""
    try:
        return environment.get(ACTOR_ENV) or getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return "unknown"
