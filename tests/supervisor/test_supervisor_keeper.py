"""What the death of a loop means, under a clock that jumps."""

from __future__ import annotations

import pytest
import trio
from supervisor_kit import World, loop, running
from trio.testing import MockClock

from palyra.errors import JournalUnwritable
from palyra.supervisor.pace import Pace
from palyra.supervisor.ports import LoopCrash

pytestmark = pytest.mark.trio


class Crashing:
    """A loop that runs `lives_s[n]` at its n-th start (the last one for ever after) and then raises."""

    def __init__(self, world: World, *lives_s: float) -> None:
        self.world = world
        self.lives_s = lives_s
        self.starts: list[float] = []

    async def __call__(self, pace: Pace) -> None:
        life_s = self.lives_s[min(len(self.starts), len(self.lives_s) - 1)]
        self.starts.append(self.world.clock.second)
        await trio.sleep(life_s)
        raise ValueError("the canary must not be recorded")


async def test_crashes_back_off_and_the_sixth_goes_to_the_slow_lane(autojump_clock: MockClock) -> None:
    """1, 2, 4, 8, 16 s, and after the sixth crash within 600 s one start in 600 s, for as long as it crashes."""
    world = World()
    broken = Crashing(world, 0)
    async with running(world.tree(loop("broken", broken))) as tree:
        await trio.sleep(2_000)
        assert broken.starts == [0, 1, 3, 7, 15, 31, 631, 1_231, 1_831]
        assert [crash.slow_lane for crash in world.log.crashes] == [False] * 5 + [True] * 4
        assert [crash.crashes_count for crash in world.log.crashes] == [1, 2, 3, 4, 5, 6, 6, 6, 6]
        (status,) = tree.status()
        assert (status.state, status.crashes_count, status.last_error) == ("slow_lane", 6, "ValueError")
        assert status.wakes_at_us == world.clock.now_us() + (1_831 + 600 - 2_000) * 1_000_000


async def test_a_crash_is_recorded_by_type_and_place_only(autojump_clock: MockClock) -> None:
    """The fact names the exception's type and the line that raised it; its message stays out."""
    world = World()
    async with running(world.tree(loop("broken", Crashing(world, 0)))):
        await trio.sleep(1.5)
    place = world.log.crashes[0].error_place
    assert place.startswith("test_supervisor_keeper:")
    assert world.log.crashes[0] == LoopCrash(
        loop_name="broken",
        error_code="ValueError",
        error_place=place,
        crashes_count=1,
        backoff_ms=1_000,
        slow_lane=False,
    )
    assert [kind for _, kind, _ in world.log.facts] == ["crashed", "restarted", "crashed"]


async def test_running_600_s_empties_the_count(autojump_clock: MockClock) -> None:
    """A loop that left the slow lane and ran for 600 s is treated like one that never crashed."""
    world = World()
    healed = Crashing(world, 0, 0, 0, 0, 0, 0, 600, 0)
    async with running(world.tree(loop("healed", healed))) as tree:
        await trio.sleep(632)
        assert (tree.status()[0].state, tree.status()[0].crashes_count) == ("sleeping", 6)
        await trio.sleep(600)
        assert [(crash.crashes_count, crash.slow_lane) for crash in world.log.crashes[6:]] == [(1, False)]


async def test_waiting_in_the_slow_lane_is_no_time_without_a_crash(autojump_clock: MockClock) -> None:
    """A loop that crashes right after its slow start stays there, although its last crash is 600 s old."""
    world = World()
    broken = Crashing(world, 0, 0, 0, 0, 0, 0, 500, 0)
    async with running(world.tree(loop("broken", broken))):
        await trio.sleep(631 + 500 + 1)
    assert world.log.crashes[-1].slow_lane


async def test_rare_crashes_never_reach_the_slow_lane(autojump_clock: MockClock) -> None:
    """A loop that crashes every three minutes is restarted at once for ever: four crashes within the window."""
    world = World()
    async with running(world.tree(loop("rare", Crashing(world, 180)))):
        await trio.sleep(86_400)
    assert len(world.log.crashes) > 400
    assert not any(crash.slow_lane for crash in world.log.crashes)


async def test_a_loop_that_returns_has_crashed(autojump_clock: MockClock) -> None:
    """Nobody retired it, so its end is a crash with the code `returned`."""
    world = World()

    async def over(pace: Pace) -> None:
        await trio.lowlevel.checkpoint()

    async with running(world.tree(loop("over", over))):
        await trio.sleep(0.5)
    assert [(crash.error_code, crash.error_place) for crash in world.log.crashes] == [("returned", "")]


async def test_a_crash_storm_delays_no_other_loop(autojump_clock: MockClock) -> None:
    """Chores keep their seconds beside a loop that crashes all the time."""
    world = World()
    ticks: list[float] = []

    async def steady(pace: Pace) -> None:
        while True:
            await trio.sleep(7)
            ticks.append(world.clock.second)

    tree = world.tree(loop("broken", Crashing(world, 0)), loop("steady", steady), loop("rare", Crashing(world, 50)))
    async with running(tree):
        await trio.sleep(3_600.5)
    assert ticks == [7 * n for n in range(1, 515)]


async def test_an_unwritable_journal_does_not_end_the_keeper(autojump_clock: MockClock) -> None:
    """Crash and restart cannot be recorded; the loop is started again all the same."""
    world = World()
    world.log.failure = JournalUnwritable()
    broken = Crashing(world, 0)
    async with running(world.tree(loop("broken", broken))):
        await trio.sleep(5)
    assert broken.starts == [0, 1, 3]
    assert world.log.facts == []


async def test_a_bug_in_the_keepers_own_ports_ends_the_tree(autojump_clock: MockClock) -> None:
    """An unexpected exception while a crash is recorded is a bug of the root and must not be hidden."""
    world = World()
    world.log.failure = ZeroDivisionError()
    tree = world.tree(loop("broken", Crashing(world, 0)))
    with pytest.RaisesGroup(ZeroDivisionError):
        await tree.run()


async def test_a_keyboard_interrupt_is_not_a_crash(autojump_clock: MockClock) -> None:
    """What is no `Exception` passes through keeper and tree."""
    world = World()

    async def interrupted(pace: Pace) -> None:
        raise KeyboardInterrupt

    with pytest.RaisesGroup(KeyboardInterrupt):
        await world.tree(loop("interrupted", interrupted)).run()
    assert world.log.facts == []


async def test_cancellation_passes_through_and_is_no_crash(autojump_clock: MockClock) -> None:
    """Cancelling the tree ends its loops at once, and nothing is recorded."""
    world = World()
    ended: list[float] = []

    async def patient(pace: Pace) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(world.clock.second)

    with trio.move_on_after(10) as scope:
        await world.tree(loop("patient", patient)).run()
    assert scope.cancelled_caught
    assert (ended, world.log.facts) == ([10], [])


async def test_a_loop_that_fails_in_its_own_end_does_not_take_the_tree_along(autojump_clock: MockClock) -> None:
    """Errors of a loop that is being retired, alone or mixed with its cancellation, are logged and end nothing."""
    world = World()

    async def rough(pace: Pace) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError

    async def rougher(pace: Pace) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rough, pace)
            await trio.sleep_forever()

    async with running(world.tree(loop("rough", rough), loop("rougher", rougher))) as tree:
        assert await tree.drain() == ()
        assert world.clock.second == 0
