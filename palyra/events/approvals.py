"""Approvals: who asked to go beyond a limit, what was allowed of it, what was taken. Stream `approval-<id>`.

Who granted or denied one is the actor of the fact.
"""

from __future__ import annotations

from palyra.events.base import Fact
from palyra.events.budgets import Meter


class ApprovalRequested(Fact, tag="approval.requested", frozen=True, kw_only=True):
    """Somebody wants more than a rule allows in its window."""

    policy_id: str
    revision: int
    #: Whom the rule counts; of a rule for each run the one that it would count otherwise.
    subject: str
    principal_id: str
    #: The run that did not fit; "" for what is granted ahead of time.
    run_id: str = ""
    #: Start of the counted window, 0 of one that rolls or belongs to a run.
    window_start_us: int
    #: What is decided holds no longer: the window's end, or a day where it has none.
    window_end_us: int
    meter: Meter
    requested: int
    consumed: int = 0
    reserved: int = 0
    limit: int
    #: The request counts as expired from here on.
    expires_us: int


class ApprovalGranted(Fact, tag="approval.granted", frozen=True, kw_only=True):
    """So many runs of somebody may pass the limit by so much together."""

    #: `*` for everybody whom the rule counts as this subject.
    principal_id: str
    uses_max: int = 1
    amount_max: int
    valid_until_us: int
    note_code: str = ""


class ApprovalDenied(Fact, tag="approval.denied", frozen=True, kw_only=True):
    """Nobody may pass the limit this way before the window ends."""

    reason_code: str = "denied"


class ApprovalExpired(Fact, tag="approval.expired", frozen=True, kw_only=True):
    """Nobody has decided in time."""


class ApprovalUsed(Fact, tag="approval.used", frozen=True, kw_only=True):
    """An attempt that starts in the same step draws from a grant."""

    run_id: str
    amount: int
    uses_left: int
    amount_left: int
