"""`routing` and `usage/routing`: how models are chosen, what was decided, what another mode would do."""

from __future__ import annotations

from typing import Annotated

import msgspec

from palyra.decisions.pricing import sample_nanousd
from palyra.decisions.ranking import latency_ms_of
from palyra.engine.console.frame import Params, Sight
from palyra.engine.console.runs import ExplainAnswer, ExplainParams, explain
from palyra.engine.console.usage import WindowAnswer, WindowParams, scope_in, window_answer
from palyra.engine.model_questions import models_answer, provider_answers
from palyra.engine.questions import Answer
from palyra.engine.reports.fold import fold
from palyra.engine.reports.routing import Choices, Comparison, DecisionAnswer, RoutingFigures
from palyra.errors import PalyraError
from palyra.events.smart_routing import SmartRouting
from palyra.projections.pricing import price_at
from palyra.projections.state import State


class RoutingParams(Params, frozen=True, kw_only=True):
    """Nothing is chosen."""


class DecisionsParams(WindowParams, frozen=True, kw_only=True):
    """Which requests, and how many decisions are told one by one."""

    limit: Annotated[int, msgspec.Meta(ge=0, le=500)] = 20


class DecisionParams(ExplainParams, frozen=True, kw_only=True):
    """Which run."""

    #: It must be this principal's; "" for anybody's.
    principal_id: str = ""


class RoutableModel(Answer, frozen=True, kw_only=True):
    """One model that can be chosen, with what it is ranked by."""

    provider_id: str
    model_id: str
    enabled: bool
    is_default: bool
    #: 0..100.
    quality: int
    cost_tier: str
    latency_tier: str
    #: Of its newest answers, in steps of a quarter of a second; of its tier where it has given none.
    latency_ms: int
    #: What 1,000 tokens in and 1,000 out cost; null where that is not known.
    sample_nanousd: int | None
    health: str
    circuit: str


class RoutingAnswer(Answer, frozen=True, kw_only=True):
    """How models are chosen."""

    rules: SmartRouting
    default_model: str
    models: list[RoutableModel]


class DecisionsAnswer(Answer, frozen=True, kw_only=True):
    """What was decided in a window."""

    window: WindowAnswer
    figures: RoutingFigures
    #: Of requests that were tried out (`dry_run`).
    comparisons: list[Comparison]
    #: The newest, the newest first.
    recent: list[DecisionAnswer]


def routing(sight: Sight, params: RoutingParams) -> RoutingAnswer:
    """Return how models are chosen, and among which."""
    state = sight.state
    default = models_answer(state, sight.now_us).default_chat_model_id
    return RoutingAnswer(
        rules=state.config.routing, default_model=default, models=_models(state, default, sight.now_us)
    )


def _models(state: State, default: str, now_us: int) -> list[RoutableModel]:
    standing = {one.provider_id: one for one in provider_answers(state, now_us)}
    found = []
    for one in state.catalog.registry.models:
        if one.role != "chat":
            continue
        price, provider = price_at(state, one.provider_id, one.model_id, now_us), standing[one.provider_id]
        found.append(
            RoutableModel(
                provider_id=one.provider_id,
                model_id=one.model_id,
                enabled=one.enabled and provider.enabled,
                is_default=default in (one.model_id, f"{one.provider_id}/{one.model_id}"),
                quality=one.quality,
                cost_tier=one.cost_tier,
                latency_tier=one.latency_tier,
                latency_ms=latency_ms_of(state, one),
                sample_nanousd=None if price is None else sample_nanousd(price),
                health=provider.health,
                circuit=provider.circuit,
            )
        )
    return found


def decisions(sight: Sight, params: DecisionsParams) -> DecisionsAnswer:
    """Return what was decided, and what enforced would have made of what was tried out."""
    scope = scope_in(sight, params)
    choices = Choices(scope, params.limit)
    fold(sight.rows, choices, since_us=scope.from_us, progress=sight.reading)
    return DecisionsAnswer(
        window=window_answer(scope),
        figures=choices.figures,
        comparisons=choices.comparisons,
        recent=choices.recent,
    )


def decision(sight: Sight, params: DecisionParams) -> ExplainAnswer:
    """Return why one run went where it went."""
    found = explain(sight, params)
    if params.principal_id not in ("", found.principal_id):
        message = f"There is no run '{params.run}' of {params.principal_id}."
        raise PalyraError(message, hint="GET usage/runs lists them", code="run_not_found")
    return found
