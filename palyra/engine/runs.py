"""All runs of this process: where they start, how they are refused, cancelled and waited for."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

from palyra.decisions.runs import AdmitRun, refusal_draft
from palyra.engine.apart import Apart
from palyra.engine.beats import Watch
from palyra.engine.cache import ResponseCache
from palyra.engine.content import Contents
from palyra.engine.core import Core
from palyra.engine.exchange import Client
from palyra.engine.outward import NoRenewals, Outward, Renewals
from palyra.engine.repeats import Repeats
from palyra.engine.run import RunSettings, RunTask
from palyra.engine.slots import Slots
from palyra.engine.surfaces import Surface
from palyra.engine.wire_memory import WireMemory
from palyra.errors import Refusal
from palyra.events.base import Draft
from palyra.events.runs import CancelReason, RequestServed


class Runs:
    """The open runs, and the way in."""

    def __init__(
        self,
        core: Core,
        outward: Outward,
        *,
        settings: RunSettings | None = None,
        tokens: Renewals | None = None,
        on_bug: Callable[[str], None] | None = None,
    ) -> None:
        settings = settings or RunSettings()
        self.core = core
        self.outward = outward
        self.tokens: Renewals = tokens or NoRenewals()
        self.slots = Slots()
        self.memory = WireMemory(core.clock)
        self.apart = Apart()
        self.repeats = Repeats()
        self.cache = ResponseCache()
        #: What keeps prompts and answers; None where nothing does.
        self.contents: Contents | None = None
        #: See `RunSettings.error_text_bytes`; may be changed for runs that come from now on.
        self.error_text_bytes = settings.error_text_bytes
        self.open: dict[str, RunTask] = {}
        #: Called with the run's id inside the handler of an exception that nobody expected.
        self.on_bug: Callable[[str], None] = on_bug or (lambda run_id: None)
        self.watch = Watch(
            core, self.open, keepalive_ms=settings.sse_keepalive_ms, beat_every_ms=settings.beat_every_ms
        )
        core.on_failure = self.abort

    def start(self, command: AdmitRun, surface: Surface, client: Client | None = None) -> RunTask:
        """Start a run; its task ends with the reply. `client` takes the bytes of a stream."""
        run = RunTask(self, command, surface, client)
        self.open[command.run_id] = run
        run.on_end.append(functools.partial(self._forget, run))
        self.watch.wake()
        return run

    def _forget(self, run: RunTask) -> None:
        run.let_go()
        self.open.pop(run.run_id, None)
        self.watch.forget(run.run_id)

    async def refuse(self, command: AdmitRun, refusal: Refusal) -> None:
        """Record a request that was refused before it could become a run."""
        await self.core.record([refusal_draft(command, refusal)], command.principal_id)

    def served(self, *, endpoint: str, principal_id: str, http_status: int) -> None:
        """Record a request that spends nothing; nobody waits for it."""
        fact = RequestServed(endpoint=endpoint, principal_id=principal_id, http_status=http_status)
        with self.core.batch(principal_id, lazy=True) as batch:
            batch.add([Draft("requests", fact)])

    async def cancel_all(self, reason: CancelReason) -> int:
        """Cancel every open run and wait until all are settled; returns how many there were.

        It does not wait for clients, which may take long to hear of it.
        """
        settled = [done for run in self.open.values() if (done := run.cancel(reason)) is not None]
        if settled:
            await asyncio.wait(settled)
        return len(settled)

    async def wait_until_idle(self) -> None:
        """Wait until no run is open."""
        while self.open:
            await asyncio.wait([run.task for run in self.open.values()])

    async def abort(self) -> None:
        """Let go of every run because its facts cannot be recorded; they are closed when the state is rebuilt."""
        await self.cancel_all("stalled")
