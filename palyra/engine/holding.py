"""What a held request listens for: that somebody has decided, or that the rule in its way is another one."""

from __future__ import annotations

import asyncio
import contextlib

from palyra.events.approvals import ApprovalDenied, ApprovalExpired, ApprovalGranted
from palyra.events.base import Recorded
from palyra.events.budgets import BudgetPolicyRetired, BudgetPolicySet
from palyra.units import ms_to_s

_CONCERNS = (ApprovalGranted, ApprovalDenied, ApprovalExpired, BudgetPolicySet, BudgetPolicyRetired)


class Ear:
    """Hears of decisions, and keeps nothing of what it hears."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def append(self, recorded: Recorded, /) -> None:
        if isinstance(recorded.body, _CONCERNS):
            self._rung.set()

    async def wait(self, time_ms: int) -> None:
        """Wait until something was decided, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ms_to_s(time_ms)):
                await self._rung.wait()
        self._rung.clear()
