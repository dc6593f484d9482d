"""The rhythm of one loop: work, then sleep until a deadline or the bell; back off while a port refuses.

Holds what the loop is doing right now, for `supervisor status`; all of it is lost with the process, none of it is
missed. It must never keep a deadline: each step asks for the next one anew.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal

import trio

from palyra.decisions.loops import retry_ms
from palyra.errors import PalyraError
from palyra.supervisor.ports import Clock, LoopLog
from palyra.units import US_PER_S, ms_to_s, ms_to_us

#: Two steps of a loop are at least this far apart: a bell that rings all the time, or an answer that stays "due
#: now", costs one step a second.
STEP_SPACING_MS = 1_000
#: Work that lasts longer than this is told to the watchdog.
BEAT_AFTER_MS = 10_000

LoopState = Literal["sleeping", "busy", "backoff", "slow_lane"]
#: One turn of a loop: do what is due, return the instant of the next turn, None to wait for the bell.
Step = Callable[[], Awaitable[int | None]]


class Bell:
    """Level-triggered and coalescing: however often it rang, it wakes once; rung too early, it wakes at once."""

    def __init__(self) -> None:
        #: It has rung, and nobody has heard it yet.
        self.is_rung = False
        self._rung = trio.Event()

    def ring(self) -> None:
        """Wake the loop. Legal from asyncio code too, at the cost of a plain call."""
        self.is_rung = True
        self._rung.set()

    async def wait_rung(self) -> None:
        await self._rung.wait()
        self._rung, self.is_rung = trio.Event(), False


class Pace:
    """One loop's rhythm and its state in memory. Instants are those of `clock`."""

    def __init__(self, loop_name: str, clock: Clock, log: LoopLog) -> None:
        self.bell = Bell()
        self.state: LoopState = "sleeping"
        #: End of the sleep or wait; None while busy, and while only the bell can wake the loop.
        self.wakes_at_us: int | None = None
        self.busy_since_us: int | None = None
        #: The last failure, of whatever kind.
        self.last_error: str | None = None
        #: No step begins any more.
        self.retiring = False
        self._loop_name = loop_name
        self._clock = clock
        self._log = log
        self._beating = False

    async def run(self, step: Step) -> None:
        """Take steps until the loop retires. A `PalyraError` is an answer: 1 s of patience, doubling to 30 s."""
        failures_count = 0
        while True:
            wakes_at_us = None
            try:
                wakes_at_us = await self._work(step)
                failures_count = 0
            except PalyraError as exc:
                failures_count += 1
                self.last_error = exc.code
            if self.retiring:
                return
            if failures_count:
                await self.pause("backoff", retry_ms(failures_count))
            else:
                await self._sleep(wakes_at_us)

    def rest(self, state: LoopState, wakes_at_us: int | None = None) -> None:
        """Note that the loop is not busy."""
        self.state, self.wakes_at_us, self.busy_since_us = state, wakes_at_us, None

    async def pause(self, state: Literal["backoff", "slow_lane"], wait_ms: int) -> None:
        """Wait out a failure; no bell shortens it."""
        self.rest(state, self._clock.now_us() + ms_to_us(wait_ms))
        await trio.sleep(ms_to_s(wait_ms))

    async def _sleep(self, wakes_at_us: int | None) -> None:
        self.rest("sleeping", wakes_at_us)
        now = trio.current_time()
        earliest = now + ms_to_s(STEP_SPACING_MS)
        deadline = math.inf
        if wakes_at_us is not None:
            deadline = max(earliest, now + (wakes_at_us - self._clock.now_us()) / US_PER_S)
        with trio.move_on_at(deadline):
            await self.bell.wait_rung()
        await trio.sleep_until(earliest)

    async def _work(self, step: Step) -> int | None:
        """Take one step; a beat is recorded when it lasts long, and cleared at its end."""
        self.state, self.wakes_at_us, self.busy_since_us = "busy", None, self._clock.now_us()
        wakes_at_us: int | None = None
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat_when_long)
            try:
                wakes_at_us = await step()
            except Exception as exc:
                failure = exc  # raised outside of the nursery, which would wrap it into a group
            nursery.cancel_scope.cancel()
        try:
            if self._beating:
                await self._log.clear_heartbeat(self._loop_name)
                self._beating = False
            if failure is not None:
                raise failure
            return wakes_at_us
        finally:
            del failure  # its traceback holds this frame

    async def _beat_when_long(self) -> None:
        await trio.sleep(ms_to_s(BEAT_AFTER_MS))
        self._beating = True
        with suppress(PalyraError):  # a beat that the journal cannot take must not stop the work
            await self._log.record_heartbeat(self._loop_name)
