"""The keeper of one loop: what its death means, and when it starts again.

One for one, permanent: a loop that crashes is started again and no other loop notices. Past the intensity limit it
goes to the slow lane. A loop that returns although nobody retired it has crashed too. `Cancelled` passes through;
whatever else is no `Exception` ends the whole tree.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Awaitable

import msgspec
import structlog
import trio

from palyra.decisions.loops import SLOW_LANE_CRASHES_COUNT, next_start, recent_count
from palyra.errors import PalyraError
from palyra.supervisor.loops import Loop
from palyra.supervisor.pace import Bell, LoopState, Pace
from palyra.supervisor.ports import Clock, LoopCrash, LoopLog, Topic
from palyra.units import ms_to_us

logger = structlog.get_logger(__name__)


class LoopStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `supervisor status`."""

    name: str
    state: LoopState
    #: None while busy, and while only a bell can wake the loop.
    wakes_at_us: int | None
    busy_since_us: int | None
    #: Crashes that still count towards the slow lane.
    crashes_count: int
    #: Code of the last refusal or crash.
    last_error: str | None


class Keeper:
    """Keeps one loop alive until it is retired or cancelled."""

    def __init__(self, loop: Loop, clock: Clock, log: LoopLog) -> None:
        self.name = loop.name
        self.ended = trio.Event()
        self._loop = loop
        self._clock = clock
        self._log = log
        self._pace = Pace(loop.name, clock, log)
        self._scope = trio.CancelScope()
        self._crashes_us: deque[int] = deque(maxlen=SLOW_LANE_CRASHES_COUNT)
        #: Time spent waiting in the slow lane, which is no time without a crash.
        self._benched_us = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the loop, again and again."""
        try:
            with self._scope:
                task_status.started()
                while (crash := await self._live()) is not None:
                    await self._tell(self._log.loop_crashed(crash))
                    if self._pace.retiring:
                        return
                    await self._pace.pause("slow_lane" if crash.slow_lane else "backoff", crash.backoff_ms)
                    await self._tell(self._log.loop_restarted(self.name))
        except Exception as exc:
            if not self._scope.cancel_called:
                raise
            logger.error("loop failed while it was stopped", loop=self.name, exc_info=exc)
        finally:
            self.ended.set()

    @property
    def topics(self) -> tuple[Topic, ...]:
        """What its bell is rung for."""
        return self._loop.topics

    @property
    def bell(self) -> Bell:
        """What wakes the loop when it rings."""
        return self._pace.bell

    def retire(self) -> None:
        """Begin nothing new: a loop that rests ends now, a busy one after its step."""
        self._pace.retiring = True
        if self._pace.state != "busy":
            self._scope.cancel()

    def cancel(self) -> None:
        """End now, wherever the loop is."""
        self._scope.cancel()

    def status(self) -> LoopStatus:
        pace = self._pace
        return LoopStatus(
            name=self.name,
            state=pace.state,
            wakes_at_us=pace.wakes_at_us,
            busy_since_us=pace.busy_since_us,
            crashes_count=recent_count(self._crashes_us, self._lived_us()),
            last_error=pace.last_error,
        )

    async def _live(self) -> LoopCrash | None:
        """Run the loop once; None when it ended because it retired."""
        self._pace.rest("sleeping")
        try:
            await self._loop.main(self._pace)
        except Exception as exc:
            logger.error("loop crashed", loop=self.name, exc_info=exc)
            return self._crash(type(exc).__name__, _innermost_place(exc))
        return None if self._pace.retiring else self._crash("returned", "")

    def _crash(self, error_code: str, error_place: str) -> LoopCrash:
        now_us = self._lived_us()
        self._crashes_us.append(now_us)
        restart = next_start(self._crashes_us, now_us)
        if restart.slow_lane:
            self._benched_us += ms_to_us(restart.backoff_ms)
        self._pace.last_error = error_code
        return LoopCrash(
            loop_name=self.name,
            error_code=error_code,
            error_place=error_place,
            crashes_count=restart.crashes_count,
            backoff_ms=restart.backoff_ms,
            slow_lane=restart.slow_lane,
        )

    async def _tell(self, fact: Awaitable[None]) -> None:
        """Record a fact about the loop; a journal that cannot take it must not end the tree."""
        try:
            await fact
        except PalyraError as exc:
            logger.warning("fact about a loop was not recorded", loop=self.name, code=exc.code)

    def _lived_us(self) -> int:
        """The loop's own time, which stands still in the slow lane."""
        return self._clock.now_us() - self._benched_us


def _innermost_place(exc: BaseException) -> str:
    """Return `module:line` of the frame that raised; never a path, never a message."""
    *_, (frame, line) = traceback.walk_tb(exc.__traceback__)
    return f"{frame.f_globals.get('__name__', '?')}:{line}"
