"""Approvals on the engine: grants that runs race for, and requests that wait for somebody to decide."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from budget_kit import Audit, rule
from engine_fakes import ManualClock, ScriptedProvider, turn, unary
from engine_world import World, fold, one

from palyra.decisions.approvals import Verdict, decide_approval, override
from palyra.decisions.redecide import redecide
from palyra.engine.boot import recover
from palyra.engine.budgets import adopt_file_policies
from palyra.engine.capture import capture, encode_capsule
from palyra.engine.codec import to_recorded
from palyra.engine.run import Reply
from palyra.errors import Refusal
from palyra.events.approvals import ApprovalGranted, ApprovalRequested, ApprovalUsed
from palyra.events.attempts import AttemptStarted
from palyra.events.runs import RunAdmitted, RunHeld, RunRefused, RunResumed
from palyra.journal.sqlite import SqliteJournal
from palyra.projections.approvals import open_approvals
from palyra.projections.state import encode_state

#: Nothing fits without a grant.
CLOSED = rule("closed", hard_limit=0, on_hard="approval_required", managed_by="file")
USES = 7


async def make(*rules: Any, **arguments: Any) -> World:
    offer = one(of_model={"max_output_tokens": 50}, max_concurrency=64)
    world = await World.make(offer, extra={"a": ScriptedProvider()}, **arguments)
    await adopt_file_policies(world.core, rules or [CLOSED])
    return world


def code_of(reply: Reply) -> str:
    return "" if reply.refusal is None else reply.refusal.code


async def grant_ahead(world: World, uses: int, amount: int = 10**6) -> None:
    policy = world.state.budgets.policies["closed"]
    wanted = Verdict(is_granted=True, uses_max=uses, amount_max=amount)
    made = override(world.state, policy, "key:test", wanted, now_us=world.core.clock.now_us())
    assert not isinstance(made, Refusal)
    await world.core.record(made)


async def decide(world: World, *, is_granted: bool = True, uses: int = 1, amount: int | None = None) -> None:
    now_us = world.core.clock.now_us()
    asked = open_approvals(world.state, now_us)[0]
    verdict = Verdict(is_granted=is_granted, uses_max=uses, amount_max=amount)
    made = decide_approval(world.state, asked, verdict, by="operator", now_us=now_us)
    assert not isinstance(made, Refusal)
    await world.core.record(made)


async def end(world: World) -> None:
    await world.runs.wait_until_idle()
    await world.core.durable()
    world.audit()
    Audit().enter([to_recorded(row) for row in world.rows()])
    await world.close()


@pytest.mark.parametrize("concurrency", [1, 64])
async def test_so_many_uses_admit_so_many_of_fifty_runs(concurrency: int) -> None:
    """Fifty runs race for a grant of seven uses: seven start, and none of the others ever does."""
    offer = one(of_model={"max_output_tokens": 50}, max_concurrency=concurrency)
    world = await World.make(offer, extra={"a": ScriptedProvider()})
    await adopt_file_policies(world.core, [CLOSED])
    await grant_ahead(world, USES)
    replies = await asyncio.gather(*(world.start_chat().task for _ in range(50)))
    assert Counter(map(code_of, replies)) == {"": USES, "budget_approval_required": 50 - USES}
    assert len(world.facts(AttemptStarted)) == len(world.facts(ApprovalUsed)) == USES
    assert len(world.facts(ApprovalRequested)) == 2  # the one ahead of time, and one of all those that came late
    await end(world)


async def test_uses_are_not_given_twice_across_a_crash(tmp_path: Path) -> None:
    """What a process had drawn when it died stays drawn, and what it held is refused: the next one goes on."""
    first = await make(journal=await open_at(tmp_path))
    await grant_ahead(first, 3)
    gate = asyncio.Event()
    first.providers["a"] = ScriptedProvider(default=lambda call: _waits(gate))
    left = [first.start_chat() for _ in range(2)]
    await _until(lambda: len(first.state.budgets.holds) == 2)
    waiting = await held(first, principal_id="key:late")
    await first.core.durable()
    # What a kill leaves behind is what is on the disk at that moment.
    (tmp_path / "killed").mkdir()
    for file in tmp_path.glob("journal.db*"):
        shutil.copy(file, tmp_path / "killed" / file.name)
    gate.set()
    await asyncio.gather(*(run.task for run in left))
    waiting.leave()
    await waiting.task
    await first.close()
    second = await make(journal=await open_at(tmp_path / "killed"))
    await recover(second.core, "boot-2")
    assert [approval.uses_left for approval in second.state.approvals.by_id.values()] == [1, 0]
    assert [one.code for one in second.facts(RunRefused)] == ["interrupted"]
    replies = [await second.chat() for _ in range(3)]
    assert [code_of(reply) for reply in replies] == ["", "budget_approval_required", "budget_approval_required"]
    assert encode_state(fold(second.rows())) == encode_state(second.state)
    await close(second)


async def open_at(directory: Path) -> SqliteJournal:
    return await SqliteJournal.open(directory / "journal.db", new_journal_id="01TEST", now_us=1)


def _waits(gate: asyncio.Event) -> Any:
    script = unary()
    script.head = gate
    return script


async def _until(is_so: Any) -> None:
    while not is_so():
        await asyncio.sleep(0)


# -- held requests


async def held(world: World, **changes: Any) -> Any:
    """Start a request that waits, and let it come to where it waits."""
    run = world.start_chat(changes={"wait_approval_ms": 60_000, **changes})
    await _until(lambda: run.run_id in world.state.approvals.held or run.task.done())
    return run


async def test_a_held_request_is_admitted_when_somebody_says_yes() -> None:
    """It is admitted for the instant of the grant, holds nothing before it, and tells how long it has waited."""
    clock = ManualClock()
    world = await make(clock=clock)
    run = await held(world)
    assert world.state.runs.open == {}
    assert world.state.budgets.holds == {}
    clock.pass_ms(5_000)
    await decide(world)
    assert code_of(await run.task) == ""
    names = world.names(run.run_id)
    assert names[:4] == ["run.held", "run.resumed", "run.admitted", "routing.decided"]
    assert world.facts(RunResumed)[0].waited_ms == 5_000
    assert world.facts(RunHeld)[0].approval_ids == list(world.state.approvals.by_id)
    admitted = next(row for row in world.rows() if row.name == "run.admitted")
    assert admitted.recorded_at_us == clock.now_us()
    await close(world)


async def close(world: World) -> None:
    """Like `end`, for stories that begin before their admission."""
    await world.runs.wait_until_idle()
    await world.core.durable()
    assert world.bugs == []
    assert world.state.runs.open == {}
    assert world.state.approvals.held == {}
    assert encode_state(fold(world.rows())) == encode_state(world.state)
    Audit().enter([to_recorded(row) for row in world.rows()])
    await world.close()


async def test_a_held_request_is_refused_when_somebody_says_no() -> None:
    """It ends with the refusal that it would have had, and nothing was sent."""
    world = await make()
    run = await held(world)
    await decide(world, is_granted=False)
    assert code_of(await run.task) == "budget_approval_denied"
    assert world.names(run.run_id) == ["run.held", "routing.decided", "run.refused"]
    await close(world)


async def test_a_held_request_gives_up_in_time() -> None:
    """Nobody has decided: it is refused like one that did not wait, and its request stays open."""
    world = await make()
    run = world.start_chat(changes={"wait_approval_ms": 1})
    assert code_of(await run.task) == "budget_approval_required"
    assert world.names(run.run_id)[0] == "run.held"
    assert len(open_approvals(world.state, world.core.clock.now_us())) == 1
    await close(world)


async def test_of_those_that_wait_for_one_use_one_goes_on() -> None:
    """The others ask anew and wait on; each grant wakes all, and lets through as many as it has uses."""
    world = await make()
    runs = [await held(world) for _ in range(5)]
    await decide(world, uses=2, amount=10**6)
    await _until(lambda: sum(run.task.done() for run in runs) == 2)
    await turn(50)
    assert sum(run.task.done() for run in runs) == 2
    assert len(world.state.approvals.held) == 3
    await decide(world, uses=3, amount=10**6)
    assert [code_of(reply) for reply in await asyncio.gather(*(run.task for run in runs))] == [""] * 5
    assert len(world.facts(ApprovalGranted)) == 2
    await close(world)


@pytest.mark.parametrize(("reason", "code"), [("client", "client_disconnected"), ("shutdown", "draining")])
async def test_a_held_request_ends_with_its_client_or_the_daemon(reason: Any, code: str) -> None:
    """It leaves a fact, and never becomes a run."""
    world = await make()
    run = await held(world)
    if reason == "client":
        run.leave()
    else:
        await world.runs.cancel_all(reason)
    assert code_of(await run.task) == code
    assert world.facts(RunRefused)[0].code == code
    assert world.facts(RunAdmitted) == []
    await close(world)


async def test_a_rule_that_goes_away_lets_held_requests_pass() -> None:
    """They listen for the rule as well: what is in nobody's way any more goes on."""
    world = await make()
    run = await held(world)
    await adopt_file_policies(world.core, [])
    assert code_of(await run.task) == ""
    await close(world)


