"""One life of the program, from boot to a clean end or a crash: the engine as `palyra.app` composes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from sim_books import Violation
from sim_journal import SimJournal, SimStore
from sim_plan import SimProfile

from palyra.engine.adoptable import Adoptable
from palyra.engine.boot import boot, open_work, recover
from palyra.engine.core import Core, load_state
from palyra.engine.ids import SeededIds
from palyra.engine.run import RunSettings
from palyra.engine.runs import Runs
from palyra.errors import EngineStopped, JournalUnwritable
from palyra.events.auth import AuthProfileConnected
from palyra.events.base import Draft
from palyra.events.daemon import DaemonDraining, DaemonReady, DaemonStopped
from palyra.projections.state import encode_state
from palyra.supervisor.adapters import EngineStallWatch

if TYPE_CHECKING:
    from sim_world import Simulation

#: What the program says when it cannot record: no bug, as long as the plan made the disk fail.
UNWRITABLE = (JournalUnwritable, EngineStopped)


class Life:
    """The program between a boot and its end."""

    def __init__(self, simulation: Simulation, store: SimStore, number: int, registry: int) -> None:
        self.simulation = simulation
        self.store = store
        #: It listens: requests are let in.
        self.is_up = False
        self.is_draining = False
        self._plan = simulation.plan
        self._registry = registry
        self._number = number
        self._boot_id = f"boot-{number}"
        self._bell = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._checked_position = 0
        #: The disk worked to the end.
        self._is_whole = False
        self.core: Core
        self.journal: SimJournal
        self.runs: Runs

    # -- from boot to end

    async def boot(self) -> None:
        """Come up as the daemon does; raises `JournalUnwritable` where the disk fails meanwhile."""
        simulation, plan = self.simulation, self._plan
        self.journal = SimJournal(self.store, lazy_append_ms=plan.lazy_append_ms)
        state = await load_state(self.journal)
        simulation.check(
            encode_state(state) == encode_state(simulation.books.state),
            "snapshot and tail differ from the fold of all rows",
        )
        ids = SeededIds(plan.seed * 1_000 + self._number)
        self.core = core = Core(self.journal, state, clock=simulation.clock, ids=ids)
        core.asleep_us = simulation.clock.asleep_us
        core._reading = core._read_clocks()
        core.on_clock_step = self._bell.set
        core.on_trouble = self._note_trouble
        adoptable = Adoptable(
            digest=str(self._registry),
            effective={},
            registry=plan.registries[self._registry],
            overrides=plan.prices[self._registry],
            policies=plan.policies[self._registry],
        )
        recovered = await boot(core, self._boot_id, adoptable)
        await core.record(
            [
                Draft(f"credential-{one.profile_id}", _connected(one))
                for one in plan.profiles
                if one.profile_id not in core.state.auth.profiles
            ]
        )
        simulation.check(open_work(core.state) == {}, f"left open by recovery: {open_work(core.state)}")
        position = core.state.position
        await recover(core, self._boot_id)
        simulation.check(core.state.position == position, "a second recovery writes")
        settings = RunSettings(sse_keepalive_ms=plan.sse_keepalive_ms, beat_every_ms=plan.beat_every_ms)
        self.runs = Runs(core, simulation.outside, settings=settings, on_bug=simulation.note_bug)
        core.on_commit = self._bell.set
        self._watching = asyncio.get_running_loop().create_task(self._watch_stalls(), name="stall watch")
        await core.record([Draft("daemon", DaemonReady(boot_id=self._boot_id, recovered=recovered))])
        self.is_up = True

    async def stop(self) -> None:
        """Drain and end in order."""
        core, runs = self.core, self.runs
        self.is_draining = True
        with contextlib.suppress(*UNWRITABLE):
            if core.is_writable:
                draining = DaemonDraining(boot_id=self._boot_id, reason="operator", deadline_us=0)
                await core.record([Draft("daemon", draining)])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._plan.drain_ms / 1_000):
                await runs.wait_until_idle()
        forced_count = await runs.cancel_all("shutdown")
        self.is_up = False
        assert self._watching is not None
        self._watching.cancel()
        await asyncio.wait([self._watching])
        with contextlib.suppress(*UNWRITABLE):
            if core.is_writable:
                await core.record(
                    [Draft("daemon", DaemonStopped(boot_id=self._boot_id, forced_count=forced_count))]
                )
                await core.snapshot()
        self._is_whole = core.is_writable
        with contextlib.suppress(JournalUnwritable):
            await core.stop()

    # -- the stall watch

    async def _watch_stalls(self) -> None:
        """Do what the supervisor's watch does, without trio."""
        bases_ms = {"run": self._plan.run_stalls_after_ms}
        port = EngineStallWatch(_Guest(), self.core, bases_ms)  # type: ignore[arg-type]
        while True:
            self._bell.clear()
            answer = port.stalls(self.core.clock.now_us())
            for stall in answer.verdicts:
                tell = port.resolve_stall if stall.stage == "recovered" else port.report_stall
                try:
                    await tell(stall)
                except UNWRITABLE:
                    await asyncio.sleep(0.05)
            wait_s = None
            if answer.next_deadline_us is not None:
                wait_s = max(1, answer.next_deadline_us - self.core.clock.now_us()) / 1_000_000
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._bell.wait()

    # -- what must hold

    def check_state(self) -> None:
        """Check the state in memory, after a turn of the loop in which it has changed."""
        core = getattr(self, "core", None)
        if core is None or core.state.position == self._checked_position:
            return
        self._checked_position = core.state.position
        if not core.is_writable or self.journal.failure is not None:
            return
        state = core.state
        attempts = {run_id: run.attempt for run_id, run in state.runs.open.items() if run.attempt is not None}
        holds = {run_id: hold.attempt for run_id, hold in state.budgets.holds.items()}
        _demand(
            holds.items() <= {run_id: one.attempt for run_id, one in attempts.items()}.items(), f"holds are {holds}"
        )
        if self.is_up:
            self._check_slots(Counter(attempt.provider_id for attempt in attempts.values()))
        for provider_id, circuit in state.circuits.by_provider.items():
            if circuit.status == "half_open":
                trial = attempts.get(circuit.trial_run)
                _demand(
                    trial is not None and trial.attempt == circuit.trial_attempt,
                    f"{provider_id} waits for a trial that is not open",
                )
        if self.journal.pending_count == 0:
            self._check_fold()

    def _check_slots(self, open_count: Counter[str]) -> None:
        used = self.runs.slots._used
        for provider in self._plan.registries[self._registry].providers:
            name = provider.provider_id
            count = used.get(name, 0)
            _demand(count <= provider.max_concurrency, f"{count} slots of {name} are in use")
            _demand(open_count[name] <= count, f"{open_count[name]} attempts in {count} slots of {name}")

    def _check_fold(self) -> None:
        books = self.simulation.books
        _demand(self.core.state.position == books.position, "memory is ahead of a disk at rest")
        _demand(
            encode_state(self.core.state) == encode_state(books.state), "memory differs from the fold of all rows"
        )

    def check_clean(self) -> None:
        """After a clean end on a disk that works nothing is open, held, waiting or running."""
        if not self._is_whole or self.journal.failure is not None:
            return
        state, slots = self.core.state, self.runs.slots
        _demand(open_work(state) == {}, f"left open by a clean end: {open_work(state)}")
        _demand(self.runs.open == {}, "runs are left")
        _demand(not any(slots._used.values()), f"slots are left in use: {slots._used}")
        _demand(not any(slots._waiting.values()), "somebody still waits for a slot")
        self._check_fold()
        self.simulation.outside.check_closed()

    def _note_trouble(self, error: Exception) -> None:
        self.simulation.check(isinstance(error, UNWRITABLE), f"the state cannot be folded anew: {error!r}")


class _Guest:
    """The bridge of `palyra.supervisor`, within one loop."""

    async def run_aio(self, do: Callable[[], Awaitable[Any]], *, timeout_ms: int) -> Any:
        async with asyncio.timeout(timeout_ms / 1_000):
            return await do()


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Violation(otherwise)


def _connected(profile: SimProfile) -> AuthProfileConnected:
    return AuthProfileConnected(
        provider=profile.provider_id,
        profile_name=profile.profile_id,
        agent_id=profile.agent_id,
        audience=f"https://{profile.provider_id}.example:443",
        vault_revision=1,
    )
