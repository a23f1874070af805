"""A clock that a test turns, in place of the one that calls are timed by (the fixture `clock`)."""

from __future__ import annotations


class Clock:
    """`time`, as far as it is asked: seconds that the test sets."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1_000_000_000)
