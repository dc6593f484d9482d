"""Budgets: what an attempt may consume, judged by every rule that applies, held before it starts, released after.

`evaluate_budgets` is the one gate: admission asks it for each candidate, and it is asked again in the step in which
an attempt starts. What is held is what was judged, so no interleaving takes settled and reserved past a limit.
Source: governance specification 4 to 7.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

import msgspec

from palyra.decisions.approvals import Ask, usable_grant
from palyra.decisions.sizing import Size, requested_of, size_of
from palyra.decisions.windows import Window, counted_window, rolling_start_us
from palyra.events.base import Draft
from palyra.events.budgets import (
    BudgetReleased,
    BudgetReserved,
    BudgetShare,
    Overshoot,
    Returned,
    UsageBudgetPolicyRecord,
)
from palyra.events.registry import ModelEntry
from palyra.events.usage import UsageRecorded
from palyra.limits import OPEN_HOLDS_MAX_COUNT, POLICIES_APPLICABLE_MAX_COUNT
from palyra.projections.budgets import (
    MAX_COST,
    Counter,
    Hold,
    Policy,
    Scoped,
    Where,
    amount_of,
    consumed_in,
    counter_of,
    late_amount,
    subject_of,
)
from palyra.projections.runs import Run
from palyra.projections.state import State
from palyra.units import US_PER_S

#: A hold outlives its run's deadline by this much, so that a settlement on time always finds it.
GRACE_US = 60 * US_PER_S
#: An answer is not kept shorter than this to make it fit.
_SHORTEST_OUTPUT_TOKENS = 256
Status = Literal[
    "ok", "override_applied", "soft_limit", "hard_limit", "would_downgrade", "would_block",
    "would_require_approval", "downgraded", "approval_required", "unpriced", "blocked",
]  # fmt: skip
BlockedBy = Literal["", "request", "settled", "reserved"]
#: A bound of the house that stops an attempt, whatever rules say: the code of its refusal.
Full = Literal["", "limit_applicable_policies", "limit_open_holds"]
#: What is strict comes last.
_RANK = {
    "ok": 0, "override_applied": 1, "hard_limit": 2, "soft_limit": 2, "would_downgrade": 3,
    "would_require_approval": 3, "would_block": 3, "downgraded": 4, "approval_required": 5, "unpriced": 6,
    "blocked": 6,
}  # fmt: skip
_STOPS = ("unpriced", "blocked", "approval_required")
#: What a rule that is tried out would have done.
_WOULD: dict[Status, Status] = {
    "blocked": "would_block",
    "unpriced": "would_block",
    "downgraded": "would_downgrade",
    "approval_required": "would_require_approval",
}


class UsageBudgetEvaluation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What one rule says to one candidate. Amounts in nano-USD or tokens."""

    policy_id: str
    revision: int
    scope_kind: str
    subject: str
    metric_kind: str
    interval_kind: str
    window_start_us: int
    window_end_us: int
    mode: str
    status: Status
    consumed_value: int
    reserved_value: int
    requested_value: int
    soft_limit_value: int | None = None
    hard_limit_value: int | None = None
    blocked_by: BlockedBy = ""
    #: The grant that lets it pass.
    approval_id: str = ""
    #: The instant whose windows count.
    effective_at_us: int = 0

    @property
    def projected_value(self) -> int:
        return self.consumed_value + self.reserved_value + self.requested_value

    @property
    def headroom_value(self) -> int | None:
        """What would be left under the hard limit; None where there is none."""
        return None if self.hard_limit_value is None else self.hard_limit_value - self.projected_value

    @property
    def stops(self) -> bool:
        return self.status in _STOPS


class Judgement(NamedTuple):
    """What all rules that apply say to one candidate, each with the share that it would hold."""

    evaluations: list[UsageBudgetEvaluation]
    shares: list[BudgetShare]
    #: For each the subject that a grant is about.
    asks: list[str]
    full: Full = ""

    @property
    def strictest(self) -> UsageBudgetEvaluation | None:
        """The evaluation that decides."""
        return min(self.evaluations, key=strictness, default=None)

    @property
    def verdict(self) -> str:
        """A bound of the house that stops the start, else what the strictest rule says; "" where none applies."""
        strictest = self.strictest
        return self.full or ("" if strictest is None else strictest.status)

    @property
    def stops(self) -> bool:
        return bool(self.full) or any(one.stops for one in self.evaluations)


