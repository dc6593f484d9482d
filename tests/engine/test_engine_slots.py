"""Slots: first come, first served; bounded in length and time; nothing leaks, whoever leaves."""

from __future__ import annotations

import asyncio

import pytest
from engine_fakes import GatedJournal, Script, ScriptedProvider, stream, turn, unary, until
from engine_world import HAPPY, World, fold, house, one, provider, two

from palyra.decisions.recovery import recover_run
from palyra.engine.slots import SlotRefused, Slots
from palyra.events.attempts import AttemptStarted
from palyra.events.runs import RunFailed


async def test_a_thousand_requests_on_two_slots() -> None:
    """They are started in the order in which they came, never more than two at once, and all are answered."""
    most = 0

    class Counting(ScriptedProvider):
        async def send(self, call, secret):  # type: ignore[no-untyped-def]
            nonlocal most
            most = max(most, world.slots_used()["a"])
            return await super().send(call, secret)

    fake = Counting()
    async with house(one(max_concurrency=2, max_queue=1_000), extra={"a": fake}) as world:
        runs = [world.start_chat(f"Number {n}") for n in range(1_000)]
        replies = [await run.task for run in runs]
        assert {reply.status for reply in replies} == {200}
        assert most == 2
        asked = [call.body.decode().partition("Number ")[2].partition('"')[0] for call in fake.calls]
        assert asked == [str(n) for n in range(1_000)]
        assert all(world.names(run.run_id) == HAPPY for run in runs)


async def test_stream_keeps_its_slot_to_the_end() -> None:
    """The slot of a stream is free when the stream has ended, not when it has begun."""
    gate = asyncio.Event()
    script = stream("One ")
    fake = ScriptedProvider(Script(*script.pieces[:2], gate, *script.pieces[2:], headers=script.headers))
    async with house(one(max_concurrency=1), extra={"a": fake}) as world:
        first = world.start_chat(stream=True)
        second = world.start_chat()
        await until(lambda: first.client.sends_count)
        await turn(20)
        assert len(fake.calls) == 1
        gate.set()
        await asyncio.gather(first.task, second.task)


async def test_queue_is_bounded_in_length() -> None:
    """Whoever finds the queue full is refused at once, having started nothing."""
    gate = asyncio.Event()
    fake = ScriptedProvider(Script(*unary().pieces, head=gate))
    async with house(one(max_concurrency=1, max_queue=2), extra={"a": fake}) as world:
        runs = [world.start_chat() for _ in range(5)]
        for run in runs[3:]:
            reply = await run.task
            assert (reply.status, reply.refusal.code) == (503, "provider_queue_full")
            assert reply.headers["retry-after"] == "1"
            assert world.names(run.run_id) == ["run.admitted", "routing.decided", "run.failed"]
        gate.set()
        for run in runs[:3]:
            assert (await run.task).status == 200


async def test_full_queue_sends_a_run_elsewhere() -> None:
    """Where another candidate is ready, a full queue is no reason to refuse."""
    gate = asyncio.Event()
    first, other = ScriptedProvider(Script(*unary().pieces, head=gate)), ScriptedProvider()
    async with house(two(max_concurrency=1, max_queue=0), extra={"a": first, "b": other}) as world:
        busy, moved = world.start_chat(), world.start_chat()
        reply = await moved.task
        assert reply.headers["x-palyra-failover"] == "a/m>b/m"
        assert reply.headers["x-palyra-attempts"] == "1"
        gate.set()
        await busy.task
        assert "circuit.opened" not in world.names()


async def test_wait_is_bounded_in_time() -> None:
    """A run that waits for too long is refused; the wait of one that gets its turn is recorded."""
    gate = asyncio.Event()
    fake = ScriptedProvider(Script(*unary().pieces, head=gate))
    async with house(one(max_concurrency=1, queue_timeout_ms=30), extra={"a": fake}) as world:
        first, second = world.start_chat(), world.start_chat()
        reply = await second.task
        assert (reply.status, reply.refusal.code) == (503, "concurrency_timeout")
        third = world.start_chat()
        await turn(20)
        gate.set()
        assert (await first.task).status == (await third.task).status == 200
        assert [started.queue_wait_ms >= 0 for started in world.facts(AttemptStarted)] == [True, True]


