"""Retries with recorded waits, and circuits over many runs: thresholds, trials, restarts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_fakes import (
    EVENTS,
    ROLE,
    ManualClock,
    Script,
    ScriptedProvider,
    cut,
    error,
    event,
    good_answer,
    turn,
    unary,
    until,
)
from engine_world import HAPPY, Taker, World, house, model, one, provider, registry, two
from upstream import Behaviour, Upstream

from palyra.events.attempts import AttemptFailed, AttemptStarted
from palyra.events.circuits import CircuitClosed, CircuitHalfOpened, CircuitOpened
from palyra.events.models import ModelExcluded
from palyra.events.registry import Registry
from palyra.events.runs import RunFailed
from palyra.journal.memory import MemoryJournal

COOLDOWN_MS = 30_000


async def test_waits_are_recorded_and_kept() -> None:
    """Each retry waits half its step and a recorded share of the other half; the last one ends the run."""
    fake = ScriptedProvider(error(500), error(500), error(500))
    async with house(one(max_retries=2, retry_backoff_ms=4), extra={"a": fake}) as world:
        reply = await world.chat()
        assert reply.status == 502
        waits = [failed.wait_ms for failed in world.facts(AttemptFailed)]
        assert waits[2] is None
        assert 2 <= waits[0] <= 4
        assert 4 <= waits[1] <= 8
        assert [(one.candidate, one.retry) for one in world.facts(AttemptStarted)] == [(0, 0), (0, 1), (0, 2)]
        assert len(fake.calls) == 3


async def test_retry_that_succeeds_is_one_clean_answer() -> None:
    """After a retry the client sees one answer, two attempts and no failover."""
    fake = ScriptedProvider(Script(ROLE, cut(), headers=EVENTS))
    async with house(one(max_retries=1), extra={"a": fake}) as world:
        taker = Taker()
        reply = await world.chat(client=taker, stream=True)
        assert reply.status == 200
        assert taker.text == "Hello."
        assert taker.headers["x-palyra-attempts"] == "2"
        assert "x-palyra-failover" not in taker.headers


async def test_retries_are_spent_before_another_candidate() -> None:
    """A candidate is tried again before the next one is; that one has retries of its own."""
    first, other = ScriptedProvider(error(500), error(502)), ScriptedProvider(error(503))
    config = registry(
        provider("a", max_retries=1),
        provider("b", max_retries=1),
        model("m", "a"),
        model("m", "b", priority=200),
    )
    async with house(config, extra={"a": first, "b": other}) as world:
        reply = await world.chat()
        assert reply.status == 200
        started = [(one.candidate, one.retry) for one in world.facts(AttemptStarted)]
        assert started == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert reply.headers["x-palyra-attempts"] == "4"


async def test_a_limit_that_is_used_up_says_when_it_begins_anew() -> None:
    """Where a provider says no more than that; of an error that is no limit it means nothing."""
    spent = {"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "4ms"}
    fake = ScriptedProvider(error(429, **spent), unary(), error(503, **spent))
    async with house(one(max_retries=1), extra={"a": fake}) as world:
        assert (await world.chat()).status == 200
        await world.chat()
        told = [failed.retry_after_ms for failed in world.facts(AttemptFailed)]
        assert told[:2] == [4, None]


async def test_retry_after_is_waited_for_up_to_its_cap() -> None:
    """What a provider asks for is waited for; past the cap there is no retry, and the client is told when."""
    fake = ScriptedProvider(error(429, retry_after_ms="3"), unary(), error(429, retry_after="20"))
    async with house(one(max_retries=2), extra={"a": fake}) as world:
        assert (await world.chat()).status == 200
        (failed,) = world.facts(AttemptFailed)
        assert failed.retry_after_ms == 3
        assert 3 <= failed.wait_ms <= 3 + 250
        reply = await world.chat()
        assert (reply.status, reply.refusal.code) == (429, "rate_limited")
        assert reply.headers["retry-after"] == "20"
        assert world.facts(AttemptFailed)[1].wait_ms is None
        assert len(fake.calls) == 3


async def test_long_pause_is_left_at_once_for_another_candidate() -> None:
    """A 429 that asks for more than a second goes to the next candidate without waiting."""
    first, other = ScriptedProvider(error(429, retry_after="2")), ScriptedProvider()
    async with house(two(max_retries=2), extra={"a": first, "b": other}) as world:
        reply = await world.chat()
        assert reply.headers["x-palyra-failover"] == "a/m>b/m"
        assert len(first.calls) == 1


@pytest.mark.parametrize(("said", "count"), [("true", 3), ("false", 1)])
async def test_provider_may_overrule_the_table(said: str, count: int) -> None:
    """`x-should-retry` decides for or against a retry, whatever the class says."""
    status = 400 if said == "true" else 500
    fake = ScriptedProvider(*[error(status, x_should_retry=said)] * 3)
    async with house(one(max_retries=2), extra={"a": fake}) as world:
        await world.chat()
        assert len(fake.calls) == count


async def test_retry_does_not_outlive_the_run() -> None:
    """A wait that would end after the run's deadline is not begun."""
    fake = ScriptedProvider(error(500))
    async with house(one(max_retries=2, retry_backoff_ms=2_000), extra={"a": fake}) as world:
        reply = await world.chat(changes={"timeout_ms": 500})
        assert reply.status == 502
        assert world.facts(AttemptFailed)[0].wait_ms is None


