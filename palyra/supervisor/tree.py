"""The tree: all loops under their keepers, from the first start to the drain.

It decides the order of starts and ends and nothing else. It must never end by itself: a keeper that fails is a bug,
and takes the whole guest down, so that the daemon ends with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from palyra.supervisor.keeper import Keeper, LoopStatus
from palyra.supervisor.loops import Loop
from palyra.supervisor.pace import Bell
from palyra.supervisor.ports import Clock, LoopLog, Topic
from palyra.units import ms_to_s

#: How long a step in hand may go on when the daemon drains.
DRAIN_STEP_MS = 2_000


class Tree:
    """The supervisor's loops, in start order: `guest.start_soon(tree.run)`, at the end `run_trio(tree.drain)`."""

    def __init__(self, loops: Sequence[Loop], clock: Clock, log: LoopLog) -> None:
        self._keepers = tuple(Keeper(loop, clock, log) for loop in loops)
        #: The bells of each topic: facts ring them with every commit.
        self._bells: dict[Topic, tuple[Bell, ...]] = {}
        for keeper in self._keepers:
            for topic in keeper.topics:
                self._bells[topic] = (*self._bells.get(topic, ()), keeper.bell)

    async def run(self) -> None:
        """Start the loops, each after the one before it; return when all have been drained."""
        async with trio.open_nursery() as nursery:
            for keeper in self._keepers:
                await nursery.start(keeper.run, name=keeper.name)

    def ring(self, topic: Topic) -> None:
        """Wake the loops that the topic concerns. A plain call, legal from asyncio code."""
        for bell in self._bells.get(topic, ()):
            if not bell.is_rung:  # which most are: a loop takes no step for each commit
                bell.ring()

    def status(self) -> tuple[LoopStatus, ...]:
        """Return what each loop is doing, in start order."""
        return tuple(keeper.status() for keeper in self._keepers)

    async def drain(self) -> tuple[LoopStatus, ...]:
        """End the loops in reverse start order, the first one (the watchdog) after all others.

        No step begins any more; one in hand has `DRAIN_STEP_MS`. Returns the last status of the loops that had to
        be cut off (the watchdog is among them whenever it waited for another): their clean-up goes on until the end
        of the guest. Cancelling the drain cuts off at once.
        """
        first, *others = self._keepers
        try:
            with trio.move_on_after(ms_to_s(DRAIN_STEP_MS)):
                for keeper in reversed(others):
                    keeper.retire()
                for keeper in others:
                    await keeper.ended.wait()
                first.retire()
                await first.ended.wait()
            return tuple(keeper.status() for keeper in self._keepers if not keeper.ended.is_set())
        finally:
            for keeper in reversed(self._keepers):
                keeper.cancel()
