"""Clients that hang up: at every send of a stream, and at every place where a run can be when they do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_fakes import (
    EVENTS,
    ROLE,
    GatedJournal,
    Script,
    ScriptedProvider,
    cut,
    error,
    event,
    stream,
    turn,
    unary,
    until,
)
from engine_world import Taker, World, house, model, one, provider, registry, two
from upstream import HANG, Behaviour, Upstream

from palyra.events.attempts import AttemptFailed, AttemptStarted
from palyra.events.runs import RunCancelled, RunCompleted
from palyra.events.usage import UsageRecorded

POLICIES = ["drain", "cancel"]
WORDS = ("One ", "two ", "three ", "four.")


def the_end(world: World) -> RunCancelled:
    """Return the one end of the one run, which must be a cancel, and check what it left behind."""
    (ended,) = world.facts(RunCancelled)
    assert world.names()[-1] == "run.cancelled" or "health.changed" in world.names()[-1]
    assert ended.reason == "client"
    assert world.state.circuits.by_provider == {}
    assert world.slots_used() == {}
    return ended  # type: ignore[no-any-return]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("leaves_after", range(5))
async def test_client_leaves_after_each_send(policy: str, leaves_after: int) -> None:
    """Whichever event is the first that nobody takes: one end, usage of what was seen, circuit untouched."""
    fake = ScriptedProvider(stream("One ", "two ", "three ", "four."))
    async with house(one(on_client_disconnect=policy), extra={"a": fake}) as world:
        taker = Taker(leaves_after)
        reply = await world.chat(client=taker, stream=True)
        assert (reply.status, reply.body) == (499, None)
        assert taker.sends == leaves_after
        ended = the_end(world)
        assert (ended.policy, ended.drained) == (policy, policy == "drain")
        (row,) = world.facts(UsageRecorded)
        if policy == "drain":
            assert (row.source, row.billed, row.usage.output_tokens) == ("provider", "yes", 5)
        else:
            (failed,) = world.facts(AttemptFailed)
            assert (failed.failure_class, failed.phase) == ("client_disconnected", "content")
            assert (row.source, row.billed) == ("estimated", "yes")
        assert fake.answers[0].is_closed


@pytest.mark.parametrize("policy", POLICIES)
async def test_client_leaves_when_all_has_arrived(policy: str) -> None:
    """The rule holds also where nothing would be left to wait for; what the provider counted is recorded."""
    whole = b"".join(piece for piece in stream("One.").pieces if isinstance(piece, bytes))
    fake = ScriptedProvider(Script(whole, headers=EVENTS))
    async with house(one(on_client_disconnect=policy), extra={"a": fake}) as world:
        assert (await world.chat(client=Taker(0), stream=True)).status == 499
        ended = the_end(world)
        assert (ended.policy, ended.drained) == (policy, policy == "drain")
        (row,) = world.facts(UsageRecorded)
        assert (row.usage.input_tokens, row.usage.output_tokens, row.billed) == (11, 5, "yes")
        assert row.source == ("provider" if policy == "drain" else "partial")


async def test_client_that_leaves_at_the_very_end_gets_a_completed_run() -> None:
    """When only the last event could not be handed over, the answer is complete."""
    fake = ScriptedProvider(stream("One ", "two ", "three ", "four."))
    async with house(one(), extra={"a": fake}) as world:
        taker = Taker(leaves_after=5)
        assert (await world.chat(client=taker, stream=True)).status == 200
        assert not taker.is_complete
        assert len(world.facts(RunCompleted)) == 1


@pytest.mark.parametrize("policy", POLICIES)
async def test_connection_of_a_client_that_leaves(policy: str) -> None:
    """By rule `cancel` upstream is closed at once; by rule `drain` its connection is kept for the next call."""
    gate = asyncio.Event()
    async with Upstream() as up:
        up.reply_with(Behaviour(after={2: gate}))
        async with house(one(up.url, on_client_disconnect=policy)) as world:
            taker = Taker()
            run = world.start_chat(client=taker, stream=True)
            await taker.got(b"Hello ")
            run.leave()
            if policy == "cancel":
                await run.task
                await up.connections_closed()
            gate.set()
            await run.task
            assert (await world.chat()).status == 200
            assert up.connections_made_count == (1 if policy == "drain" else 2)
        await up.connections_closed()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_before_the_first_step(policy: str, stream: bool) -> None:
    """A client that is gone before its run took a step leaves an admission and a cancel, and nothing is sent."""
    fake = ScriptedProvider()
    async with house(one(on_client_disconnect=policy), extra={"a": fake}) as world:
        run = world.start_chat(**({"stream": True} if stream else {}))
        run.leave()
        run.leave()
        assert (await run.task).status == 499
        assert world.names() == ["run.admitted", "routing.decided", "run.cancelled"]
        assert the_end(world).policy == ""
        assert fake.calls == []


@pytest.mark.parametrize("policy", POLICIES)
async def test_leaving_before_dispatch(policy: str) -> None:
    """While the start is on its way to the disk nothing is sent yet: nothing is billed."""
    journal, fake = GatedJournal(), ScriptedProvider()
    async with house(one(on_client_disconnect=policy), journal=journal, extra={"a": fake}) as world:
        journal.hold()
        run = world.start_chat()
        await journal.begun(1)
        run.leave()
        journal.let_go()
        assert (await run.task).status == 499
        (failed,) = world.facts(AttemptFailed)
        assert (failed.failure_class, failed.phase) == ("client_disconnected", "connect")
        assert world.facts(UsageRecorded) == []
        assert the_end(world).policy == ""
        assert fake.calls == []


@pytest.mark.parametrize("policy", POLICIES)
async def test_leaving_the_queue(policy: str) -> None:
    """A waiter that leaves takes no slot, and the next one in the queue gets its turn."""
    gate = asyncio.Event()
    fake = ScriptedProvider(Script(*unary().pieces, head=gate))
    async with house(one(max_concurrency=1, on_client_disconnect=policy), extra={"a": fake}) as world:
        first, leaver, third = (world.start_chat() for _ in range(3))
        await until(lambda: fake.calls)
        leaver.leave()
        assert (await leaver.task).status == 499
        assert world.names(leaver.run_id) == ["run.admitted", "routing.decided", "run.cancelled"]
        gate.set()
        assert (await first.task).status == (await third.task).status == 200
        assert len(fake.calls) == 2


@pytest.mark.parametrize("policy", POLICIES)
async def test_leaving_in_a_backoff(policy: str) -> None:
    """A run that waits to retry is ended at once; it does not call again for nobody."""
    fake = ScriptedProvider(error(500))
    config = one(max_retries=2, retry_backoff_ms=4_000, on_client_disconnect=policy)
    async with house(config, extra={"a": fake}) as world:
        run = world.start_chat()
        await until(lambda: "attempt.failed" in world.names())
        await turn(5)
        run.leave()
        assert (await run.task).status == 499
        assert len(fake.calls) == 1
        (ended,) = world.facts(RunCancelled)
        assert (ended.policy, ended.attempts_count) == ("", 1)


async def test_leaving_while_a_unary_answer_is_awaited_drains_it() -> None:
    """By rule `drain` the answer is read to its end, billed as it says, and given to nobody."""
    gate = asyncio.Event()
    async with Upstream() as up, house(one(up.url)) as world:
        up.reply_with(Behaviour(after={1: gate}))
        run = world.start_chat()
        await up.request_arrived()
        run.leave()
        gate.set()
        reply = await run.task
        assert reply.status == 499
        (ended,) = world.facts(RunCancelled)
        assert (ended.policy, ended.drained) == ("drain", True)
        (row,) = world.facts(UsageRecorded)
        assert (row.source, row.billed) == ("provider", "yes")


@pytest.mark.parametrize("policy", POLICIES)
async def test_leaving_a_unary_answer_that_does_not_come(policy: str) -> None:
    """Past the drain's bound, or at once by rule `cancel`, the connection is closed and the input is assumed."""
    async with Upstream() as up:
        up.reply_with(Behaviour(head=HANG))
        async with house(one(up.url, on_client_disconnect=policy, drain_max_ms=40)) as world:
            run = world.start_chat()
            await up.request_arrived()
            run.leave()
            await run.task
            ended = the_end(world)
            assert (ended.policy, ended.drained) == (policy, False)
            (failed,) = world.facts(AttemptFailed)
            assert failed.failure_class == "client_disconnected"
            (row,) = world.facts(UsageRecorded)
            assert (row.source, row.billed, row.usage.output_tokens) == ("estimated", "unknown", 0)
            await up.connections_closed()


