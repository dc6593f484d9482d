"""What a decision saw: the state right before a run's first event, as far as its candidates are concerned.

Folded from the journal, so it shows what was true, beside the run's own events that show what was recorded of it.
"""

from __future__ import annotations

from palyra.decisions.health import health_with_credentials
from palyra.engine.history import ExclusionAnswer, RunReport, StepAnswer
from palyra.engine.questions import Answer
from palyra.projections.budgets import reserved_tokens
from palyra.projections.catalog import excluded_until_us, model_entry, provider_entry, standing_of
from palyra.projections.circuits import circuit_of
from palyra.projections.health import evidence_of
from palyra.projections.state import State
from palyra.projections.usage import calibrate
from palyra.units import BP_PER_UNIT


class CandidateSeen(Answer, frozen=True, kw_only=True):
    """One candidate, in the plan or left out, as it was known."""

    provider_id: str
    model_id: str
    health: str
    #: closed, open or half_open, and when an open one lets its trial pass.
    circuit: str
    circuit_until_us: int | None
    #: Counted failures in a row: of the provider, how many open its circuit, and of the model alone.
    failures_count: int
    failures_threshold_count: int | None
    model_failures_count: int
    last_error: str
    excluded_until_us: int | None
    excluded_reason: str
    #: Billed over estimated input: the ratio in use, and the bound for a hold.
    calibration_bp: int
    upper_bp: int
    #: Attempts under way at the provider, and what was held for them.
    open_attempts_count: int
    held_tokens: int


class SeenAnswer(Answer, frozen=True, kw_only=True):
    """The state that a decision was taken from."""

    position: int
    config_generation: int
    open_runs_count: int
    held_tokens: int
    candidates: list[CandidateSeen]


def seen_by(state: State, report: RunReport, decided_us: int) -> SeenAnswer:
    """Return what the decision about a run saw; `state` is that right before it was made."""
    routing = report.routing
    rows: list[StepAnswer | ExclusionAnswer] = [] if routing is None else [*routing.plan, *routing.excluded]
    return SeenAnswer(
        position=state.position,
        config_generation=state.config.generation,
        open_runs_count=len(state.runs.open),
        held_tokens=reserved_tokens(state),
        candidates=[_candidate(state, report.endpoint, one.provider_id, one.model_id, decided_us) for one in rows],
    )


def _candidate(state: State, role: str, provider_id: str, model_id: str, now_us: int) -> CandidateSeen:
    provider, entry = provider_entry(state, provider_id), model_entry(state, role, provider_id, model_id)
    circuit, evidence = circuit_of(state, provider_id), evidence_of(state, provider_id)
    standing = standing_of(state, provider_id, model_id)
    until_us = excluded_until_us(state, provider_id, model_id)
    is_excluded = until_us > now_us
    upstream_model = entry.upstream_model if entry is not None else model_id
    calibration_bp, _, upper_bp = calibrate(state, provider_id, upstream_model, BP_PER_UNIT)
    attempts = (run.attempt for run in state.runs.open.values() if run.attempt is not None)
    at_provider = [one for one in attempts if one.provider_id == provider_id]
    return CandidateSeen(
        provider_id=provider_id,
        model_id=model_id,
        health="unknown" if provider is None else health_with_credentials(state, provider, now_us),
        circuit=circuit.status,
        circuit_until_us=circuit.until_us if circuit.status == "open" else None,
        failures_count=circuit.streak,
        failures_threshold_count=None if provider is None else provider.circuit_breaker_failure_threshold,
        model_failures_count=standing.streak if standing is not None else 0,
        last_error=evidence.last_error,
        excluded_until_us=until_us if is_excluded else None,
        excluded_reason=standing.reason if standing is not None and is_excluded else "",
        calibration_bp=calibration_bp,
        upper_bp=upper_bp,
        open_attempts_count=len(at_provider),
        held_tokens=sum(one.max_tokens for one in at_provider),
    )
