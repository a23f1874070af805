"""Functions compiled to machine code (Numba) at their first call, and kept on disk for the next process.

For loops over bytes and rows that no column operation expresses: a compiled loop reads plainly, one
event at a time, and costs nanoseconds an event. What is compiled is a pure function of numbers and of
arrays that the caller owns; it makes no array itself. So it goes without counting references, which
took six sevenths of the scanner's time (3.6 against 0.5 microseconds an event).

Numba keeps code by the one file that a function stands in, and would not notice a change in another
that was compiled into it. So the code is kept under a digest of all our sources and of where they are (Numba
takes no code from another checkout): in a directory of the user's cache (`NUMBA_CACHE_DIR` names another
place, which must be writable). Where nothing can be written or read back, each process compiles anew, which
takes some ten seconds. Bound: `KEPT_MAX` digests, a third of a megabyte each.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba

import metering.event

F = TypeVar("F", bound=Callable[..., Any])

KEPT_MAX = 8

_log = logging.getLogger(__name__)

_OPTIONS: dict[str, Any] = {"nogil": True, "_nrt": False}


def inlined(function: F) -> F:
    """Compile a part of compiled functions, into each place that calls it."""
    ready: F = numba.njit(forceinline=True, **_OPTIONS)(function)
    return ready


def compiled(function: F) -> F:
    """Compile a function when it is first called. It lets other threads run meanwhile."""

    @cache
    def kept() -> Callable[..., Any]:
        directory = _kept_in()
        if directory is None:
            return anew()
        numba.config.CACHE_DIR = str(  # type: ignore[attr-defined]  # made at import, from the environment
            directory
        )
        return numba.njit(cache=True, **_OPTIONS)(function)  # type: ignore[no-any-return]  # no types there

    @cache
    def anew() -> Callable[..., Any]:
        return numba.njit(**_OPTIONS)(function)  # type: ignore[no-any-return]  # as above

    chosen = kept

    def call(*arguments: Any) -> Any:
        nonlocal chosen
        if chosen is anew:
            return anew()(*arguments)
        try:
            return kept()(*arguments)
        except Exception as exc:  # noqa: BLE001  # a damaged file or a full disk: what the cache raises has no list
            _log.warning(
                "compiled code could not be kept or read; it is compiled without",
                extra={"directory": str(_kept_in()), "reason": f"{type(exc).__name__}: {exc}"},
            )
            chosen = anew
            return anew()(*arguments)

    return call  # type: ignore[return-value]  # it takes and returns what the function does


@cache
def _kept_in() -> Path | None:
    """A directory for the code of exactly these sources; None if there can be none."""
    home = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    try:
        root = (Path(home) if home else Path.home() / ".cache") / "meterline-compiled"
        directory = root / _digest()
        directory.mkdir(parents=True, exist_ok=True)
        os.utime(directory)  # what is used goes last
        if _is_empty(directory):
            _log.info("the first run of a version from a directory compiles for some ten seconds")
        others = sorted(root.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    for old in others[KEPT_MAX:]:
        shutil.rmtree(old, ignore_errors=True)
    return directory if os.access(directory, os.W_OK) else None


def will_compile() -> bool:
    """Whether no code of these sources is kept yet, or none can be: then the first calls compile."""
    directory = _kept_in()
    return directory is None or _is_empty(directory)


def _is_empty(directory: Path) -> bool:
    return not any(directory.rglob("*.nbi"))


def _digest() -> str:
    here = Path(__file__).parent
    sources = [*sorted(here.glob("*.py")), Path(metering.event.__file__)]
    parts = [os.fsencode(here), *(path.read_bytes() for path in sources)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
