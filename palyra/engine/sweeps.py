"""The chore that ends what nobody else will: requests for approval in time, and holds that nobody will release.

Both are ended once. A hold or a run without anybody at work on it can only be there through a mistake of ours; it
is looked for while anything is held, so an idle daemon comes to rest.
"""

from __future__ import annotations

from collections.abc import Collection

from palyra.decisions.approvals import expire, next_expiry_us
from palyra.decisions.budgets import sweep
from palyra.decisions.recovery import orphans, recover_run
from palyra.engine.clock import due_us
from palyra.engine.core import Core

_EVERY_US = 60 * 1_000_000


class SweepChore:
    """The end of the request that expires next, and each minute a look at what is held.

    `live` names the runs that somebody is at work on here; `boot_id` is ours.
    """

    def __init__(self, core: Core, live: Collection[str], boot_id: str) -> None:
        self._core = core
        self._live = live
        self._boot_id = boot_id
        self._looked_us = core.clock.now_us()

    def due_at_us(self) -> int | None:
        state = self._core.state
        expiry_us = next_expiry_us(state)
        if not state.budgets.holds and not state.runs.open:
            return expiry_us
        look_us = due_us(self._looked_us, _EVERY_US, self._core.clock.now_us())
        return look_us if expiry_us is None else min(look_us, expiry_us)

    async def do(self) -> None:
        core = self._core
        self._looked_us = core.clock.now_us()
        with core.batch() as batch:
            batch.add(expire(core.state, batch.now_us))
        for run in orphans(core.state, self._live, self._looked_us):
            with core.batch() as batch:
                batch.add(recover_run(core.state, run, boot_id=self._boot_id, now_us=batch.now_us))
        with core.batch() as batch:
            batch.add(sweep(core.state, self._live, batch.now_us))
        await core.durable()