async def test_capsules_of_what_was_asked_held_and_granted_are_decided_again(tmp_path: Path) -> None:
    """Each of them gives the same facts from the capsule alone, and names nobody who asked or granted."""
    world = await make(journal=await open_at(tmp_path))
    refused = await world.chat(changes={"principal_id": "key:somebody"})
    held_run = await held(world, principal_id="key:somebody")
    await decide(world, uses=2, amount=10**6)
    await held_run.task
    granted = await world.chat(changes={"principal_id": "key:somebody"})
    waited = world.start_chat(changes={"wait_approval_ms": 1, "principal_id": "key:else"})
    await waited.task
    await world.core.durable()
    for run_id in (refused.run_id, held_run.run_id, granted.run_id, waited.run_id):
        capsule = capture(tmp_path / "journal.db", run_id)
        assert redecide(capsule).difference is None
        text = encode_capsule(capsule)
        assert b"key:somebody" not in text
        assert b"key:else" not in text
        assert b"operator" not in text
    await close(world)


async def test_a_capsule_of_a_request_that_a_second_rule_stopped_while_it_was_held(tmp_path: Path) -> None:
    """What it asks for on the way is given to whoever decides it again, like the time that it waited."""
    world = await make(journal=await open_at(tmp_path))
    waiting = await held(world)
    later = rule("later", hard_limit=0, on_hard="approval_required", managed_by="file")
    await adopt_file_policies(world.core, [CLOSED, later])
    await decide(world, amount=10**6)
    await _until(lambda: [one.request.policy_id for one in open_approvals(world.state, 0)] == ["later"])
    await decide(world, amount=10**6)
    assert code_of(await waiting.task) == ""
    await world.core.durable()
    assert redecide(capture(tmp_path / "journal.db", waiting.run_id)).difference is None
    await close(world)


async def test_a_capsule_of_a_run_that_lost_its_use_on_the_way(tmp_path: Path) -> None:
    """It was let in, waited for a slot, and another run drew the last use: it asks, and fails."""
    offer = one(of_model={"max_output_tokens": 50}, max_concurrency=1)
    gate = asyncio.Event()
    provider = ScriptedProvider(default=lambda call: _waits(gate))
    world = await World.make(offer, extra={"a": provider}, journal=await open_at(tmp_path))
    await adopt_file_policies(world.core, [CLOSED])
    await grant_ahead(world, 2)
    runs = [world.start_chat() for _ in range(3)]
    await _until(lambda: len(world.state.runs.open) == 3)
    gate.set()
    replies = await asyncio.gather(*(run.task for run in runs))
    assert [code_of(reply) for reply in replies] == ["", "", "budget_approval_required"]
    await world.core.durable()
    for reply in replies:
        assert redecide(capture(tmp_path / "journal.db", reply.run_id)).difference is None
    await end(world)
