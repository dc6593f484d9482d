"""What budgets tell: facts about limits that were passed, warnings, and refusals with figures and the way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from palyra.decisions.approvals import NOTHING_NEEDED, Needed, ask_for
from palyra.decisions.budgets import Judgement, UsageBudgetEvaluation, own_limit, strictness
from palyra.errors import Refusal
from palyra.events.base import Draft
from palyra.events.budgets import BudgetHardLimitReached, BudgetSoftLimitCrossed, UsageBudgetPolicyRecord
from palyra.events.routing import Exclusion
from palyra.limits import OPEN_HOLDS_MAX_COUNT, POLICIES_APPLICABLE_MAX_COUNT
from palyra.projections.budgets import MAX_COST, Where, counter_of
from palyra.projections.state import State
from palyra.units import BP_PER_UNIT, NANOUSD_PER_USD, US_PER_S, ceil_div

#: When a request may be tried again whose way only open holds stand in.
_RESERVED_RETRY_MS = 2_000
#: The same where no attempt can be held at all for now.
_FULL_RETRY_MS = 1_000
#: What a rule says past its hard limit that is told once.
_PAST_HARD = (
    *("blocked", "would_block", "downgraded", "would_downgrade"),
    *("approval_required", "would_require_approval"),
)


def note_limits(state: State, run_id: str, judgement: Judgement) -> list[Draft]:
    """Return the facts that a limit was passed, each once for a rule's revision and window."""
    drafts: list[Draft] = []
    for one, share in zip(judgement.evaluations, judgement.shares, strict=True):
        is_soft = one.status == "soft_limit"
        if one.policy_id == MAX_COST or not (is_soft or one.status in _PAST_HARD):
            continue
        counter = counter_of(state, one.policy_id, one.subject, share.window_start_us)
        told = 0 if counter is None else counter.soft_told if is_soft else counter.hard_told
        limit = one.soft_limit_value if is_soft else one.hard_limit_value
        if told == one.revision or limit is None:
            continue
        kind = BudgetSoftLimitCrossed if is_soft else BudgetHardLimitReached
        fact = kind(
            revision=one.revision,
            subject=one.subject,
            window_start_us=share.window_start_us,
            window_end_us=share.window_end_us,
            consumed=one.consumed_value,
            reserved=one.reserved_value,
            requested=one.requested_value,
            limit=limit,
            run_id=run_id,
            verdict=one.status,
        )
        drafts.append(Draft(f"budget-{one.policy_id}", fact, f"run-{run_id}"))
    return drafts


def warnings_of(judgement: Judgement) -> list[str]:
    """Return what the client of a run is warned of, strictest first."""
    told = []
    for one in sorted(judgement.evaluations, key=strictness):
        limit = one.soft_limit_value if one.status == "soft_limit" else one.hard_limit_value
        if one.status in ("soft_limit", "hard_limit") and limit:
            code = f"budget_{one.status}"
            told.append(f"{code};policy={one.policy_id};used_bp={one.projected_value * BP_PER_UNIT // limit}")
    return told


def exclusion_of(judgement: Judgement, where: Where) -> Exclusion:
    """Return why a budget leaves a candidate out."""
    one = judgement.strictest
    assert one is not None, "no budget stops the candidate"
    by: str = judgement.full or f"budget_excluded:{one.policy_id}"
    if not judgement.full and one.status in ("unpriced", "approval_required"):
        by = "unpriced" if one.status == "unpriced" else f"approval:{one.policy_id}"
    return Exclusion(provider_id=where.provider_id, model_id=where.model_id, excluded_by=by)


class Stopped(NamedTuple):
    """What is recorded and told of a run that no candidate is left for."""

    drafts: list[Draft]
    refusal: Refusal