async def test_drain_of_a_silent_stream_is_bounded_in_time() -> None:
    """A stream that says nothing more is left when the drain's time is over."""
    async with Upstream() as up:
        up.reply_with(Behaviour(chunks=WORDS, after={2: HANG}))
        async with house(one(up.url, drain_max_ms=40)) as world:
            taker = Taker()
            run = world.start_chat(client=taker, stream=True)
            await taker.got(b"One ")
            run.leave()
            assert (await run.task).status == 499
            ended = the_end(world)
            assert (ended.policy, ended.drained) == ("drain", False)
            (row,) = world.facts(UsageRecorded)
            assert (row.source, row.billed) == ("estimated", "yes")
            await up.connections_closed()


async def test_drain_is_bounded_in_tokens() -> None:
    """A stream that goes on for too long is left when the drain's tokens are over."""
    gate = asyncio.Event()
    fake = ScriptedProvider(
        Script(ROLE, event({"content": "One "}), gate, *[event({"content": "word " * 20})] * 50, headers=EVENTS)
    )
    async with house(one(drain_max_tokens=30), extra={"a": fake}) as world:
        taker = Taker()
        run = world.start_chat(client=taker, stream=True)
        await taker.got(b"One ")
        run.leave()
        gate.set()
        assert (await run.task).status == 499
        assert len(fake.answers[0]._pieces) > 40
        (ended,) = world.facts(RunCancelled)
        assert (ended.policy, ended.drained) == ("drain", False)


