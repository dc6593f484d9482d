"""Requests one by one: each with its attempts, what they used, and the price that they were charged at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from palyra.decisions.corrections import corrected_row, known_cost, plus
from palyra.engine.questions import Answer
from palyra.engine.reports.figures import ms_of
from palyra.engine.reports.fold import Progress, recorded_since
from palyra.engine.reports.scope import Scope, where_of
from palyra.events import runs, usage
from palyra.events.routing import PricingEstimate
from palyra.journal.port import Reader
from palyra.projections.run_view import AttemptView, RunView, add_to_view
from palyra.usage import TokenUsage

#: partial: of some attempts it is not known.
CostState = Literal["priced", "free", "unknown", "partial"]

_NAMES = (
    "run.admitted", "run.refused", "run.completed", "run.failed", "run.cancelled", "routing.decided", "cache.hit",
    "attempt.started",
    "attempt.succeeded", "attempt.failed", "attempt.abandoned", "usage.recorded",
)  # fmt: skip
_ENDS = (runs.RunCompleted, runs.RunFailed, runs.RunCancelled, runs.RunRefused)


class EnrichedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One call to a provider and what came of it; what was used is null where no row of usage was written."""

    attempt: int
    provider_id: str
    model_id: str
    started_us: int
    #: open, succeeded, failed or abandoned.
    outcome: str
    failure_kind: str
    upstream_request_id: str
    billed: str | None
    source: str | None
    usage: TokenUsage | None
    price_id: str | None
    cost_state: str | None
    #: Null where it is not known, or not all of it; then `known_nanousd` is the part that is.
    cost_nanousd: int | None
    known_nanousd: int
    corrected: bool


class UsageEnrichedRun(Answer, frozen=True, kw_only=True):
    """One request with all that it used. Nothing is priced anew here, and no model is inferred."""

    run_id: str
    #: Of its first event.
    position: int
    endpoint: str
    origin: str
    principal_id: str
    key_id: str
    session_id: str
    agent_id: str
    task_class: str
    tags: dict[str, str]
    state: str
    #: Why it was refused, failed or was cancelled.
    code: str
    started_us: int
    completed_us: int | None
    latency_ms: int | None
    ttft_ms: int | None
    model_requested: str
    #: `provider/model` that routing recommended; "" where there was nothing to choose.
    model_recommended: str
    #: Null where nobody served it.
    model_served: str | None
    provider_id: str | None
    #: How it was routed; null where it was refused before that.
    routing_mode: str | None
    routing_action: str | None
    reason_codes: list[str]
    complexity_bp: int | None
    budget_outcome: str
    #: What it was expected to cost.
    estimate: PricingEstimate | None
    attempts: list[EnrichedAttempt]
    #: Sum of the attempts.
    usage: TokenUsage
    #: Sum of what is known; null where nothing is.
    cost_nanousd: int | None
    cost_state: CostState
    corrected: bool
    from_cache: bool


Corrections = dict[tuple[str, int], list[usage.UsageCorrected]]


def enriched_runs(rows: Reader, scope: Scope, progress: Progress | None = None) -> Iterator[UsageEnrichedRun]:
    """Yield the requests of a scope in the order of their ends, those that are open behind them."""
    corrections = corrections_of(rows, scope.from_us)
    open_views: dict[str, RunView] = {}
    for recorded in recorded_since(rows, scope.from_us, _NAMES, progress):
        body, stream = recorded.body, recorded.stream
        view = open_views.get(stream)
        if view is None:
            if not isinstance(body, (runs.RunAdmitted, runs.RunRefused)):
                continue
            view = RunView(run_id=stream[4:], first_position=recorded.position)
            view.admitted_us = recorded.recorded_at_us
            open_views[stream] = view
        add_to_view(view, recorded, {})
        if isinstance(body, _ENDS):
            del open_views[stream]
            if _is_wanted(view, scope):
                yield _enriched(view, corrections)
    for view in open_views.values():
        if _is_wanted(view, scope):
            yield _enriched(view, corrections)


