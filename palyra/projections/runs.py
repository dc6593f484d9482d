"""Runs that are open, and the newest that ended.

A run leaves memory when it ends, which is after its last attempt was settled; what it was can be read back from its
own stream with `palyra.projections.run_view`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import attempts, budgets, daemon, runs, usage
from palyra.events.base import Fact, Recorded
from palyra.events.routing import PlanStep, RoutingDecided, RoutingFailedOver
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State

RECENT_RUNS_COUNT = 200
_OUTCOMES = ("admitted", "completed", "failed", "cancelled", "refused")


class Run(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """An open run: what was let in, and what has become of it so far."""

    run_id: str
    admitted: runs.RunAdmitted
    admitted_us: int
    deadline_us: int
    last_life_us: int
    plan: list[PlanStep] = []
    output_requested_tokens: int | None = None
    attempts_count: int = 0
    #: The attempt that has not ended.
    attempt: attempts.AttemptStarted | None = None
    #: Position and instant of its newest start, and what that attempt could use at most.
    started_position: int = 0
    started_us: int = 0
    started_max_tokens: int = 0
    #: The newest attempt that came to nothing.
    failed_attempt: int = 0
    #: `provider/model` pairs that are not tried again in this run.
    failed: list[str] = []
    #: Distinct classes of its failures, in the order in which they were seen.
    failure_classes: list[str] = []
    #: What its settled attempts used together. A cost that is not known counts with the part that is.
    input_tokens: int = 0
    output_tokens: int = 0
    known_nanousd: int = 0
    #: Attempts whose cost is not known.
    unpriced_count: int = 0
    cancel_requested: str = ""
    #: Steps of the clock since its admission, together.
    stepped_us: int = 0


class RunSummary(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One line about a run that ended."""

    run_id: str
    outcome: str
    admitted_us: int
    duration_us: int = 0
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
    #: The known part of its cost, and the attempts whose cost is not known.
    known_nanousd: int = 0
    unpriced_count: int = 0


class RunsState(msgspec.Struct, kw_only=True):
    """Open runs, the newest ended ones (oldest first), and refusals by code since the journal began."""

    open: dict[str, Run] = {}
    recent: list[RunSummary] = []
    refusals: dict[str, int] = {}


CHAPTER = Chapter()


def run_id_of(stream: str) -> str:
    """Return the run's id of a stream name `run-<id>`."""
    return stream[4:]


def summary_of(state: State, run_id: str) -> RunSummary | None:
    """Return the line about a run that ended lately; None where it left none."""
    return next((one for one in reversed(state.runs.recent) if one.run_id == run_id), None)


def totals_of(state: State) -> dict[str, int]:
    """Return how many runs were admitted and how many ended how, since the journal began; what never was is not."""
    counts = ((outcome, state.counts.get(f"run.{outcome}", 0)) for outcome in _OUTCOMES)
    return {outcome: count for outcome, count in counts if count}


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


@CHAPTER.on(runs.RunAdmitted)
def _admitted(state: State, recorded: Recorded, body: runs.RunAdmitted) -> None:
    run_id, at_us = recorded.stream[4:], recorded.recorded_at_us
    state.runs.open[run_id] = Run(
        run_id=run_id, admitted=body, admitted_us=at_us, deadline_us=body.deadline_us, last_life_us=at_us
    )


@CHAPTER.of_run(RoutingDecided)
def _decided(state: State, recorded: Recorded, body: RoutingDecided, run: Run) -> None:
    run.last_life_us = recorded.recorded_at_us
    run.plan = body.plan
    run.output_requested_tokens = body.output_requested_tokens


@CHAPTER.of_run(RoutingFailedOver, budgets.BudgetReserved, budgets.BudgetReleased)
def _lives(state: State, recorded: Recorded, body: Fact, run: Run) -> None:
    run.last_life_us = recorded.recorded_at_us


@CHAPTER.of_run(attempts.AttemptStarted)
def _attempt_started(state: State, recorded: Recorded, body: attempts.AttemptStarted, run: Run) -> None:
    run.last_life_us = recorded.recorded_at_us
    run.attempt = body
    run.attempts_count = body.attempt
    run.started_position, run.started_us = recorded.position, recorded.recorded_at_us
    run.started_max_tokens = body.max_tokens


@CHAPTER.of_run(attempts.AttemptSucceeded)
def _attempt_succeeded(state: State, recorded: Recorded, body: attempts.AttemptSucceeded, run: Run) -> None:
    run.last_life_us = recorded.recorded_at_us
    _close_attempt(run, body.attempt)


