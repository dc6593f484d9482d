"""The supervisor's ports over the real engine: what a loop may rely on, with trio calling and asyncio recording.

The same promises are kept by the fakes of `tests/supervisor`, on which the loops themselves are tested.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from palyra.decisions.incidents import Stall
from palyra.engine.codec import to_recorded
from palyra.engine.core import Core
from palyra.engine.ids import SeededIds
from palyra.errors import JournalUnwritable
from palyra.events.base import Fact
from palyra.events.heartbeats import HeartbeatCleared, HeartbeatRecorded
from palyra.events.incidents import IncidentOpened, IncidentResolved, IncidentSeverityChanged
from palyra.events.loops import LoopCrashed, LoopRestarted
from palyra.journal.memory import MemoryJournal
from palyra.projections.incidents import open_incidents
from palyra.projections.state import State
from palyra.supervisor.adapters import CrossingChore, EngineLoopLog, EngineStallWatch
from palyra.supervisor.bridge import CrossingClosed, TrioGuest
from palyra.supervisor.ports import LoopCrash, Stalls
from palyra.units import US_PER_S

BOOT = "01BOOT"


class HandClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.us = 1_800_000_000 * US_PER_S

    def now_us(self) -> int:
        return self.us

    def monotonic_us(self) -> int:
        return self.us

    def pass_s(self, seconds: int) -> None:
        self.us += seconds * US_PER_S


class House:
    """An engine over a journal in memory, a guest, and the adapters between them."""

    def __init__(self, guest: TrioGuest) -> None:
        self.guest = guest
        self.clock = HandClock()
        self.journal = MemoryJournal(journal_id="01TEST", now_us=1)
        self.core = Core(self.journal, State(), clock=self.clock, ids=SeededIds(1))
        self.log = EngineLoopLog(guest, self.core, BOOT)
        self.watch = EngineStallWatch(guest, self.core, {"loop": 60_000})

    async def trio(self, call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Call as the loops do, from trio."""
        return await self.guest.run_trio(call, *arguments)

    @property
    def facts(self) -> list[Fact]:
        """Everything that is durable."""
        return [to_recorded(row).body for row in self.journal.rows]  # type: ignore[misc]

    def stalls(self) -> Stalls:
        return self.watch.stalls(self.clock.now_us())


@asynccontextmanager
async def open_house() -> AsyncIterator[House]:
    """Open a house; leaving it ends the guest and leaves no task behind."""
    before = asyncio.all_tasks()
    async with TrioGuest() as guest:
        house = House(guest)
        yield house
        await house.core.stop()
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()


def crash(loop_name: str = "snapshots", *, slow_lane: bool = False) -> LoopCrash:
    """Return a crash."""
    return LoopCrash(
        loop_name=loop_name,
        error_code="ValueError",
        error_place="module:1",
        crashes_count=6 if slow_lane else 1,
        backoff_ms=600_000 if slow_lane else 1_000,
        slow_lane=slow_lane,
    )


async def test_a_crash_and_a_restart_are_facts() -> None:
    """When the call returns, what it told is on the disk, under the boot it happened in."""
    async with open_house() as house:
        await house.trio(house.log.loop_crashed, crash())
        crashed = LoopCrashed(
            boot_id=BOOT,
            loop_name="snapshots",
            error_code="ValueError",
            error_place="module:1",
            crashes_count=1,
            backoff_ms=1_000,
        )
        assert house.facts == [crashed]
        await house.trio(house.log.loop_restarted, "snapshots")
        assert house.facts[1:] == [LoopRestarted(boot_id=BOOT, loop_name="snapshots")]


@pytest.mark.parametrize(("loop_name", "severity"), [("snapshots", "danger"), ("watchdog", "critical")])
async def test_the_slow_lane_opens_an_incident_in_the_same_commit(loop_name: str, severity: str) -> None:
    """A loop that keeps crashing is an incident, once; it is resolved when the loop has run for a minute."""
    async with open_house() as house:
        await house.trio(house.log.loop_crashed, crash(loop_name, slow_lane=True))
        await house.trio(house.log.loop_crashed, crash(loop_name, slow_lane=True))
        first, opened, second = house.facts
        assert isinstance(first, LoopCrashed)
        assert isinstance(second, LoopCrashed)
        assert isinstance(opened, IncidentOpened)
        assert (opened.kind, opened.severity, opened.subject_id) == ("loop_down", severity, loop_name)
        rows = house.journal.rows
        assert rows[0].recorded_at_us == rows[1].recorded_at_us
        house.clock.pass_s(600)
        assert house.stalls() == Stalls()
        await house.trio(house.log.loop_restarted, loop_name)
        assert house.stalls() == Stalls(next_deadline_us=house.clock.us + 60 * US_PER_S)
        house.clock.pass_s(60)
        (recovered,) = house.stalls().verdicts
        await house.trio(house.watch.resolve_stall, recovered)
        assert isinstance(house.facts[-1], IncidentResolved)
        assert house.stalls() == Stalls()


