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
#: Failed logins of a peer that cost nothing, the window that they are counted in, and the longest wait after more.
_LOGIN_FREE_COUNT, _LOGIN_WINDOW_US, _LOGIN_WAIT_MAX_S = 5, 15 * _MINUTE_US, 60
#: Failed logins of everybody in a minute after which all have to wait.
_LOGINS_FAILING_COUNT = 30
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

    def clear_us(self, count: int) -> int:
        """Return when fewer than so many are left in the window."""
        return self._at_us[len(self._at_us) - count] + self._window_us


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


class LoginLock:
    """How long somebody waits who has failed to log in: alone, and all together."""

    def __init__(self) -> None:
        self._peers = PeerFailures(_LOGIN_WINDOW_US)
        self._all = FailureCount(_MINUTE_US)

    def note(self, peer: str, now_us: int) -> None:
        """Count a failed login."""
        self._peers.note(peer, now_us)
        self._all.note(now_us)

    def forget(self, peer: str) -> None:
        """Forget the failures of a peer that has logged in."""
        self._peers.forget(peer)

    def wait_ms(self, peer: str, now_us: int) -> int:
        """Return how long until this peer may try again, whatever it would show; 0 for now."""
        count, last_us = self._peers.of(peer, now_us)
        until_us = now_us
        if count >= _LOGIN_FREE_COUNT:
            wait_s = min(_LOGIN_WAIT_MAX_S, 2 ** min(count - _LOGIN_FREE_COUNT, 10))
            until_us = last_us + wait_s * US_PER_S
        if self._all.count(now_us) >= _LOGINS_FAILING_COUNT:
            until_us = max(until_us, self._all.clear_us(_LOGINS_FAILING_COUNT))
        return ceil_div(max(0, until_us - now_us), US_PER_MS)
