"""Whole histories, made by chance: whatever happens in whatever order, the books of the gateway balance.

The actor below drives runs as the engine does: it asks whether a candidate is ready in the same step in which it
starts there, settles before it ends, and recovers after every crash. After each step the invariants are checked.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from budget_kit import put, rule
from hypothesis import HealthCheck, settings
from hypothesis import given as generated
from hypothesis import strategies as st
from registries import THREE, model, provider, registry
from story import World, admit, adopt, boot, cancel, complete, fail, go_on, reach, recover, start, succeed, wait

from palyra.decisions.failures import FAILURES
from palyra.decisions.routing import unready
from palyra.decisions.usage import Metered
from palyra.events.attempts import AttemptAbandoned, AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.budgets import BudgetReleased, BudgetReserved
from palyra.events.circuits import CircuitClosed, CircuitHalfOpened, CircuitOpened
from palyra.events.registry import Registry
from palyra.events.runs import RunAdmitted, RunCancelled, RunCompleted, RunFailed
from palyra.events.usage import UsageRecorded
from palyra.projections.budgets import reserved_tokens
from palyra.projections.circuits import provider_of
from palyra.projections.state import encode_state
from palyra.usage import TokenUsage

#: Circuits that open and close quickly, two models to tell apart.
TOUCHY = registry(
    provider("a", circuit_breaker_failure_threshold=2, circuit_breaker_cooldown_ms=1_000),
    provider("b", circuit_breaker_failure_threshold=3, circuit_breaker_cooldown_ms=5_000, max_retries=0),
    provider("c", kind="deterministic", circuit_breaker_failure_threshold=1, circuit_breaker_cooldown_ms=100),
    model("gpt", "a"),
    model("gpt", "b"),
    model("mini", "a", aliases=["small"]),
    model("mini", "c", max_context_tokens=200),
)
WITHOUT_A = registry(provider("b"), model("gpt", "b"), model("mini", "b"))

NAMES = ["gpt", "mini", "small", "a/gpt", "", "nobody"]
CLASSES = [*sorted(FAILURES), *["overloaded", "timeout_idle", "transient_upstream", "stream_truncated"] * 8]
PHASES = ["connect", "headers", "body", "content"]


class Action(NamedTuple):
    """Something that happens; `pick` says to which run, `how` in which way."""

    name: str
    pick: int
    how: int


WEIGHTS = {
    "pass_time": 3, "let_in": 5, "try_candidate": 8, "break_off": 6, "answer": 3, "bring_to_content": 1,
    "give_up": 1, "crash": 1, "reconfigure": 1,
}  # fmt: skip
actions = st.builds(
    Action,
    name=st.sampled_from([name for name, weight in WEIGHTS.items() for _ in range(weight)]),
    pick=st.integers(0, 7),
    how=st.integers(0, 999),
)


class Actor:
    """Drives a world's runs through whatever happens to them."""

    def __init__(self) -> None:
        self.world = World(TOUCHY)
        self.world.do(put(rule(scope_kind="provider", scope_id="a", hard_limit=None, soft_limit=1_000_000)))
        #: Candidate and retry of each run that is open.
        self.places: dict[str, tuple[int, int]] = {}
        self.admitted_count = 0

    def act(self, action: Action) -> None:
        getattr(self, action.name)(action.pick, action.how)

    @property
    def on_the_wire(self) -> list[str]:
        return [run_id for run_id in self.places if self.world.run(run_id).attempt is not None]

    def let_in(self, pick: int, how: int) -> None:
        self.admitted_count += 1
        run_id = f"r{self.admitted_count}"
        step = admit(
            run_id,
            NAMES[how % len(NAMES)],
            raw_tokens=(1, 64, 150, 1_000)[pick % 4],
            timeout_ms=(None, 2_000)[how % 2],
            command_name=f"k|{pick}",
        )
        if self.world.when(step).outcome.refusal is None:
            self.places[run_id] = (0, 0)

    def try_candidate(self, pick: int, how: int) -> None:
        waiting = [run_id for run_id in self.places if self.world.run(run_id).attempt is None]
        if not waiting:
            return
        run_id = waiting[pick % len(waiting)]
        candidate, retry = self.places[run_id]
        step = self.world.run(run_id).plan[candidate]
        exclusion = unready(self.world.state, step.provider_id, step.model_id, self.world.now_us)
        if exclusion is None:
            self.world.do(start(run_id, candidate=candidate, retry=retry))
        else:
            self.walk_on(run_id, exclusion.excluded_by, "connect")

    def break_off(self, pick: int, how: int) -> None:
        if not self.on_the_wire:
            return
        run_id = self.on_the_wire[pick % len(self.on_the_wire)]
        failure_class, phase = CLASSES[how % len(CLASSES)], PHASES[how % 4]
        told = self.world.when(
            fail(
                run_id,
                failure_class,
                phase=phase,
                status=(0, 200, 500)[how % 3],
                retry_after_ms=(None, 0, 3_000, 60_000)[pick % 4],
                metered=Metered(output_estimate_tokens=how % 5 * 50),
                jitter_bp=how * 10,
            )
        )
        candidate, retry = self.places[run_id]
        if told.outcome.wait_ms is None:
            self.walk_on(run_id, failure_class, phase)
        else:
            self.places[run_id] = (candidate, retry + 1)

    def walk_on(self, run_id: str, failure_class: str, phase: str) -> None:
        candidate, _ = self.places[run_id]
        following = self.world.when(go_on(run_id, failure_class, after=candidate, phase=phase)).outcome
        if following.candidate is None:
            del self.places[run_id]
        else:
            self.places[run_id] = (following.candidate, 0)

    def bring_to_content(self, pick: int, how: int) -> None:
        for run_id in self.on_the_wire[pick:]:
            self.world.do(reach(run_id))

    def answer(self, pick: int, how: int) -> None:
        if self.on_the_wire:
            run_id = self.on_the_wire[pick % len(self.on_the_wire)]
            candidate, _ = self.places.pop(run_id)
            billed = Metered(reported=TokenUsage(input_tokens=how, output_tokens=how % 70))
            self.world.do(succeed(run_id, billed), complete(run_id, candidate=candidate))

    def give_up(self, pick: int, how: int) -> None:
        if not self.places:
            return
        run_id = list(self.places)[pick % len(self.places)]
        if self.world.run(run_id).attempt is not None:
            self.world.do(fail(run_id, "cancelled", phase=PHASES[how % 4], may_retry=False))
        self.world.do(cancel(run_id))
        del self.places[run_id]

    def pass_time(self, pick: int, how: int) -> None:
        self.world.do(wait(ms=(1, 500, 1_000, 5_000, 60_000)[how % 5]))

    def crash(self, pick: int, how: int) -> None:
        self.world.do(boot(), recover())
        self.places.clear()

    def reconfigure(self, pick: int, how: int) -> None:
        configs: list[Registry] = [TOUCHY, TOUCHY, THREE, WITHOUT_A]
        self.world.do(adopt(configs[how % 4]))


