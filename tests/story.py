"""The story kit: a small world in which the real decisions are taken one after another and folded.

A story has three parts: what was before, what is asked now, and the facts that this must give::

    given(
        registry(provider("a", circuit_breaker_failure_threshold=1), model("gpt", "a")),
        admit("r1"),
        start("r1"),
    ).when(fail("r1", "overloaded")).then(
        like(AttemptFailed, failure_class="overloaded", counted=True),
        like(UsageRecorded, billed="unknown"),
        BudgetReleased(attempt=1),
        like(CircuitOpened, reason="threshold"),
    )

Each part is made of steps, functions of a `World`; `given` and `World.do` walk through them, and any function will
do as one. The world stamps drafts as the engine does, with a clock that only a story moves, and refuses what a
journal would refuse: a version that is there already, or one too many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from registries import THREE
from registries import model as model
from registries import provider as provider
from registries import registry as registry

from palyra.decisions.attempts import (
    AnswerEnd,
    FailureEnd,
    StartAttempt,
    fail_attempt,
    reach_content,
    start_attempt,
    succeed_attempt,
)
from palyra.decisions.failures import Failure
from palyra.decisions.recovery import clear_old_boot, recover_run
from palyra.decisions.runs import AdmitRun, after_failure, cancel_run, complete_run
from palyra.decisions.runs import admit as decide_admission
from palyra.decisions.usage import Metered
from palyra.errors import Refusal
from palyra.events.base import Draft, Fact, Recorded, UnknownEvent
from palyra.events.config import ConfigAdopted
from palyra.events.daemon import DaemonStarted
from palyra.events.journal import JournalCreated
from palyra.events.registry import Registry
from palyra.events.runs import CancelReason
from palyra.projections.auth import live_revision
from palyra.projections.runs import Run
from palyra.projections.state import State, decode_state, encode_state, evolve
from palyra.units import US_PER_MS, US_PER_S
from palyra.usage import TokenUsage

#: Where every story begins: the start of a quarter of an hour.
T0_US = 1_800_000_000 * US_PER_S

FactT = TypeVar("FactT", bound=Fact)


class Like:
    """Equals every fact of a kind whose named fields have these values."""

    def __init__(self, kind: type[Fact], fields: dict[str, Any]) -> None:
        unknown = [name for name in fields if name not in kind.__struct_fields__]
        assert not unknown, f"{kind.__name__} has no {unknown}"
        self.kind = kind
        self.fields = fields

    def __eq__(self, other: object) -> bool:
        return type(other) is self.kind and all(
            getattr(other, name) == value for name, value in self.fields.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.kind.__name__}({', '.join(f'{name}={value!r}' for name, value in self.fields.items())}, ...)"


def like(kind: type[Fact], **fields: Any) -> Like:
    """Return what equals every fact of this kind that has these values."""
    return Like(kind, fields)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one step gave."""

    #: As they were recorded.
    recorded: Sequence[Recorded] = ()
    refusal: Refusal | None = None
    #: Of a failed attempt: the wait before the same candidate is tried again.
    wait_ms: int | None = None
    #: The credential with which it is tried at once instead.
    credential_ref: str = ""
    #: Of a failed run's next step: the candidate that comes after.
    candidate: int | None = None

    @property
    def facts(self) -> list[Fact | UnknownEvent]:
        return [one.body for one in self.recorded]


Step = Callable[["World"], Outcome]


