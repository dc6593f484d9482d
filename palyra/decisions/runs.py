"""The life of a run: admission, what comes after a failed attempt, and the run's one end.

Each function decides one step from the state as it is; the engine records the drafts of the steps that belong
together in one commit, folding each step before the next is decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from palyra.decisions import approvals, budgets, routing
from palyra.decisions.base import Decision
from palyra.decisions.budget_refusals import refusal_of
from palyra.decisions.failures import Failure, rule_of
from palyra.decisions.planning import admission, plan_usage_routing
from palyra.decisions.repeats import next_key
from palyra.errors import CODES, Refusal
from palyra.events.base import Draft
from palyra.events.routing import NO_FEATURES, Features, PlanStep, RoutingFailedOver
from palyra.events.runs import (
    CancelReason,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunRefused,
)
from palyra.events.smart_routing import RoutingMode
from palyra.projections.budgets import Where
from palyra.projections.runs import Run, open_for_us
from palyra.projections.state import State


class CacheAsk(msgspec.Struct, frozen=True, kw_only=True):
    """What a request wants of the response cache."""

    #: Of the body as far as it changes the answer (`wire/canonical.py`).
    body_digest: str
    reads: bool = True
    writes: bool = True
    max_age_ms: int | None = None


class AdmitRun(msgspec.Struct, frozen=True, kw_only=True):
    """A request that wants to become a run."""

    run_id: str
    principal_id: str
    key_id: str = ""
    session_id: str = ""
    agent_id: str = ""
    tags: dict[str, str] = {}
    endpoint: str
    origin: str = "http"
    model: str = ""
    stream: bool = False
    needs: Sequence[str] = ()
    raw_tokens: int
    output_max_tokens: int | None = None
    choices_count: int = 1
    dimensions: int | None = None
    body_digest: str
    body_bytes: int
    #: Length of a recording; by its size alone where its header tells none.
    audio_ms: int = 0
    audio_guessed: bool = False
    #: The service tier that it asks for, as prices name it.
    variant: str = "standard"
    #: Credentials whose secret cannot be read right now.
    absent: Sequence[str] = ()
    #: The client may only shorten the configured time.
    timeout_ms: int | None = None
    failover: bool = True
    #: See `routing.Wanted`.
    dialect: str = ""
    losses: Mapping[str, Sequence[str]] = {}
    #: Name of an idempotent request (`decisions/repeats.py`), "" for none.
    command_name: str = ""
    #: What the request allows itself to cost.
    max_cost_nanousd: int | None = None
    #: How long it may be held while somebody decides whether it passes a limit.
    wait_approval_ms: int = 0
    #: Globs of the models that the caller may use; none stands for all.
    models: Sequence[str] = ()
    #: What the request says of routing, and what its score is made of.
    routing_mode: RoutingMode | None = None
    task_class: str = ""
    may_pin: bool = False
    features: Features = NO_FEATURES
    #: None where the cache has nothing to do with it.
    cache: CacheAsk | None = None


def admit(state: State, command: AdmitRun, now_us: int) -> Decision:
    """Let a request in with its plan, or refuse it."""
    plan = plan_usage_routing(state, command, now_us, state.config.routing)
    drafts = [] if plan.decided is None else [Draft(f"run-{command.run_id}", plan.decided)]
    if plan.refusal is not None:
        return Decision([*drafts, *plan.told, refusal_draft(command, plan.refusal)], plan.refusal)
    first = plan.first
    assert first is not None, "a plan without a refusal has somebody to serve it"
    return Decision([admitted(state, command, first.provider_id, first.upstream_model, now_us), *drafts])


def admitted(state: State, command: AdmitRun, provider_id: str, upstream_model: str, now_us: int) -> Draft:
    """Return the first fact of a run, sized for the model that it is meant for."""
    fact = admission(state, command, provider_id, upstream_model, now_us)
    key = next_key(state, command.command_name) if command.command_name else ""
    return Draft(f"run-{command.run_id}", fact, command_key=key)


def refusal_draft(command: AdmitRun, refusal: Refusal) -> Draft:
    """Return the fact of an authenticated request that was refused."""
    refused = RunRefused(
        code=refusal.code,
        http_status=refusal.http_status,
        principal_id=command.principal_id,
        key_id=command.key_id,
        endpoint=command.endpoint,
        dialect=command.dialect,
        model_requested=command.model[:256],
        param=refusal.param or "",
        retry_after_ms=refusal.retry_after_ms,
        needs=sorted(command.needs),
        raw_tokens=command.raw_tokens,
        origin=command.origin,
        session_id=command.session_id,
        agent_id=command.agent_id,
        choices_count=command.choices_count,
        body_bytes=command.body_bytes,
        audio_ms=command.audio_ms,
        audio_guessed=command.audio_guessed,
        variant=command.variant,
        max_cost_nanousd=command.max_cost_nanousd,
    )
    return Draft(f"run-{command.run_id}", refused)


def complete_run(run: Run, *, stop: str, step: PlanStep, now_us: int) -> list[Draft]:
    """End a run whose answer is complete."""
    completed = RunCompleted(
        stop=stop,
        provider_id=step.provider_id,
        model_id=step.model_id,
        attempts_count=run.attempts_count,
        duration_us=open_for_us(run, now_us),
    )
    return [Draft(f"run-{run.run_id}", completed)]


class NextStep(NamedTuple):
    """What follows a failure that is not retried: another candidate, or the end with its refusal."""

    drafts: list[Draft]
    candidate: int | None
    refusal: Refusal | None = None


def after_failure(
    state: State, run: Run, *, candidate: int, attempt: int, failure: Failure, now_us: int
) -> NextStep:
    """Walk on along the plan, or end the run. The failure itself is folded already.

    A candidate that a budget stops is left like one that has failed; if it was the last, the budget says why.
    """
    stream = f"run-{run.run_id}"
    if failure.phase != "content" and rule_of(failure.failure_class).failover != "no" and now_us < run.deadline_us:
        index, skipped = routing.next_candidate(
            state, run, candidate, now_us, needs_larger_window=rule_of(failure.failure_class).failover == "larger"
        )
        if index is not None:
            step = run.plan[index]
            failed_over = RoutingFailedOver(
                from_attempt=attempt,
                trigger=failure.failure_class,
                provider_id=step.provider_id,
                model_id=step.model_id,
                skipped=skipped,
                remaining_count=len(run.plan) - index - 1,
            )
            return NextStep([Draft(stream, failed_over)], index)
    refusal = refusal_of_failure(run, failure)
    asked: list[Draft] = []
    if failure.failure_class == "budget_excluded":
        step = run.plan[candidate]
        where = Where(step.provider_id, step.model_id)
        judgement = budgets.plan_start(state, run, where, step.upstream_model, now_us).judgement
        if judgement.stops:
            needed = approvals.ask_for(state, run.run_id, run.admitted.principal_id, judgement, now_us)
            asked, refusal = needed.drafts, refusal_of(state, judgement, now_us, needed)
    return NextStep([*asked, fail_run(run, refusal, failure.failure_class, now_us)], None, refusal)


def fail_run(run: Run, refusal: Refusal, failure_class: str, now_us: int) -> Draft:
    """End a run without an answer."""
    failed = RunFailed(
        code=refusal.code,
        failure_class=failure_class,
        http_status=refusal.http_status,
        attempts_count=run.attempts_count,
        duration_us=open_for_us(run, now_us),
    )
    return Draft(f"run-{run.run_id}", failed)


#: What a client is told where a secret of ours was the matter: no more than that, and whom to ask.
_UNASKED = {
    "missing_credential": "No provider was asked: its credential cannot be read. `palyra auth health` says why.",
    "vault_locked": "No provider was asked: the vault is locked. `palyra vault status` says why.",
}


def refusal_of_failure(run: Run, failure: Failure) -> Refusal:
    """Return what the client is told when the last candidate has failed.

    One class seen is that class's answer; so is a last one that nobody else was asked about.
    """
    rule = rule_of(failure.failure_class)
    code, is_mixed = rule.code, any(one != failure.failure_class for one in run.failure_classes)
    if is_mixed and rule.failover == "yes" and CODES[code].http_status >= 500:
        code = "upstream_failed"
    where = "The provider" if run.attempts_count <= 1 else f"The last of {run.attempts_count} attempts"
    said = f": {failure.message}" if failure.message else ""
    message = f"{where} failed ({failure.failure_class}){said}"
    if CODES[code].http_status == 400 and failure.message:
        message = failure.message
    message = _UNASKED.get(code, message)
    retry_after_ms = failure.retry_after_ms
    if retry_after_ms is None and CODES[code].http_status in (429, 503):
        retry_after_ms = 1_000
    # A word that is no more than the type of the error says nothing that the class does not.
    is_told = bool(failure.code) and not failure.code.endswith("_error") and CODES[code].http_status == 400
    told = {"upstream_code": failure.code} if is_told else {}
    return Refusal(code=code, message=message, retry_after_ms=retry_after_ms, details=told)


def cancel_run(
    run: Run, *, reason: CancelReason, by: str = "", policy: str = "", drained: bool = False, now_us: int
) -> list[Draft]:
    """End a run that nobody waits for any more; its open attempt is settled before."""
    cancelled = RunCancelled(
        reason=reason,
        by=by,
        policy=policy,
        drained=drained,
        attempts_count=run.attempts_count,
        duration_us=open_for_us(run, now_us),
    )
    return [Draft(f"run-{run.run_id}", cancelled)]