class Books:
    """Keeps its own account of a history, event by event, and compares it with the state."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.seen_count = 0
        self.open_runs: set[str] = set()
        self.open_attempts: dict[tuple[str, int], str] = {}
        #: A rule watches one provider: its attempts hold, those of others do not.
        self.holds: set[tuple[str, int]] = set()
        self.rows: Counter[tuple[str, int]] = Counter()
        #: Attempts that started at a provider since its circuit became half-open.
        self.started_half_open: dict[str, int] = {}

    def check(self) -> None:
        for one in self.actor.world.history[self.seen_count :]:
            self.enter(one.stream, one.body)
        self.seen_count = len(self.actor.world.history)
        state = self.actor.world.state
        assert {f"run-{run_id}" for run_id in state.runs.open} == self.open_runs
        assert list(state.runs.open) == list(self.actor.places)
        assert {
            (f"run-{run.run_id}", run.attempt.attempt): run.attempt.provider_id
            for run in state.runs.open.values()
            if run.attempt is not None
        } == self.open_attempts
        assert {(f"run-{run_id}", hold.attempt) for run_id, hold in state.budgets.holds.items()} == self.holds
        watched = {where for where, provider_id in self.open_attempts.items() if provider_id == "a"}
        assert self.holds == watched
        open_attempts = [run.attempt for run in state.runs.open.values() if run.attempt is not None]
        assert reserved_tokens(state) == sum(one.max_tokens for one in open_attempts)
        for provider_id, circuit in state.circuits.by_provider.items():
            if circuit.status == "half_open":
                trial = (f"run-{circuit.trial_run}", circuit.trial_attempt)
                assert self.open_attempts[trial] == provider_id
                assert self.started_half_open[provider_id] == 0

    def enter(self, stream: str, body: object) -> None:
        match body:
            case RunAdmitted():
                assert stream not in self.open_runs
                self.open_runs.add(stream)
            case RunCompleted() | RunFailed() | RunCancelled():
                self.open_runs.remove(stream)
            case AttemptStarted():
                assert (stream, body.attempt) not in self.open_attempts
                self.open_attempts[stream, body.attempt] = body.provider_id
                if body.provider_id in self.started_half_open:
                    self.started_half_open[body.provider_id] += 1
            case AttemptSucceeded() | AttemptFailed() | AttemptAbandoned():
                del self.open_attempts[stream, body.attempt]
            case BudgetReserved():
                assert (stream, body.attempt) not in self.holds
                self.holds.add((stream, body.attempt))
            case BudgetReleased():
                self.holds.remove((stream, body.attempt))
            case UsageRecorded():
                self.rows[stream, body.attempt] += 1
                assert self.rows[stream, body.attempt] == 1
            case CircuitHalfOpened():
                assert provider_of(stream) not in self.started_half_open
                self.started_half_open[provider_of(stream)] = 0
            case CircuitOpened() | CircuitClosed():
                self.started_half_open.pop(provider_of(stream), None)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@generated(happenings=st.lists(actions, min_size=60, max_size=120))
def test_the_books_balance_whatever_happens(happenings: list[Action]) -> None:
    """After every step: each run and each attempt ends once, each open attempt that a rule watches has its hold, a
    half-open circuit has its one trial; versions have no gaps. In the end a replay through a snapshot gives the
    same bytes, and a last crash leaves nothing open."""
    actor = Actor()
    books = Books(actor)
    for action in happenings:
        actor.act(action)
        books.check()
    world = actor.world
    assert encode_state(world.replayed(snapshot_at=len(world.history) // 2)) == encode_state(world.state)
    actor.crash(0, 0)
    books.check()
    assert not books.open_runs
    assert all(circuit.status != "half_open" for circuit in world.state.circuits.by_provider.values())
