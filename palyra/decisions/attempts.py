"""Attempts: the start of a call and its settlement, whichever way it ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from palyra.decisions import (
    approvals,
    budgets,
    circuits,
    credential_failures,
    credentials,
    models,
    pricing,
    retries,
    usage,
)
from palyra.decisions.budget_refusals import note_limits
from palyra.decisions.failures import Failure, rule_of
from palyra.decisions.routing import next_candidate
from palyra.events.attempts import AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.base import Draft, Fact
from palyra.events.circuits import CircuitOpened
from palyra.events.registry import ProviderEntry
from palyra.events.usage import UsageRecorded
from palyra.projections.budgets import Where
from palyra.projections.catalog import provider_entry, standing_of
from palyra.projections.circuits import circuit_of, is_passable
from palyra.projections.runs import Run
from palyra.projections.state import State
from palyra.projections.usage import calibrate
from palyra.units import us_to_ms


class StartAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """The next call of a run, ready to leave."""

    candidate: int
    retry: int = 0
    credential_ref: str = ""
    credential_revision: int = 0
    #: The dialect that the provider is asked in, "" for that of the run's endpoint.
    api: str = ""
    passthrough: bool = True
    edits: Sequence[str] = ()
    dropped: Sequence[str] = ()
    queue_wait_ms: int = 0
    deadline_ms: int


def start_attempt(
    state: State, run: Run, command: StartAttempt, now_us: int, start: budgets.Start | None = None
) -> list[Draft]:
    """Start, with what rules keep for it where one applies.

    Whether the candidate is ready, and with which credential, was asked right before, in the same step of the loop;
    so were the budgets, where `start` is what they said.
    """
    step = run.plan[command.candidate]
    attempt = run.attempts_count + 1
    stream = f"run-{run.run_id}"
    if start is None:
        start = budgets.plan_start(state, run, Where(step.provider_id, step.model_id), step.upstream_model, now_us)
    assert not start.judgement.stops, "starting what a budget stops"
    price = start.size.price
    half_opened = circuits.at_start(circuit_of(state, step.provider_id), run_id=run.run_id, attempt=attempt)
    started = AttemptStarted(
        attempt=attempt,
        candidate=command.candidate,
        retry=command.retry,
        provider_id=step.provider_id,
        model_id=step.model_id,
        upstream_model=step.upstream_model,
        credential_ref=command.credential_ref,
        credential_revision=command.credential_revision,
        api=command.api or run.admitted.endpoint,
        passthrough=command.passthrough,
        edits=list(command.edits),
        dropped=list(command.dropped),
        queue_wait_ms=command.queue_wait_ms,
        deadline_ms=command.deadline_ms,
        input_max_tokens=start.size.input_tokens,
        output_max_tokens=start.size.output_tokens,
        trial=half_opened is not None,
        price_id="" if price is None else price.price_id,
        variant=start.size.variant,
    )
    drafts = [
        *note_limits(state, run.run_id, start.judgement),
        *approvals.draw(state, run.run_id, start.judgement),
        *budgets.reserve(run, start, attempt=attempt),
        Draft(stream, started),
    ]
    if half_opened is not None:
        drafts.append(Draft(f"provider-{step.provider_id}", half_opened, stream))
    return drafts


class AnswerEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a complete answer ended."""

    stop: str
    raw_stop: str = ""
    duration_us: int
    first_byte_us: int | None = None
    upstream_request_id: str = ""
    upstream_response_id: str = ""
    upstream_model: str = ""
    output_bytes: int = 0
    unparsed_count: int = 0
    dropped: Sequence[str] = ()


