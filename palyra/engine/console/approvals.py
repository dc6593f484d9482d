"""`approvals`: requests to pass a limit, decided here; grants ahead of time are made here too."""

from __future__ import annotations

from typing import Literal

from palyra.decisions.approvals import Verdict, decide_approval, override
from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Items, ListParams, Params, Sight
from palyra.engine.console.pages import page_of
from palyra.engine.questions import Answer
from palyra.errors import PalyraError, Refusal, Refused, or_refuse
from palyra.events.base import Draft
from palyra.projections.approvals import Approval, ApprovalStatus, status_of
from palyra.projections.state import State


class ApprovalView(Answer, frozen=True, kw_only=True):
    """A request to pass a limit, and what came of it. Amounts in nano-USD or tokens."""

    approval_id: str
    state: ApprovalStatus
    policy_id: str
    revision: int
    subject: str
    metric: str
    #: Who asked, with which run; null for what was granted ahead of time.
    principal_id: str
    run_id: str | None
    window_start_us: int
    window_end_us: int
    requested: int
    consumed: int
    reserved: int
    limit: int
    requested_us: int
    expires_us: int
    decided_by: str | None
    decided_us: int | None
    #: Of a grant: for whom, how much, how often, until when; null otherwise.
    granted_to: str | None
    uses_max: int | None
    uses_left: int | None
    amount_max: int | None
    amount_left: int | None
    valid_until_us: int | None


class ApprovalsParams(ListParams, frozen=True, kw_only=True):
    """Which requests."""

    #: Only those that stand like this.
    state: Literal["open", "granted", "denied", "expired", "void", ""] = ""
    #: Only those that this principal asked for.
    principal_id: str = ""


class ApprovalParams(Params, frozen=True, kw_only=True):
    """Which request."""

    #: Its id, or the unique beginning of it.
    approval: str


class DecideParams(ApprovalParams, frozen=True, kw_only=True):
    """What is decided. What a grant leaves out is as it was asked for: one use, its amount, to the window's end."""

    decision: Literal["grant", "deny"]
    uses_max: int | None = None
    amount_max: int | None = None
    valid_until_us: int | None = None
    #: `*` for everybody whom the rule counts as this subject.
    principal_id: str = ""
    note_code: str = ""


class OverrideParams(Params, frozen=True, kw_only=True):
    """What is granted, or asked for, before anybody needs it."""

    policy: str
    #: Whom the rule counts; "" where it counts everybody as one.
    subject: str = ""
    #: In the rule's unit; null for as much as the limit itself.
    amount: int | None = None
    uses: int = 1
    until_us: int | None = None
    principal_id: str = ""
    note_code: str = ""
    #: False: it is only asked for.
    grant: bool = True


class OneApprovalParams(ApprovalParams, frozen=True, kw_only=True):
    """Which request."""

    #: This principal must have asked for it; "" for anybody.
    principal_id: str = ""


def approvals(sight: Sight, params: ApprovalsParams) -> Items[ApprovalView]:
    """Return requests, newest first."""
    views = [view_of(one, sight.now_us) for one in sight.state.approvals.by_id.values()]
    views = [one for one in views if params.state in ("", one.state)]
    views = [one for one in views if params.principal_id in ("", one.principal_id)]
    views.sort(key=lambda one: (one.requested_us, one.approval_id), reverse=True)
    return page_of(views, params, lambda one: (one.requested_us, one.approval_id), is_falling=True)


def approval(sight: Sight, params: OneApprovalParams) -> ApprovalView:
    """Return one request."""
    return view_of(_find(sight.state, params.approval, params.principal_id), sight.now_us)


async def decide(order: Order, params: DecideParams) -> ApprovalView:
    """Grant or deny a request, once."""
    core, now_us = order.core, order.core.clock.now_us()
    asked = _find(core.state, params.approval)
    verdict = Verdict(
        is_granted=params.decision == "grant",
        uses_max=params.uses_max,
        amount_max=params.amount_max,
        valid_until_us=params.valid_until_us,
        principal_id=params.principal_id,
        note_code=params.note_code,
    )
    decided = decide_approval(core.state, asked, verdict, by=order.actor, now_us=now_us)
    return await _record(order, decided, asked.approval_id)


async def override_request(order: Order, params: OverrideParams) -> ApprovalView:
    """Ask for more than a rule allows, and grant it in the same step."""
    core, now_us = order.core, order.core.clock.now_us()
    policy = core.state.budgets.policies.get(params.policy)
    if policy is None:
        hint = "palyra budgets list shows them"
        raise PalyraError(f"There is no rule '{params.policy}'.", hint=hint, code="budget_policy_not_found")
    if params.grant and "approvals:decide" not in order.scopes:
        message = "To grant needs the scope approvals:decide; with grant = false it is only asked for."
        raise Refused(Refusal(code="missing_scope", message=message, param="grant"))
    verdict = Verdict(
        is_granted=params.grant,
        uses_max=params.uses,
        amount_max=params.amount if params.amount is not None else policy.record.hard_limit,
        valid_until_us=params.until_us,
        principal_id=params.principal_id,
        note_code=params.note_code,
    )
    made = override(core.state, policy, params.subject, verdict, now_us=now_us)
    approval_id = "" if isinstance(made, Refusal) else made[0].stream.removeprefix("approval-")
    return await _record(order, made, approval_id)


async def _record(order: Order, decided: list[Draft] | Refusal, approval_id: str) -> ApprovalView:
    await order.record(or_refuse(decided))
    return view_of(order.core.state.approvals.by_id[approval_id], order.core.clock.now_us())


def _find(state: State, name: str, by: str = "") -> Approval:
    found = [one for one in state.approvals.by_id.values() if name and one.approval_id.startswith(name)]
    found = [one for one in found if by in ("", one.request.principal_id)]
    if len(found) != 1:
        hint = "palyra approvals list shows them"
        said = "several requests whose names begin" if found else "no request whose name begins"
        raise PalyraError(f"There is {said} with '{name}'.", hint=hint, code="approval_not_found")
    return found[0]


def view_of(one: Approval, now_us: int) -> ApprovalView:
    """Return a request as it is shown."""
    asked, is_grant = one.request, one.uses_max > 0
    return ApprovalView(
        approval_id=one.approval_id,
        state=status_of(one, now_us),
        policy_id=asked.policy_id,
        revision=asked.revision,
        subject=asked.subject,
        metric="usd_cost" if asked.meter == "usd_cost" else "tokens",
        principal_id=asked.principal_id,
        run_id=asked.run_id or None,
        window_start_us=asked.window_start_us,
        window_end_us=asked.window_end_us,
        requested=asked.requested,
        consumed=asked.consumed,
        reserved=asked.reserved,
        limit=asked.limit,
        requested_us=one.requested_us,
        expires_us=asked.expires_us,
        decided_by=one.decided_by or None,
        decided_us=one.decided_us,
        granted_to=one.principal_id if is_grant else None,
        uses_max=one.uses_max if is_grant else None,
        uses_left=one.uses_left if is_grant else None,
        amount_max=one.amount_max if is_grant else None,
        amount_left=one.amount_left if is_grant else None,
        valid_until_us=one.valid_until_us if is_grant else None,
    )
