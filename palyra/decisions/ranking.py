"""Which model had best serve a request: every one that could, with its figures, in the order of a strategy.

Filters come first and each model keeps the first one that hits; then prices, then the rules about usage, then the
order. Ties go by name, so that the same state gives the same order whatever the configuration's order was.
Source: governance specification 9.2 and 9.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from palyra.decisions import budgets, credentials, routing
from palyra.decisions.budget_refusals import exclusion_of
from palyra.decisions.complexity import band_of
from palyra.decisions.estimates import expected_nanousd
from palyra.events.registry import ModelEntry
from palyra.events.routing import Exclusion, RankedModel
from palyra.events.smart_routing import SmartRouting, TaskClass
from palyra.projections.budgets import Where
from palyra.projections.catalog import provider_entry
from palyra.projections.health import READINESS, health_of
from palyra.projections.latencies import recent_latency_ms
from palyra.projections.runs import Run
from palyra.projections.state import State
from palyra.units import BP_PER_UNIT

Strategy = Literal["cheapest", "fastest", "balanced", "best"]
#: Where a model has given no answer yet.
_LATENCY_MS = {"low": 500, "standard": 2_000, "high": 6_000}
_TIERS = {"low": 0, "standard": 1, "premium": 2}
_OF_BAND: Mapping[str, Strategy] = {"simple": "cheapest", "balanced": "balanced", "premium": "best"}
#: One step down when a limit is near.
_UNDER_PRESSURE: Mapping[Strategy, Strategy] = {"best": "balanced", "balanced": "cheapest"}
#: What a price that is not known sorts as.
UNKNOWN_COST = 1 << 62
#: Models that a fact lists.
CANDIDATES_MAX_COUNT = 12


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is taken otherwise than it is, to see what would come of it."""

    #: Expected cost by `provider/model`.
    costs: Mapping[str, int] = {}
    score_bp: int | None = None
    #: Uncalibrated size of the input, as far as it has to fit somewhere.
    raw_tokens: int | None = None
    #: Instant for which circuits and exclusions are looked at.
    ready_us: int | None = None


AS_IT_IS = Changed()


class Looked(NamedTuple):
    """One model that was looked at."""

    entry: ModelEntry
    readiness: int
    expected_nanousd: int | None
    latency_ms: int
    #: The first rule that left it out, or None.
    exclusion: Exclusion | None
    judgement: budgets.Judgement = budgets.NOTHING

    @property
    def excluded_by(self) -> str:
        return "" if self.exclusion is None else self.exclusion.excluded_by

    @property
    def name(self) -> str:
        return f"{self.entry.provider_id}/{self.entry.model_id}"

    @property
    def headroom(self) -> tuple[int | None, str]:
        """What is left under the rule that leaves least, and the rule."""
        left = [
            (one.headroom_value, one.policy_id)
            for one in self.judgement.evaluations
            if one.headroom_value is not None
        ]
        return min(left, default=(None, ""))


class Board(NamedTuple):
    """All models of a role, those that may serve in their order and those left out behind them."""

    ranked: list[Looked]
    excluded: list[Looked]
    strategy: Strategy
    codes: list[str]
    #: The default model, wherever it stands.
    default: Looked | None

    def rows(self) -> list[RankedModel]:
        """Return the whole table as facts hold it."""
        return [
            RankedModel(
                provider_id=one.entry.provider_id,
                model_id=one.entry.model_id,
                readiness=one.readiness,
                expected_nanousd=one.expected_nanousd,
                quality=one.entry.quality,
                latency_ms=one.latency_ms,
                excluded_by=one.excluded_by,
                headroom=one.headroom[0],
                headroom_policy_id=one.headroom[1],
            )
            for one in (*self.ranked, *self.excluded)
        ]

    def excluded_counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for one in self.excluded:
            counts[one.excluded_by] = counts.get(one.excluded_by, 0) + 1
        return dict(sorted(counts.items()))