# -- circuits


def outage() -> ScriptedProvider:
    """Return a provider that fails until it is told otherwise."""
    return ScriptedProvider(default=lambda call: error(500))


def heal(fake: ScriptedProvider) -> None:
    """Let it answer well from now on."""
    fake.default = good_answer


def broken(threshold: int = 3) -> Registry:
    return one(circuit_breaker_failure_threshold=threshold, circuit_breaker_cooldown_ms=COOLDOWN_MS)


async def test_outage_reaches_upstream_threshold_times() -> None:
    """Fifteen requests to a provider that is down: the threshold's worth reach it, then one trial a cooldown."""
    clock, fake = ManualClock(), outage()
    async with house(broken(), extra={"a": fake}, clock=clock) as world:
        replies = [await world.chat() for _ in range(15)]
        assert len(fake.calls) == 3
        assert [reply.refusal.code for reply in replies[3:]] == ["all_circuits_open"] * 12
        assert replies[3].headers["retry-after"] == "30"
        clock.pass_ms(COOLDOWN_MS)
        for _ in range(5):
            await world.chat()
        assert len(fake.calls) == 4
        reasons = [opened.reason for opened in world.facts(CircuitOpened)]
        assert reasons == ["threshold", "trial_failed"]
        clock.pass_ms(COOLDOWN_MS)
        heal(fake)
        assert (await world.chat()).status == 200
        assert world.state.circuits.by_provider["a"].status == "closed"
        assert (await world.chat()).status == 200


async def test_retries_count_one_by_one() -> None:
    """Retries of one run open the circuit as well, and then stop."""
    fake = outage()
    async with house(one(max_retries=9, circuit_breaker_failure_threshold=3), extra={"a": fake}) as world:
        assert (await world.chat()).status == 502
        assert len(fake.calls) == 3
        assert [failed.wait_ms is None for failed in world.facts(AttemptFailed)] == [False, False, True]


async def test_one_trial_under_a_hundred_callers() -> None:
    """Of a hundred callers at the end of a cooldown one passes; the others are told to wait."""
    clock, fake = ManualClock(), outage()
    async with house(broken(), extra={"a": fake}, clock=clock) as world:
        for _ in range(3):
            await world.chat()
        clock.pass_ms(COOLDOWN_MS)
        gate = asyncio.Event()
        fake.script(Script(*unary().pieces, head=gate))
        runs = [world.start_chat() for _ in range(100)]
        await until(lambda: sum(run.task.done() for run in runs) == 99)
        assert len(fake.calls) == 4
        gate.set()
        replies = [await run.task for run in runs]
        assert sorted(reply.status for reply in replies) == [200] + [503] * 99
        assert len(world.facts(CircuitHalfOpened)) == len(world.facts(CircuitClosed)) == 1


