"""A timer for a deadline that moves often: with every chunk of a stream, with every call of a connection.

Moving it later costs an assignment. The loop's timer is left where it is and, when it fires too early, set
again; so streams make no heap of cancelled timers.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

#: Timers of uvloop count in milliseconds and can be early by one.
_EARLY_S = 0.001


class Alarm:
    """Rings once when `at`, an instant of the running loop's clock, has come. Building one needs no loop."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        #: Infinite when nothing is to ring.
        self.at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def set(self, at: float) -> None:
        """Move the deadline."""
        self.at = at
        if at < self._timer_at:
            self._start()

    def clear(self) -> None:
        """Have no deadline for now."""
        self.at = math.inf

    def cancel(self) -> None:
        """Have no deadline, and leave nothing in the loop."""
        self.clear()
        self._stop()

    def _start(self) -> None:
        self._stop()
        self._timer_at = self.at
        self._timer = asyncio.get_running_loop().call_at(self.at, self._fire)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = math.inf

    def _fire(self) -> None:
        self._stop()
        if self.at <= asyncio.get_running_loop().time() + _EARLY_S:
            self.clear()
            self._ring()
        elif self.at < math.inf:
            self._start()
