"""The one place that makes ids and rolls dice; both are recorded, so that a replay needs neither."""

from __future__ import annotations

import random
import secrets
from typing import Protocol

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
#: Randomness of one ULID, and of so many that the system is asked for at once.
_RANDOM_BYTES = 10
_POOL_BYTES = 256 * _RANDOM_BYTES
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
    text, pairs = "", _PAIRS
    for _ in range(13):
        text, value = pairs[value & 1023] + text, value >> 10
    return text


class SystemIds:
    """Ids from the system's randomness; within one millisecond they go up, so they sort as they were made."""

    def __init__(self) -> None:
        self._last = 0
        self._pool = b""
        self._used_bytes = 0

    def _random_bytes(self) -> bytes:
        """Return the next 80 bits of a pool that is filled from the system's randomness."""
        if self._used_bytes >= len(self._pool):
            self._pool, self._used_bytes = secrets.token_bytes(_POOL_BYTES), 0
        first = self._used_bytes
        self._used_bytes += _RANDOM_BYTES
        return self._pool[first : self._used_bytes]

    def ulid(self, now_us: int) -> str:
        value = (now_us // 1_000 << 80) | int.from_bytes(self._random_bytes())
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
