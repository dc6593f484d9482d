"""Runs that are open, the newest that ended, and how many there were.

A run leaves memory when it ends, which is after its last attempt was settled; what it was can be read back from its
own stream with `palyra.projections.run_view`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from palyra.events import attempts, budgets, daemon, runs, usage
from palyra.events.base import Fact, Recorded
from palyra.events.routing import PlanStep, RoutingDecided, RoutingFailedOver
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State

RECENT_RUNS_COUNT = 200


class Attempt(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """An attempt that has not ended."""

    attempt: int
    candidate: int
    retry: int
    provider_id: str
    model_id: str
    upstream_model: str
    started_us: int
    deadline_ms: int
    #: What it may use at most.
    input_max_tokens: int
    output_max_tokens: int
    trial: bool = False
    price_id: str = ""
    variant: str = "standard"
    credential_ref: str = ""
    credential_revision: int = 0

    @property
    def max_tokens(self) -> int:
        """What it may use at most."""
        return self.input_max_tokens + self.output_max_tokens


class Run(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """An open run."""

    run_id: str
    principal_id: str
    key_id: str = ""
    session_id: str = ""
    agent_id: str = ""
    endpoint: str
    dialect: str = ""
    origin: str = "http"
    stream: bool = False
    model_requested: str = ""
    config_generation: int
    admitted_us: int
    deadline_us: int
    last_life_us: int
    tokens: runs.TokenEstimate
    plan: list[PlanStep] = []
    choices_count: int = 1
    body_bytes: int = 0
    audio_ms: int = 0
    variant: str = "standard"
    max_cost_nanousd: int | None = None
    output_requested_tokens: int | None = None
    attempts_count: int = 0
    attempt: Attempt | None = None
    #: Position of its newest start, and what that attempt could use at most.
    started_position: int = 0
    started_max_tokens: int = 0
    #: The newest attempt that came to nothing.
    failed_attempt: int = 0
    #: `provider/model` pairs that are not tried again in this run.
    failed: list[str] = []
    #: Distinct classes of its failures, in the order in which they were seen.
    failure_classes: list[str] = []
    cancel_requested: str = ""
    #: Steps of the clock since its admission, together.
    stepped_us: int = 0


class RunSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One line about a run that ended."""

    run_id: str
    outcome: str
    endpoint: str = ""
    stream: bool = False
    principal_id: str = ""
    session_id: str = ""
    model_requested: str = ""
    provider_id: str = ""
    model_id: str = ""
    code: str = ""
    attempts_count: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    admitted_us: int
    duration_us: int = 0


class Consumed(NamedTuple):
    """What the settled attempts of a run used together."""

    input_tokens: int = 0
    output_tokens: int = 0
    #: A cost that is not known counts with the part that is.
    known_nanousd: int = 0


NOTHING = Consumed()


class RunsState(msgspec.Struct, kw_only=True):
    """Open runs, the newest ended ones (oldest first), and totals by outcome since the journal began."""

    open: dict[str, Run] = {}
    recent: list[RunSummary] = []
    totals: dict[str, int] = {}
    refusals: dict[str, int] = {}
    #: What runs that have not ended used and cost, as far as that is known, by run.
    consumed: dict[str, Consumed] = {}


CHAPTER = Chapter()


def run_id_of(stream: str) -> str:
    """Return the run's id of a stream name `run-<id>`."""
    return stream[4:]


def summary_of(state: State, run_id: str) -> RunSummary | None:
    """Return the line about a run that ended lately; None where it left none."""
    return next((one for one in reversed(state.runs.recent) if one.run_id == run_id), None)


def open_for_us(run: Run, now_us: int) -> int:
    """Return how long a run has been open, steps of the clock left out."""
    return max(0, now_us - run.admitted_us - run.stepped_us)


@CHAPTER.on(daemon.DaemonClockStepped)
def _clock_stepped(state: State, recorded: Recorded, body: daemon.DaemonClockStepped) -> None:
    """What is open has neither lived nor been silent in the time that the clock jumped over."""
    for run in state.runs.open.values():
        run.last_life_us += body.step_us
        run.deadline_us += body.step_us
        run.stepped_us += body.step_us


