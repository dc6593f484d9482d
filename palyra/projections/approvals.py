"""Approvals: who asked to pass a limit, what was granted, how much of it is left.

What is decided about a rule holds for the revision that it was decided about, and no longer than its window.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from palyra.events import approvals, budgets, runs
from palyra.events.base import Fact, Recorded
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State

ApprovalStatus = Literal["open", "granted", "denied", "expired", "void"]
#: Approvals that hold no more are shown for a while: so many of them.
_ENDED_COUNT = 200


class Approval(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A request to pass a limit, and what came of it."""

    approval_id: str
    request: approvals.ApprovalRequested
    requested_us: int
    #: Whose run needed it, or who asked ahead.
    asked_by: str = ""
    #: What was decided; whether it still holds is asked of `status_of`.
    status: ApprovalStatus = "open"
    decided_by: str = ""
    decided_us: int | None = None
    #: Of a grant.
    principal_id: str = ""
    uses_max: int = 0
    uses_left: int = 0
    amount_max: int = 0
    amount_left: int = 0
    valid_until_us: int = 0
    #: Open runs that have drawn on it: they may go on drawing.
    runs: list[str] = []


class ApprovalsState(msgspec.Struct, kw_only=True):
    """Approvals by id, oldest first; those that may still matter by rule; requests that wait for them."""

    by_id: dict[str, Approval] = {}
    by_policy: dict[str, list[str]] = {}
    #: Held requests, and when each gives up.
    held: dict[str, int] = {}


CHAPTER = Chapter()


def status_of(approval: Approval, now_us: int) -> ApprovalStatus:
    """Return how an approval stands at an instant."""
    if approval.status == "open" and now_us >= approval.request.expires_us:
        return "expired"
    if approval.status == "granted" and now_us >= approval.valid_until_us:
        return "expired"
    if approval.status == "denied" and now_us >= approval.request.window_end_us:
        return "expired"
    return approval.status


def approvals_of(state: State, policy_id: str, subject: str, window_start_us: int) -> Iterator[Approval]:
    """Yield what was asked about one subject and window of a rule and may still matter, oldest first."""
    for approval_id in state.approvals.by_policy.get(policy_id, ()):
        approval = state.approvals.by_id[approval_id]
        if approval.request.subject == subject and approval.request.window_start_us == window_start_us:
            yield approval


def open_approvals(state: State, now_us: int) -> list[Approval]:
    """Return what waits for somebody to decide, oldest first."""
    return [one for one in state.approvals.by_id.values() if status_of(one, now_us) == "open"]


def _of(state: State, recorded: Recorded) -> Approval | None:
    return state.approvals.by_id.get(recorded.stream.removeprefix("approval-"))


@CHAPTER.on(approvals.ApprovalRequested)
def _requested(state: State, recorded: Recorded, body: approvals.ApprovalRequested) -> None:
    approval_id = recorded.stream.removeprefix("approval-")
    own = state.approvals
    _thin(state, recorded.recorded_at_us)
    if approval_id not in own.by_id:
        own.by_policy.setdefault(body.policy_id, []).append(approval_id)
        own.by_id[approval_id] = Approval(
            approval_id=approval_id,
            request=body,
            requested_us=recorded.recorded_at_us,
            asked_by=recorded.actor,
        )


@CHAPTER.on(approvals.ApprovalGranted)
def _granted(state: State, recorded: Recorded, body: approvals.ApprovalGranted) -> None:
    approval = _of(state, recorded)
    if approval is not None and approval.status == "open":
        _decide(approval, "granted", recorded)
        approval.principal_id = body.principal_id
        approval.uses_max = approval.uses_left = body.uses_max
        approval.amount_max = approval.amount_left = body.amount_max
        approval.valid_until_us = body.valid_until_us


@CHAPTER.on(approvals.ApprovalDenied)
def _denied(state: State, recorded: Recorded, body: approvals.ApprovalDenied) -> None:
    approval = _of(state, recorded)
    if approval is not None and approval.status == "open":
        _decide(approval, "denied", recorded)


@CHAPTER.on(approvals.ApprovalExpired)
def _expired(state: State, recorded: Recorded, body: approvals.ApprovalExpired) -> None:
    approval = _of(state, recorded)
    if approval is not None and approval.status == "open":
        approval.status = "expired"


def _decide(approval: Approval, status: ApprovalStatus, recorded: Recorded) -> None:
    approval.status, approval.decided_by, approval.decided_us = status, recorded.actor, recorded.recorded_at_us


@CHAPTER.on(approvals.ApprovalUsed)
def _used(state: State, recorded: Recorded, body: approvals.ApprovalUsed) -> None:
    approval = _of(state, recorded)
    if approval is not None:
        approval.uses_left, approval.amount_left = body.uses_left, body.amount_left
        if body.run_id not in approval.runs:
            approval.runs = [*approval.runs, body.run_id]


@CHAPTER.on(budgets.BudgetReleased)
def _released(state: State, recorded: Recorded, body: budgets.BudgetReleased) -> None:
    """What a run has drawn and not used can be drawn again; its use is used."""
    for one in body.returned:
        approval = state.approvals.by_id.get(one.approval_id)
        if approval is not None:
            approval.amount_left += one.amount


@CHAPTER.on(budgets.BudgetPolicySet, budgets.BudgetPolicyRetired)
def _rule_changed(state: State, recorded: Recorded, body: Fact) -> None:
    """What was asked and decided about another wording of the rule says nothing about this one."""
    for approval_id in state.approvals.by_policy.pop(recorded.stream.removeprefix("budget-"), ()):
        approval = state.approvals.by_id[approval_id]
        if approval.status != "expired":
            approval.status = "void"


@CHAPTER.on(runs.RunHeld)
def _held(state: State, recorded: Recorded, body: runs.RunHeld) -> None:
    state.approvals.held[recorded.stream[4:]] = body.held_until_us


@CHAPTER.on(runs.RunResumed)
def _resumed(state: State, recorded: Recorded, body: runs.RunResumed) -> None:
    state.approvals.held.pop(recorded.stream[4:], None)


@CHAPTER.on(runs.RunCompleted, runs.RunFailed, runs.RunCancelled, runs.RunRefused)
def _run_ended(state: State, recorded: Recorded, body: Fact) -> None:
    own = state.approvals
    if not own.held and not own.by_policy:
        return
    run_id = recorded.stream[4:]
    own.held.pop(run_id, None)
    for approval_ids in own.by_policy.values():
        for approval_id in approval_ids:
            approval = own.by_id[approval_id]
            if run_id in approval.runs:
                approval.runs = [one for one in approval.runs if one != run_id]


def _thin(state: State, now_us: int) -> None:
    """Let go of the oldest approvals that hold no more."""
    own = state.approvals
    if len(own.by_id) < _ENDED_COUNT:
        return
    ended = [one for one in own.by_id.values() if status_of(one, now_us) in ("expired", "void")]
    for old in ended[: len(own.by_id) - _ENDED_COUNT]:
        del own.by_id[old.approval_id]
        state.streams.pop(f"approval-{old.approval_id}", None)
        among = own.by_policy.get(old.request.policy_id, [])
        if old.approval_id in among:
            among.remove(old.approval_id)