async def test_deadline_in_the_queue_is_the_runs_own() -> None:
    """A run whose time is over while it waits ends with 504, without a look at other candidates."""
    gate = asyncio.Event()
    first, other = ScriptedProvider(Script(*unary().pieces, head=gate)), ScriptedProvider()
    async with house(two(max_concurrency=1), extra={"a": first, "b": other}) as world:
        busy = world.start_chat()
        waiting = world.start_chat(changes={"timeout_ms": 30})
        reply = await waiting.task
        assert (reply.status, reply.refusal.code) == (504, "run_deadline")
        gate.set()
        await busy.task
        assert other.calls == []


async def test_cancelled_waiters_leak_nothing() -> None:
    """Of two hundred waiters every other one leaves; the rest is served in order, and all slots are free."""
    gate = asyncio.Event()
    fake = ScriptedProvider(Script(*unary().pieces, head=gate))
    async with house(one(max_concurrency=1, max_queue=200), extra={"a": fake}) as world:
        first, *waiting = [world.start_chat(f"Number {n}") for n in range(201)]
        await until(lambda: fake.calls)
        for run in waiting[::2]:
            run.leave()
        gate.set()
        replies = [await run.task for run in [first, *waiting]]
        assert [reply.status for reply in replies] == [200] + [499, 200] * 100
        asked = [int(call.body.decode().partition("Number ")[2].partition('"')[0]) for call in fake.calls]
        assert asked == [0, *range(2, 201, 2)]


async def test_turn_that_comes_as_its_waiter_leaves_is_passed_on() -> None:
    """A slot handed to somebody who is cancelled in the same moment goes to the next one."""
    slots, entry = Slots(), provider("a", max_concurrency=1)
    assert slots.try_take(entry)
    leaving = asyncio.ensure_future(slots.take(entry, time_left_ms=60_000))
    staying = asyncio.ensure_future(slots.take(entry, time_left_ms=60_000))
    await turn()
    assert not slots.try_take(entry)
    slots.release("a")
    leaving.cancel()
    await staying
    assert leaving.cancelled()
    slots.release("a")
    assert slots.try_take(entry)
    assert not slots.try_take(entry)


async def test_waiter_that_left_before_its_turn_is_passed_over() -> None:
    """A slot is never given to somebody who is on the way out."""
    slots, entry = Slots(), provider("a", max_concurrency=1)
    assert slots.try_take(entry)
    leaving = asyncio.ensure_future(slots.take(entry, time_left_ms=60_000))
    await turn()
    leaving.cancel()
    slots.release("a")
    await asyncio.wait([leaving])
    assert slots.try_take(entry)
    with pytest.raises(SlotRefused, match="concurrency_timeout"):
        await slots.take(entry, time_left_ms=1)


async def test_who_comes_late_does_not_pass_those_who_wait() -> None:
    """A slot that is free in the very moment belongs to the first in the queue."""
    journal, fake = GatedJournal(), ScriptedProvider()
    async with house(one(max_concurrency=1), journal=journal, extra={"a": fake}) as world:
        runs = [world.start_chat("first"), world.start_chat("second")]
        await until(lambda: "run.completed" in world.names(runs[0].run_id))
        runs.append(world.start_chat("third"))
        for run in runs:
            await run.task
        assert [b"first" in call.body or b"second" in call.body for call in fake.calls] == [True, True, False]


async def test_a_crash_while_waiting_bills_nothing() -> None:
    """Who waits for a slot has reserved and started nothing; the next start closes it without usage."""
    gate = asyncio.Event()
    fake = ScriptedProvider(Script(gate))
    world = await World.make(one(max_concurrency=1), extra={"a": fake})
    first = world.start_chat("First.")
    second = world.start_chat("Second.")
    await until(lambda: len(fake.calls) == 1 and "routing.decided" in world.names(second.run_id))
    state = fold(world.rows())
    assert {run_id: run.attempt is not None for run_id, run in state.runs.open.items()} == {
        first.run_id: True,
        second.run_id: False,
    }
    drafts = recover_run(state, state.runs.open[second.run_id], boot_id="boot-2", now_us=world.core.clock.now_us())
    assert [type(draft.body) for draft in drafts] == [RunFailed]
    await world.close()