DRAINED: dict[str, tuple[Any, ...]] = {
    "cut": (cut(),),
    "error": (b'data: {"error": {"message": "boom"}}\n\n', asyncio.Event()),
    "unfinished": (),
    "finished": (event({}, "stop"),),
}


@pytest.mark.parametrize("ending", DRAINED)
async def test_drained_stream_ends_as_it_ends(ending: str) -> None:
    """Nobody being there changes nothing about whether the answer was complete, and after an error it is over."""
    gate = asyncio.Event()
    one_piece, two_piece = event({"content": "One "}), event({"content": "two"})
    fake = ScriptedProvider(Script(ROLE, one_piece, gate, two_piece, *DRAINED[ending], headers=EVENTS))
    async with house(one(max_retries=3), extra={"a": fake}) as world:
        taker = Taker()
        run = world.start_chat(client=taker, stream=True)
        await taker.got(b"One ")
        run.leave()
        gate.set()
        assert (await run.task).status == 499
        (ended,) = world.facts(RunCancelled)
        assert (ended.policy, ended.drained) == ("drain", ending == "finished")
        assert len(fake.calls) == 1
        assert len(fake.answers[0]._pieces) == (1 if ending == "error" else 0)


async def test_attempt_that_fails_after_the_client_left_is_not_repeated() -> None:
    """No retry and no other candidate is tried for a client that has gone."""
    gate = asyncio.Event()
    first, other = ScriptedProvider(Script(head=gate, status=500)), ScriptedProvider()
    async with house(two(max_retries=3), extra={"a": first, "b": other}) as world:
        run = world.start_chat()
        await until(lambda: first.calls)
        run.leave()
        gate.set()
        assert (await run.task).status == 499
        assert len(world.facts(AttemptStarted)) == 1
        assert other.calls == []
        (ended,) = world.facts(RunCancelled)
        assert (ended.policy, ended.drained) == ("drain", False)


async def test_leaving_between_the_parts_of_a_request() -> None:
    """The part on the wire is drained; the parts after it are not sent."""
    gate = asyncio.Event()
    config = registry(
        provider("a"), model("e", "a", role="embeddings", max_batch=1), default_embeddings_model_id="e"
    )
    fake = ScriptedProvider()
    async with house(config, extra={"a": fake}) as world:
        run = world.start({"model": "e", "input": ["a", "b", "c"]})
        fake.script(Script(b'{"data":[{"embedding":[1],"index":0}]}', head=gate))
        await until(lambda: fake.calls)
        run.leave()
        gate.set()
        assert (await run.task).status == 499
        assert len(fake.calls) == 1
        (ended,) = world.facts(RunCancelled)
        assert (ended.policy, ended.drained) == ("drain", False)
        assert len(world.facts(UsageRecorded)) == 1


async def test_leaving_a_run_that_has_ended_does_nothing() -> None:
    """A hang-up that is noticed too late changes no fact."""
    async with house(one(), extra={"a": ScriptedProvider(stream("Hi."))}) as world:
        run = world.start_chat(stream=True)
        await run.task
        names = world.names()
        run.leave()
        assert not run.cancel("operator")
        await turn(5)
        assert world.names() == names


async def test_many_clients_that_leave_keep_nothing_behind() -> None:
    """Hundreds of hang-ups at different moments leave no run, hold, slot, timer or connection."""
    async with Upstream() as up:
        async with house(one(up.url, max_concurrency=8, max_queue=1_000)) as world:
            runs = [world.start_chat(stream=True) for _ in range(200)]
            for n, run in enumerate(runs):
                if n % 3 == 0:
                    await turn()
                if n % 2:
                    run.leave()
            replies = [await run.task for run in runs]
            assert {reply.status for reply in replies} == {200, 499}
            assert all(run._drain_timer is None or run._drain_timer.cancelled() for run in runs)
        await up.connections_closed()
