"""What the supervisor's loops are given: questions to ask, work to order, facts to tell.

A question is a plain call: a pure function of the state at the head, O(answer), answered at once on the same
thread. Work and facts are awaited; `app.py` lets them cross to asyncio, tests answer in trio. Cancelling one of
those calls stops the waiting, never a commit. Any `PalyraError` they raise is an answer (refused, unwritable,
timed out): the loop backs off and keeps its place. Any other exception is a bug and crashes the loop.

Nothing here may know asyncio, the engine or the journal.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from palyra.decisions.incidents import Stall, Stalls

#: What can ring a loop: new beats or ends of work, a commit of the journal, a step of the wall clock.
Topic = Literal["beats", "journal", "clock"]


class Clock(Protocol):
    """The wall clock in which deadlines are told. Loops sleep on trio's clock and read this one."""

    def now_us(self) -> int: ...


class Chore(Protocol):
    """Upkeep that is due at times: a snapshot, a witness note, a checkpoint of the WAL."""

    def due_at_us(self) -> int | None:
        """When the chore is due; any instant that has passed means now, None not before something happens.

        What the chore itself writes must not make it due again, or an idle daemon would never come to rest.
        """
        ...

    async def do(self) -> None:
        """Do it once; has a timeout of its own."""
        ...


class StallWatch(Protocol):
    """What the watchdog asks and tells. It reads beats and never writes one."""

    def stalls(self, now_us: int) -> Stalls:
        """Judge all watched work by its recorded beats; a verdict that was reported is not given again."""
        ...

    async def report_stall(self, stall: Stall) -> None:
        """Open the incident, or raise its severity."""
        ...

    async def resolve_stall(self, stall: Stall) -> None:
        """Resolve the incident."""
        ...


class LoopCrash(msgspec.Struct, frozen=True, kw_only=True):
    """A loop ended although it should not."""

    loop_name: str
    #: Type of the exception, or `returned`; never its message, which may hold anything.
    error_code: str
    #: `module:line` of the innermost frame.
    error_place: str
    #: Recent crashes, this one included.
    crashes_count: int
    #: Time until the next start.
    backoff_ms: int
    slow_lane: bool


class LoopLog(Protocol):
    """Where facts about the loops themselves go."""

    async def loop_crashed(self, crash: LoopCrash) -> None:
        """Append `loop.crashed`; when it is in the slow lane, its open incident `loop_down` too, in one commit."""
        ...

    async def loop_restarted(self, loop_name: str) -> None:
        """Append `loop.restarted`."""
        ...

    async def record_heartbeat(self, loop_name: str) -> None:
        """Append a beat: the loop is busy with work that takes long."""
        ...

    async def clear_heartbeat(self, loop_name: str) -> None:
        """The work that was beaten for has ended."""
        ...
