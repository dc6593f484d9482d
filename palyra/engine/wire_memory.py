"""What is remembered between runs for the sake of a dialect: lost, nothing breaks, and nothing of it is recorded.

Clients that speak another dialect than their provider may lose its opaque reasoning, which it wants back while
tools are at work; so the blocks of turns with tool calls are kept here for an hour. A server that has refused a
flag is not sent it again. A response that is to be continued is continued where it was made.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from palyra.engine.clock import Clock
from palyra.wire.neutral import Reasoning

_HOUR_US = 3_600 * 1_000_000
_REASONING_MAX_BYTES = 64 << 20
_RESPONSES_MAX_COUNT = 10_000
V = TypeVar("V")


class _Kept(Generic[V]):
    """Values by key, the oldest let go past a size or an age."""

    def __init__(self, clock: Clock, max_size: int) -> None:
        self._clock = clock
        self._max_size = max_size
        self._size = 0
        self._by_key: OrderedDict[tuple[str, str], tuple[int, int, V]] = OrderedDict()

    def put(self, principal_id: str, key: str, value: V, size: int) -> None:
        self._drop((principal_id, key))
        self._by_key[principal_id, key] = (self._clock.monotonic_us() + _HOUR_US, size, value)
        self._size += size
        while self._by_key and (self._size > self._max_size or self._is_stale()):
            self._drop(next(iter(self._by_key)))

    def get(self, principal_id: str, key: str) -> V | None:
        until_us, _, value = self._by_key.get((principal_id, key), (0, 0, None))
        return value if until_us > self._clock.monotonic_us() else None

    def _is_stale(self) -> bool:
        return next(iter(self._by_key.values()))[0] <= self._clock.monotonic_us()

    def _drop(self, key: tuple[str, str]) -> None:
        _, size, _ = self._by_key.pop(key, (0, 0, None))
        self._size -= size


class WireMemory:
    """See above. Everything is kept by principal, so that nobody is given what another one thought."""

    def __init__(
        self,
        clock: Clock,
        *,
        reasoning_max_bytes: int = _REASONING_MAX_BYTES,
        responses_max_count: int = _RESPONSES_MAX_COUNT,
    ) -> None:
        self._reasoning: _Kept[tuple[Reasoning, ...]] = _Kept(clock, reasoning_max_bytes)
        self._responses: _Kept[str] = _Kept(clock, responses_max_count)
        #: Providers that have refused `stream_options`.
        self.without_stream_options: set[str] = set()

    def keep_reasoning(self, principal_id: str, call_id: str, blocks: tuple[Reasoning, ...]) -> None:
        """Keep what was thought before a call; one that is kept for several calls counts for each."""
        size = sum(len(block.raw) + len(block.text) for block in blocks)
        self._reasoning.put(principal_id, call_id, blocks, size)

    def reasoning(self, principal_id: str, call_id: str) -> tuple[Reasoning, ...]:
        """Return what was thought before a call, as far as it is still known."""
        return self._reasoning.get(principal_id, call_id) or ()

    def keep_response(self, principal_id: str, response_id: str, provider_id: str) -> None:
        """Remember who made a response."""
        self._responses.put(principal_id, response_id, provider_id, 1)

    def provider_of(self, principal_id: str, response_id: str) -> str | None:
        """Return who made a response, None where it is not known any more."""
        return self._responses.get(principal_id, response_id)