def corrections_of(rows: Reader, since_us: int) -> Corrections:
    """Return what was found to be otherwise, by run and attempt."""
    found: Corrections = {}
    for recorded in recorded_since(rows, since_us, ["usage.corrected"]):
        if isinstance(recorded.body, usage.UsageCorrected):
            found.setdefault((recorded.body.run_id, recorded.body.attempt), []).append(recorded.body)
    return found


def _is_wanted(view: RunView, scope: Scope) -> bool:
    first = view.admitted or view.refused
    if first is None or not scope.from_us <= view.admitted_us < scope.to_us:
        return False
    last = view.attempts[-1].started if view.attempts else None
    where = where_of(first, last.provider_id if last else "", last.model_id if last else "")
    return all(where[place] == value for place, value in scope.filters.wanted())


def _enriched(view: RunView, corrections: Corrections) -> UsageEnrichedRun:
    first = view.admitted or view.refused
    assert first is not None
    where, routing = where_of(first, "", ""), view.routing
    attempts = [_attempt(one, corrections.get((view.run_id, one.started.attempt), [])) for one in view.attempts]
    done = view.completed
    used = TokenUsage()
    for one in attempts:
        used = plus(used, one.usage or TokenUsage())
    state = _cost_state(attempts)
    code = ""
    if view.failed is not None:
        code = view.failed.code
    elif view.refused is not None:
        code = view.refused.code
    elif view.cancelled is not None:
        code = view.cancelled.reason
    return UsageEnrichedRun(
        run_id=view.run_id,
        position=view.first_position,
        endpoint=first.endpoint,
        origin=where[7],
        principal_id=first.principal_id,
        key_id=first.key_id,
        session_id=first.session_id,
        agent_id=first.agent_id,
        task_class=where[8] if routing is None else routing.task_class,
        tags={} if view.admitted is None else view.admitted.tags,
        state=view.state,
        code=code,
        started_us=view.admitted_us,
        completed_us=view.ended_us,
        latency_ms=None if done is None else ms_of(done.duration_us),
        ttft_ms=None if view.first_byte_us is None else ms_of(view.first_byte_us),
        model_requested=first.model_requested,
        model_recommended="" if routing is None else routing.recommended,
        model_served=None if done is None else done.model_id,
        provider_id=None if done is None else done.provider_id,
        routing_mode=None if routing is None else routing.mode,
        routing_action=None if routing is None else routing.action,
        reason_codes=[] if routing is None else routing.reason_codes,
        complexity_bp=None if routing is None else routing.complexity_bp,
        budget_outcome="" if routing is None else routing.budget_outcome,
        estimate=None if routing is None else routing.estimate,
        attempts=attempts,
        usage=used,
        cost_nanousd=None if state == "unknown" else sum(one.known_nanousd for one in attempts),
        cost_state=state,
        corrected=any(one.corrected for one in attempts),
        from_cache=view.hit is not None,
    )


def _attempt(view: AttemptView, corrections: Sequence[usage.UsageCorrected]) -> EnrichedAttempt:
    row = view.usage
    for one in corrections:
        row = None if row is None else corrected_row(row, one)
    ended = (
        "abandoned" if view.abandoned else "failed" if view.failed else "succeeded" if view.succeeded else "open"
    )
    return EnrichedAttempt(
        attempt=view.started.attempt,
        provider_id=view.started.provider_id,
        model_id=view.started.model_id,
        started_us=view.started_us,
        outcome=ended,
        failure_kind="" if view.failed is None else view.failed.failure_class,
        upstream_request_id="" if view.succeeded is None else view.succeeded.upstream_request_id,
        billed=None if row is None else row.billed,
        source=None if row is None else row.source,
        usage=None if row is None else row.usage,
        price_id=None if row is None else row.price_id or None,
        cost_state=None if row is None else row.cost_state,
        cost_nanousd=None if row is None else row.cost_nanousd,
        known_nanousd=0 if row is None else known_cost(row),
        corrected=bool(corrections),
    )


def _cost_state(attempts: Sequence[EnrichedAttempt]) -> CostState:
    states = {one.cost_state for one in attempts if one.cost_state is not None}
    if "unknown" in states:
        is_known_in_part = len(states) > 1 or any(one.known_nanousd for one in attempts)
        return "partial" if is_known_in_part else "unknown"
    return "priced" if "priced" in states else "free"
