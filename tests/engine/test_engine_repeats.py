"""Requests that are sent again under one idempotency key: what reaches the provider, what the client is told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from engine_fakes import EVENTS, ManualClock, Script, ScriptedProvider, error, stream, unary, until
from engine_world import Taker, World, house, one, two

from palyra.engine.run import Reply
from palyra.events.runs import RequestServed, RunRefused
from palyra.journal.sqlite import SqliteJournal
from palyra.limits import REPEAT_MAX_BYTES, REPEAT_TTL_US
from palyra.projections.usage import total_of

NAME = {"changes": {"command_name": "n"}}


def code_of(reply: Reply) -> str:
    assert reply.refusal is not None
    return reply.refusal.code


async def again(world: World, **body: Any) -> Reply:
    """Send the request with the key."""
    return await world.chat(**{**NAME, **body})


async def test_a_repeat_gets_the_same_bytes_and_costs_nothing() -> None:
    """One call reaches the provider; the repeat is a request that was served, and no run."""
    fake = ScriptedProvider()
    async with house(one(), extra={"a": fake}) as world:
        first, second = await again(world), await again(world)
        assert len(fake.calls) == 1
        assert (second.status, second.body) == (first.status, first.body)
        assert second.headers == {**first.headers, "x-palyra-idempotent-replay": "true"}
        assert second.headers["x-palyra-run-id"] == first.run_id
        await world.core.durable()
        assert world.facts(RequestServed) == [
            RequestServed(endpoint="chat", principal_id="key:test", http_status=200)
        ]
        assert total_of(world.state).rows_count == 1


async def test_a_stream_is_repeated_byte_for_byte() -> None:
    """Head and events are those of the first time, in one piece."""
    fake = ScriptedProvider()
    async with house(one(), extra={"a": fake}) as world:
        first, second = Taker(), Taker()
        await again(world, client=first, stream=True)
        reply = await again(world, client=second, stream=True)
        assert len(fake.calls) == 1
        assert second.data == first.data
        assert second.is_complete
        assert (reply.status, second.sends) == (200, 1)
        assert second.headers == {**first.headers, "x-palyra-idempotent-replay": "true"}


async def test_another_body_is_refused() -> None:
    """422, and nothing is sent."""
    fake = ScriptedProvider()
    async with house(one(), extra={"a": fake}) as world:
        await again(world)
        reply = await again(world, text="Something else.")
        assert (reply.status, code_of(reply)) == (422, "idempotency_key_reused")
        assert len(fake.calls) == 1
        assert [refused.code for refused in world.facts(RunRefused)] == ["idempotency_key_reused"]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_of_a_hundred_at_once_one_is_made(is_streamed: bool) -> None:
    """All others are told to wait; afterwards they get its answer."""
    head = asyncio.Event()
    script = stream("One.") if is_streamed else unary("One.")
    script.head = head
    fake = ScriptedProvider(script)
    async with house(one(), extra={"a": fake}) as world:
        runs = [world.start_chat(stream=is_streamed, **NAME) for _ in range(100)]
        replies = [await run.task for run in runs[1:]]
        assert {code_of(reply) for reply in replies} == {"idempotency_in_progress"}
        assert {reply.headers["retry-after"] for reply in replies} == {"1"}
        head.set()
        await runs[0].task
        assert (await again(world, stream=is_streamed)).status == 200
        assert len(fake.calls) == 1


async def test_a_failed_request_that_cost_nothing_is_made_again() -> None:
    """Each time anew, as long as nothing came of it; the answer that comes in the end is then repeated."""
    fake = ScriptedProvider(error(400), error(400))
    async with house(one(), extra={"a": fake}) as world:
        statuses = [(await again(world)).status for _ in range(4)]
        assert statuses == [400, 400, 200, 200]
        assert len(fake.calls) == 3
        keys = [row.command_key for row in world.rows() if row.command_key]
        assert keys == ["n#0", "n#1", "n#2"]


async def test_a_failure_that_may_have_cost_something_is_repeated() -> None:
    """The provider may have billed the answer that it broke off: the repeat is told the same."""
    fake = ScriptedProvider(Script(b'{"choices": ['), Script(b'{"choices": ['))
    async with house(one(), extra={"a": fake}) as world:
        first, second = await again(world), await again(world)
        assert first.status == second.status == 502
        assert json.loads(second.body or b"") == json.loads(first.body or b"")
        assert len(fake.calls) == 1


async def test_a_stream_that_failed_after_content_is_repeated_with_its_error() -> None:
    """Not a byte of it is asked for again."""
    fake = ScriptedProvider(stream("Half ", ending=()))
    async with house(one(), extra={"a": fake}) as world:
        first, second = Taker(), Taker()
        await again(world, client=first, stream=True)
        await again(world, client=second, stream=True)
        assert first.error is not None
        assert second.data == first.data
        assert len(fake.calls) == 1


async def test_failover_is_part_of_one_command() -> None:
    """The repeat tells of it as the first answer did."""
    bad, good = ScriptedProvider(error(503)), ScriptedProvider()
    async with house(two(), extra={"a": bad, "b": good}) as world:
        await again(world)
        reply = await again(world)
        assert reply.headers["x-palyra-failover"] == "a/m>b/m"
        assert (len(bad.calls), len(good.calls)) == (1, 1)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_who_hung_up_gets_the_drained_answer(is_streamed: bool) -> None:
    """A lost connection is what keys are for: the answer was read to its end and is there."""
    fake = ScriptedProvider(stream("One ", "two.") if is_streamed else unary("One two."))
    async with house(one(on_client_disconnect="drain"), extra={"a": fake}) as world:
        run = world.start_chat(client=Taker(1) if is_streamed else None, stream=is_streamed, **NAME)
        if not is_streamed:
            await until(lambda: len(fake.calls) == 1)
            run.leave()
        assert (await run.task).status == 499
        taker = Taker()
        reply = await again(world, client=taker if is_streamed else None, stream=is_streamed)
        assert reply.status == 200
        assert taker.text == "One two." if is_streamed else b"One two." in (reply.body or b"")
        assert taker.is_complete == is_streamed
        assert len(fake.calls) == 1


async def test_who_hung_up_is_told_where_the_answer_was_given_up() -> None:
    """It was cancelled with its client: what it used is told, and it is not made twice."""
    fake = ScriptedProvider(stream("One ", "two."))
    async with house(one(on_client_disconnect="cancel"), extra={"a": fake}) as world:
        first = await again(world, client=Taker(1), stream=True)
        reply = await again(world, stream=True)
        assert (reply.status, code_of(reply)) == (409, "idempotency_result_gone")
        palyra = json.loads(reply.body or b"")["palyra"]
        assert palyra["of_run_id"] == first.run_id
        assert palyra["usage"]["input_tokens"] > 0
        assert len(fake.calls) == 1


async def test_answers_are_kept_for_a_quarter_of_an_hour() -> None:
    """Then the key still holds, without an answer."""
    fake, clock = ScriptedProvider(), ManualClock()
    async with house(one(), extra={"a": fake}, clock=clock) as world:
        await again(world)
        clock.us += REPEAT_TTL_US - 1
        assert (await again(world)).status == 200
        clock.us += 1
        assert code_of(await again(world)) == "idempotency_result_gone"
        assert len(fake.calls) == 1


async def test_a_huge_answer_is_not_kept() -> None:
    """It cannot push out all others; its key holds all the same."""
    fake = ScriptedProvider(stream(*["x" * (REPEAT_MAX_BYTES // 4)] * 5))
    async with house(one(of_model={"max_tokens_per_event": 100_000_000}), extra={"a": fake}) as world:
        await again(world, stream=True)
        assert code_of(await again(world, stream=True)) == "idempotency_result_gone"


async def test_a_key_outlives_the_process(tmp_path: Path) -> None:
    """After a restart the answer is gone, and the provider is not asked again."""
    fake = ScriptedProvider()
    for code in ("", "idempotency_result_gone"):
        journal = await SqliteJournal.open(tmp_path / "journal.db", new_journal_id="01TEST", now_us=1)
        async with house(one(), extra={"a": fake}, journal=journal) as world:
            reply = await again(world)
            assert (code_of(reply) if code else "") == code
    assert len(fake.calls) == 1


async def test_two_callers_have_keys_of_their_own() -> None:
    """One name each; both are made."""
    fake = ScriptedProvider()
    async with house(one(), extra={"a": fake}) as world:
        for name in ("n", "m"):
            await world.chat(changes={"command_name": name})
        assert len(fake.calls) == 2


async def test_content_type_of_a_scripted_stream_is_its_own() -> None:
    """A repeat of a stream whose failure came before its head is a plain answer, as it was."""
    fake = ScriptedProvider(Script(b"data: {", headers=EVENTS))
    async with house(one(), extra={"a": fake}) as world:
        first, second = await again(world, stream=True), await again(world, stream=True)
        assert first.body is not None
        assert (second.status, second.body) == (first.status, first.body)
        assert len(fake.calls) == 1
