"""What a request would meet right now: its plan, or why it would be refused. Nothing is recorded, nothing is sent.

It is the very function that admits requests, over the state that is asked about.
"""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.decisions.runs import AdmitRun, admit
from palyra.engine.choices import ChoiceAnswer, choice_of
from palyra.engine.history import ExclusionAnswer
from palyra.engine.questions import Answer
from palyra.events.registry import LISTED_FIGURES, ModelEntry
from palyra.events.routing import Features, PlanStep, RoutingDecided
from palyra.events.runs import RunAdmitted, RunRefused
from palyra.events.smart_routing import RoutingMode
from palyra.projections.catalog import DISCOVERED, list_of, model_entry
from palyra.projections.state import State

_ASKER = "operator:local"


class CandidatePlan(Answer, frozen=True, kw_only=True):
    """One candidate in its place, with the figures of its model and where each comes from."""

    provider_id: str
    model_id: str
    upstream_model: str
    via: str
    health: str
    readiness: int
    #: Credentials that it would be tried with, best first; never a secret.
    credentials: list[str]
    max_context_tokens: int | None
    max_output_tokens: int | None
    #: configuration, override, discovery or default, by figure.
    sources: dict[str, str]
    cost_tier: str
    latency_tier: str


class PlanAnswer(Answer, frozen=True, kw_only=True):
    """What a request would meet."""

    model_requested: str
    endpoint: str
    needs: list[str]
    raw_tokens: int
    estimated_tokens: int | None
    upper_tokens: int | None
    #: How the name was understood, "" where it leads nowhere.
    resolved_by: str
    model_id: str
    failover: str
    output_cap_tokens: int | None
    plan: list[CandidatePlan]
    excluded: list[ExclusionAnswer]
    #: Of a request that would be refused.
    refusal_code: str
    refusal_message: str
    choice: ChoiceAnswer | None


def plan_answer(
    state: State,
    *,
    model: str,
    endpoint: str,
    raw_tokens: int,
    needs: list[str],
    output_max_tokens: int | None,
    stream: bool,
    features: Features,
    routing_mode: RoutingMode | None,
    task_class: str,
    principal_id: str,
    agent_id: str,
    now_us: int,
) -> PlanAnswer:
    """Return the plan that a request of the operator's would get."""
    command = AdmitRun(
        run_id="plan",
        principal_id=principal_id or _ASKER,
        agent_id=agent_id,
        features=features,
        routing_mode=routing_mode,
        task_class=task_class,
        endpoint=endpoint,
        model=model,
        stream=stream,
        needs=needs,
        raw_tokens=raw_tokens,
        output_max_tokens=output_max_tokens,
        body_digest="",
        body_bytes=0,
    )
    decision = admit(state, command, now_us)
    bodies = [draft.body for draft in decision.drafts]
    decided = next((body for body in bodies if isinstance(body, RoutingDecided)), None)
    admitted = next((body for body in bodies if isinstance(body, RunAdmitted)), None)
    asked = admitted or next(body for body in bodies if isinstance(body, RunRefused))
    return PlanAnswer(
        model_requested=model,
        endpoint=endpoint,
        needs=asked.needs,
        raw_tokens=raw_tokens,
        estimated_tokens=None if admitted is None else admitted.tokens.estimated,
        upper_tokens=None if admitted is None else admitted.tokens.upper,
        resolved_by="" if decided is None else decided.resolved_by,
        model_id="" if decided is None else decided.model_id,
        failover="" if decided is None else decided.failover,
        output_cap_tokens=None if decided is None else decided.output_cap_tokens,
        plan=[] if decided is None else [_candidate(state, endpoint, step) for step in decided.plan],
        excluded=[]
        if decided is None
        else msgspec.convert(decided.excluded, list[ExclusionAnswer], from_attributes=True),
        refusal_code="" if decision.refusal is None else decision.refusal.code,
        refusal_message="" if decision.refusal is None else decision.refusal.message,
        choice=choice_of(state, command, now_us),
    )


def _candidate(state: State, role: str, step: PlanStep) -> CandidatePlan:
    entry = model_entry(state, role, step.provider_id, step.model_id)
    assert entry is not None, "a plan holds only what there is"
    figures: dict[str, Any] = {name: getattr(entry, name) for name in LISTED_FIGURES}
    return CandidatePlan(
        provider_id=step.provider_id,
        model_id=step.model_id,
        upstream_model=step.upstream_model,
        via=step.via,
        health=step.health,
        readiness=step.readiness,
        credentials=[one.credential_ref for one in step.credentials],
        sources={name: source_of(state, entry, name) for name in LISTED_FIGURES},
        cost_tier=entry.cost_tier,
        latency_tier=entry.latency_tier,
        **figures,
    )


def source_of(state: State, entry: ModelEntry, figure: str) -> str:
    """Return who says a figure of a model: the configuration, its provider's list, or the flavor's row."""
    listed = list_of(state, entry.provider_id).models.get(entry.upstream_model)
    is_open = figure in entry.left_open or entry.metadata_source == DISCOVERED
    if is_open:
        return "discovery" if listed is not None and getattr(listed, figure) is not None else "default"
    return "override" if entry.metadata_source == "operator_override" else "configuration"
