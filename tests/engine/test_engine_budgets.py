"""Limits on the engine: whatever runs do and in whatever order, settled and held never pass a hard limit."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from budget_kit import Audit, rule
from engine_fakes import T0_US, ManualClock, Script, ScriptedProvider, cut, error, turn, unary
from engine_world import World, model, provider, registry
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test
from hypothesis.stateful import rule as step

from palyra.decisions.approvals import Verdict, decide_approval
from palyra.engine.budgets import adopt_file_policies, pass_over
from palyra.engine.codec import to_recorded
from palyra.engine.core import Core
from palyra.engine.run import RunTask
from palyra.errors import Refusal
from palyra.events.base import Draft
from palyra.events.budgets import BudgetPolicyCounted
from palyra.events.runs import RequestServed
from palyra.events.usage import UsageRecorded
from palyra.projections.approvals import open_approvals
from palyra.providers.port import Call
from palyra.usage import TokenUsage

#: Rules of all kinds, tight enough that most of what is asked at once does not fit.
RULES = [
    rule("all", scope_kind="global", hard_limit=900, managed_by="file"),
    rule("each", hard_limit=500, on_hard="approval_required", managed_by="file"),
    rule(
        "session", scope_kind="session", interval_kind="rolling", rolling_hours=2, hard_limit=450, managed_by="file"
    ),
    rule("place", scope_kind="provider", interval_kind="monthly", hard_limit=700, managed_by="file"),
    rule("run", scope_kind="global", interval_kind="per_run", hard_limit=300, managed_by="file"),
    rule("output", token_count="output", interval_kind="weekly", hard_limit=400, managed_by="file"),
]
OFFER = registry(
    provider("a", max_concurrency=3, circuit_breaker_failure_threshold=1_000),
    provider("b", circuit_breaker_failure_threshold=1_000),
    model("m", "a"),
    model("m", "b", priority=200),
)


class Limits(RuleBasedStateMachine):
    """Runs that begin, wait, are answered, fail and are given up in any order, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.gates: list[asyncio.Event] = []
        self.fates: list[str] = []
        self.runs: list[RunTask] = []
        self.clock = ManualClock()
        self.world: World = self.loop.run_until_complete(self._open())

    async def _open(self) -> World:
        providers = {name: ScriptedProvider(default=self._script) for name in ("a", "b")}
        world = await World.make(OFFER, extra=providers, clock=self.clock)
        await adopt_file_policies(world.core, RULES)
        return world

    def _script(self, call: Call) -> Script:
        """Answer when told to, by the fate of the request that is next; a cap that was sent is kept."""
        fate = self.fates.pop(0) if self.fates else "served"
        cap = json.loads(call.body)["max_tokens"]
        made = {
            "served": unary(prompt_tokens=9, completion_tokens=min(cap, 40)),
            "long": unary(prompt_tokens=9, completion_tokens=cap),
            "silent": unary(),
            "broken": error(500),
            "cut": Script(cut()),
        }[fate]
        made.head = asyncio.Event()
        self.gates.append(made.head)
        return made

    def _turn(self) -> None:
        self.loop.run_until_complete(turn(60))

    @step(
        fate=st.sampled_from(["served", "long", "silent", "broken", "cut"]),
        who=st.sampled_from(["key:x", "key:y"]),
        session=st.sampled_from(["", "s"]),
        cap=st.sampled_from([None, 20, 120, 400]),
        wait_ms=st.sampled_from([0, 0, 300_000]),
    )
    def ask(self, fate: str, who: str, session: str, cap: int | None, wait_ms: int) -> None:
        self.fates.append(fate)
        body: dict[str, Any] = {} if cap is None else {"max_tokens": cap}

        async def start() -> RunTask:
            changes = {"principal_id": who, "session_id": session, "wait_approval_ms": wait_ms}
            return self.world.start_chat("Hi.", **body, changes=changes)

        self.runs.append(self.loop.run_until_complete(start()))
        self._turn()

    @step(number=st.integers(0, 9))
    def answer(self, number: int) -> None:
        waiting = [gate for gate in self.gates if not gate.is_set()]
        if waiting:
            waiting[number % len(waiting)].set()
            self._turn()

    @step(number=st.integers(0, 9), uses=st.sampled_from([0, 1, 3]), amount=st.sampled_from([None, 900]))
    def decide(self, number: int, uses: int, amount: int | None) -> None:
        """Somebody grants or denies what is asked for."""
        now_us, state = self.clock.now_us(), self.world.state
        waiting = open_approvals(state, now_us)
        if waiting:
            verdict = Verdict(is_granted=uses > 0, uses_max=uses or 1, amount_max=amount)
            chosen = waiting[number % len(waiting)]
            made = decide_approval(state, chosen, verdict, by="operator", now_us=now_us)
            assert not isinstance(made, Refusal)
            self.loop.run_until_complete(self.world.core.record(made))

    @step(number=st.integers(0, 9))
    def give_up(self, number: int) -> None:
        under_way = [run for run in self.runs if not run.task.done()]
        if under_way:
            self.loop.call_soon(under_way[number % len(under_way)].cancel, "client")
            self._turn()

    @step(hours=st.sampled_from([1, 3, 25]))
    def wait(self, hours: int) -> None:
        self.clock.pass_ms(hours * 3_600_000)
        self._turn()

    @invariant()
    def no_limit_is_passed(self) -> None:
        history = [to_recorded(row) for row in self.world.rows()]
        Audit().enter(history)

    def teardown(self) -> None:
        async def close() -> None:
            for gate in self.gates:
                gate.set()
            await self.world.runs.cancel_all("shutdown")
            await self.world.core.durable()
            self.world.audit()
            assert all(one.reserved == 0 for one in self.world.state.budgets.counters.values())
            await self.world.close()

        self.loop.run_until_complete(close())
        self.loop.close()


