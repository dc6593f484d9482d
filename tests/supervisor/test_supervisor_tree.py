"""The tree from its first start to its drain, under a clock that jumps."""

from __future__ import annotations

import pytest
import trio
from supervisor_kit import World, loop, running
from trio.testing import MockClock, wait_all_tasks_blocked

from palyra.supervisor.loops import Loop
from palyra.supervisor.pace import Pace

pytestmark = pytest.mark.trio


def telling(name: str, story: list[str]) -> Loop:
    """A loop that sleeps for ever and tells of its start and its end."""

    async def main(pace: Pace) -> None:
        story.append(f"{name} starts")
        try:
            await trio.sleep_forever()
        finally:
            story.append(f"{name} ends")

    return loop(name, main)


async def test_loops_start_in_the_order_of_the_table(autojump_clock: MockClock) -> None:
    """Each loop has begun before the next one starts; the product's table begins with the watchdog."""
    for _ in range(20):  # trio runs tasks that start together in random order
        world, story = World(), []
        async with running(world.tree(*(telling(name, story) for name in "abcde"))):
            assert story == [f"{name} starts" for name in "abcde"]
    async with running(World().tree()) as tree:
        assert [status.name for status in tree.status()] == [
            "watchdog",
            "snapshots",
            "witness",
            "checkpoints",
            "machine",
            "health",
            "discovery",
            "credentials",
            "tokens",
            "sweeps",
            "alerts",
            "contents",
            "config_files",
        ]


async def test_a_drain_at_rest_is_immediate_and_the_first_loop_ends_last(autojump_clock: MockClock) -> None:
    """Sleeping loops end at once; the watchdog goes after all others; then the tree itself returns."""
    world, story = World(), []
    async with running(world.tree(*(telling(name, story) for name in "abc"))) as tree:
        assert await tree.drain() == ()
        assert story[3:5] in (["c ends", "b ends"], ["b ends", "c ends"])
        assert story[5:] == ["a ends"]
        assert await tree.drain() == ()
    assert (world.clock.second, world.log.facts) == (0, [])


async def test_a_step_in_hand_may_finish_and_none_begins(autojump_clock: MockClock) -> None:
    """A chore that needs 1.5 s more gets them; the ones that would become due meanwhile do not begin."""
    world = World()
    world.snapshots.due_us, world.snapshots.lasts_s = 0, 6.5
    world.witness.every_s, world.witness.due_us = 1, 0
    async with running(world.tree()) as tree:
        await trio.sleep(5.1)
        assert await tree.drain() == ()
        assert world.clock.second == 6.5
    assert world.snapshots.done == [6.5]
    assert world.witness.began == [0, 1, 2, 3, 4, 5]


async def test_a_step_that_takes_too_long_is_cut_off(autojump_clock: MockClock) -> None:
    """Two seconds and not more; the drain names the loop, and no loop outlives it."""
    world = World()
    world.snapshots.due_us, world.snapshots.lasts_s = 0, 60
    async with trio.open_nursery() as nursery:
        tree = world.tree()
        nursery.start_soon(tree.run)
        await trio.sleep(5)
        cut = [(status.name, status.state) for status in await tree.drain()]
        assert cut == [("watchdog", "sleeping"), ("snapshots", "busy")]
        assert world.clock.second == 7
    assert (world.clock.second, world.snapshots.done) == (7, [])


async def test_a_deaf_loop_does_not_hold_up_the_drain(autojump_clock: MockClock) -> None:
    """A loop that shields itself is named and left to the end of the guest; the others are gone."""
    world = World()
    release = trio.Event()

    async def deaf(pace: Pace) -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    async with running(world.tree(telling("first", []), loop("deaf", deaf))) as tree:
        assert [status.name for status in await tree.drain()] == ["first", "deaf"]
        assert world.clock.second == 2
        release.set()


async def test_cancelling_the_drain_cuts_off_at_once(autojump_clock: MockClock) -> None:
    """A second signal makes the deadline now: the step in hand is cancelled in that instant."""
    world = World()
    world.snapshots.due_us, world.snapshots.lasts_s = 0, 60
    async with trio.open_nursery() as nursery:
        tree = world.tree()
        nursery.start_soon(tree.run)
        await trio.sleep(5)
        with trio.move_on_after(0.5):
            await tree.drain()
    assert world.clock.second == 5.5


async def test_a_crash_during_the_drain_is_recorded_and_not_restarted(autojump_clock: MockClock) -> None:
    """A step in hand that fails while draining leaves its fact; its loop does not come back."""
    world = World()
    world.snapshots.due_us, world.snapshots.lasts_s = 0, 6
    world.snapshots.failures = [RuntimeError()]
    async with running(world.tree()) as tree:
        await trio.sleep(5)
        assert await tree.drain() == ()
    assert world.log.facts == [(6, "crashed", "snapshots")]
    assert world.clock.second == 6


async def test_a_loop_in_back_off_or_slow_lane_drains_at_once(autojump_clock: MockClock) -> None:
    """Waiting for a restart is rest."""
    world = World()

    async def broken(pace: Pace) -> None:
        raise ValueError

    async with running(world.tree(loop("broken", broken))) as tree:
        await trio.sleep(1.5)
        assert tree.status()[0].state == "backoff"
        assert await tree.drain() == ()
    async with running(world.tree(loop("broken", broken))) as tree:
        await trio.sleep(100)
        assert tree.status()[0].state == "slow_lane"
        assert await tree.drain() == ()
    assert world.clock.second == 101.5


async def test_a_drain_before_the_start_leaves_nothing_running(autojump_clock: MockClock) -> None:
    """A signal that comes first wins: the tree starts its loops only to end them."""
    world, story = World(), []
    tree = world.tree(*(telling(name, story) for name in "ab"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tree.drain)
        await wait_all_tasks_blocked()
        await tree.run()
    assert world.clock.second == 0
