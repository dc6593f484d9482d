"""The rhythm of the loops: deadlines, bells, patience, beats, and what the watchdog says."""

from __future__ import annotations

import pytest
import trio
from supervisor_kit import BASE_US, DAY_S, World, running
from trio.testing import MockClock

from palyra.errors import JournalUnwritable, Refusal, Refused

pytestmark = pytest.mark.trio


async def test_chores_keep_their_times_for_a_day(autojump_clock: MockClock) -> None:
    """A snapshot every 600 s and a note every 60 s happen at those seconds, with one wake-up each."""
    world = World()
    world.snapshots.every_s, world.snapshots.due_us = 600, BASE_US + 600_000_000
    world.witness.every_s, world.witness.due_us = 60, BASE_US + 60_000_000
    async with running(world.tree()):
        await trio.sleep(DAY_S + 1)
    assert world.snapshots.done == [600 * n for n in range(1, 145)]
    assert world.witness.done == [60 * n for n in range(1, 1_441)]
    assert world.witness.asked_count <= 2 * 1_440 + 1


async def test_an_idle_day_wakes_nobody(autojump_clock: MockClock) -> None:
    """Without facts, bells and deadlines each loop asks once, at its start, and sleeps."""
    world = World()
    async with running(world.tree()) as tree:
        await trio.sleep(DAY_S)
        assert {status.state for status in tree.status()} == {"sleeping"}
        assert {status.wakes_at_us for status in tree.status()} == {None}
    chores = (
        world.snapshots,
        world.witness,
        world.checkpoints,
        world.machine,
        world.health,
        world.credentials,
        world.tokens,
        world.sweeps,
        world.alerts,
        world.contents,
        world.config_files,
    )
    assert [port.asked_count for port in (world.watch, *chores)] == [1] * 12


async def test_a_bell_wakes_those_whom_it_concerns(autojump_clock: MockClock) -> None:
    """A commit rings the chores and not the watchdog; a step of the clock rings everybody."""
    world = World()
    async with running(world.tree()) as tree:
        await trio.sleep(10)
        tree.ring("journal")
        await trio.sleep(10)
        assert (world.watch.asked_count, world.witness.asked_count) == (1, 2)
        tree.ring("beats")
        await trio.sleep(10)
        assert (world.watch.asked_count, world.witness.asked_count) == (2, 2)
        tree.ring("clock")
        await trio.sleep(10)
        assert (world.watch.asked_count, world.witness.asked_count) == (3, 3)


async def test_a_bell_that_rings_all_the_time_costs_one_step_a_second(autojump_clock: MockClock) -> None:
    """Ringing coalesces, and a ring between two steps is never lost."""
    world = World()
    async with running(world.tree()) as tree:
        for _ in range(1_000):
            tree.ring("journal")
            await trio.sleep(0.01)
        assert world.checkpoints.asked_count <= 12
        world.checkpoints.due_us = 0
        tree.ring("journal")
        await trio.sleep(1)
    assert len(world.checkpoints.done) == 1


async def test_an_answer_that_stays_due_does_not_spin(autojump_clock: MockClock) -> None:
    """A chore that is due again as soon as it is done runs once a second, not as fast as it can."""
    world = World()
    world.witness.every_s, world.witness.due_us = 0, 0
    async with running(world.tree()):
        await trio.sleep(10.5)
    assert world.witness.done == list(range(11))


async def test_an_unwritable_journal_is_waited_for_with_patience(autojump_clock: MockClock) -> None:
    """1 s doubling to 30 s, no crash, no bell shortens it; then the chore keeps its place and its times."""
    world = World()
    world.witness.every_s, world.witness.due_us = 60, BASE_US + 60_000_000
    world.witness.failures = [JournalUnwritable() for _ in range(8)]
    async with running(world.tree()) as tree:
        await trio.sleep(62)
        status = tree.status()[2]
        assert (status.name, status.state, status.last_error) == ("witness", "backoff", "journal_unwritable")
        assert status.wakes_at_us == BASE_US + 63_000_000
        tree.ring("journal")
        await trio.sleep(200)
    assert world.witness.began[:9] == [60, 61, 63, 67, 75, 91, 121, 151, 181]
    assert world.witness.done == [181, 241]
    assert world.log.facts == []


async def test_patience_starts_anew_after_a_success(autojump_clock: MockClock) -> None:
    """A refusal long after the last one is waited for 1 s again."""
    world = World()
    world.witness.every_s, world.witness.due_us = 60, BASE_US
    world.witness.failures = [JournalUnwritable(), JournalUnwritable()]
    async with running(world.tree()):
        await trio.sleep(10)
        world.witness.failures = [JournalUnwritable()]
        await trio.sleep(60)
    assert world.witness.began == [0, 1, 3, 63, 64]


