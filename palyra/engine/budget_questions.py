"""What the state knows of rules, as it is shown: pure questions about an instant."""

from __future__ import annotations

from palyra.decisions.windows import counted_window, rolling_start_us
from palyra.engine.questions import Answer
from palyra.events.budgets import UsageBudgetPolicyRecord
from palyra.projections.approvals import approvals_of, status_of
from palyra.projections.budgets import PER_RUN_END_US, Counter, Policy, consumed_in, late_amount
from palyra.projections.state import State
from palyra.units import BP_PER_UNIT


class BudgetStatus(Answer, frozen=True, kw_only=True):
    """How far one subject is in the window that is open now. Amounts in nano-USD or tokens."""

    subject: str
    window_start_us: int
    window_end_us: int
    consumed: int
    reserved: int
    #: What grants that are in force still let pass beyond the limit.
    allowance: int
    #: What is left under the hard limit, and what is used of it; null where there is none.
    headroom: int | None
    used_bp: int | None
    unpriced_runs: int
    #: Requests that the rule stopped at their admission.
    refused_count: int
    holds_count: int
    #: ok, soft_limit or hard_limit.
    status: str


class BudgetAnswer(Answer, frozen=True, kw_only=True):
    """One rule, and every subject that it has counted in its window."""

    policy: UsageBudgetPolicyRecord
    revision: int
    set_us: int
    status: list[BudgetStatus]


class BudgetsAnswer(Answer, frozen=True, kw_only=True):
    """All rules in force."""

    items: list[BudgetAnswer]


class HoldAnswer(Answer, frozen=True, kw_only=True):
    """What one open attempt holds of a rule."""

    run_id: str
    attempt: int
    subject: str
    amount: int
    since_us: int
    expires_us: int


class HoldsAnswer(Answer, frozen=True, kw_only=True):
    """All that is held of a rule, in its metric."""

    metric_kind: str
    items: list[HoldAnswer]


def budgets_answer(state: State, now_us: int) -> BudgetsAnswer:
    """Return all rules, by name."""
    policies = state.budgets.policies
    return BudgetsAnswer(items=[budget_answer(state, policies[name], now_us) for name in sorted(policies)])


def budget_answer(state: State, policy: Policy, now_us: int) -> BudgetAnswer:
    """Return one rule, subjects that have used most first."""
    record = policy.record
    status: list[BudgetStatus] = []
    if record.interval_kind != "per_run":
        window = counted_window(record, now_us)
        since_us = rolling_start_us(record, now_us) if record.interval_kind == "rolling" else window.start_us
        until_us = now_us if record.interval_kind == "rolling" else window.end_us
        counters = {
            one.subject: one
            for one in state.budgets.counters.values()
            if one.policy_id == record.policy_id and one.window_start_us == window.start_us
        }
        for subject in sorted({**counters, **policy.late}):
            counter = counters.get(subject)
            used = late_amount(policy, subject, since_us, window.end_us)
            if counter is not None:
                used = consumed_in(counter, since_us)
            allowance = _allowance(state, record.policy_id, subject, window.start_us, now_us)
            status.append(_status(record, subject, since_us, until_us, used, counter, allowance))
    else:
        status = [
            _status(record, one.subject, 0, 0, one.settled, one, 0)
            for one in state.budgets.counters.values()
            if one.policy_id == record.policy_id and one.window_end_us == PER_RUN_END_US
        ]
    status.sort(key=lambda one: (-one.consumed - one.reserved, one.subject))
    return BudgetAnswer(policy=record, revision=policy.revision, set_us=policy.set_us, status=status)


def _allowance(state: State, policy_id: str, subject: str, window_start_us: int, now_us: int) -> int:
    granted = approvals_of(state, policy_id, subject, window_start_us)
    usable = (one for one in granted if status_of(one, now_us) == "granted" and one.uses_left)
    return sum(one.amount_left for one in usable)


def _status(
    record: UsageBudgetPolicyRecord,
    subject: str,
    start_us: int,
    end_us: int,
    used: int,
    counter: Counter | None,
    allowance: int,
) -> BudgetStatus:
    held = 0 if counter is None else counter.reserved
    hard, soft = record.hard_limit, record.soft_limit
    is_hard = hard is not None and used + held >= hard
    is_soft = soft is not None and used + held > soft
    return BudgetStatus(
        subject=subject,
        window_start_us=start_us,
        window_end_us=end_us,
        consumed=used,
        reserved=held,
        allowance=allowance,
        headroom=None if hard is None else hard - used - held,
        used_bp=(used + held) * BP_PER_UNIT // hard if hard else None,
        unpriced_runs=0 if counter is None else counter.unpriced_runs,
        refused_count=0 if counter is None else counter.refused_count,
        holds_count=0 if counter is None else counter.shares_count,
        status="hard_limit" if is_hard else "soft_limit" if is_soft else "ok",
    )


def holds_answer(state: State, policy_id: str) -> HoldsAnswer:
    """Return what open attempts hold of a rule, oldest first."""
    items = [
        HoldAnswer(
            run_id=run_id,
            attempt=hold.attempt,
            subject=share.subject,
            amount=share.amount,
            since_us=hold.reserved_us,
            expires_us=hold.expires_us,
        )
        for run_id, hold in state.budgets.holds.items()
        for share in hold.shares
        if share.policy_id == policy_id
    ]
    return HoldsAnswer(
        metric_kind=state.budgets.policies[policy_id].record.metric_kind,
        items=sorted(items, key=lambda one: (one.since_us, one.run_id)),
    )
