"""Progress of work that lasts, on standard error and only on a terminal: what, how much, how fast, how long yet."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from palyra.cli.render import count, duration
from palyra.engine.clock import SystemClock
from palyra.units import US_PER_S

#: Work that is done sooner says nothing.
_QUIET_US = 500_000
_EVERY_US = 100_000


class Progress:
    """A line that is rewritten while work goes on and gone when it ends. Call it with what, done and total."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._label = ""
        self._began_us = self._shown_us = self._clock.monotonic_us()
        self._is_shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __call__(self, label: str, done: int, total: int) -> None:
        now_us = self._clock.monotonic_us()
        if label != self._label:
            self._label, self._began_us = label, now_us
        if not sys.stderr.isatty() or now_us - self._shown_us < (_EVERY_US if self._is_shown else _QUIET_US):
            return
        self._shown_us, self._is_shown = now_us, True
        rate = max(1, done * US_PER_S // max(1, now_us - self._began_us))
        left = duration((total - done) * US_PER_S // rate)
        text = f"{label} {count(done)} of {count(total)} · {count(rate)}/s · {left} left"
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