def test_no_interleaving_passes_a_hard_limit() -> None:
    """Hypothesis drives the real engine; books that know the facts alone check each position."""
    how = settings(
        max_examples=20,
        stateful_step_count=25,
    )
    run_state_machine_as_test(Limits, settings=how)


async def test_a_day_that_ends_while_history_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that is set around midnight has what was used since, and nothing of the day that is over."""
    clock = ManualClock(T0_US)
    world = await World.make(OFFER, clock=clock)
    passes: list[int] = []

    def used(tokens: int) -> list[Draft]:
        row = UsageRecorded(
            attempt=1,
            provider_id="a",
            model_id="m",
            upstream_model="m",
            principal_id="key:x",
            endpoint="chat",
            effective_at_us=clock.us,
            usage=TokenUsage(input_tokens=tokens),
            raw_input_tokens=tokens,
        )
        return [Draft(f"run-{tokens}", row)]

    async def slowly(core: Core, upto: int, *arguments: Any) -> None:
        await pass_over(core, upto, *arguments)
        passes.append(upto)
        if len(passes) == 1:
            clock.pass_ms(24 * 3_600_000)
            await core.record(used(7))

    monkeypatch.setattr("palyra.engine.budgets.pass_over", slowly)
    await world.core.record(used(100))
    await adopt_file_policies(world.core, [rule("each", managed_by="file")])
    (told,) = [body for row in world.rows() if isinstance(body := to_recorded(row).body, BudgetPolicyCounted)]
    assert [(one.subject, one.amount) for one in told.subjects] == [("key:x", 7)]
    assert passes[0] < passes[1]
    await world.close()


async def test_who_reads_history_beside_another_misses_nothing() -> None:
    """Two rules are set at once: the one that is done first takes its own list along, and not the other's."""
    world = await World.make(OFFER)
    served = RequestServed(endpoint="models", principal_id="key:x", http_status=200)
    with world.core.tapped() as mine:
        with world.core.tapped():
            pass
        await world.core.record([Draft("requests", served)])
    assert [one.body for one in mine] == [served]
    assert world.core.taps == []
    await world.close()
