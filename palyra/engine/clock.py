"""The one place that asks the time."""

from __future__ import annotations

import time
from typing import Protocol

#: Goes on while the machine is suspended; macOS lets its CLOCK_MONOTONIC do that, which is not Python's.
_WITH_SLEEP = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Wall time for what is recorded, monotonic time for durations; both in microseconds."""

    def now_us(self) -> int: ...

    def monotonic_us(self) -> int: ...


class SystemClock:
    """The machine's clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000

    def monotonic_us(self) -> int:
        return time.monotonic_ns() // 1_000


def asleep_us() -> int:
    """Return how long this machine has been suspended in all, give or take a constant."""
    return (time.clock_gettime_ns(_WITH_SLEEP) - time.monotonic_ns()) // 1_000


def due_us(since_us: int, after_us: int, now_us: int) -> int:
    """Return when something is due again that was done last at `since_us`.

    An instant in the future was read from a clock that was wrong: then it is due now.
    """
    return since_us + after_us if since_us <= now_us else now_us