class World:
    """State, history and a clock that stands still until a story moves it."""

    def __init__(self, config: Registry | None = None) -> None:
        self.state = State()
        self.history: list[Recorded] = []
        self.now_us = T0_US
        self.boots_count = 0
        self._versions: dict[str, int] = {}
        self.record([Draft("journal", JournalCreated(journal_id="01STORY", release="0.1.0"))])
        self.do(boot(), adopt(config or THREE))

    def do(self, *steps: Step) -> World:
        """Walk through steps."""
        for step in steps:
            step(self)
        return self

    def when(self, step: Step) -> Then:
        """Take the step that the story is about."""
        return Then(self, step(self))

    def record(self, drafts: Iterable[Draft], actor: str = "system:daemon") -> list[Recorded]:
        """Stamp and fold; what a journal would refuse is an error here too."""
        recorded = []
        for draft in drafts:
            version = self.state.streams.get(draft.stream, 0) + 1
            expected = self._versions.get(draft.stream, 0) + 1
            assert version == expected, f"{draft.stream} goes on at version {expected}, not {version}"
            self._versions[draft.stream] = version
            one = Recorded(
                self.state.position + 1,
                draft.stream,
                version,
                self.now_us,
                actor,
                draft.correlation,
                0,
                draft.command_key,
                draft.body,
            )
            evolve(self.state, one)
            self.history.append(one)
            recorded.append(one)
        return recorded

    def run(self, run_id: str) -> Run:
        """Return an open run."""
        return self.state.runs.open[run_id]

    def facts(self, kind: type[FactT]) -> list[FactT]:
        """Return all facts of a kind, oldest first."""
        return [one.body for one in self.history if isinstance(one.body, kind)]

    def stream(self, name: str) -> list[Recorded]:
        """Return a stream's events."""
        return [one for one in self.history if one.stream == name]

    def replayed(self, snapshot_at: int = 0) -> State:
        """Return the state folded from the first event, through a snapshot taken after `snapshot_at` events."""
        state = State()
        for index, one in enumerate(self.history):
            if index == snapshot_at:
                state = decode_state(encode_state(state))
            evolve(state, one)
        return state


class Then:
    """What must have come of a step."""

    def __init__(self, world: World, outcome: Outcome) -> None:
        self.world = world
        self.outcome = outcome

    def then(self, *expected: Fact | Like) -> Then:
        """The step gave exactly these facts, in this order."""
        assert self.outcome.facts == list(expected)
        return self

    def refused(self, code: str) -> Refusal:
        """The step was refused with this code; return the refusal."""
        refusal = self.outcome.refusal
        assert refusal is not None, "nothing was refused"
        assert refusal.code == code
        return refusal


def given(config: Registry | None = None, *history: Step) -> World:
    """Return a world with this configuration after these steps; without one there is `THREE`."""
    return World(config).do(*history)


def wait(*, ms: int) -> Step:
    """Let time pass."""

    def step(world: World) -> Outcome:
        world.now_us += ms * US_PER_MS
        return Outcome()

    return step


def record(stream: str, *facts: Fact) -> Step:
    """Record facts that nobody decided."""
    return lambda world: Outcome(recorded=world.record([Draft(stream, fact) for fact in facts]))


def adopt(config: Registry) -> Step:
    """Put another configuration in force."""

    def step(world: World) -> Outcome:
        adopted = ConfigAdopted(
            generation=world.state.config.generation + 1, digest="", effective={}, registry=config
        )
        return Outcome(recorded=world.record([Draft("config", adopted)]))

    return step


def boot() -> Step:
    """Start a process; the one before it, if there was one, has died."""

    def step(world: World) -> Outcome:
        world.boots_count += 1
        started = DaemonStarted(
            boot_id=f"boot-{world.boots_count}",
            release="0.1.0",
            python="3.11",
            sqlite="3.40",
            config_generation=world.state.config.generation,
            pid=world.boots_count,
        )
        return Outcome(recorded=world.record([Draft("daemon", started)]))

    return step


def recover() -> Step:
    """Close what the process before left open, as a start does."""

    def step(world: World) -> Outcome:
        recorded = world.record(clear_old_boot(world.state, world.now_us))
        for run in list(world.state.runs.open.values()):
            boot_id = f"boot-{world.boots_count}"
            recorded += world.record(recover_run(world.state, run, boot_id=boot_id, now_us=world.now_us))
        return Outcome(recorded=recorded)

    return step


def admission(run_id: str, model_name: str = "gpt", **changes: Any) -> AdmitRun:
    """Return a request of 100 estimated tokens that wants at most 50 back."""
    defaults: dict[str, Any] = {
        "run_id": run_id,
        "principal_id": "key:tester",
        "endpoint": "chat",
        "model": model_name,
        "raw_tokens": 100,
        "output_max_tokens": 50,
        "body_digest": "0" * 64,
        "body_bytes": 400,
    }
    return AdmitRun(**{**defaults, **changes})


def admit(run_id: str, model_name: str = "gpt", **changes: Any) -> Step:
    """Let a request in, or refuse it; `changes` are fields of `AdmitRun`."""

    def step(world: World) -> Outcome:
        decision = decide_admission(world.state, admission(run_id, model_name, **changes), world.now_us)
        return Outcome(recorded=world.record(decision.drafts), refusal=decision.refusal)

    return step