@CHAPTER.of_run(attempts.AttemptAbandoned)
def _attempt_abandoned(state: State, recorded: Recorded, body: attempts.AttemptAbandoned, run: Run) -> None:
    run.last_life_us = recorded.recorded_at_us
    run.failed_attempt = body.attempt
    _close_attempt(run, body.attempt)


@CHAPTER.of_run(attempts.AttemptFailed)
def _attempt_failed(state: State, recorded: Recorded, body: attempts.AttemptFailed, run: Run) -> None:
    run.last_life_us = recorded.recorded_at_us
    if run.attempt is not None and body.wait_ms is None and not body.next_credential_ref:
        run.failed = [*run.failed, f"{run.attempt.provider_id}/{run.attempt.model_id}"]
    run.failed_attempt = body.attempt
    if body.failure_class not in run.failure_classes:
        run.failure_classes = [*run.failure_classes, body.failure_class]
    _close_attempt(run, body.attempt)


@CHAPTER.of_run(usage.UsageRecorded)
def _usage(state: State, recorded: Recorded, body: usage.UsageRecorded, run: Run) -> None:
    run.last_life_us = recorded.recorded_at_us
    run.input_tokens += body.usage.input_tokens
    run.output_tokens += body.usage.output_tokens
    run.known_nanousd += body.known_nanousd if body.cost_nanousd is None else body.cost_nanousd
    if body.cost_nanousd is None:
        run.unpriced_count += 1


@CHAPTER.of_run(runs.RunCancelRequested)
def _cancel_requested(state: State, recorded: Recorded, body: runs.RunCancelRequested, run: Run) -> None:
    run.last_life_us = recorded.recorded_at_us
    run.cancel_requested = body.reason


@CHAPTER.of_run(runs.RunCompleted)
def _completed(state: State, recorded: Recorded, body: runs.RunCompleted, run: Run) -> None:
    _end(state, recorded, run, "completed", body.duration_us, provider_id=body.provider_id, model_id=body.model_id)


@CHAPTER.of_run(runs.RunFailed)
def _failed(state: State, recorded: Recorded, body: runs.RunFailed, run: Run) -> None:
    _end(state, recorded, run, "failed", body.duration_us, code=body.code)


@CHAPTER.of_run(runs.RunCancelled)
def _cancelled(state: State, recorded: Recorded, body: runs.RunCancelled, run: Run) -> None:
    _end(state, recorded, run, "cancelled", body.duration_us, code=body.reason)


@CHAPTER.on(runs.RunRefused)
def _refused(state: State, recorded: Recorded, body: runs.RunRefused) -> None:
    refusals = state.runs.refusals
    refusals[body.code] = refusals.get(body.code, 0) + 1
    if run_id_of(recorded.stream) in state.runs.open:
        return
    _remember(
        state,
        RunSummary(
            run_id_of(recorded.stream),
            "refused",
            recorded.recorded_at_us,
            endpoint=body.endpoint,
            principal_id=body.principal_id,
            model_requested=body.model_requested,
            code=body.code,
        ),
    )
    state.streams.pop(recorded.stream, None)


@CHAPTER.of_run(runs.RunRefused)
def _refused_behind_its_admission(state: State, recorded: Recorded, body: runs.RunRefused, run: Run) -> None:
    _end(state, recorded, run, "refused", 0, code=body.code)


def _close_attempt(run: Run, attempt: int) -> None:
    if run.attempt is not None and run.attempt.attempt == attempt:
        run.attempt = None


def _end(
    state: State,
    recorded: Recorded,
    run: Run,
    outcome: str,
    duration_us: int,
    *,
    provider_id: str = "",
    model_id: str = "",
    code: str = "",
) -> None:
    del state.runs.open[run.run_id]
    state.streams.pop(recorded.stream, None)
    asked = run.admitted
    _remember(
        state,
        # With more keywords than these Python would make the call by a dict, at thrice the cost.
        RunSummary(
            run.run_id,
            outcome,
            run.admitted_us,
            duration_us,
            endpoint=asked.endpoint,
            stream=asked.stream,
            principal_id=asked.principal_id,
            session_id=asked.session_id,
            model_requested=asked.model_requested,
            provider_id=provider_id,
            model_id=model_id,
            code=code,
            attempts_count=run.attempts_count,
            input_tokens=run.input_tokens,
            output_tokens=run.output_tokens,
            known_nanousd=run.known_nanousd,
            unpriced_count=run.unpriced_count,
        ),
    )


def _remember(state: State, summary: RunSummary) -> None:
    recent = state.runs.recent
    recent.append(summary)
    if len(recent) > RECENT_RUNS_COUNT + 50:
        del recent[:-RECENT_RUNS_COUNT]
