"""The one place that makes ids and rolls dice; both are recorded, so that a replay needs neither."""

from __future__ import annotations

import random
import secrets
from typing import Protocol

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _CROCKFORD for low in _CROCKFORD]


class Ids(Protocol):
    """Makes what must differ from everything before."""

    def ulid(self, now_us: int) -> str:
        """Return a ULID: 48 bits of milliseconds, 80 random bits, 26 characters of Crockford's base 32."""
        ...

    def jitter_bp(self) -> int:
        """Return a random share in [0, 10,000)."""
        ...


def encode_ulid(value: int) -> str:
    """Return 128 bits as 26 characters."""
    text = [_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)]
    return "".join(text)


class SystemIds:
    """Ids from the system's randomness; within one millisecond they go up, so they sort as they were made."""

    def __init__(self) -> None:
        self._last = 0

    def ulid(self, now_us: int) -> str:
        value = (now_us // 1_000 << 80) | secrets.randbits(80)
        if value >> 80 <= self._last >> 80:
            value = self._last + 1
        self._last = value
        return encode_ulid(value)

    def jitter_bp(self) -> int:
        return random.randrange(10_000)


class SeededIds:
    """Ids that a test can foretell."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._last = 0

    def ulid(self, now_us: int) -> str:
        self._last = max(self._last + 1, (now_us // 1_000 << 80) | self._random.getrandbits(80))
        return encode_ulid(self._last)

    def jitter_bp(self) -> int:
        return self._random.randrange(10_000)
