"""How fast is too fast: buckets that fill by the minute, and peers that fail again and again.

Integers throughout. A bucket is a debt that is paid off evenly: `per_minute` units in a minute. What is taken
counts at once; where it turns out to have been less or more, the debt is corrected.
"""

from __future__ import annotations

from collections import deque

from palyra.units import US_PER_MS, US_PER_S, ceil_div

_MINUTE_US = 60 * US_PER_S
#: Failures of a peer in a minute from which on its failing answers come late, and how late they come at most.
FAILURES_FREE_COUNT = 20
_DELAY_MIN_MS, _DELAY_MAX_MS = 1_000, 5_000
PEERS_MAX_COUNT = 1_024
_FAILURES_KEPT_COUNT = 256


class Bucket:
    """What somebody may take in a minute, and how much of it at once."""

    def __init__(self, per_minute: int, capacity: int, now_us: int) -> None:
        self.per_minute = per_minute
        self.capacity = capacity
        #: In units times a minute's microseconds, so that nothing is rounded.
        self._debt = 0
        self._paid_us = now_us

    def _pay(self, now_us: int) -> None:
        self._debt = max(0, self._debt - max(0, now_us - self._paid_us) * self.per_minute)
        self._paid_us = now_us

    def left(self, now_us: int) -> int:
        """Return how many units could be taken now; below 0 where more was taken than there is."""
        self._pay(now_us)
        return (self.capacity * _MINUTE_US - self._debt) // _MINUTE_US

    def wait_ms(self, units: int, now_us: int) -> int:
        """Return how long until that many can be taken; 0 for now. What never fits waits for a full bucket."""
        missing = min(units, self.capacity) - self.capacity
        self._pay(now_us)
        over = self._debt + missing * _MINUTE_US
        return ceil_div(over, self.per_minute * US_PER_MS) if over > 0 else 0

    def take(self, units: int, now_us: int) -> None:
        """Take units, or give them back where they are below 0."""
        self._pay(now_us)
        self._debt = max(0, self._debt + units * _MINUTE_US)


class FailureCount:
    """Failures of one kind within a window that moves along."""

    def __init__(self, window_us: int) -> None:
        self._window_us = window_us
        self._at_us: deque[int] = deque(maxlen=_FAILURES_KEPT_COUNT)

    def note(self, now_us: int) -> int:
        """Count one more, and return how many there are."""
        self._at_us.append(now_us)
        return self.count(now_us)

    def count(self, now_us: int) -> int:
        while self._at_us and self._at_us[0] <= now_us - self._window_us:
            self._at_us.popleft()
        return len(self._at_us)

    @property
    def last_us(self) -> int:
        return self._at_us[-1] if self._at_us else 0


class PeerFailures:
    """Failures by peer, of the newest peers only: nobody can fill the memory with addresses."""

    def __init__(self, window_us: int) -> None:
        self._window_us = window_us
        self._peers: dict[str, FailureCount] = {}

    def note(self, peer: str, now_us: int) -> int:
        """Count one more failure of a peer, and return how many it has in the window."""
        failures = self._peers.pop(peer, None) or FailureCount(self._window_us)
        self._peers[peer] = failures
        while len(self._peers) > PEERS_MAX_COUNT:
            del self._peers[next(iter(self._peers))]
        return failures.note(now_us)

    def of(self, peer: str, now_us: int) -> tuple[int, int]:
        """Return how many failures a peer has in the window, and when the last one was."""
        failures = self._peers.get(peer)
        return (0, 0) if failures is None else (failures.count(now_us), failures.last_us)

    def forget(self, peer: str) -> None:
        """Forget a peer's failures, because it has shown who it is."""
        self._peers.pop(peer, None)


def failing_delay_ms(failures_count: int) -> int:
    """Return how late an answer to the peer's latest failure comes."""
    if failures_count < FAILURES_FREE_COUNT:
        return 0
    return min(_DELAY_MAX_MS, _DELAY_MIN_MS * (failures_count // FAILURES_FREE_COUNT))
