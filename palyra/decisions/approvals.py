"""Approvals: asked for where a rule wants somebody to say yes, decided once, drawn on by the runs that pass.

A grant is bounded by its rule, subject, window, principal, uses and amount. It is drawn in the step in which an
attempt starts, so that no two runs share a use. Source: governance specification 8.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from palyra.decisions.base import Decision
from palyra.decisions.windows import counted_window
from palyra.errors import Refusal
from palyra.events.approvals import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalRequested,
    ApprovalUsed,
)
from palyra.events.base import Draft
from palyra.events.runs import RunHeld, RunResumed
from palyra.limits import APPROVALS_OPEN_MAX_COUNT, HELD_RUNS_MAX_COUNT
from palyra.projections.approvals import Approval, approvals_of, open_approvals, status_of
from palyra.projections.budgets import Policy
from palyra.projections.state import State
from palyra.units import US_PER_S, us_to_ms

if TYPE_CHECKING:
    from palyra.decisions.budgets import Judgement

_HOUR_US = 3_600 * US_PER_S
#: What is decided about a window without an end holds this long.
_NO_WINDOW_US = 24 * _HOUR_US
USES_MAX_COUNT = 1_000
EVERYBODY = "*"


class Ask(NamedTuple):
    """What a run would need to pass a rule."""

    policy_id: str
    subject: str
    window_start_us: int
    principal_id: str


def usable_grant(state: State, ask: Ask, run_id: str, amount: int, now_us: int) -> Approval | None:
    """Return the grant that a start can draw on, the one that ends soonest; None where there is none."""
    usable = []
    for one in approvals_of(state, ask.policy_id, ask.subject, ask.window_start_us):
        is_mine = one.principal_id in (EVERYBODY, ask.principal_id)
        has_use = one.uses_left >= 1 or run_id in one.runs
        if status_of(one, now_us) == "granted" and is_mine and has_use and amount <= one.amount_left:
            usable.append(one)
    return min(usable, key=lambda one: (one.valid_until_us, one.approval_id), default=None)


def standing_request(state: State, ask: Ask, now_us: int) -> Approval | None:
    """Return what was asked already and is open, or was denied and sticks; None where it can be asked."""
    for one in approvals_of(state, ask.policy_id, ask.subject, ask.window_start_us):
        if one.request.principal_id == ask.principal_id and status_of(one, now_us) in ("open", "denied"):
            return one
    return None


class Needed(NamedTuple):
    """The approvals that stand between a run and its start."""

    drafts: list[Draft]
    #: By rule.
    ids: dict[str, str]
    #: Rules for which somebody has said no.
    denied: list[str]


NOTHING_NEEDED = Needed([], {}, [])


def ask_for(state: State, run_id: str, principal_id: str, judgement: Judgement, now_us: int) -> Needed:
    """Ask for what stops a run, each once; nothing where a rule stops it that nobody can open."""
    needed = Needed([], {}, [])
    stopping = [(one, to) for one, to in zip(judgement.evaluations, judgement.asks, strict=True) if one.stops]
    if judgement.full or any(one.status != "approval_required" for one, _ in stopping):
        return needed
    open_count = len(open_approvals(state, now_us)) if stopping else 0
    for one, subject in stopping:
        policy = state.budgets.policies[one.policy_id]
        start_us, end_us = bounds_of(policy, one.effective_at_us, now_us)
        ask = Ask(one.policy_id, subject, start_us, principal_id)
        standing = standing_request(state, ask, now_us)
        if standing is not None:
            needed.ids[one.policy_id] = standing.approval_id
            if standing.status == "denied":
                needed.denied.append(one.policy_id)
            continue
        if open_count >= APPROVALS_OPEN_MAX_COUNT:
            continue
        request = ApprovalRequested(
            policy_id=one.policy_id,
            revision=policy.revision,
            subject=subject,
            principal_id=principal_id,
            run_id=run_id,
            window_start_us=start_us,
            window_end_us=end_us,
            meter=policy.record.meter,
            requested=one.requested_value,
            consumed=one.consumed_value,
            reserved=one.reserved_value,
            limit=one.hard_limit_value or 0,
            expires_us=min(end_us, now_us + state.config.accounting.approval_ttl_hours * _HOUR_US),
        )
        approval_id = _id_for(state, run_id, one.policy_id)
        needed.ids[one.policy_id] = approval_id
        needed.drafts.append(Draft(f"approval-{approval_id}", request, f"run-{run_id}"))
    return needed


def _id_for(state: State, run_id: str, policy_id: str) -> str:
    """Return the name of the next request of a run about a rule."""
    asked = [one.request for one in state.approvals.by_id.values()]
    number = sum(one.run_id == run_id and one.policy_id == policy_id for one in asked)
    return _id_of(run_id, policy_id, number)


def _id_of(*parts: str | int) -> str:
    return sha256("|".join(map(str, parts)).encode()).hexdigest()[:16]


def bounds_of(policy: Policy, at_us: int, now_us: int) -> tuple[int, int]:
    """Return where the counted window begins, and how long what is decided about it holds."""
    window = counted_window(policy.record, at_us)
    if policy.record.interval_kind in ("rolling", "per_run"):
        return window.start_us, now_us + _NO_WINDOW_US
    return window.start_us, window.end_us


def draw(state: State, run_id: str, judgement: Judgement) -> list[Draft]:
    """Return the uses of grants by an attempt that starts now: a run uses one once, and each attempt its amount."""
    drafts = []
    for share in judgement.shares:
        if not share.approval_id:
            continue
        grant = state.approvals.by_id[share.approval_id]
        used = ApprovalUsed(
            run_id=run_id,
            amount=share.amount,
            uses_left=grant.uses_left - (run_id not in grant.runs),
            amount_left=grant.amount_left - share.amount,
        )
        drafts.append(Draft(f"approval-{share.approval_id}", used, f"run-{run_id}"))
    return drafts


# -- held until somebody decides


def hold(state: State, run_id: str, decision: Decision, now_us: int, until_us: int) -> list[Draft] | None:
    """Return the facts of a request that waits for approvals, instead of its refusal; None where it cannot wait.

    It holds nothing and is no run yet: once what it waits for is granted it is planned anew.
    """
    refusal = decision.refusal
    if refusal is None or refusal.code != "budget_approval_required" or now_us >= until_us:
        return None
    stream, held = f"run-{run_id}", state.approvals.held
    asked = [draft for draft in decision.drafts if draft.stream != stream]
    if run_id in held:
        return asked
    approval_ids = refusal.details["budget"].get("approval_ids", [])
    if not approval_ids or len(held) >= HELD_RUNS_MAX_COUNT:
        return None
    return [*asked, Draft(stream, RunHeld(approval_ids=approval_ids, held_until_us=until_us))]


def resume(run_id: str, decision: Decision, waited_us: int) -> list[Draft]:
    """Return the facts of a held request that waits no longer: it is admitted now, or refused after all."""
    if decision.refusal is not None:
        return decision.drafts
    return [Draft(f"run-{run_id}", RunResumed(waited_ms=us_to_ms(waited_us))), *decision.drafts]


# -- decided by somebody


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody decides about a request; what is left out is as it was asked for."""

    is_granted: bool
    uses_max: int | None = None
    amount_max: int | None = None
    valid_until_us: int | None = None
    principal_id: str = ""
    note_code: str = ""


