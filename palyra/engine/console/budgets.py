"""`budgets`: rules about usage, what is used and held of them; rules are set and retired here."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from palyra.config.schema import is_zone
from palyra.decisions.policies import read_policy, room_for
from palyra.decisions.runs import AdmitRun
from palyra.engine.budget_checks import BudgetCheckAnswer, check_budgets
from palyra.engine.budget_questions import (
    BudgetAnswer,
    BudgetsAnswer,
    HoldsAnswer,
    budget_answer,
    budgets_answer,
    holds_answer,
)
from palyra.engine.budgets import put_in_force, take_out_of_force
from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Params, Sight
from palyra.errors import PalyraError, Refusal, Refused
from palyra.events.registry import ModelRole
from palyra.projections.budgets import Policy
from palyra.projections.state import State

_ASKER = "operator:local"
_Name = Annotated[str, msgspec.Meta(max_length=512)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class BudgetsParams(Params, frozen=True, kw_only=True):
    """Which rules."""

    #: Only those that count each principal by itself, and what they have counted of this one; "" for all.
    principal_id: str = ""


class BudgetParams(Params, frozen=True, kw_only=True):
    """Which rule."""

    policy: str


class OneBudgetParams(BudgetParams, frozen=True, kw_only=True):
    """Which rule."""

    #: As in the list.
    principal_id: str = ""


class SetParams(BudgetParams, frozen=True, kw_only=True):
    """A rule in the words of `[[budgets.policies]]`, without its name."""

    rule: dict[str, Any]
    #: The change is refused where the rule has another revision by now; 0: it must be new.
    if_revision: int | None = None


class CreateParams(BudgetParams, frozen=True, kw_only=True):
    """A rule that must be new."""

    rule: dict[str, Any]


class CheckParams(Params, frozen=True, kw_only=True):
    """A request as far as rules and prices depend on it."""

    model: _Name = ""
    endpoint: ModelRole = "chat"
    #: The uncalibrated estimate of its input, and the bytes of its body.
    tokens: _Count = 0
    body_bytes: _Count = 0
    #: The longest answer that it takes, and how many of them.
    max_output: _Count | None = None
    choices: Annotated[int, msgspec.Meta(ge=1, le=128)] = 1
    #: What it allows itself to cost.
    max_cost_nanousd: _Count | None = None
    #: Who pays, "" for the operator; with which key, in which session, for which agent.
    principal: _Name = ""
    key: _Name = ""
    session: _Name = ""
    agent: _Name = ""


class RetireParams(BudgetParams, frozen=True, kw_only=True):
    """Which rule."""

    if_revision: int | None = None


def budgets(sight: Sight, params: BudgetsParams) -> BudgetsAnswer:
    """Return all rules, or what one principal may know of them."""
    found = budgets_answer(sight.state, sight.now_us)
    if not params.principal_id:
        return found
    return BudgetsAnswer(items=[_of_one(one, params.principal_id) for one in found.items if _counts(one, params)])


def budget(sight: Sight, params: OneBudgetParams) -> BudgetAnswer:
    """Return one rule."""
    found = budget_answer(sight.state, _find(sight.state, params.policy), sight.now_us)
    if not params.principal_id:
        return found
    if not _counts(found, params):
        raise _no_rule(params.policy)
    return _of_one(found, params.principal_id)


def holds(sight: Sight, params: OneBudgetParams) -> HoldsAnswer:
    """Return what open attempts hold of a rule."""
    found = holds_answer(sight.state, _find(sight.state, params.policy).record.policy_id)
    own = params.principal_id
    return msgspec.structs.replace(found, items=[one for one in found.items if own in ("", one.subject)])


def _counts(one: BudgetAnswer, params: BudgetsParams | OneBudgetParams) -> bool:
    """Return whether a rule counts a principal by itself."""
    return one.policy.scope_kind == "principal" and one.policy.scope_id in ("*", params.principal_id)


def _of_one(one: BudgetAnswer, principal_id: str) -> BudgetAnswer:
    own = [status for status in one.status if status.subject == principal_id]
    return msgspec.structs.replace(one, status=own)


def check(sight: Sight, params: CheckParams) -> BudgetCheckAnswer:
    """Return what such a request would meet; nothing is held, and nothing recorded."""
    command = AdmitRun(
        run_id="check",
        principal_id=params.principal or _ASKER,
        key_id=params.key,
        session_id=params.session,
        agent_id=params.agent,
        endpoint=params.endpoint,
        model=params.model,
        raw_tokens=params.tokens,
        output_max_tokens=params.max_output,
        choices_count=params.choices,
        max_cost_nanousd=params.max_cost_nanousd,
        body_digest="",
        body_bytes=params.body_bytes,
    )
    return check_budgets(sight.state, command, sight.now_us)


async def create_budget(order: Order, params: CreateParams) -> BudgetAnswer:
    """Put a rule in force of whose name there is none."""
    return await set_budget(order, SetParams(policy=params.policy, rule=params.rule, if_revision=0))


async def set_budget(order: Order, params: SetParams) -> BudgetAnswer:
    """Put a rule in force; what its window holds already is counted."""
    state = order.core.state
    _check(state, params.policy, params.if_revision)
    full = room_for(state, params.policy)
    if full is not None:
        raise Refused(full)
    row = {"policy_id": params.policy, **params.rule}
    timezone = state.config.accounting.timezone
    record, faults = read_policy(row, timezone=timezone, is_zone=is_zone, managed_by="journal")
    if record is None:
        said = "; ".join(f"{'.'.join(map(str, fault.path)) or 'rule'} {fault.message}" for fault in faults)
        message = f"This is no rule: {said}."
        raise Refused(Refusal(code="invalid_policy", message=message, param=str(faults[0].path[0])))
    await put_in_force(order.core, record, actor=order.actor, note=order.note)
    return budget_answer(state, state.budgets.policies[params.policy], order.core.clock.now_us())


async def retire_budget(order: Order, params: RetireParams) -> BudgetAnswer:
    """Take a rule out of force; return it as it was."""
    state = order.core.state
    policy = _find(state, params.policy)
    _check(state, params.policy, params.if_revision)
    last = budget_answer(state, policy, order.core.clock.now_us())
    await take_out_of_force(order.core, params.policy, actor=order.actor, note=order.note)
    return last


def _find(state: State, policy_id: str) -> Policy:
    policy = state.budgets.policies.get(policy_id)
    if policy is None:
        raise _no_rule(policy_id)
    return policy


def _no_rule(policy_id: str) -> PalyraError:
    hint = "palyra budgets list shows them"
    return PalyraError(f"There is no rule '{policy_id}'.", hint=hint, code="budget_policy_not_found")


def _check(state: State, policy_id: str, if_revision: int | None) -> None:
    """Raise what keeps a rule from being changed here."""
    policy = state.budgets.policies.get(policy_id)
    if policy is not None and policy.record.managed_by == "file":
        hint = "change it there, or with palyra budgets set --write-config"
        raise PalyraError(f"The rule '{policy_id}' stands in the file.", hint=hint, code="managed_by_file")
    revision = 0 if policy is None else policy.revision
    if if_revision is not None and if_revision != revision:
        raise PalyraError(f"The rule '{policy_id}' has revision {revision} by now.", code="stale_revision")