NOTHING = Judgement([], [], [])


def strictness(one: UsageBudgetEvaluation) -> tuple[int, int, str]:
    """Sort the strictest first; among equals the smallest headroom, then the name."""
    headroom = one.headroom_value
    return (-_RANK[one.status], 1 << 62 if headroom is None else headroom, one.policy_id)


# -- the gate


def evaluate_budgets(
    state: State,
    who: Scoped,
    run_id: str,
    where: Where,
    size: Size,
    *,
    effective_at_us: int,
    now_us: int,
    max_cost: int | None,
) -> Judgement:
    """Return what every rule says that applies to an attempt of a run at a candidate."""
    policies = state.budgets.policies
    judgement = Judgement([], [], [])
    asking = _Asking(run_id, who.principal_id, effective_at_us, now_us)
    # Most rules ask the same of a request: what is worked out for one serves all.
    windows: dict[tuple[Any, ...], Window] = {}
    amounts: dict[tuple[str, str], int | None] = {}
    for policy in policies.values():
        record = policy.record
        subject = subject_of(record, who, where) if record.enabled else None
        if subject is None or effective_at_us < record.effective_from_us:
            continue
        key = (record.interval_kind, record.timezone, record.week_start, record.month_day)
        window = windows.get(key)
        if window is None:
            window = windows[key] = counted_window(record, effective_at_us)
        requested = _asked(record, size, amounts)
        is_spared = record.on_hard == "downgrade" and _is_listed(record, where, size)
        _judge(state, policy, asking, subject, window, requested, judgement, is_spared=is_spared)
    full: Full = ""
    if len(judgement.evaluations) > POLICIES_APPLICABLE_MAX_COUNT:
        full = "limit_applicable_policies"
    if max_cost is not None:
        own = own_limit(max_cost)
        window = counted_window(own.record, effective_at_us)
        _judge(state, own, asking, run_id, window, _asked(own.record, size, amounts), judgement)
    if judgement.shares and len(state.budgets.holds) >= OPEN_HOLDS_MAX_COUNT:
        full = full or "limit_open_holds"
    return judgement._replace(full=full) if full else judgement


def _asked(record: UsageBudgetPolicyRecord, size: Size, amounts: dict[tuple[str, str], int | None]) -> int | None:
    key = (record.meter, record.sizing)
    if key not in amounts:
        amounts[key] = requested_of(record, size)
    return amounts[key]


def own_limit(max_cost: int) -> Policy:
    """Return the rule that a request makes for itself: it may not cost more, all its attempts together."""
    record = UsageBudgetPolicyRecord(
        policy_id=MAX_COST,
        scope_kind="global",
        metric_kind="usd_cost",
        interval_kind="per_run",
        hard_limit=max_cost,
        on_unpriced="deny",
    )
    return Policy(record=record, revision=1, counted_from=1, set_position=0, set_us=0)


class _Asking(NamedTuple):
    """Whose start is judged, and when."""

    run_id: str
    principal_id: str
    effective_at_us: int
    now_us: int