def decide_approval(
    state: State, approval: Approval, verdict: Verdict, *, by: str, now_us: int
) -> list[Draft] | Refusal:
    """Grant or deny what is open, once."""
    status = status_of(approval, now_us)
    if status != "open":
        message = f"This request is {status} already; nothing was changed."
        return Refusal(code="already_decided", message=message)
    if state.config.accounting.four_eyes and by in (approval.request.principal_id, approval.asked_by):
        message = "Somebody else has to decide about this: approvals.four_eyes is set."
        return Refusal(code="four_eyes", message=message)
    stream = f"approval-{approval.approval_id}"
    if not verdict.is_granted:
        return [Draft(stream, ApprovalDenied(reason_code=verdict.note_code or "denied"))]
    granted = grant_of(approval.request, verdict, now_us)
    return granted if isinstance(granted, Refusal) else [Draft(stream, granted)]


def grant_of(request: ApprovalRequested, verdict: Verdict, now_us: int) -> ApprovalGranted | Refusal:
    """Return a grant within its bounds, or which of them is passed."""
    uses = 1 if verdict.uses_max is None else verdict.uses_max
    amount = request.requested if verdict.amount_max is None else verdict.amount_max
    until_us = request.window_end_us if verdict.valid_until_us is None else verdict.valid_until_us
    if not 1 <= uses <= USES_MAX_COUNT:
        return _bad("uses_max", f"A grant is for 1 to {USES_MAX_COUNT:,} runs.")
    if amount < 1:
        return _bad("amount_max", "A grant is for an amount above 0.")
    if not now_us < until_us <= request.window_end_us:
        return _bad("valid_until_us", "A grant ends in the future, and with its rule's window at the latest.")
    return ApprovalGranted(
        principal_id=verdict.principal_id or request.principal_id,
        uses_max=uses,
        amount_max=amount,
        valid_until_us=until_us,
        note_code=verdict.note_code,
    )


