"""Fail-stop: the n-th commit fails, for every n. Nobody is told what is not durable, and the engine comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from engine_fakes import (
    EVENTS,
    ROLE,
    BrittleJournal,
    Script,
    ScriptedProvider,
    brittle_connection,
    cut,
    error,
    event,
    stream,
    turn,
    unary,
    until,
)
from engine_world import Reply, RunTask, Taker, World, house, no_pause, one, two

from palyra.engine.core import Core
from palyra.errors import EngineStopped, JournalDamaged, JournalUnwritable
from palyra.events.attempts import AttemptAbandoned
from palyra.events.base import Draft
from palyra.events.runs import RequestServed, RunFailed
from palyra.events.usage import UsageRecorded
from palyra.journal.memory import MemoryJournal
from palyra.journal.port import Head, Journal
from palyra.journal.sqlite import SqliteJournal
from palyra.projections.state import State

SERVED = Draft("requests", RequestServed(endpoint="m", principal_id="", http_status=200))


class Scenario:
    """Six runs at once: unary and streams, answered, failing over, retried, waiting for a slot; one hangs up."""

    def __init__(self) -> None:
        self.first = ScriptedProvider(
            unary("One."),
            stream("Two ", "three."),
            error(500),
            Script(ROLE, cut(), headers=EVENTS),
            stream("Six ", "seven.", ending=(cut(),)),
        )
        self.runs: list[RunTask] = []
        self.takers: list[Taker] = []

    async def play(self, journal: Journal) -> tuple[World, list[Reply]]:
        """Start the runs, a few turns apart, and return their replies."""
        config = two(max_retries=1, retry_backoff_ms=0, max_concurrency=2)
        world = await World.make(config, journal=journal, extra={"a": self.first, "b": ScriptedProvider()})
        for number in range(6):
            taker = Taker(leaves_after=1 if number == 5 else None)
            self.takers.append(taker)
            is_stream = bool(number % 2)
            run = world.start_chat(client=taker if is_stream else None, **({"stream": True} if is_stream else {}))
            self.runs.append(run)
            await turn(3)
        return world, [await run.task for run in self.runs]


async def check(scenario: Scenario, world: World, replies: list[Reply]) -> None:
    """Whoever was answered has a durable story; then nothing is open, and the engine works."""
    await world.core.wait_until_rebuilt()
    for number, (run, reply, taker) in enumerate(zip(scenario.runs, replies, scenario.takers, strict=True)):
        names = world.names(run.run_id)
        if reply.status == 200:
            assert names[-1] == "run.completed"
            assert "usage.recorded" in names
            assert not number % 2 or taker.is_complete or number == 5
        elif reply.refusal.code == "journal_unwritable":
            assert reply.status == 503
            assert not taker.begun_count or taker.error or number == 5
        else:
            assert names[-1] in ("run.failed", "run.cancelled"), (reply, names)
    world.audit()
    assert (await world.chat()).status == 200
    world.audit()
    await world.close()


async def test_nth_commit_fails_for_every_n() -> None:
    """Whichever commit fails, kept or not: every client has its durable answer or 503, and all is closed."""
    whole = BrittleJournal()
    scenario = Scenario()
    world, replies = await scenario.play(whole)
    commits_count, failures_count = whole.commits_count, 0
    await check(scenario, world, replies)
    for nth in range(2, commits_count + 1):
        for is_kept in (False, True):
            journal, scenario = BrittleJournal(nth, is_kept=is_kept), Scenario()
            world, replies = await scenario.play(journal)
            failures_count += any(reply.refusal and reply.refusal.code == "journal_unwritable" for reply in replies)
            await check(scenario, world, replies)
    assert failures_count > commits_count // 2


@pytest.mark.parametrize("is_done_before", [False, True])
async def test_nth_commit_of_a_file_fails_for_every_n(tmp_path: Path, is_done_before: bool) -> None:
    """The same over SQLite, whose failing statement did its work or did not."""
    seen = 0
    for nth in range(2, 12):
        journal = await SqliteJournal.open(
            tmp_path / f"{nth}.db",
            new_journal_id="01TEST",
            now_us=1,
            connection_factory=brittle_connection(nth, is_done_before=is_done_before),
        )
        scenario = Scenario()
        world, replies = await scenario.play(journal)
        seen += any(reply.refusal and reply.refusal.code == "journal_unwritable" for reply in replies)
        await check(scenario, world, replies)
    assert seen >= 3


async def test_disk_that_stays_broken_is_tried_again_and_again() -> None:
    """While the first commit after a rebuild fails too, everything is refused; when it passes, work goes on."""
    journal = BrittleJournal(3, failures_count=4)
    async with house(one(), journal=journal, extra={"a": ScriptedProvider()}) as world:
        reply = await world.chat()
        assert (reply.status, reply.refusal.code) == (503, "journal_unwritable")
        assert reply.headers["retry-after"] == "1"
        await world.core.wait_until_rebuilt()
        assert len(world.troubles) == 3
        assert all(isinstance(trouble, JournalUnwritable) for trouble in world.troubles)
        (failed,) = world.facts(RunFailed)
        assert failed.code == "interrupted"
        assert len(world.facts(AttemptAbandoned)) == 1
        (row,) = world.facts(UsageRecorded)
        assert (row.source, row.billed) == ("estimated", "unknown")
        assert (await world.chat()).status == 200


async def test_nothing_is_taken_while_the_state_is_folded_anew() -> None:
    """Requests, refusals and free facts alike are refused until the disk has spoken."""
    journal = BrittleJournal(2)
    async with house(one(), journal=journal, extra={"a": ScriptedProvider()}) as world:
        first = world.start_chat()
        await until(lambda: not world.core.is_writable)
        with pytest.raises(JournalUnwritable):
            world.runs.served(endpoint="models", principal_id="key:test", http_status=200)
        second = world.start_chat()
        assert (await second.task).refusal.code == "journal_unwritable"
        assert (await first.task).refusal.code == "journal_unwritable"
        await world.core.wait_until_rebuilt()
        assert world.core.is_writable
        await world.core.wait_until_rebuilt()
        assert world.names() == []


async def test_runs_on_the_wire_are_let_go() -> None:
    """A commit of somebody else that fails ends the calls under way; their attempts are abandoned, with usage."""
    journal, gate = BrittleJournal(3), asyncio.Event()
    fake = ScriptedProvider(Script(ROLE, event({"content": "One "}), gate, headers=EVENTS))
    async with house(one(), journal=journal, extra={"a": fake}) as world:
        taker = Taker()
        run = world.start_chat(client=taker, stream=True)
        await taker.got(b"One ")
        with pytest.raises(JournalUnwritable):
            await world.core.record([SERVED])
        reply = await run.task
        assert (reply.status, reply.body) == (503, None)
        assert taker.error is not None
        assert taker.error["error"]["code"] == "journal_unwritable"
        await world.core.wait_until_rebuilt()
        assert world.names(run.run_id)[-3:] == ["attempt.abandoned", "usage.recorded", "run.failed"]
        assert fake.answers[0].is_closed


async def test_answer_that_is_durable_is_handed_over_all_the_same() -> None:
    """A run whose end is on the disk hands over its last bytes while everything else is let go."""
    journal, gate = BrittleJournal(4), asyncio.Event()

    class Slow(Taker):
        async def send(self, data: bytes) -> None:
            if data.endswith(b"[DONE]\n\n"):
                await gate.wait()
            await super().send(data)

    fake = ScriptedProvider(stream("One ", "two."))
    async with house(one(), journal=journal, extra={"a": fake}) as world:
        taker = Slow()
        run = world.start_chat(client=taker, stream=True)
        await until(lambda: "run.completed" in world.names())
        with pytest.raises(JournalUnwritable):
            await world.core.record([SERVED])
        await world.core.wait_until_rebuilt()
        gate.set()
        assert (await run.task).status == 200
        assert taker.is_complete


async def test_client_that_takes_nothing_does_not_hold_up_the_rebuild() -> None:
    """Runs are let go of without waiting until their clients have heard of it."""

    class Stuck(Taker):
        async def send(self, data: bytes) -> None:
            if self.sends:
                await gate.wait()
            await super().send(data)

    journal, gate = BrittleJournal(3), asyncio.Event()
    fake = ScriptedProvider(Script(ROLE, event({"content": "One "}), asyncio.Event(), headers=EVENTS))
    async with house(one(), journal=journal, extra={"a": fake}) as world:
        taker = Stuck()
        run = world.start_chat(client=taker, stream=True)
        await taker.got(b"One ")
        with pytest.raises(JournalUnwritable):
            await world.core.record([SERVED])
        await world.core.wait_until_rebuilt()
        assert not run.task.done()
        assert (await world.chat()).status == 200
        gate.set()
        assert (await run.task).status == 503


async def test_exception_in_a_batch_is_a_failure_of_memory() -> None:
    """Facts that were folded and never appended are forgotten with the state that holds them."""
    async with house(one(), extra={"a": ScriptedProvider()}) as world:
        with world.core.batch(lazy=True) as batch:
            batch.add([SERVED])
        with pytest.raises(ZeroDivisionError):
            break_off(world.core, SERVED)
        assert not world.core.is_writable
        await world.core.wait_until_rebuilt()
        assert world.names() == ["request.served"]
        with pytest.raises(ZeroDivisionError):
            break_off(world.core)
        assert world.core.is_writable


def break_off(core: Core, *drafts: Draft) -> None:
    """Fail in the middle of a batch."""
    with core.batch() as batch:
        batch.add(drafts)
        raise ZeroDivisionError


async def test_journal_that_contradicts_itself_stays_closed() -> None:
    """A journal that lost what it had acknowledged is not written again, and somebody is told."""
    journal = MemoryJournal(journal_id="01TEST", now_us=1)
    world = await World.make(one(), journal=journal, extra={"a": ScriptedProvider()})
    assert (await world.chat()).status == 200
    journal.fail_next_commits(1)
    del journal.rows[-1], journal.links[-1]
    assert (await world.chat()).status == 503
    await until(lambda: len(world.troubles) >= 2)
    assert all(isinstance(trouble, JournalDamaged) for trouble in world.troubles)
    assert (await world.chat()).status == 503
    await world.core.stop()


async def test_stopped_core_takes_nothing() -> None:
    """After the end every request is refused and no rebuild begins."""
    world = await World.make(one(), extra={"a": ScriptedProvider()})
    await world.close()
    reply = await world.chat()
    assert (reply.status, reply.refusal.code) == (503, "engine_stopped")
    with pytest.raises(EngineStopped):
        world.core.check_writable()
    world.core.fail()
    await world.core.wait_until_rebuilt()


async def test_core_without_watchers_comes_back_too() -> None:
    """A core that nobody watches folds its state anew all the same, at the third try if need be."""
    journal, tries = BrittleJournal(1), []
    reopen = journal._memory.reopen

    async def reopen_at_last() -> Head:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("not yet")
        return await reopen()

    journal._memory.reopen = reopen_at_last  # type: ignore[method-assign]
    core = Core(journal, State(), pause=no_pause)
    with pytest.raises(JournalUnwritable):
        await core.record([SERVED])
    await core.wait_until_rebuilt()
    assert core.state.position == 0
    await core.record([SERVED])
    assert core.state.position == 1
    await core.stop()


async def test_commits_are_announced() -> None:
    """Each durable commit is told once; one that fails is not."""
    journal, told = BrittleJournal(2), []
    core = Core(journal, State())
    core.on_commit = lambda: told.append(journal.head.position)
    await core.record([SERVED, SERVED])
    with pytest.raises(JournalUnwritable):
        await core.record([SERVED])
    await core.wait_until_rebuilt()
    await core.record([SERVED])
    assert told == [2, 3]
    await core.stop()


async def test_waiter_that_is_cancelled_does_not_hide_a_failure() -> None:
    """A commit nobody waits for any more fails the engine like any other."""
    journal = BrittleJournal(1)
    core = Core(journal, State())
    waiter = asyncio.ensure_future(core.record([SERVED]))
    await turn()
    waiter.cancel()
    await asyncio.wait([waiter])
    await until(lambda: not core.is_writable)
    await core.wait_until_rebuilt()
    await core.stop()