def _judge(
    state: State,
    policy: Policy,
    asking: _Asking,
    scope_subject: str,
    window: Window,
    requested: int | None,
    judgement: Judgement,
    *,
    is_spared: bool = False,
) -> None:
    """Add the evaluation and the share of one rule."""
    record, at_us = policy.record, asking.effective_at_us
    subject = asking.run_id if record.interval_kind == "per_run" else scope_subject
    counter = counter_of(state, record.policy_id, subject, window.start_us)
    consumed, reserved = _standing(policy, counter, subject, window, at_us)
    status, blocked_by = _verdict(record, consumed, reserved, requested, is_spared=is_spared)
    grant = None
    if blocked_by and record.policy_id != MAX_COST:
        ask = Ask(record.policy_id, scope_subject, window.start_us, asking.principal_id)
        grant = usable_grant(state, ask, asking.run_id, requested or 0, asking.now_us)
    approval_id = "" if grant is None else grant.approval_id
    if approval_id:
        status = "override_applied"
    start_us, end_us = window
    if record.interval_kind == "rolling":
        start_us, end_us = rolling_start_us(record, at_us), at_us
    evaluation = UsageBudgetEvaluation(
        policy_id=record.policy_id,
        revision=policy.revision,
        scope_kind=record.scope_kind,
        subject=subject,
        metric_kind=record.metric_kind,
        interval_kind=record.interval_kind,
        window_start_us=start_us,
        window_end_us=end_us,
        mode=record.mode,
        status=status,
        consumed_value=consumed,
        reserved_value=reserved,
        requested_value=requested or 0,
        soft_limit_value=record.soft_limit,
        hard_limit_value=record.hard_limit,
        blocked_by="" if approval_id else blocked_by,
        approval_id=approval_id,
        effective_at_us=at_us,
    )
    judgement.evaluations.append(evaluation)
    judgement.asks.append(scope_subject)
    judgement.shares.append(
        BudgetShare(
            policy_id=record.policy_id,
            revision=policy.revision,
            subject=subject,
            meter=record.meter,
            window_start_us=window.start_us,
            window_end_us=window.end_us,
            amount=requested or 0,
            approval_id=approval_id,
        )
    )


def _standing(policy: Policy, counter: Counter | None, subject: str, window: Window, at_us: int) -> tuple[int, int]:
    """Return what was used and what is held of a rule."""
    since_us = rolling_start_us(policy.record, at_us) if policy.record.interval_kind == "rolling" else 0
    if counter is not None:
        return consumed_in(counter, since_us), counter.reserved
    return late_amount(policy, subject, max(window.start_us, since_us), window.end_us), 0


def _is_listed(record: UsageBudgetPolicyRecord, where: Where, size: Size) -> bool:
    """Return whether a model is one that a rule leaves to those who are past its limit."""
    names = [where.model_id, f"{where.provider_id}/{where.model_id}"]
    if size.price is not None and size.price.state == "free":
        names.append("free")
    return any(name in record.downgrade_to for name in names)


def _verdict(
    record: UsageBudgetPolicyRecord, consumed: int, reserved: int, requested: int | None, *, is_spared: bool
) -> tuple[Status, BlockedBy]:
    """Walk down the ladder of one rule: what is equal to a limit is inside it."""
    if requested is None and record.on_unpriced == "deny":
        return _softened(record, "unpriced"), ""
    asked = requested or 0
    hard = record.hard_limit
    if is_spared and hard is not None and consumed + reserved + asked > hard:
        hard = record.ceiling_limit
        if hard is None or consumed + reserved + asked <= hard:
            return _softened(record, "downgraded"), ""
    if hard is not None and consumed + reserved + asked > hard:
        blocked_by: BlockedBy = "request" if asked > hard else "settled" if consumed + asked > hard else "reserved"
        wanted: Status = "approval_required" if record.on_hard == "approval_required" else "blocked"
        return _softened(record, wanted), blocked_by
    if record.soft_limit is not None and consumed + reserved + asked > record.soft_limit:
        return "soft_limit", ""
    return "ok", ""


def _softened(record: UsageBudgetPolicyRecord, status: Status) -> Status:
    """A rule that is tried out stops nobody."""
    if record.mode == "enforced":
        return status
    if record.mode == "suggest":
        return "hard_limit"
    return _WOULD[status]


# -- admission and start


class Start(NamedTuple):
    """How an attempt may start: its size, the cap that is sent upstream, what it holds, what the rules say."""

    size: Size
    #: Maximum of one choice that has to be sent upstream; None where no hard limit asks for one.
    cap_tokens: int | None
    judgement: Judgement
    #: The cap was lowered so that it fits.
    is_shrunk: bool = False