def start(run_id: str, *, candidate: int = 0, retry: int = 0, credential: str = "") -> Step:
    """Start the next attempt at a candidate of the plan, by default with its first credential, if it has one."""

    def step(world: World) -> Outcome:
        planned = world.run(run_id).plan[candidate].credentials
        ref = credential or (planned[0].credential_ref if planned else "")
        command = StartAttempt(
            candidate=candidate,
            retry=retry,
            credential_ref=ref,
            credential_revision=live_revision(world.state, ref),
            deadline_ms=600_000,
        )
        return Outcome(recorded=world.record(start_attempt(world.state, world.run(run_id), command, world.now_us)))

    return step


def reach(run_id: str) -> Step:
    """Bring the stream of the open attempt to its first content."""
    return lambda world: Outcome(recorded=world.record(reach_content(world.state, world.run(run_id))))


def succeed(run_id: str, metered: Metered | None = None, **changes: Any) -> Step:
    """Settle a complete answer; by default 90 tokens in and 20 out were billed; `changes` are of `AnswerEnd`."""
    seen = metered or Metered(reported=TokenUsage(input_tokens=90, output_tokens=20))

    def step(world: World) -> Outcome:
        end = AnswerEnd(**{"stop": "stop", "duration_us": 700_000, "first_byte_us": 200_000, **changes})
        return Outcome(
            recorded=world.record(succeed_attempt(world.state, world.run(run_id), end, seen, world.now_us))
        )

    return step


def fail(
    run_id: str,
    failure_class: str = "overloaded",
    *,
    phase: str = "headers",
    metered: Metered | None = None,
    jitter_bp: int = 0,
    may_retry: bool = True,
    **changes: Any,
) -> Step:
    """Settle a failed attempt; `changes` are fields of `Failure`."""

    def step(world: World) -> Outcome:
        end = FailureEnd(
            failure=Failure(failure_class=failure_class, phase=phase, **changes),
            metered=metered or Metered(),
            duration_us=300_000,
            jitter_bp=jitter_bp,
        )
        failed = fail_attempt(world.state, world.run(run_id), end, world.now_us, may_retry=may_retry)
        return Outcome(
            recorded=world.record(failed.drafts), wait_ms=failed.wait_ms, credential_ref=failed.credential_ref
        )

    return step


def go_on(
    run_id: str, failure_class: str = "overloaded", *, after: int = 0, phase: str = "headers", **changes: Any
) -> Step:
    """Walk on along the plan after candidate `after` has failed, or end the run."""

    def step(world: World) -> Outcome:
        run = world.run(run_id)
        failure = Failure(failure_class=failure_class, phase=phase, **changes)
        following = after_failure(
            world.state,
            run,
            candidate=after,
            attempt=run.attempts_count,
            failure=failure,
            now_us=world.now_us,
        )
        recorded = world.record(following.drafts)
        return Outcome(recorded=recorded, refusal=following.refusal, candidate=following.candidate)

    return step


def complete(run_id: str, *, candidate: int = 0) -> Step:
    """End a run whose answer is complete."""

    def step(world: World) -> Outcome:
        run = world.run(run_id)
        drafts = complete_run(run, stop="stop", step=run.plan[candidate], now_us=world.now_us)
        return Outcome(recorded=world.record(drafts))

    return step


def cancel(run_id: str, reason: CancelReason = "client") -> Step:
    """End a run that nobody waits for; its attempt was settled before."""
    return lambda world: Outcome(
        recorded=world.record(cancel_run(world.run(run_id), reason=reason, now_us=world.now_us))
    )


def serve(run_id: str, **changes: Any) -> Step:
    """Let a whole run go well: admitted, started, answered, complete."""
    return lambda world: _walk(world, admit(run_id, **changes), start(run_id), succeed(run_id), complete(run_id))


def break_down(run_id: str, failure_class: str = "overloaded", **changes: Any) -> Step:
    """Let a whole run go wrong at its first candidate; `changes` are fields of `AdmitRun`."""
    return lambda world: _walk(
        world,
        admit(run_id, **changes),
        start(run_id),
        fail(run_id, failure_class, may_retry=False),
        cancel(run_id),
    )


def _walk(world: World, *steps: Step) -> Outcome:
    before = len(world.history)
    world.do(*steps)
    return Outcome(recorded=world.history[before:])
