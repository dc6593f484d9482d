"""What a decision was held to and what its run cost: rules with each hold by its age, prices, what was lost.

Read from the run's own facts, the rules and holds of the state before the decision, and the lists of prices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from palyra.decisions.windows import counted_window
from palyra.engine.codec import to_recorded
from palyra.engine.questions import Answer
from palyra.events.base import Recorded
from palyra.events.pricing import PriceEntry, PriceListAdopted
from palyra.events.routing import Evaluated, RoutingDecided
from palyra.events.runs import RunAdmitted, RunRefused, RunResumed
from palyra.journal.port import Reader
from palyra.projections.budgets import MAX_COST, Where, subject_of
from palyra.projections.run_view import AttemptView, view_of_run
from palyra.projections.state import State

_DECIDING = (RunAdmitted, RoutingDecided, RunRefused)


class HoldSeen(Answer, frozen=True, kw_only=True):
    """What one open attempt held of a rule when the decision was made."""

    run_id: str
    attempt: int
    amount: int
    since_us: int
    age_us: int


class RuleSeen(Answer, frozen=True, kw_only=True):
    """What one rule said, as it was recorded; amounts in nano-USD or tokens."""

    policy_id: str
    revision: int
    scope_kind: str
    subject: str
    metric_kind: str
    interval_kind: str
    window_start_us: int
    window_end_us: int
    mode: str
    status: str
    blocked_by: str
    approval_id: str
    consumed: int
    reserved: int
    requested: int
    soft_limit: int | None
    hard_limit: int | None
    headroom: int | None
    #: Oldest first; together they are what was reserved.
    holds: list[HoldSeen]


class ChargeSeen(Answer, frozen=True, kw_only=True):
    """What one attempt was charged, and by which entry of which price list."""

    attempt: int
    provider_id: str
    model_id: str
    #: The service tier that was asked for, and the one that was charged; "" where nothing was.
    variant_asked: str
    variant: str
    #: Null where it has no price.
    price: PriceEntry | None
    #: priced, free or unknown; "" where nothing was charged.
    cost_state: str
    cost_nanousd: int | None
    #: It failed, so that nobody got anything for it.
    is_absorbed: bool


class AccountSeen(Answer, frozen=True, kw_only=True):
    """What a run was held to, and what it cost."""

    rules: list[RuleSeen]
    charges: list[ChargeSeen]
    #: Sums of what is known, of all attempts and of those that failed; and how many have no price.
    cost_nanousd: int
    absorbed_nanousd: int
    unpriced_count: int


def decision_of(history: Sequence[Recorded]) -> Recorded:
    """Return the first fact of a run's decision; one that was held was decided when it was resumed."""
    found = next((at for at, one in enumerate(history) if isinstance(one.body, _DECIDING)), 0)
    was_held = found and isinstance(history[found - 1].body, RunResumed)
    return history[found - 1 if was_held else found]


def account_of(state: State, history: Sequence[Recorded], reader: Reader) -> AccountSeen:
    """Return what a run was held to and what it cost; `state` is that before its decision."""
    view = view_of_run(history)
    attempts = [] if view is None else view.attempts
    entries = _entries(reader, [price_id for one in attempts for price_id in _price_ids(one)])
    charges = [_charge(one, entries) for one in attempts]
    known = [(one, one.cost_nanousd or 0) for one in charges]
    return AccountSeen(
        rules=_rules(state, history),
        charges=charges,
        cost_nanousd=sum(cost for _, cost in known),
        absorbed_nanousd=sum(cost for one, cost in known if one.is_absorbed),
        unpriced_count=sum(one.cost_state == "unknown" for one in charges),
    )


def _rules(state: State, history: Sequence[Recorded]) -> list[RuleSeen]:
    bodies = [one.body for one in history]
    asked = next((body for body in bodies if isinstance(body, RunAdmitted | RunRefused)), None)
    decided = next((body for body in bodies if isinstance(body, RoutingDecided)), None)
    if asked is None or decided is None:
        return []
    at_us = decision_of(history).recorded_at_us
    return [_rule(state, one, asked, decided, history[0].stream[4:], at_us) for one in decided.evaluations]


def _rule(
    state: State,
    told: Evaluated,
    asked: RunAdmitted | RunRefused,
    decided: RoutingDecided,
    run_id: str,
    at_us: int,
) -> RuleSeen:
    policy = state.budgets.policies.get(told.policy_id)
    record = None if policy is None else policy.record
    subject, start_us, end_us = told.subject, told.window_start_us, told.window_end_us
    if record is not None and decided.plan:
        first = decided.plan[0]
        where = Where(first.provider_id, first.model_id)
        is_per_run = record.interval_kind == "per_run"
        subject = run_id if is_per_run else subject_of(record, asked, where) or ""
        start_us, end_us = counted_window(record, at_us)
    own_limit = asked.max_cost_nanousd if told.policy_id == MAX_COST else None
    hard = own_limit if record is None else record.hard_limit
    return RuleSeen(
        policy_id=told.policy_id,
        revision=told.revision,
        scope_kind="" if record is None else record.scope_kind,
        subject=subject,
        metric_kind="usd_cost" if record is None else record.metric_kind,
        interval_kind="per_run" if record is None else record.interval_kind,
        window_start_us=start_us,
        window_end_us=end_us,
        mode="enforced" if record is None else record.mode,
        status=told.status,
        blocked_by=told.blocked_by,
        approval_id=told.approval_id,
        consumed=told.consumed,
        reserved=told.reserved,
        requested=told.requested,
        soft_limit=None if record is None else record.soft_limit,
        hard_limit=hard,
        headroom=None if hard is None else hard - told.consumed - told.reserved - told.requested,
        holds=sorted(_holds(state, told.policy_id, subject, at_us), key=lambda one: (one.since_us, one.run_id)),
    )


def _holds(state: State, policy_id: str, subject: str, at_us: int) -> Iterable[HoldSeen]:
    for run_id, hold in state.budgets.holds.items():
        for share in hold.shares:
            if (share.policy_id, share.subject) == (policy_id, subject):
                yield HoldSeen(
                    run_id=run_id,
                    attempt=hold.attempt,
                    amount=share.amount,
                    since_us=hold.reserved_us,
                    age_us=max(0, at_us - hold.reserved_us),
                )


def _price_ids(row: AttemptView) -> list[str]:
    own = row.started.price_id if row.usage is None else row.usage.price_id
    return [own] if own else []


def _entries(reader: Reader, price_ids: Sequence[str]) -> dict[str, PriceEntry]:
    """Return entries of whatever list; the lists are read only where a price is looked for."""
    wanted, found = frozenset(price_ids), dict[str, PriceEntry]()
    lists = (to_recorded(row).body for rows in reader.stream("pricing") for row in rows) if wanted else ()
    for body in lists:
        if isinstance(body, PriceListAdopted):
            found.update({one.price_id: one for one in body.entries if one.price_id in wanted})
    return found


def _charge(row: AttemptView, entries: dict[str, PriceEntry]) -> ChargeSeen:
    usage = row.usage
    price_ids = _price_ids(row)
    return ChargeSeen(
        attempt=row.started.attempt,
        provider_id=row.started.provider_id,
        model_id=row.started.model_id,
        variant_asked=row.started.variant,
        variant="" if usage is None else usage.variant,
        price=entries.get(price_ids[0]) if price_ids else None,
        cost_state="" if usage is None else usage.cost_state,
        cost_nanousd=None if usage is None else usage.cost_nanousd,
        is_absorbed=usage is not None and row.succeeded is None,
    )