def plan_start(state: State, run: Run, where: Where, upstream_model: str, now_us: int) -> Start:
    """Judge an attempt of a run, kept short where that makes it fit and nobody asked for more."""
    size = size_of(state, run, where, upstream_model, now_us)
    if not state.budgets.policies and run.admitted.max_cost_nanousd is None:
        return Start(size, None, NOTHING)
    judge = functools.partial(_judge_size, state, run, where, now_us)
    judgement = judge(size)
    if run.admitted.endpoint != "chat" or not _has_hard(judgement):
        return Start(size, None, judgement)
    cap = size.output_tokens // size.choices_count
    stopping = [one for one in judgement.evaluations if one.stops]
    may_shrink = run.output_requested_tokens is None and all(_shrinks(state, one) for one in stopping)
    if not stopping or not may_shrink:
        return Start(size, cap, judgement)
    low, high = _SHORTEST_OUTPUT_TOKENS, cap
    if low >= high or judge(size.with_output(low)).stops:
        return Start(size, cap, judgement)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (low, middle - 1) if judge(size.with_output(middle)).stops else (middle, high)
    size = size.with_output(low)
    return Start(size, low, judge(size), is_shrunk=True)


def _judge_size(state: State, run: Run, where: Where, now_us: int, size: Size) -> Judgement:
    return evaluate_budgets(
        state,
        run.admitted,
        run.run_id,
        where,
        size,
        effective_at_us=run.admitted_us,
        now_us=now_us,
        max_cost=run.admitted.max_cost_nanousd,
    )


def evaluations_at(state: State, run: Run, entry: ModelEntry, now_us: int) -> list[UsageBudgetEvaluation]:
    """Return what rules say to a run at a model: at its whole length and, where that may be cut, at the least."""
    where = Where(entry.provider_id, entry.model_id)
    size = size_of(state, run, where, entry.upstream_model, now_us)
    judgement = _judge_size(state, run, where, now_us, size)
    if run.admitted.endpoint != "chat" or run.output_requested_tokens is not None:
        return judgement.evaluations
    short = _judge_size(state, run, where, now_us, size.with_output(_SHORTEST_OUTPUT_TOKENS))
    return [*judgement.evaluations, *short.evaluations]


def _has_hard(judgement: Judgement) -> bool:
    return any(one.hard_limit_value is not None and one.mode == "enforced" for one in judgement.evaluations)


def _shrinks(state: State, one: UsageBudgetEvaluation) -> bool:
    policy = state.budgets.policies.get(one.policy_id)
    if policy is None:
        return one.status == "blocked"
    record = policy.record
    return one.status in ("blocked", "approval_required") and record.shrink_output and record.on_hard != "downgrade"


def reserve(run: Run, start: Start, *, attempt: int) -> list[Draft]:
    """Return the hold of the attempt that is about to start; nothing where no rule applies to it."""
    shares = start.judgement.shares
    if not shares:
        return []
    held = BudgetReserved(attempt=attempt, expires_us=run.deadline_us + GRACE_US, shares=shares)
    return [Draft(f"run-{run.run_id}", held)]


def release(
    hold: Hold,
    row: UsageRecorded | None,
    because: Literal["settled", "cancelled", "expired", "abandoned"],
) -> BudgetReleased:
    """Return the end of a hold, with what passed it."""
    overshoots = []
    returned = []
    for share in hold.shares:
        unspent = share.amount - (0 if row is None else amount_of(share.meter, row))
        if share.approval_id and unspent > 0:
            returned.append(Returned(approval_id=share.approval_id, amount=unspent))
    if row is not None:
        for share in hold.shares:
            beyond = amount_of(share.meter, row) - share.amount
            if beyond > 0:
                overshoots.append(Overshoot(policy_id=share.policy_id, subject=share.subject, amount=beyond))
    return BudgetReleased(
        attempt=hold.attempt,
        because=because,
        overshoots=overshoots,
        returned=returned,
    )


def sweep(state: State, live_run_ids: Collection[str], now_us: int) -> list[Draft]:
    """Return the end of holds that nobody will release: expired, and of no run that is open or at work here."""
    drafts = []
    for run_id, hold in state.budgets.holds.items():
        if hold.expires_us < now_us and run_id not in live_run_ids and run_id not in state.runs.open:
            drafts.append(Draft(f"run-{run_id}", release(hold, None, "expired")))
    return drafts
