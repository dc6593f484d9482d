"""What would have flipped a decision: along each axis alone the nearest value with which somebody else had served.

A decision is made again with one thing changed, so that what is told here is what the planner does. A figure only
matters by how it compares with others, so it is tried right beside each of them, the nearest first: between two of
them nothing changes. An axis that cannot flip the decision says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from palyra.decisions import routing
from palyra.decisions.budgets import evaluations_at
from palyra.decisions.planning import RoutingPlan, plan_usage_routing, run_asked
from palyra.decisions.ranking import AS_IT_IS, UNKNOWN_COST, Changed
from palyra.events.registry import ModelEntry
from palyra.events.smart_routing import SmartRouting
from palyra.projections.budgets import MAX_COST
from palyra.projections.catalog import excluded_until_us
from palyra.projections.circuits import circuit_of
from palyra.projections.state import State
from palyra.units import BP_PER_UNIT

if TYPE_CHECKING:
    from palyra.decisions.runs import AdmitRun

Axis = Literal["price", "budget", "circuit", "complexity", "context"]
Unit = Literal["nanousd", "us", "bp", "tokens"]
#: No input is larger.
_TOKENS_MAX = 1 << 31
#: Why an axis flips nothing.
_NOTHING_COMPARED = "nothing_compared"
_NOTHING_NEAR = "no_value_flips"
_PRICE_UNKNOWN = "price_unknown"


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """The nearest flip along one axis; `value` is None where there is none, and `why` says that much."""

    axis: Axis
    #: What it is about: `provider/model`, a rule, or nothing.
    subject: str = ""
    #: Of `now` and `value`: an expected cost, an instant, a score, a size; of a rule's limit what the rule counts.
    unit: Unit
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


class _Try(NamedTuple):
    """A value that may flip the decision, and what it would be decided with."""

    subject: str
    now: int | None
    value: int
    changed: Changed = AS_IT_IS
    #: The hard limit of the subject is changed.
    is_limit: bool = False

    @property
    def distance(self) -> tuple[int, str]:
        """How far it is from what is; a price that is not known is dearer than any, and as far as it can be."""
        return (abs(self.value - (UNKNOWN_COST if self.now is None else self.now)), self.subject)


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
        has_board, has_limit = self._plan.board is not None, bool(self._limited())
        return [
            self._price_flip(),
            self._limit_flip(is_compared=has_limit),
            self._nearest("circuit", "us", self._instants(), is_compared=True),
            self._nearest("complexity", "bp", self._scores(), is_compared=has_board),
            self._nearest("context", "tokens", self._sizes(), is_compared=True),
        ]

    def _nearest(self, axis: Axis, unit: Unit, tries: Iterable[_Try], *, is_compared: bool) -> Flip:
        """Return the flip that changes least; the tries hold every value at which anything changes."""
        for one in sorted(tries, key=lambda one: one.distance):
            outcome = self._outcome_of(one)
            if outcome != self._outcome:
                return Flip(
                    axis=axis,
                    subject=one.subject,
                    unit=unit,
                    now=one.now,
                    value=one.value,
                    served=outcome.served,
                    recommended=outcome.recommended,
                )
        return Flip(axis=axis, unit=unit, why=_NOTHING_NEAR if is_compared else _NOTHING_COMPARED)

    def _outcome_of(self, tried: _Try) -> Outcome:
        state, command = self._state, self._command
        if tried.is_limit and tried.subject == MAX_COST:
            command = msgspec.structs.replace(command, max_cost_nanousd=tried.value)
        elif tried.is_limit:
            state = with_limit(state, tried.subject, tried.value)
        plan = plan_usage_routing(state, command, self._now_us, self._config, changed=tried.changed)
        return outcome_of(plan)

    # -- the axes

    def _price_flip(self) -> Flip:
        """Return the nearest price; where none flips, the model whose own is not known and could."""
        board = self._plan.board
        flip = self._nearest("price", "nanousd", self._prices(), is_compared=board is not None)
        if flip.value is not None or board is None:
            return flip
        for one in (*board.ranked, *board.excluded):
            # What it would have to cost no figure here tells, but whether it matters: as much as nothing does.
            free = _Try(one.name, None, 0, Changed(costs={one.name: 0}))
            if one.expected_nanousd is None and self._outcome_of(free) != self._outcome:
                return msgspec.structs.replace(flip, subject=one.name, why=_PRICE_UNKNOWN)
        return flip

    def _limit_flip(self, *, is_compared: bool) -> Flip:
        flip = self._nearest("budget", "nanousd", self._limits(), is_compared=is_compared)
        rule = self._state.budgets.policies.get(flip.subject)
        if rule is not None and rule.record.metric_kind == "tokens":
            return msgspec.structs.replace(flip, unit="tokens")
        return flip

    def _prices(self) -> Iterable[_Try]:
        """Give each model every cost that it could be compared with: of the first, of its follower, of the default.

        What the default costs bounds all others where a class may not cost more, so it is compared with each.
        """
        board = self._plan.board
        if board is None:
            return
        ranked, default = board.ranked, board.default
        pool = [*ranked, *(one for one in board.excluded if one.excluded_by == "guardrail_cost")]
        for one in pool if default is None or default in pool else [*pool, default]:
            rivals = pool if one is default else [*ranked[:2], *([] if default is None else [default])]
            costs = [rival.expected_nanousd for rival in rivals if rival is not one]
            now = one.expected_nanousd
            for value in _beside(costs, now):
                yield _Try(one.name, now, value, Changed(costs={one.name: value}))

    def _limits(self) -> Iterable[_Try]:
        """Try each rule's hard limit at what models ask of it, and where it is near enough to press."""
        for policy_id, now in self._limited().items():
            values = [0]
            for entry in self._entries():
                run = run_asked(self._state, self._command, entry, self._now_us)
                for one in evaluations_at(self._state, run, entry, self._now_us):
                    if one.policy_id == policy_id:
                        used, asked = one.consumed_value + one.reserved_value, one.requested_value
                        pressing = used * BP_PER_UNIT // self._config.budget_pressure_bp
                        values += [asked, one.consumed_value + asked, used + asked, pressing]
            for value in _beside(values, now):
                yield _Try(policy_id, now, value, is_limit=True)

    def _limited(self) -> dict[str, int]:
        """Return the hard limits that can stop the request: of rules, and its own."""
        policies = self._state.budgets.policies.values()
        acting = (one.record for one in policies if one.record.enabled and one.record.mode == "enforced")
        limits = {one.policy_id: one.hard_limit for one in acting if one.hard_limit is not None}
        own = self._command.max_cost_nanousd
        return limits if own is None else {**limits, MAX_COST: own}

    def _instants(self) -> Iterable[_Try]:
        """Try the instants at which circuits let a trial pass and models come back."""
        for entry in self._entries():
            name = f"{entry.provider_id}/{entry.model_id}"
            circuit = circuit_of(self._state, entry.provider_id)
            back_us = excluded_until_us(self._state, entry.provider_id, entry.model_id)
            for until_us in (circuit.until_us if circuit.status == "open" else 0, back_us):
                if until_us > self._now_us:
                    yield _Try(name, self._now_us, until_us, Changed(ready_us=until_us))

    def _scores(self) -> Iterable[_Try]:
        """Try the edges of the bands."""
        now = None if self._plan.decided is None else self._plan.decided.complexity_bp
        simple, premium = self._config.simple_at_bp, self._config.premium_at_bp
        for value in () if now is None else (simple, simple + 1, premium - 1, premium):
            yield _Try("", now, value, Changed(score_bp=value))

    def _sizes(self) -> Iterable[_Try]:
        """Try the largest input that each model takes, and the smallest that it does not."""
        wanted = routing.wanted_of(self._command)
        for entry in self._entries():
            most = self._largest_fit(entry, wanted)
            for value in (most, most + 1) if most is not None else ():
                name = f"{entry.provider_id}/{entry.model_id}"
                yield _Try(name, self._command.raw_tokens, value, Changed(raw_tokens=value))

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


def _beside(costs: Iterable[int | None], now: int | None) -> list[int]:
    """Return the values at which a comparison with one of these comes out otherwise, the present one left out."""
    known = [cost for cost in costs if cost is not None]
    values = (value for cost in known for value in (cost - 1, cost, cost + 1) if value >= 0 and value != now)
    return list(dict.fromkeys(values))
