"""Budgets in a capsule: the rules, and the counters of the run's own subjects; whoever they are is a token."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from palyra.events.approvals import ApprovalRequested
from palyra.events.base import Fact, UnknownEvent
from palyra.events.budgets import (
    BudgetHardLimitReached,
    BudgetReleased,
    BudgetReserved,
    BudgetSoftLimitCrossed,
)
from palyra.events.routing import RoutingDecided
from palyra.events.runs import RunAdmitted, RunRefused
from palyra.projections.approvals import Approval
from palyra.projections.budgets import PER_RUN_END_US, Counter, Policy, counter_key
from palyra.projections.state import State

#: Scopes whose subjects are somebody.
_PEOPLE = ("principal", "session", "agent")
_NAMES = {f"{kind}_id": kind for kind in (*_PEOPLE, "key")}
_NOBODY = "none:"


class BudgetHider:
    """Takes people out of rules, counters and facts. `token` gives the token of a (kind, name)."""

    def __init__(
        self, state: State, asked: RunAdmitted | RunRefused | None, token: Callable[[str, str], str]
    ) -> None:
        self._state = state
        self._asked = asked
        self._token = token

    def policies(self) -> dict[str, Policy]:
        """Return the rules in force."""
        return {name: self._policy(policy) for name, policy in self._state.budgets.policies.items()}

    def counters(self) -> dict[str, Counter]:
        """Return the counters of everybody who is in the run, and of what is nobody."""
        found: dict[str, Counter] = {}
        for counter in self._state.budgets.counters.values():
            if not self._is_of_the_run(counter):
                continue
            subject = self._subject(counter.policy_id, counter.subject)
            key = counter_key(counter.policy_id, subject, counter.window_start_us)
            found[key] = msgspec.structs.replace(counter, subject=subject, cells=dict(counter.cells))
        return found

    def approvals(self, run_id: str) -> dict[str, Approval]:
        """Return what was asked and granted to whoever is in the run, or to everybody."""
        found: dict[str, Approval] = {}
        for approval_ids in self._state.approvals.by_policy.values():
            for approval in map(self._state.approvals.by_id.__getitem__, approval_ids):
                asker, holder = approval.request.principal_id, approval.principal_id
                own = "" if self._asked is None else self._asked.principal_id
                if own not in (asker, holder) and holder != "*":
                    continue
                found[approval.approval_id] = msgspec.structs.replace(
                    approval,
                    request=self._request(approval.request, run_id),
                    asked_by="",
                    decided_by="",
                    principal_id=self._principal(holder),
                    runs=[one for one in approval.runs if one == run_id],
                )
        return found

    def _request(self, request: ApprovalRequested, run_id: str) -> ApprovalRequested:
        policy = self._state.budgets.policies.get(request.policy_id)
        kind = policy.record.scope_kind if policy is not None else ""
        return msgspec.structs.replace(
            request,
            subject=self._hidden(kind if kind in _PEOPLE else "", request.subject),
            principal_id=self._principal(request.principal_id),
            run_id=request.run_id if request.run_id == run_id else "",
        )

    def _principal(self, principal_id: str) -> str:
        return principal_id if principal_id == "*" else self._token("principal", principal_id)

    def cleaned(self, body: Fact | UnknownEvent, stream: str) -> Fact | UnknownEvent:
        """Return a fact about budgets without people; other facts as they are."""
        replace = msgspec.structs.replace
        match body:
            case BudgetReserved():
                shares = [replace(one, subject=self._subject(one.policy_id, one.subject)) for one in body.shares]
                return replace(body, shares=shares)
            case BudgetReleased():
                beyond = [
                    replace(one, subject=self._subject(one.policy_id, one.subject)) for one in body.overshoots
                ]
                return replace(body, overshoots=beyond)
            case BudgetSoftLimitCrossed() | BudgetHardLimitReached():
                return replace(body, subject=self._subject(stream.removeprefix("budget-"), body.subject))
            case ApprovalRequested():
                return self._request(body, body.run_id)
            case RoutingDecided():
                told = [replace(one, subject=self._subject(one.policy_id, one.subject)) for one in body.evaluations]
                return replace(body, evaluations=told)
        return body

    def _kind_of(self, policy_id: str) -> str:
        """Return the kind of people that a rule counts; "" for a rule that counts none."""
        policy = self._state.budgets.policies.get(policy_id)
        if policy is None or policy.record.interval_kind == "per_run":
            return ""
        return policy.record.scope_kind if policy.record.scope_kind in _PEOPLE else ""

    def _subject(self, policy_id: str, subject: str) -> str:
        return self._hidden(self._kind_of(policy_id), subject)

    def _hidden(self, kind: str, subject: str) -> str:
        if subject.startswith(_NOBODY):
            return _NOBODY + self._token("principal", subject.removeprefix(_NOBODY))
        return self._token(kind, subject) if kind else subject

    def _own_subjects(self, kind: str) -> tuple[str, ...]:
        asked = self._asked
        return () if asked is None else (getattr(asked, f"{kind}_id"), f"{_NOBODY}{asked.principal_id}")

    def _is_of_the_run(self, counter: Counter) -> bool:
        if counter.window_end_us == PER_RUN_END_US:
            return False  # it begins and ends with its run
        kind = self._kind_of(counter.policy_id)
        return not kind or counter.subject in self._own_subjects(kind)

    def _policy(self, policy: Policy) -> Policy:
        record = policy.record
        kind = record.scope_kind if record.scope_kind in _PEOPLE else ""
        late = {
            self._hidden(kind, subject): dict(cells)
            for subject, cells in policy.late.items()
            if not kind or subject in self._own_subjects(kind)
        }
        hidden = msgspec.structs.replace(
            record,
            scope_id=self._hidden(kind, record.scope_id) if record.scope_id != "*" else "*",
            match={name: self._hidden(_NAMES.get(name, ""), value) for name, value in record.match.items()},
        )
        return msgspec.structs.replace(policy, record=hidden, late=late)