def _bad(param: str, message: str) -> Refusal:
    return Refusal(code="invalid_request", message=message, param=param)


def override(state: State, policy: Policy, subject: str, verdict: Verdict, *, now_us: int) -> list[Draft] | Refusal:
    """Ask for and, where the verdict says so, grant what nobody has needed so far, in one step.

    Where two are needed to decide, one can only ask.
    """
    if verdict.is_granted and state.config.accounting.four_eyes:
        message = (
            "Somebody else has to grant this: approvals.four_eyes is set. Ask for it alone, with grant = false."
        )
        return Refusal(code="four_eyes", message=message)
    start_us, end_us = bounds_of(policy, now_us, now_us)
    record = policy.record
    if record.hard_limit is None:
        return _bad("policy", "This rule has no hard limit, so there is nothing to pass.")
    fixed = "" if record.scope_id == "*" else record.scope_id
    subject = subject or fixed
    if (record.scope_id == "*" and not subject) or (record.scope_id != "*" and subject != fixed):
        return _bad("subject", "Name one that the rule counts; a rule that counts one alone needs no name.")
    principal_id = verdict.principal_id or (subject if record.scope_kind == "principal" else EVERYBODY)
    request = ApprovalRequested(
        policy_id=record.policy_id,
        revision=policy.revision,
        subject=subject,
        principal_id=principal_id,
        window_start_us=start_us,
        window_end_us=end_us,
        meter=record.meter,
        requested=verdict.amount_max or record.hard_limit,
        limit=record.hard_limit,
        expires_us=min(end_us, now_us + state.config.accounting.approval_ttl_hours * _HOUR_US),
    )
    stream = f"approval-{_id_of(record.policy_id, state.position)}"
    granted = grant_of(request, verdict, now_us)
    if isinstance(granted, Refusal):
        return granted
    return [Draft(stream, request), *([Draft(stream, granted)] if verdict.is_granted else ())]


def expire(state: State, now_us: int) -> list[Draft]:
    """Return the end of requests that nobody has decided in time."""
    return [
        Draft(f"approval-{one.approval_id}", ApprovalExpired())
        for one in state.approvals.by_id.values()
        if one.status == "open" and now_us >= one.request.expires_us
    ]


def next_expiry_us(state: State) -> int | None:
    """Return when the next request that is open expires."""
    return min(
        (one.request.expires_us for one in state.approvals.by_id.values() if one.status == "open"), default=None
    )
