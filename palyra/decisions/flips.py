"""What would have flipped a decision: along each axis alone the nearest value with which somebody else had served.

A decision is made again with one thing changed, so that what is told here is what the planner does. Where a figure
only matters by how it compares with others, it is tried right beside each of them; a limit is searched for by
halving. An axis that cannot flip the decision says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from palyra.decisions import routing
from palyra.decisions.planning import RoutingPlan, plan_usage_routing
from palyra.decisions.ranking import CANDIDATES_MAX_COUNT, Changed, Looked
from palyra.events.registry import ModelEntry
from palyra.events.smart_routing import SmartRouting
from palyra.projections.budgets import Policy
from palyra.projections.state import State

if TYPE_CHECKING:
    from palyra.decisions.runs import AdmitRun

Axis = Literal["price", "budget", "circuit", "complexity", "context"]
#: No limit is set beyond these, and no input is larger.
_LIMIT_MAX, _TOKENS_MAX = 1 << 53, 1 << 31
#: Why an axis flips nothing.
_NOTHING_COMPARED = "nothing_compared"
_NOTHING_NEAR = "no_value_flips"


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """The nearest flip along one axis; `value` is None where there is none, and `why` says that much."""

    axis: Axis
    #: What it is about: `provider/model`, a rule, or nothing.
    subject: str = ""
    #: nano-USD expected, limit of the rule in its metric, instant, score in basis points, or estimated tokens.
    unit: Literal["nanousd", "limit", "us", "bp", "tokens"]
    now: int | None = None
    value: int | None = None
    #: What would be served then, or the code of the refusal; and what would be recommended.
    served: str = ""
    recommended: str = ""
    why: str = ""


class Outcome(NamedTuple):
    """What a decision comes to."""

    served: str
    recommended: str


def outcome_of(plan: RoutingPlan) -> Outcome:
    """Return who serves, or the code of the refusal, and who is recommended."""
    first = plan.first
    served = f"{first.provider_id}/{first.model_id}" if first is not None else ""
    if first is None and plan.refusal is not None:
        served = plan.refusal.code
    return Outcome(served, plan.decided.recommended if plan.decided is not None else "")


class _Tried(NamedTuple):
    subject: str
    now: int | None
    value: int
    outcome: Outcome

    @property
    def distance(self) -> tuple[int, str]:
        return (abs(self.value - (self.now or 0)), self.subject)


def flips_of(state: State, command: AdmitRun, now_us: int, config: SmartRouting) -> list[Flip]:
    """Return one line for each axis, nearest flips first along each."""
    return _Flipping(state, command, now_us, config).flips()


def with_limit(state: State, policy_id: str, limit: int) -> State:
    """Return a state in which one rule has another hard limit; nothing else differs."""
    policies = dict(state.budgets.policies)
    policy = policies[policy_id]
    record = msgspec.structs.replace(policy.record, hard_limit=limit)
    policies[policy_id] = msgspec.structs.replace(policy, record=record)
    return msgspec.structs.replace(state, budgets=msgspec.structs.replace(state.budgets, policies=policies))


class _Flipping:
    def __init__(self, state: State, command: AdmitRun, now_us: int, config: SmartRouting) -> None:
        self._state = state
        self._command = command
        self._now_us = now_us
        self._config = config
        self._plan = plan_usage_routing(state, command, now_us, config)
        self._outcome = outcome_of(self._plan)

    def flips(self) -> list[Flip]:
        if self._plan.decided is None:
            return []
        return [
            self._flip("price", "nanousd", self._prices(), is_compared=self._plan.board is not None),
            self._flip("budget", "limit", self._limits(), is_compared=bool(self._hard_policies())),
            self._flip("circuit", "us", self._instants(), is_compared=True),
            self._flip("complexity", "bp", self._scores(), is_compared=self._plan.board is not None),
            self._flip("context", "tokens", self._sizes(), is_compared=True),
        ]

    def _flip(
        self,
        axis: Axis,
        unit: Literal["nanousd", "limit", "us", "bp", "tokens"],
        tried: Iterable[_Tried],
        *,
        is_compared: bool,
    ) -> Flip:
        found = [one for one in tried if one.outcome != self._outcome]
        if not found:
            return Flip(axis=axis, unit=unit, why=_NOTHING_NEAR if is_compared else _NOTHING_COMPARED)
        nearest = min(found, key=lambda one: one.distance)
        return Flip(
            axis=axis,
            subject=nearest.subject,
            unit=unit,
            now=nearest.now,
            value=nearest.value,
            served=nearest.outcome.served,
            recommended=nearest.outcome.recommended,
        )

    def _with(self, changed: Changed, state: State | None = None) -> Outcome:
        plan = plan_usage_routing(
            self._state if state is None else state, self._command, self._now_us, self._config, changed=changed
        )
        return outcome_of(plan)

    # -- the axes

    def _prices(self) -> Iterable[_Tried]:
        """Try each model at the price of the one that it would have to pass, and right beside it."""
        board = self._plan.board
        ranked = [] if board is None else board.ranked[:CANDIDATES_MAX_COUNT]
        for one in ranked:
            now = one.expected_nanousd
            rivals = ranked[1:2] if one is ranked[0] else ranked[:1]
            bounds = [other.expected_nanousd for other in (*rivals, *self._defaults()) if other is not one]
            for value in () if now is None else _beside(bounds, now):
                yield _Tried(one.name, now, value, self._with(Changed(costs={one.name: value})))

    def _defaults(self) -> list[Looked]:
        """Return the default model, which bounds what some classes may cost."""
        board, name = self._plan.board, self._state.catalog.registry.default_chat_model_id
        rows = [] if board is None else [*board.ranked, *board.excluded]
        return [one for one in rows if one.entry.model_id == name]

    def _limits(self) -> Iterable[_Tried]:
        """Search each rule's hard limit downwards and upwards for the first one that decides otherwise."""
        for policy in self._hard_policies():
            name, now = policy.record.policy_id, policy.record.hard_limit
            assert now is not None

            def outcome_at(limit: int, name: str = name) -> Outcome:
                return self._with(Changed(), with_limit(self._state, name, limit))

            for end in (0, _LIMIT_MAX):
                value = self._first_other(now, end, outcome_at)
                if value is not None:
                    yield _Tried(name, now, value, outcome_at(value))

    def _hard_policies(self) -> list[Policy]:
        policies = self._state.budgets.policies.values()
        acting = (one for one in policies if one.record.enabled and one.record.mode == "enforced")
        return [one for one in acting if one.record.hard_limit is not None]

    def _first_other(self, now: int, end: int, outcome_at: Callable[[int], Outcome]) -> int | None:
        """Return the value beside one that still decides the same, towards `end`; None where none differs."""
        if now == end or outcome_at(end) == self._outcome:
            return None
        same, other = now, end
        while abs(same - other) > 1:
            middle = (same + other) // 2
            same, other = (middle, other) if outcome_at(middle) == self._outcome else (same, middle)
        return other

    def _instants(self) -> Iterable[_Tried]:
        """Try the instants at which circuits let a trial pass and models come back."""
        entries = self._entries()
        ready = [routing.unready(self._state, one.provider_id, one.model_id, self._now_us) for one in entries]
        for entry, exclusion in zip(entries, ready, strict=True):
            until_us = 0 if exclusion is None else exclusion.figures.get("until_us", 0)
            if until_us <= self._now_us:
                continue
            before = self._with(Changed(ready_us=until_us - 1))
            if before == self._outcome:
                outcome = self._with(Changed(ready_us=until_us))
                yield _Tried(f"{entry.provider_id}/{entry.model_id}", self._now_us, until_us, outcome)

    def _scores(self) -> Iterable[_Tried]:
        """Try the edges of the bands."""
        now = None if self._plan.decided is None else self._plan.decided.complexity_bp
        if now is None:
            return
        simple, premium = self._config.simple_at_bp, self._config.premium_at_bp
        for value in (simple, simple + 1, premium - 1, premium):
            yield _Tried("", now, value, self._with(Changed(score_bp=value)))

    def _sizes(self) -> Iterable[_Tried]:
        """Try the largest input that each model takes, and the smallest that it does not."""
        now = self._command.raw_tokens
        wanted = routing.wanted_of(self._command)
        for entry in self._entries():
            most = self._largest_fit(entry, wanted)
            for value in (most, most + 1) if most is not None else ():
                outcome = self._with(Changed(raw_tokens=value))
                yield _Tried(f"{entry.provider_id}/{entry.model_id}", now, value, outcome)

    def _largest_fit(self, entry: ModelEntry, wanted: routing.Wanted) -> int | None:
        def fits(tokens: int) -> bool:
            sized = msgspec.structs.replace(wanted, raw_tokens=tokens)
            exclusion = routing.unfit(self._state, entry, sized)
            return exclusion is None or exclusion.excluded_by not in ("event_limit", "context_too_small")

        if not fits(0) or fits(_TOKENS_MAX):
            return None
        low, high = 0, _TOKENS_MAX
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def _entries(self) -> list[ModelEntry]:
        models = self._state.catalog.registry.models
        return [entry for entry in models if entry.role == self._command.endpoint and entry.enabled]


def _beside(costs: Iterable[int | None], now: int) -> list[int]:
    """Return the values at which a comparison with one of these comes out otherwise, the present one left out."""
    known = [cost for cost in costs if cost is not None]
    values = (value for cost in known for value in (cost - 1, cost, cost + 1) if value >= 0 and value != now)
    return list(dict.fromkeys(values))
