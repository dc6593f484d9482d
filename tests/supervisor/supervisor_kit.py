"""Ports for the supervisor's tests: the same contracts, answered in trio, on trio's clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from palyra.supervisor.loops import Loop, Ports, loop_table
from palyra.supervisor.pace import Pace
from palyra.supervisor.ports import LoopCrash, Stall, Stalls
from palyra.supervisor.tree import Tree
from palyra.units import US_PER_S

BASE_US = 1_800_000_000 * US_PER_S
DAY_S = 86_400


class WallClock:
    """Wall time that follows trio's clock."""

    def now_us(self) -> int:
        return BASE_US + round(trio.current_time() * US_PER_S)

    @property
    def second(self) -> float:
        """Seconds since the test began."""
        return (self.now_us() - BASE_US) / US_PER_S


class Log:
    """Keeps the facts about loops, each with its second; raises `failure` instead while there is one."""

    def __init__(self, clock: WallClock) -> None:
        self.clock = clock
        self.facts: list[tuple[float, str, str]] = []
        self.crashes: list[LoopCrash] = []
        self.failure: Exception | None = None

    async def _take(self, kind: str, loop_name: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        self.facts.append((self.clock.second, kind, loop_name))

    async def loop_crashed(self, crash: LoopCrash) -> None:
        await self._take("crashed", crash.loop_name)
        self.crashes.append(crash)

    async def loop_restarted(self, loop_name: str) -> None:
        await self._take("restarted", loop_name)

    async def record_heartbeat(self, loop_name: str) -> None:
        await self._take("beat", loop_name)

    async def clear_heartbeat(self, loop_name: str) -> None:
        await self._take("cleared", loop_name)


class Upkeep:
    """A chore that is due every so many seconds, or never; its next outcomes can be scripted."""

    def __init__(self, clock: WallClock, every_s: float | None = None) -> None:
        self.clock = clock
        self.every_s = every_s
        self.due_us: int | None = None if every_s is None else BASE_US + round(every_s * US_PER_S)
        self.lasts_s = 0.0
        #: Raised by the next calls, in this order.
        self.failures: list[Exception] = []
        self.asked_count = 0
        self.began: list[float] = []
        self.done: list[float] = []

    def due_at_us(self) -> int | None:
        self.asked_count += 1
        return self.due_us

    async def do(self) -> None:
        self.began.append(self.clock.second)
        await trio.sleep(self.lasts_s)
        if self.failures:
            raise self.failures.pop(0)
        self.done.append(self.clock.second)
        self.due_us = None if self.every_s is None else self.clock.now_us() + round(self.every_s * US_PER_S)


class Watch:
    """Judges work by its last sign of life: suspect after 120 s, hung after 240 s."""

    def __init__(self, clock: WallClock) -> None:
        self.clock = clock
        self.last_life_us: dict[str, int] = {}
        self.incidents: dict[str, str] = {}
        self.told: list[tuple[float, str, str]] = []
        self.asked_count = 0
        self.refused: dict[str, Exception] = {}

    def beat(self, run_id: str) -> None:
        self.last_life_us[run_id] = self.clock.now_us()

    def stalls(self, now_us: int) -> Stalls:
        self.asked_count += 1
        verdicts, deadlines_us = [], []
        for run_id, life_us in sorted(self.last_life_us.items()):
            suspect_us, hung_us = life_us + 120 * US_PER_S, life_us + 240 * US_PER_S
            stage = "hung" if now_us >= hung_us else "suspect" if now_us >= suspect_us else ""
            if stage != self.incidents.get(run_id, ""):
                verdicts.append(_stall(run_id, stage or "recovered"))
            deadlines_us += [at_us for at_us in (suspect_us, hung_us) if at_us > now_us]
        gone = sorted(self.incidents.keys() - self.last_life_us.keys())
        verdicts += [_stall(run_id, "recovered") for run_id in gone]
        return Stalls(verdicts=tuple(verdicts), next_deadline_us=min(deadlines_us, default=None))

    async def report_stall(self, stall: Stall) -> None:
        await trio.lowlevel.checkpoint()
        if stall.subject_id in self.refused:
            raise self.refused[stall.subject_id]
        self.incidents[stall.subject_id] = stall.stage
        self.told.append((self.clock.second, stall.stage, stall.subject_id))

    async def resolve_stall(self, stall: Stall) -> None:
        await trio.lowlevel.checkpoint()
        del self.incidents[stall.subject_id]
        self.told.append((self.clock.second, stall.stage, stall.subject_id))


def _stall(run_id: str, stage: Any) -> Stall:
    return Stall(kind="run_stalled", stage=stage, subject_kind="run", subject_id=run_id, because_positions=(1,))


class World:
    """All ports of the tree, and the loops over them."""

    def __init__(self) -> None:
        self.clock = WallClock()
        self.log = Log(self.clock)
        self.watch = Watch(self.clock)
        self.snapshots = Upkeep(self.clock)
        self.witness = Upkeep(self.clock)
        self.checkpoints = Upkeep(self.clock)
        self.machine = Upkeep(self.clock)
        self.health = Upkeep(self.clock)
        self.discovery = Upkeep(self.clock)
        self.credentials = Upkeep(self.clock)
        self.tokens = Upkeep(self.clock)
        self.sweeps = Upkeep(self.clock)
        self.alerts = Upkeep(self.clock)
        self.contents = Upkeep(self.clock)
        self.config_files = Upkeep(self.clock)

    def tree(self, *loops: Loop) -> Tree:
        """A tree of these loops, of the product's own without any."""
        ports = Ports(
            clock=self.clock,
            log=self.log,
            stalls=self.watch,
            snapshots=self.snapshots,
            witness=self.witness,
            checkpoints=self.checkpoints,
            machine=self.machine,
            health=self.health,
            discovery=self.discovery,
            credentials=self.credentials,
            tokens=self.tokens,
            sweeps=self.sweeps,
            alerts=self.alerts,
            contents=self.contents,
            config_files=self.config_files,
        )
        return Tree(loops or loop_table(ports), self.clock, self.log)


def loop(name: str, main: Callable[[Pace], Awaitable[None]]) -> Loop:
    """A loop that only the clock rings."""
    return Loop(name, ("clock",), main)


@asynccontextmanager
async def running(tree: Tree) -> AsyncIterator[Tree]:
    """Run a tree beside the test and end it with the block."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tree.run)
        await wait_all_tasks_blocked()
        yield tree
        nursery.cancel_scope.cancel()
