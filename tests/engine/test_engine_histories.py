"""Random histories: whatever requests, faults, hang-ups and failing commits come, the books balance."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from budget_kit import rule
from engine_fakes import (
    ManualClock,
    Script,
    ScriptedProvider,
    cut,
    embeddings,
    error,
    stream,
    turn,
    unary,
)
from engine_world import RunTask, Taker, World, fold, model, provider, registry
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.engine.budgets import adopt_file_policies
from palyra.engine.core import load_state
from palyra.journal.memory import MemoryJournal
from palyra.projections.state import decode_state, encode_state
from palyra.providers.port import Call

CONFIG = registry(
    provider(
        "a",
        max_retries=1,
        retry_backoff_ms=0,
        circuit_breaker_failure_threshold=2,
        circuit_breaker_cooldown_ms=50,
        max_concurrency=2,
        max_queue=2,
    ),
    provider("b", on_client_disconnect="cancel", circuit_breaker_failure_threshold=3, max_concurrency=1),
    model("m", "a"),
    model("m", "b", priority=200),
    model("e", "a", role="embeddings", max_batch=1),
    default_embeddings_model_id="e",
    run_timeout_ms=2_000,
)
SLOTS = {"a": 2, "b": 1}
#: Stops nobody: attempts at one provider hold, those at the other do not.
WATCH = rule(scope_kind="provider", scope_id="a", hard_limit=None, soft_limit=10**12, managed_by="file")

#: How a provider answers: at once, after a word, or badly; whatever was asked.
ANSWERS = ("good", "good", "gated", "500", "400", "429", "404", "cut", "cut late", "refused", "junk")

answers = st.sampled_from(ANSWERS)
actions = st.one_of(
    st.tuples(st.just("chat"), answers, answers),
    st.tuples(st.just("stream"), answers, answers),
    st.tuples(st.just("embed"), answers, answers),
    st.tuples(st.just("leave"), st.integers(0, 20)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("turn"), st.integers(1, 12)),
    st.tuples(st.just("turn"), st.integers(1, 12)),
    st.tuples(st.just("open")),
    st.tuples(st.just("wait"), st.sampled_from([1, 49, 60, 500, 3_000])),
    st.tuples(st.just("snapshot")),
    st.tuples(st.just("fail"), st.booleans()),
)


class History:
    """One engine on its way through a list of actions."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal(journal_id="01TEST", now_us=1)
        self.plan: list[str] = []
        self.gate = asyncio.Event()
        self.fakes = {name: ScriptedProvider(default=self.answer) for name in ("a", "b")}
        self.runs: list[RunTask] = []
        self.world: World

    def answer(self, call: Call) -> Script:
        """Answer by the plan, then well."""
        kind = self.plan.pop(0) if self.plan else "good"
        good = _good(call)
        scripts = {
            "gated": Script(self.gate, *good.pieces, headers=good.headers),
            "500": error(500),
            "400": error(400),
            "429": error(429, retry_after_ms="0"),
            "404": error(404),
            "cut": Script(good.pieces[0][:9], cut(), headers=good.headers),  # type: ignore[index]
            "cut late": Script(*good.pieces[:2], self.gate, cut(), headers=good.headers),
            "refused": Script(refuses=cut("network_unavailable", "connect")),
            "junk": Script(b"junk", headers=good.headers),
        }
        return scripts.get(kind, good)

    async def play(self, todo: list[Any]) -> None:
        self.world = await World.make(CONFIG, journal=self.journal, extra=self.fakes, clock=self.clock)
        await adopt_file_policies(self.world.core, [WATCH])
        for action, *arguments in todo:
            await getattr(self, f"do_{action}")(*arguments)
            self.check_state()
        self.plan.clear()
        self.gate.set()
        for run in self.runs:
            await asyncio.wait([run.task])
        await self.world.core.wait_until_rebuilt()
        await self.check_end()

    async def do_chat(self, *answers: str) -> None:
        self.plan += answers
        self.runs.append(self.world.start_chat())

    async def do_stream(self, *answers: str) -> None:
        self.plan += answers
        self.runs.append(self.world.start_chat(client=Taker(leaves_after=len(self.runs) % 5 + 1), stream=True))

    async def do_embed(self, *answers: str) -> None:
        self.plan += answers
        self.runs.append(self.world.start({"model": "e", "input": ["a", "b"]}))

    async def do_leave(self, number: int) -> None:
        for run in self.runs[number : number + 1]:
            run.leave()

    async def do_cancel(self, number: int) -> None:
        for run in self.runs[number : number + 1]:
            run.cancel("operator")

    async def do_turn(self, count: int) -> None:
        await turn(count)

    async def do_open(self) -> None:
        self.gate.set()
        await turn(3)
        self.gate.clear()

    async def do_wait(self, duration_ms: int) -> None:
        self.clock.pass_ms(duration_ms)

    async def do_snapshot(self) -> None:
        if self.world.core.is_writable and self.journal.failure is None and self.journal.pending_count == 0:
            await self.world.core.snapshot()
            self.world.core.state = decode_state(encode_state(self.world.state))

    async def do_fail(self, is_kept: bool) -> None:
        self.journal.fail_next_commits(1, is_kept=is_kept)

    def check_state(self) -> None:
        """Watched open attempts hold and no other, slots suffice, each provider has one trial at most."""
        world = self.world
        if not world.core.is_writable or self.journal.failure is not None:
            return
        attempts = {run_id: run.attempt for run_id, run in world.state.runs.open.items() if run.attempt is not None}
        holds = {run_id: hold.attempt for run_id, hold in world.state.budgets.holds.items()}
        watched = {run_id: one.attempt for run_id, one in attempts.items() if one.provider_id == "a"}
        assert holds == watched
        assert all(count <= SLOTS[name] for name, count in world.slots_used().items())
        trials = Counter(attempt.provider_id for attempt in attempts.values() if attempt.trial)
        assert all(count == 1 for count in trials.values())
        for provider_id, circuit in world.state.circuits.by_provider.items():
            if circuit.status == "half_open":
                assert attempts[circuit.trial_run].attempt == circuit.trial_attempt
                assert trials[provider_id] == 1
        if self.journal.pending_count == 0:
            assert encode_state(fold(world.rows())) == encode_state(world.state)

    async def check_end(self) -> None:
        """Everything has its one end; fold, snapshot with tail, and live state are the same bytes."""
        self.world.audit()
        await self.world.core.durable()
        assert encode_state(await load_state(self.journal)) == encode_state(self.world.state)
        self.journal.fail_next_commits(0)
        self.clock.pass_ms(120_000)
        assert (await self.world.chat()).status == 200
        await self.world.close()


async def play(todo: list[Any]) -> None:
    await History().play(todo)


def _good(call: Call) -> Script:
    if call.path == "/embeddings":
        return embeddings({"input": ["x"]})
    return stream("One ", "two.") if call.stream else unary()


@settings(max_examples=150)
@given(st.lists(actions, min_size=1, max_size=25))
def test_books_balance_whatever_happens(todo: list[Any]) -> None:
    """One end for each attempt and run, holds that match open attempts, one trial, and the same log, same state."""
    asyncio.run(play(todo))


def test_known_hard_histories() -> None:
    """Histories that were found to be hard stay right."""
    for todo in (
        [("stream", "cut late", "good"), ("turn", 8), ("leave", 0), ("fail", True), ("open",), ("turn", 9)],
        [("chat", "500", "500"), ("turn", 30), ("wait", 60), ("stream", "gated", "good"), ("fail", False)],
        [("embed", "good", "gated"), ("turn", 12), ("leave", 0), ("open",)],
    ):
        asyncio.run(play(list(todo)))