def succeed_attempt(state: State, run: Run, end: AnswerEnd, metered: usage.Metered, now_us: int) -> list[Draft]:
    """Settle a complete answer: attempt, usage, hold, circuit, model."""
    attempt = run.attempt
    assert attempt is not None, "settling an attempt that is not open"
    stream, provider = f"run-{run.run_id}", f"provider-{attempt.provider_id}"
    succeeded = AttemptSucceeded(
        attempt=attempt.attempt,
        stop=end.stop,
        raw_stop="" if end.raw_stop == end.stop else end.raw_stop,
        first_byte_us=end.first_byte_us,
        duration_us=end.duration_us,
        upstream_request_id=end.upstream_request_id,
        upstream_response_id=end.upstream_response_id,
        upstream_model="" if end.upstream_model == attempt.upstream_model else end.upstream_model,
        output_bytes=end.output_bytes,
        unparsed_count=end.unparsed_count,
        dropped=list(end.dropped),
    )
    row = usage.row_of_answer(state, run, attempt, metered, estimated_input_tokens=_estimated(state, run))
    drafts = [Draft(stream, succeeded), Draft(stream, row), *_note_unpriced(state, run, row, now_us)]
    hold = state.budgets.holds.get(run.run_id)
    if hold is not None:
        drafts.append(Draft(stream, budgets.release(hold, row, "settled")))
    closed = circuits.at_content(circuit_of(state, attempt.provider_id), run_id=run.run_id, attempt=attempt.attempt)
    if closed is not None:
        drafts.append(Draft(provider, closed, stream))
    standing = standing_of(state, attempt.provider_id, attempt.model_id)
    readmitted = models.at_success(standing, model_id=attempt.model_id)
    if readmitted is not None:
        drafts.append(Draft(provider, readmitted, stream))
    return drafts


def reach_content(state: State, run: Run) -> list[Draft]:
    """Close the circuit of a trial whose stream has reached content."""
    attempt = run.attempt
    if attempt is None:
        return []
    circuit = circuit_of(state, attempt.provider_id)
    closed = circuits.at_content(circuit, run_id=run.run_id, attempt=attempt.attempt)
    return [] if closed is None else [Draft(f"provider-{attempt.provider_id}", closed, f"run-{run.run_id}")]


class FailureEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt failed, and what it consumed."""

    failure: Failure
    metered: usage.Metered = usage.Metered()
    duration_us: int = 0
    output_bytes: int = 0
    #: A random share stamped at the edge, for the wait before the next try.
    jitter_bp: int = 0


class Failed(NamedTuple):
    """What a failed attempt comes to."""

    drafts: list[Draft]
    #: The wait before the same candidate is tried again, None where it is not.
    wait_ms: int | None = None
    #: The credential with which it is tried at once instead.
    credential_ref: str = ""


def fail_attempt(state: State, run: Run, end: FailureEnd, now_us: int, *, may_retry: bool = True) -> Failed:
    """Settle a failed attempt, and decide whether the same candidate is tried again.

    A failure that was recorded is played once, as it was, and says nothing of who plays it.
    """
    attempt, failure = run.attempt, end.failure
    assert attempt is not None, "settling an attempt that is not open"
    provider = provider_entry(state, attempt.provider_id)
    is_played = provider is not None and bool(provider.fixtures)
    counted = rule_of(failure.failure_class).counted and not is_played
    circuit = circuit_of(state, attempt.provider_id)
    opened = circuits.at_failure(
        circuit,
        run_id=run.run_id,
        attempt=attempt.attempt,
        counted=counted and provider is not None,
        threshold=1 if provider is None else provider.circuit_breaker_failure_threshold,
        cooldown_ms=0 if provider is None else provider.circuit_breaker_cooldown_ms,
        now_us=now_us,
    )
    wait_ms, next_ref = None, ""
    if provider is not None and may_retry and not is_played:
        next_ref = _next_credential(state, run, end, opened, now_us)
        if not next_ref and opened is None and is_passable(circuit, now_us):
            wait_ms = _retry_wait_ms(state, run, end, provider, now_us)
    failed = AttemptFailed(
        attempt=attempt.attempt,
        failure_class=failure.failure_class,
        phase=failure.phase,
        status=failure.status,
        code=failure.code,
        message=failure.message,
        counted=counted,
        retry_after_ms=failure.retry_after_ms,
        should_retry=failure.should_retry,
        wait_ms=wait_ms,
        next_credential_ref=next_ref,
        duration_us=end.duration_us,
        output_bytes=end.output_bytes,
    )
    drafts = [Draft(f"run-{run.run_id}", failed), *_settle_cut(state, run, end, now_us)]
    side_effects: list[Fact | None] = [opened]
    if provider is not None and not is_played:
        side_effects.append(
            models.at_failure(
                standing_of(state, attempt.provider_id, attempt.model_id),
                model_id=attempt.model_id,
                failure_class=failure.failure_class,
                counted=counted,
                provider_streak=circuit.streak,
                threshold=provider.circuit_breaker_failure_threshold,
                now_us=now_us,
            )
        )
    stream = f"provider-{attempt.provider_id}"
    drafts += [Draft(stream, fact, f"run-{run.run_id}") for fact in side_effects if fact is not None]
    befell = credential_failures.at_failure(state, run, attempt, failure, now_us=now_us, jitter_bp=end.jitter_bp)
    if befell is not None:
        drafts.append(Draft(f"credential-{attempt.credential_ref}", befell, f"run-{run.run_id}"))
    return Failed(drafts, wait_ms, next_ref)


def _next_credential(state: State, run: Run, end: FailureEnd, opened: CircuitOpened | None, now_us: int) -> str:
    """Return the credential with which the candidate is tried at once, "" for none."""
    attempt, failure = run.attempt, end.failure
    assert attempt is not None
    if failure.failure_class not in credentials.OF_THE_CREDENTIAL or failure.phase == "content":
        return ""
    is_closed = opened is None or opened.until_us <= now_us
    if now_us >= run.deadline_us or not is_closed:
        return ""
    if credential_failures.is_renewed_for(state, run, attempt, failure, now_us):
        return attempt.credential_ref
    step = run.plan[attempt.candidate]
    agent_id = run.admitted.agent_id
    return credentials.next_after(state, step, attempt.credential_ref, agent_id=agent_id, now_us=now_us)


def _settle_cut(state: State, run: Run, end: FailureEnd, now_us: int) -> list[Draft]:
    """Return usage and release of an attempt that ended without a complete answer."""
    attempt, failure = run.attempt, end.failure
    assert attempt is not None
    stream = f"run-{run.run_id}"
    drafts: list[Draft] = []
    row = None
    hold = state.budgets.holds.get(run.run_id)
    saw_output = end.metered.reported is not None or end.metered.output_estimate_tokens > 0
    if usage.may_have_cost(
        phase=failure.phase,
        status=failure.status,
        saw_output=saw_output,
        failure_class=failure.failure_class,
    ):
        estimated = _estimated(state, run)
        row = usage.row_of_cut(
            state,
            run,
            attempt,
            end.metered,
            estimated_input_tokens=estimated,
            is_answered=failure.status != 0,
        )
    if row is not None:
        drafts += [Draft(stream, row), *_note_unpriced(state, run, row, now_us)]
    if hold is not None:
        because = "cancelled" if failure.failure_class in ("cancelled", "client_disconnected") else "settled"
        drafts.append(Draft(stream, budgets.release(hold, row, because)))  # type: ignore[arg-type]
    return drafts


def _retry_wait_ms(state: State, run: Run, end: FailureEnd, provider: ProviderEntry, now_us: int) -> int | None:
    assert run.attempt is not None
    alternative, _ = next_candidate(state, run, run.attempt.candidate, now_us)
    return retries.wait_before_retry_ms(
        end.failure,
        provider,
        retry=run.attempt.retry,
        time_left_ms=us_to_ms(run.deadline_us - now_us),
        jitter_bp=end.jitter_bp,
        has_alternative=alternative is not None,
    )


def _note_unpriced(state: State, run: Run, row: UsageRecorded, now_us: int) -> list[Draft]:
    """Return the fact that the row's model has no price, where that was not said today."""
    if row.cost_nanousd is not None:
        return []
    return pricing.note_missing(
        state,
        provider_id=row.provider_id,
        model_id=row.model_id,
        variant=row.variant,
        run_id=run.run_id,
        now_us=now_us,
    )


def _estimated(state: State, run: Run) -> int:
    assert run.attempt is not None
    _, estimated, _ = calibrate(state, run.attempt.provider_id, run.attempt.upstream_model, run.admitted.tokens.raw)
    return estimated
