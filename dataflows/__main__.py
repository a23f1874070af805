"""Where the `meterline` command begins: SIGTERM is heard before anything else is imported.

The imports take most of a second. A supervisor of services that ends `meterline run` in that time, or before
the first batch, asks for the same as later: what was read is published, which is nothing yet, and it exits 0.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

_OURS = ("dataflows", "metering", "pricing", "sinks")


def main() -> None:
    """Run the command."""
    if sys.argv[1:2] == ["run"]:
        signal.signal(signal.SIGTERM, _end_well)
    try:
        from dataflows.cli import main as command  # noqa: PLC0415  # after the signal is heard
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] in _OURS:
            raise
        sys.exit(
            f"meterline: the package {exc.name} is missing; only the SDK is installed here. "
            "The commands need pip install 'meterline[pipeline]'"
        )
    command()


def _end_well(_: int, __: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
