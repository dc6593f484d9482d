"""Record before act: what is durable before which byte leaves, and how many commits that takes."""

from __future__ import annotations

import asyncio

import pytest
from engine_fakes import GatedJournal, Script, ScriptedProvider, error, turn, until
from engine_world import HAPPY, Taker, house, model, one, registry, two
from upstream import Behaviour, Upstream

from palyra.decisions.runs import AdmitRun
from palyra.errors import Refusal
from palyra.events.runs import RunRefused
from palyra.events.usage import UsageRecorded
from palyra.limits import PENDING_EVENTS_MAX_COUNT
from palyra.projections.budgets import reserved_tokens

A = ["run.admitted", "routing.decided"]
B = ["attempt.started"]
C = ["attempt.succeeded", "usage.recorded", "run.completed"]


async def test_nothing_leaves_before_its_start_is_durable() -> None:
    """Admission and start are one commit where a slot is free, and upstream sees no connection before it."""
    journal = GatedJournal()
    async with Upstream() as up, house(one(up.url), journal=journal) as world:
        journal.hold()
        run = world.start_chat()
        assert await journal.begun(1) == A + B
        await turn(20)
        assert up.requests == []
        assert up.connection_count == 0
        assert reserved_tokens(world.state) > 0
        journal.allow()
        await up.request_arrived()
        journal.let_go()
        assert (await run.task).status == 200


async def test_unary_reply_waits_for_its_settlement() -> None:
    """The answer's bytes are there, but the reply is not given before its usage is durable."""
    journal = GatedJournal()
    async with Upstream() as up, house(one(up.url), journal=journal) as world:
        journal.hold()
        run = world.start_chat()
        journal.allow()
        assert (await journal.begun(2))[:3] == C
        await turn(20)
        assert not run.task.done()
        assert world.rows()[-1].name == "attempt.started"
        journal.allow()
        assert (await run.task).status == 200
        assert world.names(run.run_id) == HAPPY


async def test_last_event_of_a_stream_waits_for_its_settlement() -> None:
    """All content is relayed at once; `[DONE]` comes when the usage is durable."""
    journal = GatedJournal()
    async with Upstream() as up, house(one(up.url), journal=journal) as world:
        journal.hold()
        taker = Taker()
        run = world.start_chat(client=taker, stream=True)
        await journal.begun(1)
        await turn(20)
        assert taker.begun_count == 0
        journal.allow()
        assert (await journal.begun(2))[:3] == C
        await turn(20)
        assert taker.text == "Hello from upstream."
        assert not taker.is_complete
        journal.allow()
        reply = await run.task
        assert (reply.status, reply.body) == (200, None)
        assert taker.is_complete


async def test_run_that_waits_holds_nothing() -> None:
    """A run without a slot is admitted alone; its start is decided and recorded when it is its turn."""
    journal, fake = GatedJournal(), ScriptedProvider()
    async with house(one(max_concurrency=1), journal=journal, extra={"a": fake}) as world:
        journal.hold()
        first, second = world.start_chat(), world.start_chat()
        assert await journal.begun(1) == A + B + A
        assert [run_id for run_id, run in world.state.runs.open.items() if run.attempt] == [first.run_id]
        journal.let_go()
        assert (await first.task).status == 200
        assert (await second.task).status == 200
        assert journal.commits[1:] == [[*C, "health.changed"], B, C]


@pytest.mark.parametrize("ending", ["retry", "failover"])
async def test_each_attempt_has_a_start_of_its_own(ending: str) -> None:
    """The next call, to the same provider or another, does not leave before it is recorded."""
    journal = GatedJournal()
    first, other = ScriptedProvider(error(500)), ScriptedProvider()
    config = two(max_retries=1) if ending == "retry" else two()
    calls = first.calls if ending == "retry" else other.calls
    before = 1 if ending == "retry" else 0
    async with house(config, journal=journal, extra={"a": first, "b": other}) as world:
        journal.hold()
        run = world.start_chat()
        journal.allow(2)
        assert await journal.begun(3) == B
        await turn(20)
        assert len(calls) == before
        journal.let_go()
        assert (await run.task).status == 200
        assert len(calls) == before + 1


async def test_parts_of_a_request_start_one_by_one() -> None:
    """Each part of a long embeddings request is reserved when the part before it is settled."""
    journal, fake = GatedJournal(), ScriptedProvider()
    config = registry(
        one().providers[0], model("e", "a", role="embeddings", max_batch=1), default_embeddings_model_id="e"
    )
    async with house(config, journal=journal, extra={"a": fake}) as world:
        journal.hold()
        run = world.start({"model": "e", "input": ["a", "b"]})
        journal.allow(2)
        assert await journal.begun(3) == B
        await turn(20)
        assert len(fake.calls) == 1
        journal.let_go()
        assert (await run.task).status == 200