def stop(state: State, run_id: str, principal_id: str, stopped: Sequence[Judgement], now_us: int) -> Stopped:
    """Tell of the limits, ask for the approvals that would help, and refuse.

    Of several candidates the first speaks that somebody could let pass, else the first.
    """
    judgement = next((one for one in stopped if is_approvable(one)), stopped[0])
    needed = ask_for(state, run_id, principal_id, judgement, now_us)
    told = [] if judgement.full else note_limits(state, run_id, judgement)
    drafts = [*told, *needed.drafts]
    return Stopped(drafts, refusal_of(state, judgement, now_us, needed))


def is_approvable(judgement: Judgement) -> bool:
    """Return whether nothing stops a start but rules that somebody can open."""
    stopping = (one.status for one in judgement.evaluations if one.stops)
    return not judgement.full and all(status == "approval_required" for status in stopping)


def refusal_of(state: State, judgement: Judgement, now_us: int, needed: Needed = NOTHING_NEEDED) -> Refusal:
    """Return what the client is told when rules stop its request: which one, how far it is, when it ends.

    What time alone can heal is told with the time it takes, the longest over all rules; what it cannot goes first.
    A bound of the house goes before all of them.
    """
    if judgement.full:
        return _refusal_when_full(judgement)
    stopping = sorted((one for one in judgement.evaluations if one.stops), key=strictness)
    # What somebody could let pass says nothing where something else stops the request all the same.
    deciding = [one for one in stopping if one.status != "approval_required"] or stopping
    deciding = [one for one in deciding if one.policy_id in needed.denied] or deciding
    codes = {one.policy_id: _code_of(state, one, _record_of(state, one), needed, now_us) for one in deciding}
    one = next((each for each in deciding if codes[each.policy_id][1] is None), deciding[0])
    code, retry_after_ms = codes[one.policy_id]
    if retry_after_ms is not None:
        retry_after_ms = max(wait_ms or 0 for _, wait_ms in codes.values())
    record = _record_of(state, one)
    is_own = one.scope_kind in ("principal", "session", "agent") or one.policy_id == MAX_COST
    told: dict[str, Any] = {
        "code": code,
        "policy_id": one.policy_id,
        "scope_kind": one.scope_kind,
        "metric": one.metric_kind,
        "interval": one.interval_kind,
        "window_start_us": one.window_start_us,
        "window_end_us": one.window_end_us,
        "timezone": record.timezone,
        "blocked_by": one.blocked_by,
        "other_policies": [each.policy_id for each in stopping if each is not one],
        "retry_after_ms": retry_after_ms,
        "position": state.position,
    }
    if one.policy_id in needed.ids:
        told["approval_id"] = needed.ids[one.policy_id]
        told["approval_ids"] = list(needed.ids.values())
    if is_own:
        # What others have used is nobody else's business.
        told |= {
            "subject": one.subject,
            "limit": one.hard_limit_value,
            "consumed": one.consumed_value,
            "reserved": one.reserved_value,
            "requested": one.requested_value,
            "allowance": max(0, (one.hard_limit_value or 0) - one.consumed_value - one.reserved_value),
        }
    message = _sentence(one, code, needed, is_own=is_own)
    return Refusal(code=code, message=message, retry_after_ms=retry_after_ms, details={"budget": told})


def _refusal_when_full(judgement: Judgement) -> Refusal:
    if judgement.full == "limit_open_holds":
        message = f"Rules hold something for {OPEN_HOLDS_MAX_COUNT:,} open attempts, and no more; try again later."
        return Refusal(code="limit_open_holds", message=message, retry_after_ms=_FULL_RETRY_MS)
    count = sum(one.policy_id != MAX_COST for one in judgement.evaluations)
    message = (
        f"{count} rules about usage apply to this request, of {POLICIES_APPLICABLE_MAX_COUNT} at most;"
        " retire some, or narrow them by their scope or match (`palyra budgets list`)."
    )
    return Refusal(code="limit_applicable_policies", message=message)