async def test_a_chore_that_crashes_is_restarted_and_keeps_its_place(autojump_clock: MockClock) -> None:
    """A bug in a chore is a crash of its loop only; what was due is still due after the restart."""
    world = World()
    world.snapshots.every_s, world.snapshots.due_us = 600, BASE_US + 600_000_000
    world.snapshots.failures = [RuntimeError()]
    async with running(world.tree()):
        await trio.sleep(1_300)
    assert world.snapshots.began == [600, 601, 1_201]
    assert world.log.facts == [(600, "crashed", "snapshots"), (601, "restarted", "snapshots")]


@pytest.mark.parametrize(("lasts_s", "beats"), [(9, []), (25, [(10, "beat"), (25, "cleared")])])
async def test_only_long_work_is_beaten_for(
    autojump_clock: MockClock, lasts_s: float, beats: list[tuple[float, str]]
) -> None:
    """Work over 10 s gives one beat, cleared at its end; shorter work gives none."""
    world = World()
    world.snapshots.due_us, world.snapshots.lasts_s = 0, lasts_s
    async with running(world.tree()) as tree:
        await trio.sleep(5)
        status = tree.status()[1]
        assert (status.state, status.busy_since_us, status.wakes_at_us) == ("busy", BASE_US, None)
        await trio.sleep(100)
    assert [(second, kind) for second, kind, _ in world.log.facts] == beats


async def test_long_work_that_crashes_is_cleared(autojump_clock: MockClock) -> None:
    """The beat of work that ended in a crash is taken back before the crash is recorded."""
    world = World()
    world.snapshots.due_us, world.snapshots.lasts_s = 0, 15
    world.snapshots.failures = [RuntimeError()]
    async with running(world.tree()):
        await trio.sleep(15.5)
    assert [kind for _, kind, _ in world.log.facts] == ["beat", "cleared", "crashed"]


async def test_a_beat_that_cannot_be_taken_back_is_taken_back_later(autojump_clock: MockClock) -> None:
    """Clearing is repeated after the back-off, so that no finished work looks stalled."""
    world = World()
    world.snapshots.due_us, world.snapshots.lasts_s = 0, 15
    async with running(world.tree()):
        await trio.sleep(12)
        world.log.failure = JournalUnwritable()
        await trio.sleep(6)
        world.log.failure = None
        await trio.sleep(20)
    assert [kind for _, kind, _ in world.log.facts] == ["beat", "cleared"]


async def test_a_beat_that_cannot_be_recorded_stops_no_work(autojump_clock: MockClock) -> None:
    """The work goes on and ends as if nothing had happened, its clearing is owed until the journal takes it."""
    world = World()
    world.snapshots.due_us, world.snapshots.lasts_s = 0, 15
    world.log.failure = JournalUnwritable()
    async with running(world.tree()):
        await trio.sleep(14)
        world.log.failure = None
        await trio.sleep(20)
    assert world.snapshots.done == [15]
    assert [kind for _, kind, _ in world.log.facts] == ["cleared"]


async def test_a_stall_is_reported_once_and_cleared_once(autojump_clock: MockClock) -> None:
    """Suspect at 120 s, hung at 240 s, recovered with the next beat; in between the watchdog says nothing."""
    world = World()
    async with running(world.tree()) as tree:
        world.watch.beat("run-1")
        tree.ring("beats")
        await trio.sleep(1_000)
        world.watch.beat("run-1")
        tree.ring("beats")
        await trio.sleep(60)
    assert world.watch.told == [(120, "suspect", "run-1"), (240, "hung", "run-1"), (1_000, "recovered", "run-1")]
    assert world.watch.asked_count <= 8
    assert world.log.facts == []


async def test_a_beat_in_time_resets_the_deadline(autojump_clock: MockClock) -> None:
    """Work that beats every 119 s is never suspect, and costs about two questions a beat."""
    world = World()
    async with running(world.tree()) as tree:
        for _ in range(100):
            world.watch.beat("run-1")
            tree.ring("beats")
            await trio.sleep(119)
    assert world.watch.told == []
    assert world.watch.asked_count <= 110


async def test_work_that_ended_resolves_its_incident(autojump_clock: MockClock) -> None:
    """A run that is gone from the board is no longer stalled."""
    world = World()
    async with running(world.tree()) as tree:
        world.watch.beat("run-1")
        tree.ring("beats")
        await trio.sleep(130)
        del world.watch.last_life_us["run-1"]
        tree.ring("beats")
        await trio.sleep(5)
    assert world.watch.told == [(120, "suspect", "run-1"), (130, "recovered", "run-1")]


async def test_one_refused_verdict_holds_up_no_other(autojump_clock: MockClock) -> None:
    """The watchdog reports the second stall although the first is refused, and comes back to the first."""
    world = World()
    refusal = Refusal(code="conflict", message="The incident is open already.")
    world.watch.refused["run-1"] = Refused(refusal)
    async with running(world.tree()) as tree:
        world.watch.beat("run-1")
        world.watch.beat("run-2")
        tree.ring("beats")
        await trio.sleep(121.5)
        assert tree.status()[0].last_error == "conflict"
        world.watch.refused.clear()
        await trio.sleep(10)
    assert world.watch.told == [(120, "suspect", "run-2"), (123, "suspect", "run-1")]
    assert world.log.facts == []
