"""`plan_usage_routing`: the one planner. Every endpoint's admission, explanations and what-if replays ask it.

The order is never varied: name and permission, mode and class, score, filters, prices, rules about usage, choice,
the chain behind the choice, what may be started of it. Pure: the same state, request, instant and rules give the
same facts. Source: governance specification 9.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from palyra.decisions import budgets, routing
from palyra.decisions.budget_refusals import exclusion_of, stop
from palyra.decisions.complexity import band_of, complexity_bp
from palyra.decisions.estimates import estimate_of, expected_nanousd
from palyra.decisions.keys import is_permitted
from palyra.decisions.naming import VIRTUAL_NAMES, Resolution, default_of, resolve
from palyra.decisions.ranking import (
    AS_IT_IS,
    CANDIDATES_MAX_COUNT,
    Asking,
    Board,
    Changed,
    digest_of,
    pressure_bp,
    rank_models,
)
from palyra.errors import Refusal
from palyra.events.base import Draft
from palyra.events.registry import ModelEntry
from palyra.events.routing import NO_FEATURES, Basis, Evaluated, Exclusion, PlanStep, RoutingDecided, WouldBe
from palyra.events.runs import RunAdmitted, TokenEstimate
from palyra.events.smart_routing import RoutingMode, SmartRouting, TaskClass
from palyra.projections.budgets import Where
from palyra.projections.catalog import model_entry, models_named
from palyra.projections.runs import Run
from palyra.projections.state import State
from palyra.projections.usage import calibrate
from palyra.units import US_PER_MS

if TYPE_CHECKING:
    from palyra.decisions.runs import AdmitRun

Action = Literal["proceed", "switch", "degrade", "upgrade", "failover", "blocked", "approval_required"]
#: Origins whose work nobody waits for, and those of our own housekeeping.
_BACKGROUND, _AUXILIARY = ("cron", "task", "probe"), ("memory",)
_NOT_READY = ("circuit_open", "model_excluded")
_FREE_NAMES = ("virtual", "default")
#: What a rule about usage says at the model that is served, as a reason.
_REASON_OF_STATUS = {
    "soft_limit": "budget_soft_limit",
    "blocked": "budget_blocked",
    "downgraded": "budget_downgrade",
    "unpriced": "budget_unpriced",
    "approval_required": "budget_approval_required",
    "override_applied": "budget_override_applied",
}
#: Rules that leave a model out, as a reason.
_REASON_OF_RULE = {
    "capability_missing": "capability_filter_applied",
    "context_too_small": "context_filter_applied",
    "event_limit": "context_filter_applied",
    "circuit_open": "circuit_open_skipped",
    "unpriced": "price_unknown_skipped",
    "guardrail_cost": "guardrail_cost",
}


class RoutingPlan(NamedTuple):
    """What is decided of a request: the fact, what is told of limits beside it, and the refusal if there is one."""

    #: None where the request came to nothing before there was anything to choose.
    decided: RoutingDecided | None
    told: list[Draft]
    refusal: Refusal | None
    #: What was compared; None where there was nothing to choose.
    board: Board | None = None
    #: Size that was scored.
    scored_tokens: int | None = None

    @property
    def first(self) -> PlanStep | None:
        """The model that serves, None where nobody does."""
        return self.decided.plan[0] if self.decided is not None and self.decided.plan else None


def plan_usage_routing(
    state: State, context: AdmitRun, now_us: int, config: SmartRouting, *, changed: Changed = AS_IT_IS
) -> RoutingPlan:
    """Plan a request: who serves it, who stands in, what is recommended, or why nobody may."""
    resolution = resolve(state, context.endpoint, context.model)
    if isinstance(resolution, Refusal):
        return RoutingPlan(None, [], resolution)
    return _Planning(state, context, now_us, config, changed, resolution).plan()


def class_of(origin: str, asked: str) -> TaskClass:
    """Return the class of a request: that of where it comes from; what people wait for may name a lesser one."""
    own: TaskClass = "interactive"
    if origin in _BACKGROUND + _AUXILIARY:
        own = "background" if origin in _BACKGROUND else "auxiliary"
    if asked == "auxiliary" or own == "interactive":
        return asked or own  # type: ignore[return-value]
    return own


def run_asked(state: State, asked: AdmitRun, entry: ModelEntry, now_us: int) -> Run:
    """Return a request as the run that it would be at a model."""
    admitted = admission(state, asked, entry.provider_id, entry.upstream_model, now_us)
    return Run(
        run_id=asked.run_id,
        admitted=admitted,
        admitted_us=now_us,
        deadline_us=admitted.deadline_us,
        last_life_us=now_us,
        output_requested_tokens=asked.output_max_tokens,
    )


def admission(state: State, command: AdmitRun, provider_id: str, upstream_model: str, now_us: int) -> RunAdmitted:
    """Return the first fact of a run, its input as it is estimated for a model."""
    ratio_bp, _, upper = calibrate(state, provider_id, upstream_model, command.raw_tokens)
    run_timeout_ms = state.catalog.registry.run_timeout_ms
    if command.timeout_ms is not None:
        run_timeout_ms = min(run_timeout_ms, command.timeout_ms)
    return RunAdmitted(
        principal_id=command.principal_id,
        key_id=command.key_id,
        session_id=command.session_id,
        agent_id=command.agent_id,
        tags=command.tags,
        endpoint=command.endpoint,
        dialect=command.dialect,
        origin=command.origin,
        model_requested=command.model[:256],
        needs=sorted(command.needs),
        stream=command.stream,
        choices_count=command.choices_count,
        config_generation=state.config.generation,
        body_digest=command.body_digest,
        body_bytes=command.body_bytes,
        audio_ms=command.audio_ms,
        audio_guessed=command.audio_guessed,
        variant=command.variant,
        deadline_us=now_us + run_timeout_ms * US_PER_MS,
        tokens=TokenEstimate(raw=command.raw_tokens, ratio_bp=ratio_bp, upper=upper),
        max_cost_nanousd=command.max_cost_nanousd,
    )


class _Planning:
    """One request on its way through the planner."""

    def __init__(
        self,
        state: State,
        context: AdmitRun,
        now_us: int,
        config: SmartRouting,
        changed: Changed,
        resolution: Resolution,
    ) -> None:
        self._state = state
        self._asked = context
        self._now_us = now_us
        self._config = config
        self._changed = changed
        #: The instant for which circuits and exclusions are looked at.
        self._ready_us = now_us if changed.ready_us is None else changed.ready_us
        self._resolution = resolution
        is_chat = context.endpoint == "chat"
        self._mode: RoutingMode = (
            context.routing_mode or config.agents.get(context.agent_id) or config.mode
            if config.enabled
            else "suggest"
        )
        self._class = class_of(context.origin, context.task_class)
        self._is_left_alone = self._class == "auxiliary" and not config.auxiliary_enabled
        #: Strategy that the request names itself.
        self._forced = VIRTUAL_NAMES.get(context.model.strip(), "") if is_chat else ""
        #: The model that is served is the one that ranks first.
        self._moves = bool(self._forced) or (
            is_chat and self._mode == "enforced" and not self._is_left_alone and self._is_free()
        )
        self._has_budgets = bool(state.budgets.policies) or context.max_cost_nanousd is not None
        self._score_bp: int | None = None
        self._scored_tokens: int | None = None
        self._board: Board | None = None
        self._judgement = budgets.NOTHING

    def plan(self) -> RoutingPlan:
        state, asked, resolution = self._state, self._asked, self._resolution
        is_open = self._moves and resolution.resolved_by in _FREE_NAMES
        permitted = (is_permitted(asked.models, one.provider_id, one.model_id) for one in resolution.entries)
        if not is_open and not any(permitted):
            message = f"This key may not use the model '{resolution.model_id}'."
            return RoutingPlan(None, [], Refusal(code="model_not_permitted", message=message, param="model"))
        wanted = routing.wanted_of(asked)
        if self._changed.raw_tokens is not None:
            wanted = msgspec.structs.replace(wanted, raw_tokens=self._changed.raw_tokens)
        served = resolution
        if self._has_choice():
            self._board = self._compare(wanted)
            if self._moves and self._board.ranked:
                served = self._chosen(self._board.ranked[0].entry)
        plan = self._guarded(routing.plan_candidates(state, served, wanted, self._ready_us))
        told: list[Draft] = []
        refusal: Refusal | None = None
        if plan.steps and self._has_budgets:
            plan, told, refusal = self._within_budgets(plan)
            if refusal is not None and self._is_downgraded():
                downgraded = self._downgrade(wanted)
                plan, told, refusal = (plan, told, refusal) if downgraded is None else (downgraded, [], None)
        if not plan.steps and refusal is None:
            refusal = routing.refusal_of_empty_plan(plan.excluded, self._now_us, plan.verdicts)
        return RoutingPlan(self._decided(plan), told, refusal, self._board, self._scored_tokens)

    # -- what is chosen

    def _is_free(self) -> bool:
        """Return whether another model may be served than the one that was asked for."""
        if self._resolution.resolved_by in _FREE_NAMES:
            return True
        if self._resolution.is_pinned and self._asked.may_pin:
            return False
        return self._config.override_requested == "always"

    def _has_choice(self) -> bool:
        """Return whether models are compared: where two different ones are there, and somebody wants to know."""
        if self._moves:
            return True
        if self._asked.endpoint != "chat" or not self._config.enabled or self._is_left_alone:
            return False
        names = (one.model_id for one in self._state.catalog.registry.models if one.role == "chat" and one.enabled)
        first = next(names, None)
        return any(name != first for name in names)

    def _compare(self, wanted: routing.Wanted) -> Board:
        asked, default = self._asked, self._default
        self._score_bp = self._changed.score_bp
        if self._score_bp is None:
            _, self._scored_tokens, _ = self._calibrated(default)
            self._score_bp = complexity_bp(self._scored_tokens, asked.features, self._config)
        asking = Asking(
            run=self._run,
            wanted=wanted,
            task_class=self._class,
            forced=self._forced,
            score_bp=self._score_bp,
            default=default,
            has_budgets=self._has_budgets and (self._moves or self._mode != "suggest"),
        )
        return rank_models(self._state, asking, self._config, self._now_us, self._changed)

    def _chosen(self, entry: ModelEntry) -> Resolution:
        """Return the chosen model as if it had been asked for, the same model at other providers behind it."""
        same = models_named(self._state, entry.role, entry.model_id)
        others = [one for one in same if one.model_id == entry.model_id and one is not entry]
        asked = self._resolution
        return Resolution("virtual" if asked.is_pinned else asked.resolved_by, [entry, *others])

    def _guarded(self, plan: routing.Plan) -> routing.Plan:
        """Leave what is too dear for its class out of the chain as well, where the choice has left it out."""
        board = self._board
        if board is None or not self._moves or "guardrail_cost" not in board.codes:
            return plan
        dear = [one.name for one in board.excluded if one.excluded_by == "guardrail_cost"]
        steps = [step for step in plan.steps if f"{step.provider_id}/{step.model_id}" not in dear]
        out = [
            Exclusion(provider_id=step.provider_id, model_id=step.model_id, excluded_by="guardrail_cost")
            for step in plan.steps
            if step not in steps
        ]
        return plan._replace(steps=steps, excluded=[*plan.excluded, *out])

    @functools.cached_property
    def _default(self) -> ModelEntry:
        return default_of(self._state, self._asked.endpoint) or self._resolution.entries[0]

    # -- what it may use

    def _calibrated(self, entry: ModelEntry) -> tuple[int, int, int]:
        return calibrate(self._state, entry.provider_id, entry.upstream_model, self._asked.raw_tokens)

    @functools.cached_property
    def _run(self) -> Run:
        """The request as the run that it would be."""
        return run_asked(self._state, self._asked, self._resolution.entries[0], self._now_us)

    def _within_budgets(self, plan: routing.Plan) -> tuple[routing.Plan, list[Draft], Refusal | None]:
        """Return the plan without what budgets stop, and, where nothing is left, facts and refusal.

        A budget swaps no model for another: the run moves to the same model at another provider, or it is refused.
        """
        steps: list[PlanStep] = []
        excluded = list(plan.excluded)
        stopped: list[budgets.Judgement] = []
        passed: list[budgets.Judgement] = []
        for step in plan.steps:
            where = Where(step.provider_id, step.model_id)
            start = budgets.plan_start(self._state, self._run, where, step.upstream_model, self._now_us)
            if start.judgement.stops:
                stopped.append(start.judgement)
                excluded.append(exclusion_of(start.judgement, where))
            else:
                passed.append(start.judgement)
                steps.append(step)
        if stopped and not any(step.via == "requested" for step in steps):
            steps = []
        plan = plan._replace(steps=steps, excluded=excluded)
        if steps:
            self._judgement = passed[0]
            return plan, [], None
        self._judgement = stopped[0]
        asked = self._asked
        return plan, *stop(self._state, asked.run_id, asked.principal_id, stopped, self._now_us)

    def _is_downgraded(self) -> bool:
        """Return whether every rule that stops the request leaves some models to it; a pin with its scope holds."""
        policies = self._state.budgets.policies
        stopping = [policies.get(one.policy_id) for one in self._judgement.evaluations if one.stops]
        spares = not self._judgement.full and all(
            policy is not None and policy.record.on_hard == "downgrade" for policy in stopping
        )
        is_held = self._resolution.is_pinned and self._asked.may_pin
        return self._asked.endpoint == "chat" and not self._moves and spares and not is_held

    def _downgrade(self, wanted: routing.Wanted) -> routing.Plan | None:
        """Return the plan among the models that rules leave over, in whatever mode; None where none can serve."""
        judgement, self._moves = self._judgement, True
        self._board = self._compare(wanted)
        if self._board.ranked:
            served = self._chosen(self._board.ranked[0].entry)
            plan = routing.plan_candidates(self._state, served, wanted, self._ready_us)
            plan, _, refusal = self._within_budgets(self._guarded(plan))
            assert refusal is None, "what ranks first was judged already"
            return plan
        self._judgement = judgement
        return None

    # -- the fact

    def _decided(self, plan: routing.Plan) -> RoutingDecided:
        asked, resolution = self._asked, self._resolution
        first = plan.steps[0] if plan.steps else None
        cap = None
        if first is not None:
            cap = routing.output_cap(self._state, first, asked.endpoint, asked.output_max_tokens)
        decided = RoutingDecided(
            resolved_by=resolution.resolved_by,
            model_id=resolution.model_id,
            failover=plan.failover,
            plan=plan.steps,
            excluded=plan.excluded,
            verdicts=plan.verdicts,
            output_cap_tokens=cap,
            output_requested_tokens=asked.output_max_tokens,
            models_permitted=list(asked.models),
            losses={target: list(names) for target, names in asked.losses.items()},
            mode=self._mode,
            mode_requested=asked.routing_mode,
            task_class=self._class,
            may_pin=asked.may_pin and resolution.is_pinned,
            features=NO_FEATURES if asked.features == NO_FEATURES else asked.features,
            action=self._action(None if first is None else (first.provider_id, first.model_id), plan.excluded),
            evaluations=[
                _evaluated(one, is_held=first is not None)
                for one in sorted(self._judgement.evaluations, key=budgets.strictness)
            ],
        )
        return decided if self._board is None else self._with_choice(decided, self._board, first)

    def _with_choice(self, decided: RoutingDecided, board: Board, first: PlanStep | None) -> RoutingDecided:
        best = board.ranked[0] if board.ranked else None
        decided = msgspec.structs.replace(
            decided,
            complexity_bp=self._score_bp,
            strategy=board.strategy,
            recommended="" if best is None else best.name,
            reason_codes=sorted(dict.fromkeys(self._reasons(decided, board))),
        )
        if not self._moves and self._mode == "suggest":
            return decided  # a hint binds nobody; its table is made again by whoever asks for it
        rows = board.rows()
        entry = None if first is None else self._entry(first.provider_id, first.model_id)
        return msgspec.structs.replace(
            decided,
            would=None if self._moves else self._would_be(board),
            candidates=rows[:CANDIDATES_MAX_COUNT],
            excluded_counts=board.excluded_counts(),
            candidates_digest=digest_of(rows),
            basis=self._basis(board),
            estimate=None if entry is None else estimate_of(self._state, self._run, entry, self._now_us),
        )

    def _basis(self, board: Board) -> Basis:
        config = self._config
        return Basis(
            scorer=config.scorer,
            simple_at_bp=config.simple_at_bp,
            premium_at_bp=config.premium_at_bp,
            pressure_bp=pressure_bp(board.default),
            pressure_at_bp=config.budget_pressure_bp,
            default_model=f"{self._default.provider_id}/{self._default.model_id}",
            mode_configured=config.mode,
            config_generation=self._state.config.generation,
            price_version=self._state.pricing.version,
        )

    def _would_be(self, board: Board) -> WouldBe:
        """Return what enforced would have done; it leaves alone what it may not move."""
        if not self._is_free():
            return WouldBe(action="proceed")
        if not board.ranked:
            stopped = (one.judgement.verdict for one in board.excluded if one.judgement.stops)
            return WouldBe(action="blocked", verdict=next(stopped, ""))
        best = board.ranked[0]
        out = [one.exclusion for one in board.excluded if one.exclusion is not None]
        return WouldBe(
            provider_id=best.entry.provider_id,
            model_id=best.entry.model_id,
            action=self._action((best.entry.provider_id, best.entry.model_id), out),
            expected_nanousd=best.expected_nanousd,
            verdict=best.judgement.verdict,
        )

    def _action(self, served: tuple[str, str] | None, excluded: list[Exclusion]) -> Action:
        """Return what serving a model is, beside the one that was asked for."""
        if served is None:
            return "approval_required" if self._judgement.verdict == "approval_required" else "blocked"
        reference = self._resolution.entries[0]
        asked = (reference.provider_id, reference.model_id)
        if served == asked:
            return "proceed"
        is_out = any((one.provider_id, one.model_id) == asked and one.excluded_by in _NOT_READY for one in excluded)
        if served[0] != asked[0] and (is_out or (served[1] == asked[1] and not self._moves)):
            return "failover"
        entry = self._entry(*served)
        before, after = self._expected(reference), self._expected(entry)
        if before is None or after is None:
            before = after = 0
        if after < before or (after == before and entry.quality < reference.quality):
            return "degrade"
        return "upgrade" if after > before else "switch"

    def _entry(self, provider_id: str, model_id: str) -> ModelEntry:
        entry = model_entry(self._state, self._asked.endpoint, provider_id, model_id)
        assert entry is not None, "what is served is configured"
        return entry

    def _expected(self, entry: ModelEntry) -> int | None:
        return expected_nanousd(self._state, self._run, entry, self._now_us)

    def _reasons(self, decided: RoutingDecided, board: Board) -> list[str]:
        """Return what led to the decision, as codes."""
        reasons = [f"task_class_{self._class}", f"strategy_{board.strategy}", *board.codes]
        if not self._forced and self._class == "interactive":
            reasons.append(f"score_{band_of(self._score_bp or 0, self._config)}")
        rules = [one.excluded_by.partition(":")[0] for one in board.excluded]
        reasons += [_REASON_OF_RULE[rule] for rule in rules if rule in _REASON_OF_RULE]
        if board.ranked and any(one.readiness > board.ranked[0].readiness for one in board.ranked):
            reasons.append("healthy_preferred")
        if decided.budget_outcome in _REASON_OF_STATUS:
            reasons.append(_REASON_OF_STATUS[decided.budget_outcome])
        if self._resolution.is_pinned and not self._moves:
            reasons.append("pinned")
        is_named = self._resolution.resolved_by not in _FREE_NAMES
        if self._moves and is_named and decided.action not in ("proceed", "blocked"):
            reasons.append("requested_overridden")
        if not self._moves:
            reasons += {"suggest": ["mode_suggest_only"], "dry_run": ["mode_dry_run_only"]}.get(self._mode, [])
        return reasons


def _evaluated(one: budgets.UsageBudgetEvaluation, *, is_held: bool) -> Evaluated:
    told = Evaluated(
        policy_id=one.policy_id,
        revision=one.revision,
        status=one.status,
        consumed=one.consumed_value,
        reserved=one.reserved_value,
        requested=one.requested_value,
        approval_id=one.approval_id,
        blocked_by=one.blocked_by,
    )
    if is_held:
        return told
    return msgspec.structs.replace(
        told, subject=one.subject, window_start_us=one.window_start_us, window_end_us=one.window_end_us
    )
