"""Reading an answer whole, within a bound; every kind of answer is read this way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from palyra.errors import TransportFailed


async def read_whole(chunk: Callable[[], Awaitable[bytes]], max_bytes: int, *, announced_bytes: int = 0) -> bytes:
    """Return all that `chunk` gives until its clean end; raises `TransportFailed` as soon as it is too much."""
    parts: list[bytes] = []
    arrived_bytes = 0
    while max(announced_bytes, arrived_bytes) <= max_bytes:
        part = await chunk()
        if not part:
            return b"".join(parts)
        parts.append(part)
        arrived_bytes += len(part)
    raise TransportFailed("response_too_large", "body", f"the answer is larger than {max_bytes} bytes")
