"""Slots: how many calls a provider carries at once. One FIFO a provider, bounded in length and time."""

from __future__ import annotations

import asyncio
from collections import deque

from palyra.events.registry import ProviderEntry
from palyra.units import ms_to_s


class SlotRefused(Exception):
    """No slot; `failure_class` says why: provider_queue_full or concurrency_timeout."""

    def __init__(self, failure_class: str) -> None:
        super().__init__(failure_class)
        self.failure_class = failure_class


class Slots:
    """Slots in use and those who wait, by provider."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def try_take(self, provider: ProviderEntry) -> bool:
        """Take a slot if one is free: nobody waits then, because a slot that is given back goes to the first."""
        used = self._used.get(provider.provider_id, 0)
        if used >= provider.max_concurrency:
            return False
        self._used[provider.provider_id] = used + 1
        return True

    async def take(self, provider: ProviderEntry, *, time_left_ms: int) -> None:
        """Wait for a slot in turn; a cancelled waiter leaves at once and takes nothing."""
        if self.try_take(provider):
            return
        queue = self._waiting.setdefault(provider.provider_id, deque())
        if len(queue) >= provider.max_queue:
            raise SlotRefused("provider_queue_full")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            async with asyncio.timeout(ms_to_s(min(provider.queue_timeout_ms, time_left_ms))):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.release(provider.provider_id)
            elif turn in queue:
                queue.remove(turn)
            if isinstance(error, TimeoutError):
                raise SlotRefused("concurrency_timeout") from None
            raise

    def release(self, provider_id: str) -> None:
        """Give a slot back: to the first in the queue, else to whoever comes."""
        queue = self._waiting.get(provider_id)
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._used[provider_id] -= 1