async def test_trial_closes_its_circuit_with_the_first_content() -> None:
    """A long stream that proves the provider well lets others pass before it ends."""
    clock, fake = ManualClock(), outage()
    async with house(broken(), extra={"a": fake}, clock=clock) as world:
        for _ in range(3):
            await world.chat()
        clock.pass_ms(COOLDOWN_MS)
        heal(fake)
        gate = asyncio.Event()
        fake.script(Script(ROLE, event({"content": "One"}), gate, cut(), headers=EVENTS))
        taker = Taker()
        trial = world.start_chat(client=taker, stream=True)
        await taker.got(b"One")
        assert (await world.chat()).status == 200
        gate.set()
        assert (await trial.task).refusal.code == "stream_truncated"
        assert world.state.circuits.by_provider["a"].status == "closed"
        assert world.state.circuits.by_provider["a"].streak == 1


async def test_trial_that_says_nothing_is_void() -> None:
    """A trial that ends with the caller's mistake or with a cancel opens the circuit again for at once."""
    clock, fake = ManualClock(), outage()
    async with house(broken(), extra={"a": fake}, clock=clock) as world:
        for _ in range(3):
            await world.chat()
        clock.pass_ms(COOLDOWN_MS)
        fake.script(error(400))
        assert (await world.chat()).status == 400
        gate = asyncio.Event()
        fake.script(Script(head=gate))
        trial = world.start_chat()
        await until(lambda: len(fake.calls) == 5)
        trial.cancel("operator")
        assert (await trial.task).status == 499
        assert [opened.reason for opened in world.facts(CircuitOpened)] == ["threshold", "trial_void", "trial_void"]
        heal(fake)
        assert (await world.chat()).status == 200
        assert len(world.facts(CircuitHalfOpened)) == 3


@pytest.mark.parametrize("at", ["closed", "open", "half_open"])
async def test_circuit_survives_a_restart(at: str) -> None:
    """Streak, cooldown and trial are as they were; a trial that died with its process is void."""
    journal = MemoryJournal(journal_id="01TEST", now_us=1)
    clock, fake = ManualClock(), outage()
    world = await World.make(broken(), journal=journal, extra={"a": fake}, clock=clock)
    for _ in range(2 if at == "closed" else 3):
        await world.chat()
    if at == "half_open":
        clock.pass_ms(COOLDOWN_MS)
        fake.script(Script(head=asyncio.Event()))
        hanging = world.start_chat()
        await until(lambda: len(fake.calls) == 4)
        assert world.state.circuits.by_provider["a"].status == "half_open"
    died = MemoryJournal(journal_id="01TEST", now_us=1)
    await died.append(list(journal.rows))
    if at == "half_open":
        hanging.cancel("shutdown")
        await hanging.task
    await world.close()

    fake = outage()
    async with house(broken(), journal=died, extra={"a": fake}, clock=clock) as later:
        await later.core.on_rebuilt()  # type: ignore[misc]
        reply = await later.chat()
        if at == "closed":
            assert (reply.status, len(fake.calls)) == (502, 1)
            assert later.state.circuits.by_provider["a"].status == "open"
        elif at == "open":
            assert (reply.status, len(fake.calls)) == (503, 0)
        else:
            assert (reply.status, len(fake.calls)) == (502, 1)
            reasons = [opened.reason for opened in later.facts(CircuitOpened)]
            assert reasons == ["threshold", "trial_void", "trial_failed"]


async def test_mistakes_of_callers_leave_the_provider_alone() -> None:
    """Fifty requests that are wrong: fifty attempts, no failover, circuit closed, health unharmed."""
    first, other = ScriptedProvider(default=lambda call: error(400, message="bad")), ScriptedProvider()
    async with house(two(max_retries=2), extra={"a": first, "b": other}) as world:
        replies = await asyncio.gather(*(world.start_chat().task for _ in range(50)))
        assert {reply.status for reply in replies} == {400}
        assert (len(first.calls), len(other.calls)) == (50, 0)
        assert world.state.circuits.by_provider == {}
        assert "health.changed" not in world.names()


