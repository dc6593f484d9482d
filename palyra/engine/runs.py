"""All runs of this process: where they start, how they are refused, cancelled and watched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from palyra.decisions.incidents import stalls_after_ms
from palyra.decisions.runs import AdmitRun, refusal_draft
from palyra.engine.core import Core
from palyra.engine.exchange import Client
from palyra.engine.run import Outward, RunSettings, RunTask
from palyra.engine.slots import Slots
from palyra.engine.surfaces import Surface
from palyra.errors import Refusal
from palyra.events.base import Draft
from palyra.events.heartbeats import HeartbeatCleared, HeartbeatRecorded
from palyra.events.runs import CancelReason, RequestServed
from palyra.projections.heartbeats import beat_key, beat_stream
from palyra.projections.runs import Run


class Runs:
    """The open runs, and the way in."""

    def __init__(
        self,
        core: Core,
        outward: Outward,
        *,
        settings: RunSettings | None = None,
        on_bug: Callable[[str], None] | None = None,
    ) -> None:
        self.core = core
        self.outward = outward
        self.settings = settings or RunSettings()
        self.slots = Slots()
        self.open: dict[str, RunTask] = {}
        #: Called with the run's id inside the handler of an exception that nobody expected.
        self.on_bug: Callable[[str], None] = on_bug or (lambda run_id: None)
        core.on_failure = self.abort

    def start(self, command: AdmitRun, surface: Surface, client: Client | None = None) -> RunTask:
        """Start a run; its task ends with the reply. `client` takes the bytes of a stream."""
        run = RunTask(self, command, surface, client)
        self.open[command.run_id] = run
        return run

    async def refuse(self, command: AdmitRun, refusal: Refusal) -> None:
        """Record a request that was refused before it could become a run."""
        with self.core.batch(command.principal_id) as batch:
            batch.add([refusal_draft(command, refusal)])
        await batch.durable()

    def served(self, *, endpoint: str, principal_id: str, http_status: int) -> None:
        """Record a request that spends nothing; nobody waits for it."""
        fact = RequestServed(endpoint=endpoint, principal_id=principal_id, http_status=http_status)
        with self.core.batch(principal_id, lazy=True) as batch:
            batch.add([Draft("requests", fact)])

    async def cancel_all(self, reason: CancelReason) -> int:
        """Cancel and settle every open run; returns how many there were."""
        runs = list(self.open.values())
        for run in runs:
            run.cancel(reason)
        await asyncio.gather(*(run.task for run in runs), return_exceptions=True)
        return len(runs)

    async def wait_until_idle(self) -> None:
        """Wait until no run is open."""
        while self.open:
            await asyncio.wait([run.task for run in self.open.values()])

    async def abort(self) -> None:
        """Let go of every run because its facts cannot be recorded; they are closed when the state is rebuilt."""
        await self.cancel_all("stalled")

    def record_beat(self, run: Run, *, beat_no: int, progress_count: int) -> None:
        """Say that a run which lasts advances."""
        fact = HeartbeatRecorded(
            work_kind="run",
            work_id=run.run_id,
            beat_no=beat_no,
            stage_code="streaming" if progress_count else "waiting",
            progress_count=progress_count,
            stalls_after_ms=stalls_after_ms(run),
        )
        with self.core.batch(lazy=True) as batch:
            batch.add([Draft(beat_stream("run", run.run_id), fact, f"run-{run.run_id}")])

    def clear_beat(self, run_id: str) -> list[Draft]:
        """Return the end of a run's beats, if it had any."""
        if beat_key("run", run_id) not in self.core.state.heartbeats.board:
            return []
        cleared = HeartbeatCleared(work_kind="run", work_id=run_id, because="ended")
        return [Draft(beat_stream("run", run_id), cleared, f"run-{run_id}")]
