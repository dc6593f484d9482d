"""What rules would say to a request, and what it may cost: by the functions that admit requests.

Nothing is held or recorded. A request is described by its size and by who makes it; its text stays with whoever
asks.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from palyra.decisions.budgets import plan_start
from palyra.decisions.estimates import estimate_of
from palyra.decisions.naming import resolve
from palyra.decisions.planning import run_asked
from palyra.decisions.runs import AdmitRun, admit
from palyra.engine.choices import EvaluationAnswer
from palyra.engine.questions import Answer
from palyra.errors import Refusal, Refused
from palyra.events.registry import ModelEntry
from palyra.events.routing import RoutingDecided
from palyra.projections.budgets import Where
from palyra.projections.catalog import model_entry
from palyra.projections.state import State


class EstimateAnswer(Answer, frozen=True, kw_only=True):
    """What a request may cost at a model, in nano-USD; null is not known. See `events/routing.py`."""

    state: str
    price_id: str
    lower_nanousd: int | None
    expected_nanousd: int | None
    upper_nanousd: int | None
    worst_nanousd: int | None
    basis: Literal["agent", "model", "guess"]
    samples_count: int
    estimate_only: bool


class CheckedModel(Answer, frozen=True, kw_only=True):
    """One model that the request could go to."""

    provider_id: str
    model_id: str
    #: Strictest word of the rules, "" where none applies.
    status: str
    #: Longest answer that would be asked for under a hard limit; null where none is near.
    output_cap_tokens: int | None
    evaluations: list[EvaluationAnswer]
    estimate: EstimateAnswer


class BudgetCheckAnswer(Answer, frozen=True, kw_only=True):
    """What a request would meet."""

    #: `provider/model` that would serve it, "" where it would be refused.
    served: str
    #: Of a request that would be refused, by rules or by anything else.
    refusal_code: str
    refusal_message: str
    #: The one that would serve it first, then all that its name stands for.
    models: list[CheckedModel]


def check_budgets(state: State, command: AdmitRun, now_us: int) -> BudgetCheckAnswer:
    """Return what rules say to a request at each of its models; raises `Refused` for a name that leads nowhere."""
    resolution = resolve(state, command.endpoint, command.model)
    if isinstance(resolution, Refusal):
        raise Refused(resolution)
    decision = admit(state, command, now_us)
    bodies = [draft.body for draft in decision.drafts]
    plan = next((body.plan for body in bodies if isinstance(body, RoutingDecided)), [])
    entries = [model_entry(state, command.endpoint, step.provider_id, step.model_id) for step in plan[:1]]
    entries += [one for one in resolution.entries if one not in entries]
    return BudgetCheckAnswer(
        served=f"{plan[0].provider_id}/{plan[0].model_id}" if plan else "",
        refusal_code="" if decision.refusal is None else decision.refusal.code,
        refusal_message="" if decision.refusal is None else decision.refusal.message,
        models=[_checked(state, command, entry, now_us) for entry in entries if entry is not None],
    )


def _checked(state: State, command: AdmitRun, entry: ModelEntry, now_us: int) -> CheckedModel:
    run = run_asked(state, command, entry, now_us)
    where = Where(entry.provider_id, entry.model_id)
    start = plan_start(state, run, where, entry.upstream_model, now_us)
    return CheckedModel(
        provider_id=entry.provider_id,
        model_id=entry.model_id,
        status=start.judgement.verdict,
        output_cap_tokens=start.cap_tokens,
        evaluations=msgspec.convert(start.judgement.evaluations, list[EvaluationAnswer], from_attributes=True),
        estimate=msgspec.convert(estimate_of(state, run, entry, now_us), EstimateAnswer, from_attributes=True),
    )