async def test_beats_are_counted_and_cleared_once() -> None:
    """A busy loop's beats have numbers; the end of the work is recorded only where there was a beat."""
    async with open_house() as house:
        await house.trio(house.log.clear_heartbeat, "witness")
        assert house.facts == []
        for _ in range(2):
            await house.trio(house.log.record_heartbeat, "witness")
        first, second = house.facts
        assert isinstance(first, HeartbeatRecorded)
        assert isinstance(second, HeartbeatRecorded)
        assert (first.work_id, first.beat_no, second.beat_no) == ("witness", 1, 2)
        assert first.stalls_after_ms == 60_000
        for _ in range(2):
            await house.trio(house.log.clear_heartbeat, "witness")
        assert house.facts[2:] == [HeartbeatCleared(work_kind="loop", work_id="witness", because="ended")]


async def test_a_verdict_is_given_until_it_is_told() -> None:
    """Asking changes nothing; telling opens, worsens or resolves, and what was told is not said again."""
    async with open_house() as house:
        await house.trio(house.log.record_heartbeat, "witness")
        assert house.stalls().next_deadline_us == house.clock.us + 60 * US_PER_S + 1
        house.clock.pass_s(61)
        assert house.stalls() == house.stalls()
        (suspect,) = house.stalls().verdicts
        assert (suspect.kind, suspect.stage, suspect.subject_id) == ("loop_stalled", "suspect", "witness")
        assert suspect.because_positions == (1,)
        for _ in range(2):
            await house.trio(house.watch.report_stall, suspect)
        opened = house.facts[-1]
        assert isinstance(opened, IncidentOpened)
        assert opened.because_positions == [1]
        assert len(house.facts) == 2
        assert house.stalls().verdicts == ()
        await house.trio(house.log.clear_heartbeat, "witness")
        (recovered,) = house.stalls().verdicts
        assert recovered.stage == "recovered"
        for _ in range(2):
            await house.trio(house.watch.resolve_stall, recovered)
        assert [type(fact) for fact in house.facts[2:]] == [HeartbeatCleared, IncidentResolved]
        assert open_incidents(house.core.state) == []


async def test_severity_only_rises() -> None:
    """A run that is hung after it was suspect is the same incident, and worse."""
    async with open_house() as house:
        for stage in ("suspect", "hung", "suspect"):
            stall = Stall(kind="run_stalled", stage=stage, subject_kind="run", subject_id="r")  # type: ignore[arg-type]
            await house.trio(house.watch.report_stall, stall)
        opened, changed = house.facts
        assert isinstance(opened, IncidentOpened)
        assert isinstance(changed, IncidentSeverityChanged)
        assert (opened.severity, changed.before, changed.after) == ("warning", "warning", "danger")


async def test_a_journal_that_refuses_is_an_answer() -> None:
    """What cannot be recorded raises an error of ours, which a loop waits out; afterwards it can be told again."""
    async with open_house() as house:
        house.core._failed = True
        calls = [(house.log.loop_crashed, crash()), (house.log.record_heartbeat, "witness")]
        calls += [
            (
                house.watch.report_stall,
                Stall(kind="loop_stalled", stage="hung", subject_kind="loop", subject_id="w"),
            )
        ]
        for call, argument in calls:
            with pytest.raises(JournalUnwritable):
                await house.trio(call, argument)
        assert house.facts == []
        house.core._failed = False
        await house.trio(*calls[0])
        assert len(house.facts) == 1


class Work:
    """A chore of the engine's that waits to be let go on."""

    def __init__(self) -> None:
        self.due_us: int | None = 7
        self.failure: Exception | None = None
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.done_count = 0
        self.was_cancelled = False

    def due_at_us(self) -> int | None:
        return self.due_us

    async def do(self) -> None:
        self.begun.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        if self.failure is not None:
            raise self.failure
        self.done_count += 1


async def test_a_chore_is_asked_here_and_done_there() -> None:
    """When it is due is a plain call; doing it returns when it is done, with its failure as it was raised."""
    async with open_house() as house:
        work = Work()
        chore = CrossingChore(house.guest, work)
        assert chore.due_at_us() == 7
        work.gate.set()
        await house.trio(chore.do)
        assert work.done_count == 1
        for failure in (JournalUnwritable("full"), ValueError("a bug")):
            work.failure = failure
            with pytest.raises(type(failure)) as caught:
                await house.trio(chore.do)
            assert caught.value is failure


async def test_a_chore_that_is_cut_off_is_cancelled() -> None:
    """Cancelling the loop cancels its work and waits for it; a guest that has ended takes no more."""
    async with open_house() as house:
        work = Work()
        doing = asyncio.create_task(house.trio(CrossingChore(house.guest, work).do))
        await work.begun.wait()
        doing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doing
        assert work.was_cancelled
        await house.guest.stop()
        with pytest.raises(CrossingClosed):
            await house.trio(house.log.loop_restarted, "witness")
