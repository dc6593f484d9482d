"""The engine as the loops see it: questions are plain calls, work and facts cross to asyncio and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from palyra.decisions.incidents import Stall, Stalls, judge, report, resolve
from palyra.engine.core import Core
from palyra.events.base import Draft
from palyra.events.heartbeats import HeartbeatCleared, HeartbeatRecorded
from palyra.events.loops import LoopCrashed, LoopRestarted
from palyra.projections.heartbeats import beat_key, beat_stream
from palyra.supervisor.bridge import TrioGuest
from palyra.supervisor.ports import LoopCrash

#: A fact is on the disk within this time, or the loop backs off.
_RECORD_TIMEOUT_MS = 30_000
#: A chore that takes longer is given up and tried again.
_CHORE_TIMEOUT_MS = 300_000
#: A busy loop is suspect after this much silence.
_LOOP_STALLS_AFTER_MS = 60_000


class EngineChore(Protocol):
    """A chore of `palyra.engine.upkeep`."""

    def due_at_us(self) -> int | None: ...

    async def do(self) -> None: ...


class CrossingChore:
    """A chore whose work is done in asyncio."""

    def __init__(self, guest: TrioGuest, chore: EngineChore) -> None:
        self._guest = guest
        self._chore = chore

    def due_at_us(self) -> int | None:
        return self._chore.due_at_us()

    async def do(self) -> None:
        await self._guest.run_aio(self._chore.do, timeout_ms=_CHORE_TIMEOUT_MS)


class EngineStallWatch:
    """Stalls judged over the state at the head."""

    def __init__(self, guest: TrioGuest, core: Core, bases_ms: Mapping[str, int]) -> None:
        self._guest = guest
        self._core = core
        #: After how long a silence of each kind of work is suspect.
        self.bases_ms = bases_ms

    def stalls(self, now_us: int) -> Stalls:
        # A machine that slept must not be taken for work that hung.
        self._core.watch_clock()
        return judge(self._core.state, now_us, self.bases_ms)

    async def report_stall(self, stall: Stall) -> None:
        def decide(now_us: int) -> list[Draft]:
            incident_id = self._core.ids.ulid(now_us)
            return report(self._core.state, stall, incident_id=incident_id, now_us=now_us)

        await _record(self._guest, self._core, decide)

    async def resolve_stall(self, stall: Stall) -> None:
        await _record(self._guest, self._core, lambda now_us: resolve(self._core.state, stall, now_us=now_us))


class EngineLoopLog:
    """Facts about the loops."""

    def __init__(self, guest: TrioGuest, core: Core, boot_id: str) -> None:
        self._guest = guest
        self._core = core
        self._boot_id = boot_id
        self._beats_count: dict[str, int] = {}

    async def loop_crashed(self, crash: LoopCrash) -> None:
        def decide(now_us: int) -> list[Draft]:
            crashed = LoopCrashed(
                boot_id=self._boot_id,
                loop_name=crash.loop_name,
                error_code=crash.error_code,
                error_place=crash.error_place,
                crashes_count=crash.crashes_count,
                backoff_ms=crash.backoff_ms,
                slow_lane=crash.slow_lane,
            )
            drafts = [Draft("daemon", crashed)]
            if crash.slow_lane:
                stall = Stall(kind="loop_down", stage="hung", subject_kind="loop", subject_id=crash.loop_name)
                incident_id = self._core.ids.ulid(now_us)
                drafts += report(self._core.state, stall, incident_id=incident_id, now_us=now_us)
            return drafts

        await _record(self._guest, self._core, decide)

    async def loop_restarted(self, loop_name: str) -> None:
        restarted = LoopRestarted(boot_id=self._boot_id, loop_name=loop_name)
        await _record(self._guest, self._core, lambda now_us: [Draft("daemon", restarted)])

    async def record_heartbeat(self, loop_name: str) -> None:
        self._beats_count[loop_name] = self._beats_count.get(loop_name, 0) + 1
        beat = HeartbeatRecorded(
            work_kind="loop",
            work_id=loop_name,
            beat_no=self._beats_count[loop_name],
            stage_code="busy",
            stalls_after_ms=_LOOP_STALLS_AFTER_MS,
        )
        await _record(self._guest, self._core, lambda now_us: [Draft(beat_stream("loop", loop_name), beat)])

    async def clear_heartbeat(self, loop_name: str) -> None:
        def decide(now_us: int) -> list[Draft]:
            if beat_key("loop", loop_name) not in self._core.state.heartbeats.board:
                return []
            cleared = HeartbeatCleared(work_kind="loop", work_id=loop_name, because="ended")
            return [Draft(beat_stream("loop", loop_name), cleared)]

        await _record(self._guest, self._core, decide)


async def _record(guest: TrioGuest, core: Core, decide: Callable[[int], list[Draft]]) -> None:
    """Decide on the state as it is when the crossing arrives, and wait until the facts are durable."""

    async def record() -> None:
        with core.batch() as batch:
            batch.add(decide(batch.now_us))
        await batch.durable()

    await guest.run_aio(record, timeout_ms=_RECORD_TIMEOUT_MS)