def _record_of(state: State, one: UsageBudgetEvaluation) -> UsageBudgetPolicyRecord:
    policy = state.budgets.policies.get(one.policy_id)
    return own_limit(one.hard_limit_value or 0).record if policy is None else policy.record


def _code_of(
    state: State, one: UsageBudgetEvaluation, record: UsageBudgetPolicyRecord, needed: Needed, now_us: int
) -> tuple[str, int | None]:
    """Return the code, and when it can be tried again; None where time alone does not help."""
    if one.status == "approval_required":
        return "budget_approval_denied" if one.policy_id in needed.denied else "budget_approval_required", None
    if one.status == "unpriced":
        return "budget_unpriced", None
    if one.blocked_by == "request" or one.interval_kind == "per_run":
        return "budget_request_too_large", None
    if one.blocked_by == "reserved":
        return "budget_blocked", _RESERVED_RETRY_MS
    if one.interval_kind == "rolling":
        return "budget_blocked", _until_it_fits_ms(state, one, record, now_us)
    return "budget_blocked", _at_least_a_second(one.window_end_us - now_us)


def _until_it_fits_ms(
    state: State, one: UsageBudgetEvaluation, record: UsageBudgetPolicyRecord, now_us: int
) -> int:
    """Return how long it takes until enough of a rolling window has moved out of it."""
    counter = counter_of(state, one.policy_id, one.subject, 0)
    too_much = one.consumed_value + one.requested_value - (one.hard_limit_value or 0)
    length_us = (record.rolling_hours or 0) * 3_600 * US_PER_S
    quarter_us = 900 * US_PER_S
    for at_us, amount in sorted(counter.cells.items()) if counter is not None else ():
        if at_us >= one.window_start_us:
            too_much -= amount
            if too_much <= 0:
                return _at_least_a_second(at_us + quarter_us + length_us - now_us)
    return _at_least_a_second(length_us)


def _at_least_a_second(wait_us: int) -> int:
    return max(1_000, ceil_div(wait_us, US_PER_S) * 1_000)


def _sentence(one: UsageBudgetEvaluation, code: str, needed: Needed, *, is_own: bool) -> str:
    name = "The limit of this request" if one.policy_id == MAX_COST else f"Budget '{one.policy_id}'"
    if code == "budget_unpriced":
        return f"{name} stops what has no price; give the model one in [[pricing.overrides]], or set on_unpriced."
    if code == "budget_approval_denied":
        return f"{name} would be passed, and somebody has said no to that; it holds until its window ends."
    if code == "budget_approval_required":
        asked_for = needed.ids.get(one.policy_id)
        if asked_for is None:
            return f"{name} would be passed, and too many requests for that wait already; try again later."
        return (
            f"{name} would be passed; `palyra approvals grant {asked_for}` lets this through, then send it again."
        )
    if not is_own:
        return f"{name} is used up for now; try again later, or ask whoever set it."
    limit = _amount(one.metric_kind, one.hard_limit_value or 0)
    if code == "budget_request_too_large":
        asked = _amount(one.metric_kind, one.requested_value)
        return f"{name} allows {limit} {_PER[one.interval_kind]}; this request may take {asked}. Make it smaller."
    used = _amount(one.metric_kind, one.consumed_value)
    held = (
        f", {_amount(one.metric_kind, one.reserved_value)} are held by open requests" if one.reserved_value else ""
    )
    return f"{name} allows {limit} {_PER[one.interval_kind]}; {used} are used{held}. It has room again later."


_PER = {
    "daily": "a day",
    "weekly": "a week",
    "monthly": "a month",
    "rolling": "at a time",
    "per_run": "a request",
}


def _amount(metric: str, value: int) -> str:
    if metric == "tokens":
        return f"{value:,} tokens"
    whole, rest = divmod(value, NANOUSD_PER_USD)
    return f"${whole:,}.{f'{rest:09}'.rstrip('0').ljust(2, '0')}"
