"""When a loop that failed goes on: the back-off after crashes, the slow lane, the patience with refusals.

Pure arithmetic over instants; it must never wait or ask a clock. Any clock will do as long as all instants are
taken from the same one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from palyra.units import US_PER_S

#: Crashes further back than this are forgotten.
CRASH_WINDOW_US = 600 * US_PER_S
#: This many crashes within the window send a loop to the slow lane, where it starts once in `SLOW_LANE_MS`.
SLOW_LANE_CRASHES_COUNT = 6
SLOW_LANE_MS = 600_000

#: First wait after a failure of either kind; it doubles with each further one.
FIRST_WAIT_MS = 1_000
#: Longest wait of a loop that crashes, and of one whose ports refuse.
CRASH_WAIT_MAX_MS = 60_000
REFUSAL_WAIT_MAX_MS = 30_000


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """What the keeper does about a crash."""

    #: Crashes within the window, the one at hand included.
    crashes_count: int
    #: Time from the crash to the next start.
    backoff_ms: int
    slow_lane: bool


def recent_count(crashes_us: Sequence[int], now_us: int) -> int:
    """Return how many of the crashes are not forgotten yet.

    A loop's own time goes back by its stay in the slow lane; what lies further ahead is of a clock that was wrong.
    """
    return sum(-CRASH_WINDOW_US <= now_us - crash_us < CRASH_WINDOW_US for crash_us in crashes_us)


def next_start(crashes_us: Sequence[int], now_us: int) -> Restart:
    """Decide when a loop with these crashes, the last of them right now, starts again."""
    count = recent_count(crashes_us, now_us)
    slow_lane = count >= SLOW_LANE_CRASHES_COUNT
    backoff_ms = SLOW_LANE_MS if slow_lane else _doubled_ms(count, CRASH_WAIT_MAX_MS)
    return Restart(crashes_count=count, backoff_ms=backoff_ms, slow_lane=slow_lane)


def retry_ms(failures_count: int) -> int:
    """Return how long a loop waits after so many failures in a row that were answers, not crashes."""
    return _doubled_ms(failures_count, REFUSAL_WAIT_MAX_MS)


def _doubled_ms(count: int, max_ms: int) -> int:
    """Return min(max_ms, first * 2^(count-1)); 0 when nothing failed."""
    if count == 0:
        return 0
    return min(max_ms, FIRST_WAIT_MS << min(count - 1, 16))
