"""The chore that ends requests which nobody has decided in time: each once, so that held runs hear of it."""

from __future__ import annotations

from palyra.decisions.approvals import expire, next_expiry_us
from palyra.engine.core import Core


class ApprovalChore:
    """The end of the request that expires next."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def due_at_us(self) -> int | None:
        return next_expiry_us(self._core.state)

    async def do(self) -> None:
        await self._core.record(expire(self._core.state, self._core.clock.now_us()))