async def test_circuit_that_opens_in_the_queue_moves_a_run_on() -> None:
    """A run that waited for a slot finds the circuit open, and goes to the next candidate without a byte."""
    gate = asyncio.Event()
    first, other = ScriptedProvider(Script(head=gate, status=500)), ScriptedProvider()
    config = two(max_concurrency=1, circuit_breaker_failure_threshold=1)
    async with house(config, extra={"a": first, "b": other}) as world:
        failing, waiting = world.start_chat(), world.start_chat()
        await until(lambda: first.calls)
        gate.set()
        assert (await waiting.task).status == 200
        await failing.task
        assert (len(first.calls), len(other.calls)) == (1, 2)
        assert world.names(waiting.run_id)[:3] == ["run.admitted", "routing.decided", "routing.failed_over"]


async def test_circuit_that_opens_in_the_queue_of_a_lone_provider_ends_the_run() -> None:
    """Without another candidate the run ends with 503 and the rest of the cooldown, having started nothing."""
    gate, clock = asyncio.Event(), ManualClock()
    fake = ScriptedProvider(Script(head=gate, status=500))
    config = one(max_concurrency=1, circuit_breaker_failure_threshold=1, circuit_breaker_cooldown_ms=7_000)
    async with house(config, extra={"a": fake}, clock=clock) as world:
        failing, waiting = world.start_chat(), world.start_chat()
        await until(lambda: fake.calls)
        gate.set()
        reply = await waiting.task
        await failing.task
        assert (reply.status, reply.refusal.code) == (503, "all_circuits_open")
        assert reply.headers["retry-after"] == "7"
        assert reply.headers["x-palyra-attempts"] == "0"
        assert world.names(waiting.run_id) == ["run.admitted", "routing.decided", "run.failed"]


async def test_circuit_that_opens_in_a_backoff_ends_the_waiting() -> None:
    """A run whose provider's circuit opened while it waited to retry does not call it."""
    fake = outage()
    config = one(max_retries=1, retry_backoff_ms=20, circuit_breaker_failure_threshold=3)
    async with house(config, extra={"a": fake}) as world:
        runs = [world.start_chat() for _ in range(3)]
        replies = [await run.task for run in runs]
        assert len(fake.calls) == 3
        assert sorted(reply.refusal.code for reply in replies) == ["transient_upstream"] + ["upstream_failed"] * 2
        assert sorted(one.failure_class for one in world.facts(RunFailed)) == ["circuit_open"] * 2 + [
            "transient_upstream"
        ]


async def test_model_that_fails_alone_is_left_out_alone() -> None:
    """While the provider's other model answers, the circuit stays closed and the bad model is excluded."""

    def answer(call: Any) -> Script:
        return error(500) if b'"bad"' in call.body else unary()

    alone = provider("a", circuit_breaker_failure_threshold=2)
    config = registry(alone, model("m", "a"), model("bad", "a"), failover_enabled=False)
    fake = ScriptedProvider(default=answer)
    async with house(config, extra={"a": fake}) as world:
        for _ in range(2):
            assert (await world.chat(model="bad")).status == 502
            assert (await world.chat()).status == 200
        assert len(world.facts(ModelExcluded)) == 1
        assert world.facts(CircuitOpened) == []
        assert (await world.chat(model="bad")).status == 503
        assert (await world.chat()).status == 200


async def test_model_that_is_unknown_upstream_is_excluded_at_once() -> None:
    """A 404 for the model takes it out, and the next run goes straight to another candidate."""
    async with Upstream() as bad, Upstream() as good:
        bad.default = Behaviour.error(404, "model_not_found")
        async with house(two(bad.url, good.url)) as world:
            assert (await world.chat()).headers["x-palyra-attempts"] == "2"
            assert (await world.chat()).headers["x-palyra-attempts"] == "1"
            assert len(bad.requests) == 1


async def test_happy_runs_in_parallel_do_not_disturb_each_other() -> None:
    """A hundred runs at once over real sockets: each has the whole story of its own."""
    async with Upstream() as up, house(one(up.url)) as world:
        runs = [world.start_chat(f"Number {n}") for n in range(100)]
        await turn()
        replies = [await run.task for run in runs]
        assert {reply.status for reply in replies} == {200}
        assert all(world.names(run.run_id) == HAPPY for run in runs)
        assert up.connections_made_count <= 32