async def test_run_that_crashed_in_the_queue_bills_nothing() -> None:
    """A process that dies while a run waits leaves neither hold nor attempt; the next one ends it without usage."""
    journal, gate = GatedJournal(), asyncio.Event()
    fake = ScriptedProvider(Script(head=gate))
    async with house(one(max_concurrency=1), journal=journal, extra={"a": fake}) as world:
        started, queued = world.start_chat(), world.start_chat()
        await until(lambda: bool(fake.calls) and journal.pending_count == 0)
        before_crash = list(journal.rows)
        gate.set()
        await asyncio.gather(started.task, queued.task)
    journal = GatedJournal()
    await journal.append(before_crash)
    async with house(one(), journal=journal) as later:
        await later.core.on_rebuilt()  # type: ignore[misc]
        assert later.names(queued.run_id) == [*A, "run.failed"]
        assert later.facts(UsageRecorded, queued.run_id) == []
        assert "attempt.abandoned" in later.names(started.run_id)


async def test_refused_request_is_recorded_before_it_is_told() -> None:
    """A request that nobody can serve leaves `run.refused`, durable before the client hears of it."""
    journal = GatedJournal()
    async with house(one(), journal=journal) as world:
        journal.hold()
        run = world.start_chat(model="unknown")
        assert await journal.begun(1) == ["run.refused"]
        await turn(20)
        assert not run.task.done()
        journal.let_go()
        reply = await run.task
        assert (reply.status, reply.refusal and reply.refusal.code) == (404, "model_not_found")


async def test_slot_is_free_when_the_settlement_is_decided() -> None:
    """The next in the queue starts while the settlement is on its way to the disk, in the very next commit."""
    journal, fake = GatedJournal(), ScriptedProvider()
    async with house(one(max_concurrency=1), journal=journal, extra={"a": fake}) as world:
        journal.hold()
        first, second = world.start_chat(), world.start_chat()
        journal.allow(1)
        assert "run.completed" in await journal.begun(2)
        await turn(5)
        assert world.state.runs.open[second.run_id].attempt is not None
        assert len(fake.calls) == 1
        journal.let_go()
        await asyncio.gather(first.task, second.task)
        assert journal.commits[2] == B


async def test_bytes_of_the_request_arrive_as_they_were_sent() -> None:
    """What leaves is the client's body but for the named edits, which are recorded with the start."""
    async with Upstream() as up, house(one(up.url, of_model={"upstream_model": "gpt-x"})) as world:
        up.reply_with(Behaviour(text="Yes."))
        reply = await world.chat("No?", temperature=0.25, stream=True)
        sent = up.requests[0].json
        assert sent["temperature"] == 0.25
        assert sent["model"] == "gpt-x"
        assert sent["stream_options"] == {"include_usage": True}
        started = next(row for row in world.rows() if row.name == "attempt.started")
        assert b'"edits":["model","stream_options.include_usage"]' in started.body
        assert reply.headers["x-palyra-model"] == "m"


async def test_refusal_before_a_run_is_recorded() -> None:
    """A request that is refused at the door leaves the same fact, durable before it is told."""
    journal = GatedJournal()
    async with house(one(), journal=journal) as world:
        command = AdmitRun(
            run_id="01X", principal_id="key:test", endpoint="chat", raw_tokens=0, body_digest="", body_bytes=0
        )
        journal.hold()
        refusal = Refusal(code="draining", message="", retry_after_ms=5)
        told = asyncio.ensure_future(world.runs.refuse(command, refusal))
        assert await journal.begun(1) == ["run.refused"]
        await turn(5)
        assert not told.done()
        journal.let_go()
        await told
        (refused,) = world.facts(RunRefused)
        assert (refused.code, refused.http_status, refused.retry_after_ms) == ("draining", 503, 5)


async def test_engine_is_busy_when_too_much_waits_for_the_disk() -> None:
    """The count of facts that are not durable yet says when to refuse work."""
    journal = GatedJournal()
    async with house(one(), journal=journal) as world:
        journal.hold()
        assert not world.core.is_busy
        for _ in range(PENDING_EVENTS_MAX_COUNT + 1):
            world.runs.served(endpoint="models", principal_id="key:test", http_status=200)
        assert world.core.is_busy
        journal.let_go()
        await world.core.durable()
        assert not world.core.is_busy