def run_of(run_id: str, body: runs.RunAdmitted, at_us: int) -> Run:
    """Return a run as its admission makes it."""
    return Run(
        run_id=run_id,
        principal_id=body.principal_id,
        key_id=body.key_id,
        session_id=body.session_id,
        agent_id=body.agent_id,
        endpoint=body.endpoint,
        dialect=body.dialect,
        origin=body.origin,
        stream=body.stream,
        model_requested=body.model_requested,
        config_generation=body.config_generation,
        admitted_us=at_us,
        deadline_us=body.deadline_us,
        last_life_us=at_us,
        tokens=body.tokens,
        choices_count=body.choices_count,
        body_bytes=body.body_bytes,
        audio_ms=body.audio_ms,
        variant=body.variant,
        max_cost_nanousd=body.max_cost_nanousd,
    )


@CHAPTER.on(runs.RunAdmitted)
def _admitted(state: State, recorded: Recorded, body: runs.RunAdmitted) -> None:
    run_id = run_id_of(recorded.stream)
    state.runs.open[run_id] = run_of(run_id, body, recorded.recorded_at_us)
    _count(state, "admitted")


@CHAPTER.on(RoutingDecided)
def _decided(state: State, recorded: Recorded, body: RoutingDecided) -> None:
    run = _touch(state, recorded)
    if run is not None:
        run.plan = body.plan
        run.output_requested_tokens = body.output_requested_tokens


@CHAPTER.on(RoutingFailedOver, budgets.BudgetReserved, budgets.BudgetReleased)
def _lives(state: State, recorded: Recorded, body: Fact) -> None:
    _touch(state, recorded)


@CHAPTER.on(attempts.AttemptStarted)
def _attempt_started(state: State, recorded: Recorded, body: attempts.AttemptStarted) -> None:
    run = _touch(state, recorded)
    if run is not None:
        run.attempts_count = body.attempt
        run.started_position = recorded.position
        run.started_max_tokens = body.input_max_tokens + body.output_max_tokens
        run.attempt = Attempt(
            attempt=body.attempt,
            candidate=body.candidate,
            retry=body.retry,
            provider_id=body.provider_id,
            model_id=body.model_id,
            upstream_model=body.upstream_model,
            started_us=recorded.recorded_at_us,
            deadline_ms=body.deadline_ms,
            input_max_tokens=body.input_max_tokens,
            output_max_tokens=body.output_max_tokens,
            trial=body.trial,
            price_id=body.price_id,
            variant=body.variant,
            credential_ref=body.credential_ref,
            credential_revision=body.credential_revision,
        )


@CHAPTER.on(attempts.AttemptSucceeded)
def _attempt_succeeded(state: State, recorded: Recorded, body: attempts.AttemptSucceeded) -> None:
    run = _touch(state, recorded)
    if run is not None:
        _close_attempt(run, body.attempt)


@CHAPTER.on(attempts.AttemptAbandoned)
def _attempt_abandoned(state: State, recorded: Recorded, body: attempts.AttemptAbandoned) -> None:
    run = _touch(state, recorded)
    if run is not None:
        run.failed_attempt = body.attempt
        _close_attempt(run, body.attempt)


@CHAPTER.on(attempts.AttemptFailed)
def _attempt_failed(state: State, recorded: Recorded, body: attempts.AttemptFailed) -> None:
    run = _touch(state, recorded)
    if run is None:
        return
    if run.attempt is not None and body.wait_ms is None and not body.next_credential_ref:
        run.failed = [*run.failed, f"{run.attempt.provider_id}/{run.attempt.model_id}"]
    run.failed_attempt = body.attempt
    if body.failure_class not in run.failure_classes:
        run.failure_classes = [*run.failure_classes, body.failure_class]
    _close_attempt(run, body.attempt)


