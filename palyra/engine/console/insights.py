"""`usage/insights`: what the figures say about models, work, providers, routing, estimates and rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from palyra.engine.console.frame import Sight
from palyra.engine.console.usage import (
    PolicyStatus,
    WindowAnswer,
    WindowParams,
    budgets_in,
    scope_in,
    window_answer,
)
from palyra.engine.model_questions import provider_answers
from palyra.engine.questions import AlertAnswer, Answer, alert_answer
from palyra.engine.reports.alerts import is_about
from palyra.engine.reports.figures import Histogram, LatencyFigures, Sums, Totals, merged
from palyra.engine.reports.fold import Accuracy, Grouping, Key, fold
from palyra.engine.reports.routing import Choices, RoutingFigures
from palyra.engine.reports.scope import SYSTEM_PRINCIPAL, class_of
from palyra.engine.reports.tables import ranked
from palyra.projections.alerts import open_alerts
from palyra.units import BP_PER_UNIT


class InsightsParams(WindowParams, frozen=True, kw_only=True):
    """Which requests."""


class ModelShare(msgspec.Struct, frozen=True, kw_only=True):
    """One model's part of all tokens."""

    provider_id: str
    model_id: str
    runs: int
    tokens: int
    cost_nanousd: int
    cost_complete: bool
    share_bp: int


class MixShare(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of work's part of all tokens."""

    name: str
    runs: int
    tokens: int
    cost_nanousd: int
    cost_complete: bool
    share_bp: int


class ProviderShare(msgspec.Struct, frozen=True, kw_only=True):
    """One provider's part of all tokens, what came of asking it, and how it does now."""

    provider_id: str
    runs: int
    runs_ok: int
    attempts: int
    tokens: int
    cost_nanousd: int
    cost_complete: bool
    share_bp: int
    #: Cost of attempts that came to nothing.
    absorbed_nanousd: int
    latency_ms: LatencyFigures
    #: Null where it is not configured any more.
    health: str | None
    circuit: str | None


class CalibrationAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How estimates at a model compare with what came of them."""

    provider_id: str
    model_id: str
    samples: int
    #: Of input: counted over estimated.
    ratio_bp: int
    #: Distance between the two, of what was counted.
    error_p50_bp: int | None
    error_p95_bp: int | None
    #: Distance between what a request was expected to cost and what it did, of what it did; where its decision has
    #: an estimate, which a hint alone has not.
    cost_samples: int
    cost_error_p50_bp: int | None
    cost_error_p95_bp: int | None


class InsightsAnswer(Answer, frozen=True, kw_only=True):
    """What the figures say."""

    window: WindowAnswer
    totals: Totals
    model_mix: list[ModelShare]
    #: Whose work it is, by where it comes from: interactive, background, auxiliary, and system: our own.
    scope_mix: list[MixShare]
    #: What routing took it for: interactive, background, auxiliary.
    class_mix: list[MixShare]
    providers: list[ProviderShare]
    routing: RoutingFigures
    calibration: list[CalibrationAnswer]
    budgets: list[PolicyStatus]
    #: Those that are open.
    alerts: list[AlertAnswer]


def insights(sight: Sight, params: InsightsParams) -> InsightsAnswer:
    """Return what the figures say."""
    scope = scope_in(sight, params)
    grouping = Grouping(scope, ["provider", "model", "origin", "principal"])
    classes, choices = Grouping(scope, ["task_class"]), Choices(scope)
    fold(sight.rows, grouping, classes, choices, since_us=scope.from_us, progress=sight.reading)
    groups = grouping.groups
    whole = merged(groups.values())
    models = _together(groups, lambda key: key[:2] if key[1] else None)
    providers = _together(groups, lambda key: key[:1] if key[0] else None)
    kinds = _together(groups, lambda key: ("system" if key[3] == SYSTEM_PRINCIPAL else class_of(key[2]),))
    known = sorted({*grouping.accuracy, *choices.cost_errors_bp})
    return InsightsAnswer(
        window=window_answer(scope),
        totals=whole.totals,
        model_mix=[
            ModelShare(provider_id=key[0], model_id=key[1], **_share(sums, whole)._asdict())
            for key, sums in ranked(models)
        ],
        scope_mix=_mix(kinds, whole),
        class_mix=_mix(classes.groups, whole),
        providers=_providers(sight, providers, whole),
        routing=choices.figures,
        calibration=[
            _calibration(*one, grouping.accuracy.get(one, Accuracy()), choices.cost_errors_bp.get(one, Histogram()))
            for one in known
        ],
        budgets=budgets_in(sight, params),
        alerts=[
            alert_answer(one, sight.now_us)
            for one in reversed(open_alerts(sight.state, sight.now_us))
            if not params.principal_id or is_about(one.raised, params.principal_id)
        ],
    )


class _Share(NamedTuple):
    runs: int
    tokens: int
    cost_nanousd: int
    cost_complete: bool
    share_bp: int


def _share(sums: Sums, whole: Sums) -> _Share:
    share_bp = sums.total_tokens * BP_PER_UNIT // max(1, whole.total_tokens)
    return _Share(sums.runs, sums.total_tokens, sums.cost_nanousd, sums.unpriced_attempts == 0, share_bp)


def _mix(groups: dict[Key, Sums], whole: Sums) -> list[MixShare]:
    return [MixShare(name=key[0], **_share(sums, whole)._asdict()) for key, sums in ranked(groups)]


def _together(groups: dict[Key, Sums], key_of: Callable[[Key], Key | None]) -> dict[Key, Sums]:
    found: dict[Key, Sums] = {}
    for key, sums in groups.items():
        shorter = key_of(key)
        if shorter is not None:
            found.setdefault(shorter, Sums()).merge(sums)
    return found


def _providers(sight: Sight, groups: dict[Key, Sums], whole: Sums) -> list[ProviderShare]:
    now = {one.provider_id: one for one in provider_answers(sight.state, sight.now_us)}
    return [
        ProviderShare(
            provider_id=key[0],
            runs_ok=sums.runs_ok,
            attempts=sums.attempts,
            absorbed_nanousd=sums.absorbed_nanousd,
            latency_ms=sums.totals.latency_ms,
            health=now[key[0]].health if key[0] in now else None,
            circuit=now[key[0]].circuit if key[0] in now else None,
            **_share(sums, whole)._asdict(),
        )
        for key, sums in ranked(groups)
    ]


def _calibration(provider_id: str, model_id: str, found: Accuracy, costs: Histogram) -> CalibrationAnswer:
    return CalibrationAnswer(
        provider_id=provider_id,
        model_id=model_id,
        samples=found.samples,
        ratio_bp=found.real_tokens * BP_PER_UNIT // max(1, found.estimated_tokens),
        error_p50_bp=found.errors_bp.quantile(5_000),
        error_p95_bp=found.errors_bp.quantile(9_500),
        cost_samples=sum(costs.counts.values()),
        cost_error_p50_bp=costs.quantile(5_000),
        cost_error_p95_bp=costs.quantile(9_500),
    )
