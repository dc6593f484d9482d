"""Why a request got the model that it got: every model with its figures, the rules about usage, and what flips it.

Made again from the state right before the decision, by the function that decided; whether that gives the recorded
decision is told too.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from palyra.decisions.complexity import score_parts
from palyra.decisions.flips import flips_of, outcome_of
from palyra.decisions.given import request_of
from palyra.decisions.planning import RoutingPlan, plan_usage_routing
from palyra.decisions.ranking import Looked
from palyra.decisions.runs import AdmitRun
from palyra.engine.questions import Answer
from palyra.events.base import Recorded
from palyra.events.routing import RoutingDecided
from palyra.events.runs import RunAdmitted, RunRefused
from palyra.projections.state import State


class EvaluationAnswer(Answer, frozen=True, kw_only=True):
    """What one rule said to a model; amounts in nano-USD or tokens."""

    policy_id: str
    revision: int
    subject: str
    metric_kind: str
    interval_kind: str
    mode: str
    status: str
    consumed_value: int
    reserved_value: int
    requested_value: int
    soft_limit_value: int | None
    hard_limit_value: int | None
    headroom_value: int | None


class RankedAnswer(Answer, frozen=True, kw_only=True):
    """One model: its rank, or the rule that left it out."""

    provider_id: str
    model_id: str
    #: From 1; null for one that was left out.
    rank: int | None
    excluded_by: str
    figures: dict[str, int]
    readiness: int
    #: Null where the price is not known.
    expected_nanousd: int | None
    quality: int
    #: Of its newest answers, in steps of a quarter of a second; of its tier where it has given none.
    latency_ms: int
    evaluations: list[EvaluationAnswer]


class FlipAnswer(Answer, frozen=True, kw_only=True):
    """The nearest flip along one axis; see `decisions/flips.py`."""

    axis: str
    subject: str
    unit: str
    now: int | None
    value: int | None
    served: str
    recommended: str
    why: str


class ChoiceAnswer(Answer, frozen=True, kw_only=True):
    """A decision with all that it was based on."""

    mode: str
    task_class: str
    strategy: str
    complexity_bp: int | None
    #: Basis points by part of the score; empty where nothing was scored.
    score_parts: dict[str, int]
    #: Who serves, or the code of the refusal.
    served: str
    recommended: str
    action: str
    reason_codes: list[str]
    models: list[RankedAnswer]
    flips: list[FlipAnswer]
    #: Deciding again gave the recorded decision; null where there is none.
    is_reproduced: bool | None


def choice_of_run(state: State, run_id: str, history: Sequence[Recorded], now_us: int) -> ChoiceAnswer | None:
    """Return the choice of a recorded run; None where it has none. `state` is that before it was decided."""
    bodies = [one.body for one in history]
    asked = next((body for body in bodies if isinstance(body, RunAdmitted | RunRefused)), None)
    decided = next((body for body in bodies if isinstance(body, RoutingDecided)), None)
    if asked is None or decided is None:
        return None
    return choice_of(state, request_of(run_id, asked, decided, now_us), now_us, recorded=decided)


def choice_of(
    state: State, command: AdmitRun, now_us: int, *, recorded: RoutingDecided | None = None
) -> ChoiceAnswer | None:
    """Return what would be chosen for a request; None where its name leads nowhere."""
    config = state.config.routing
    plan = plan_usage_routing(state, command, now_us, config)
    decided = plan.decided
    if decided is None:
        return None
    return ChoiceAnswer(
        mode=decided.mode,
        task_class=decided.task_class,
        strategy=decided.strategy,
        complexity_bp=decided.complexity_bp,
        score_parts={} if plan.scored_tokens is None else score_parts(plan.scored_tokens, decided.features, config),
        served=outcome_of(plan).served,
        recommended=decided.recommended,
        action=decided.action,
        reason_codes=decided.reason_codes,
        models=_models(plan),
        flips=msgspec.convert(flips_of(state, command, now_us, config), list[FlipAnswer], from_attributes=True),
        is_reproduced=None if recorded is None else decided == recorded,
    )


def _models(plan: RoutingPlan) -> list[RankedAnswer]:
    if plan.board is None:
        return []
    ranked = [_model(one, rank) for rank, one in enumerate(plan.board.ranked, 1)]
    return [*ranked, *(_model(one, None) for one in plan.board.excluded)]


def _model(one: Looked, rank: int | None) -> RankedAnswer:
    return RankedAnswer(
        provider_id=one.entry.provider_id,
        model_id=one.entry.model_id,
        rank=rank,
        excluded_by=one.excluded_by,
        figures={} if one.exclusion is None else one.exclusion.figures,
        readiness=one.readiness,
        expected_nanousd=one.expected_nanousd,
        quality=one.entry.quality,
        latency_ms=one.latency_ms,
        evaluations=msgspec.convert(one.judgement.evaluations, list[EvaluationAnswer], from_attributes=True),
    )