@CHAPTER.on(usage.UsageRecorded)
def _usage(state: State, recorded: Recorded, body: usage.UsageRecorded) -> None:
    run = _touch(state, recorded)
    if run is not None:
        before = state.runs.consumed.get(run.run_id, NOTHING)
        state.runs.consumed[run.run_id] = Consumed(
            before.input_tokens + body.usage.input_tokens,
            before.output_tokens + body.usage.output_tokens,
            before.known_nanousd + (body.known_nanousd if body.cost_nanousd is None else body.cost_nanousd),
        )


@CHAPTER.on(runs.RunCancelRequested)
def _cancel_requested(state: State, recorded: Recorded, body: runs.RunCancelRequested) -> None:
    run = _touch(state, recorded)
    if run is not None:
        run.cancel_requested = body.reason


@CHAPTER.on(runs.RunCompleted)
def _completed(state: State, recorded: Recorded, body: runs.RunCompleted) -> None:
    _end(state, recorded, "completed", body.duration_us, provider_id=body.provider_id, model_id=body.model_id)


@CHAPTER.on(runs.RunFailed)
def _failed(state: State, recorded: Recorded, body: runs.RunFailed) -> None:
    _end(state, recorded, "failed", body.duration_us, code=body.code)


@CHAPTER.on(runs.RunCancelled)
def _cancelled(state: State, recorded: Recorded, body: runs.RunCancelled) -> None:
    _end(state, recorded, "cancelled", body.duration_us, code=body.reason)


@CHAPTER.on(runs.RunRefused)
def _refused(state: State, recorded: Recorded, body: runs.RunRefused) -> None:
    refusals = state.runs.refusals
    refusals[body.code] = refusals.get(body.code, 0) + 1
    if run_id_of(recorded.stream) in state.runs.open:
        _end(state, recorded, "refused", 0, code=body.code)
        return
    _count(state, "refused")
    _remember(
        state,
        RunSummary(
            run_id=run_id_of(recorded.stream),
            outcome="refused",
            endpoint=body.endpoint,
            principal_id=body.principal_id,
            model_requested=body.model_requested,
            code=body.code,
            admitted_us=recorded.recorded_at_us,
        ),
    )
    state.streams.pop(recorded.stream, None)


def _touch(state: State, recorded: Recorded) -> Run | None:
    run: Run | None = state.runs.open.get(recorded.stream[4:])
    if run is not None:
        run.last_life_us = recorded.recorded_at_us
    return run


def _count(state: State, outcome: str) -> None:
    totals = state.runs.totals
    totals[outcome] = totals.get(outcome, 0) + 1


def _close_attempt(run: Run, attempt: int) -> None:
    if run.attempt is not None and run.attempt.attempt == attempt:
        run.attempt = None


def _end(
    state: State,
    recorded: Recorded,
    outcome: str,
    duration_us: int,
    *,
    provider_id: str = "",
    model_id: str = "",
    code: str = "",
) -> None:
    run = state.runs.open.pop(run_id_of(recorded.stream), None)
    if run is None:
        return
    _count(state, outcome)
    spent = state.runs.consumed.pop(run.run_id, NOTHING)
    state.streams.pop(recorded.stream, None)
    _remember(
        state,
        RunSummary(
            run_id=run.run_id,
            outcome=outcome,
            endpoint=run.endpoint,
            stream=run.stream,
            principal_id=run.principal_id,
            session_id=run.session_id,
            model_requested=run.model_requested,
            provider_id=provider_id,
            model_id=model_id,
            code=code,
            attempts_count=run.attempts_count,
            input_tokens=spent.input_tokens,
            output_tokens=spent.output_tokens,
            admitted_us=run.admitted_us,
            duration_us=duration_us,
        ),
    )


def _remember(state: State, summary: RunSummary) -> None:
    recent = state.runs.recent
    recent.append(summary)
    if len(recent) > RECENT_RUNS_COUNT + 50:
        del recent[:-RECENT_RUNS_COUNT]