def digest_of(rows: Sequence[RankedModel]) -> str:
    """Return what a table is recognised by: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(msgspec.json.encode(list(rows))).hexdigest()[:16]


class Asking(NamedTuple):
    """Who asks for what, as far as models are compared for it."""

    run: Run
    wanted: routing.Wanted
    task_class: TaskClass
    #: Strategy that the request names itself, "" where the score decides.
    forced: str
    score_bp: int
    default: ModelEntry
    #: Rules about usage are asked too.
    has_budgets: bool


def rank_models(
    state: State, asking: Asking, rules: SmartRouting, now_us: int, changed: Changed = AS_IT_IS
) -> Board:
    """Compare every model of the role."""
    role = asking.wanted.role
    entries = [entry for entry in state.catalog.registry.models if entry.role == role]
    looked = [_look(state, asking, entry, now_us, changed) for entry in entries]
    codes: list[str] = []
    default = next((one for one in looked if one.entry is asking.default), None)
    strategy = strategy_of(asking, rules)
    if asking.has_budgets and not asking.forced and pressure_bp(default) >= rules.budget_pressure_bp:
        if strategy in _UNDER_PRESSURE:
            strategy = _UNDER_PRESSURE[strategy]
        codes.append("budget_pressure")
    pool = [one for one in looked if one.exclusion is None]
    out = [one for one in looked if one.exclusion is not None]
    if asking.task_class != "interactive":
        pool, guarded, code = _guard(pool, default)
        out += guarded
        codes += [code] if code else []
    key = _key_of(strategy, pool, default, rules.min_quality.get(asking.task_class, 0))
    return Board(sorted(pool, key=key), sorted(out, key=_name), strategy, codes, default)


def strategy_of(asking: Asking, rules: SmartRouting) -> Strategy:
    """Return the strategy of a request: its own, that of its class, or that of its score."""
    if asking.forced:
        return asking.forced  # type: ignore[return-value]
    if asking.task_class != "interactive":
        return "cheapest"
    return _OF_BAND[band_of(asking.score_bp, rules)]


def latency_ms_of(state: State, entry: ModelEntry) -> int:
    """Return how long answers of a model take: what was seen lately, else what its tier stands for."""
    recent_ms = recent_latency_ms(state, entry.provider_id, entry.model_id)
    return _LATENCY_MS[entry.latency_tier] if recent_ms is None else recent_ms


def pressure_bp(looked: Looked | None) -> int:
    """Return how much of the nearest hard limit is used and held, by the rules that apply to a model."""
    shares = [
        (one.consumed_value + one.reserved_value) * BP_PER_UNIT // one.hard_limit_value
        for one in (looked.judgement.evaluations if looked is not None else ())
        if one.mode == "enforced" and one.hard_limit_value
    ]
    return max(shares, default=0)


def _look(state: State, asking: Asking, entry: ModelEntry, now_us: int, changed: Changed) -> Looked:
    wanted, provider = asking.wanted, provider_entry(state, entry.provider_id)
    if changed.raw_tokens is not None:
        wanted = msgspec.structs.replace(wanted, raw_tokens=changed.raw_tokens)
    ready_us = now_us if changed.ready_us is None else changed.ready_us
    exclusion = routing.exclude(state, entry, wanted, ready_us)
    if exclusion is None and provider is not None and credentials.needs_credential(provider):
        exclusion = routing.without_credential(state, entry, wanted, now_us)
    readiness = 0 if provider is None else READINESS.get(health_of(state, provider, ready_us), 0)
    name = f"{entry.provider_id}/{entry.model_id}"
    expected: int | None = changed.costs.get(name)
    if expected is None:
        expected = expected_nanousd(state, asking.run, entry, now_us)
    judgement = budgets.NOTHING
    if asking.has_budgets:
        where = Where(entry.provider_id, entry.model_id)
        judgement = budgets.plan_start(state, asking.run, where, entry.upstream_model, now_us).judgement
        is_priced = name in changed.costs and judgement.verdict == "unpriced"
        if exclusion is None and judgement.stops and not is_priced:
            exclusion = exclusion_of(judgement, where)
    return Looked(entry, readiness, expected, latency_ms_of(state, entry), exclusion, judgement)


def _guard(pool: list[Looked], default: Looked | None) -> tuple[list[Looked], list[Looked], str]:
    """Leave out what is dearer than the default model, unless nothing else is there because the default is out."""
    bound = None if default is None else default.expected_nanousd
    if bound is None:
        return pool, [], ""
    dear = [one for one in pool if one.expected_nanousd is None or one.expected_nanousd > bound]
    kept = [one for one in pool if one not in dear]
    if not dear:
        return pool, [], ""
    if not kept:
        return pool, [], "guardrail_relaxed"
    return kept, [_excluded(one, "guardrail_cost") for one in dear], "guardrail_cost"


def _excluded(one: Looked, by: str) -> Looked:
    entry = one.entry
    exclusion = Exclusion(provider_id=entry.provider_id, model_id=entry.model_id, excluded_by=by)
    return one._replace(exclusion=exclusion)


def _name(one: Looked) -> tuple[str, str]:
    return (one.entry.provider_id, one.entry.model_id)


def _key_of(
    strategy: Strategy, pool: Sequence[Looked], default: Looked | None, min_quality: int
) -> Callable[[Looked], tuple[object, ...]]:
    """Return what a strategy sorts by: what is below the wanted quality and what is not ready go last.

    Among equals what was asked for goes first: nothing is gained by another one.
    """
    is_default_ready = default in pool and all(one.readiness >= default.readiness for one in pool if default)
    least = 0 if default is None else default.entry.quality
    reaches = any(one.entry.quality >= least for one in pool)

    def key(one: Looked) -> tuple[object, ...]:
        entry = one.entry
        cost = UNKNOWN_COST if one.expected_nanousd is None else one.expected_nanousd
        tier = _TIERS[entry.cost_tier] if one.expected_nanousd is None else 0
        first = (entry.quality < min_quality, one.readiness)
        if strategy == "fastest":
            return (*first, one.latency_ms, cost, tier, -entry.quality, one is not default, *_name(one))
        if strategy == "best":
            return (*first, -entry.quality, cost, tier, one.latency_ms, one is not default, *_name(one))
        ahead: tuple[object, ...] = ()
        if strategy == "balanced":
            ahead = (one is not default) if is_default_ready else False, reaches and entry.quality < least
        return (*first, *ahead, cost, tier, one.latency_ms, -entry.quality, one is not default, *_name(one))

    return key
