"""`keys`: who may call the gateway, and what each of them may do.

A secret is in one answer only: that of the change that made it. What a repeat gets has none.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from palyra.auth.keys import NewKey, make_key
from palyra.config.schema import is_zone
from palyra.decisions.base import Decision
from palyra.decisions.key_changes import KeyChange, KeyWish, change, issue, revoke, rotate
from palyra.decisions.key_text import KeyKind, KeyText
from palyra.decisions.policies import read_policy, room_for, set_policy
from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Items, ListParams, Params, Sight
from palyra.engine.console.pages import page_of
from palyra.engine.questions import Answer
from palyra.errors import PalyraError, Refusal, Refused
from palyra.events.base import Draft
from palyra.projections.keys import ClientKey, KeyLimits, KeyStatus, predecessors, status_of
from palyra.projections.state import State

_BUDGET = re.compile(
    r"(?:usd=(?P<usd>[0-9]{1,9}(?:\.[0-9]{1,9})?)|tokens=(?P<tokens>[0-9]{1,15}))/(?P<interval>daily|weekly|monthly)"
)


class KeyView(Answer, frozen=True, kw_only=True):
    """One key; its secret is nowhere."""

    key_id: str
    kind: str
    name: str
    status: KeyStatus
    principal: str
    scopes: list[str]
    agents: list[str]
    default_agent: str | None
    session: str | None
    models: list[str]
    allowed_cidrs: list[str]
    requests_per_minute: int
    burst: int
    tokens_per_minute: int
    concurrent_runs: int
    expires_us: int | None
    #: While it is rotating: until then it opens what it opened.
    grace_until_us: int | None
    #: The key that took its place.
    successor_id: str | None
    created_us: int
    last_used_us: int | None
    #: Actor of the change that made it.
    issued_by: str


class KeyAnswer(Answer, frozen=True, kw_only=True):
    """A key, and its secret where this is the one answer that has it."""

    key: KeyView
    secret: str | None
    #: This is a repeat; whoever got the first answer has the secret.
    already_issued: bool


class KeysParams(ListParams, frozen=True, kw_only=True):
    """Which keys."""

    #: Also those that open nothing any more.
    all: bool = False


class KeyParams(Params, frozen=True, kw_only=True):
    """Which key."""

    #: Its id, or the name of a live one.
    key: str


class IssueParams(Params, frozen=True, kw_only=True):
    """What a new key is to be. Limits: 0 is none."""

    name: str
    kind: KeyKind = "client"
    #: Null: those of its kind.
    scopes: list[str] | None = None
    #: `user:NAME` for one that several keys share; by default the key's own.
    principal: str = ""
    agents: list[str] = []
    default_agent: str = ""
    session: str = ""
    #: Globs; null: all.
    models: list[str] | None = None
    allowed_cidrs: list[str] = []
    requests_per_minute: int = 0
    burst: int = 0
    tokens_per_minute: int = 0
    concurrent_runs: int = 0
    expires_us: int | None = None
    #: A hard limit of its own, in the same commit: `usd=5.00/daily`, `tokens=100000/weekly`.
    budget: str = ""


class ChangeParams(KeyParams, frozen=True, kw_only=True):
    """What is to be different of a key; what is left out stays."""

    name: str | None = None
    scopes: list[str] | None = None
    requests_per_minute: int | None = None
    burst: int | None = None
    tokens_per_minute: int | None = None
    concurrent_runs: int | None = None
    #: Null: it does not expire.
    expires_us: int | msgspec.UnsetType | None = msgspec.UNSET


class RotateParams(KeyParams, frozen=True, kw_only=True):
    """Which key, and for how long the old one still opens what it opened."""

    grace_ms: int = 0


class RevokeParams(KeyParams, frozen=True, kw_only=True):
    """Which key, and why."""

    #: End its open runs too.
    now: bool = False
    reason: str = ""


def keys(sight: Sight, params: KeysParams) -> Items[KeyView]:
    """Return keys, oldest first."""
    views = [view_of(key, sight.now_us) for key in sight.state.keys.by_id.values()]
    shown = [view for view in views if params.all or view.status in ("active", "rotating")]
    return page_of(shown, params, lambda view: (view.created_us, view.key_id))


def key(sight: Sight, params: KeyParams) -> KeyView:
    """Return one key."""
    return view_of(_find(sight.state, params.key, sight.now_us), sight.now_us)


async def issue_key(order: Order, params: IssueParams) -> KeyAnswer:
    """Make a key."""
    fields = {name: getattr(params, name) for name in KeyLimits.__struct_fields__}
    wish = KeyWish(
        name=params.name,
        kind=params.kind,
        scopes=params.scopes,
        principal=params.principal,
        agents=params.agents,
        default_agent=params.default_agent,
        session=params.session,
        models=["*"] if params.models is None else params.models,
        allowed_cidrs=params.allowed_cidrs,
        limits=KeyLimits(**fields),
        expires_us=params.expires_us,
    )
    made = make_key(params.kind)
    now_us = order.core.clock.now_us()
    decision = issue(order.core.state, wish, _text(made), order.scopes, now_us)
    rule = _budget_of(order, params, made.key_id) if params.budget else []
    await _record(order, Decision([*decision.drafts, *rule], decision.refusal))
    return _with_secret(order, made)


def _budget_of(order: Order, params: IssueParams, key_id: str) -> list[Draft]:
    """Return the rule that stops a key alone; it has used nothing yet, so there is no history to count."""
    said = _BUDGET.fullmatch(params.budget)
    if said is None:
        raise _no_budget("it is like usd=5.00/daily or tokens=100000/weekly")
    if params.kind != "client" or params.principal:
        raise _no_budget(
            "it is for a client key that pays for itself; palyra budgets set limits a shared principal"
        )
    if "usage:write" not in order.scopes:
        message = "Setting a budget needs the scope usage:write."
        raise Refused(Refusal(code="scope_escalation", message=message, param="budget"))
    full = room_for(order.core.state, f"key-{key_id}")
    if full is not None:
        raise Refused(full)
    is_money = said["usd"] is not None
    row = {
        "policy_id": f"key-{key_id}",
        "scope_kind": "principal",
        "scope_id": f"key:{key_id}",
        "metric_kind": "usd_cost" if is_money else "tokens",
        "interval_kind": said["interval"],
        "hard_limit": said["usd"] if is_money else int(said["tokens"]),
    }
    timezone = order.core.state.config.accounting.timezone
    record, faults = read_policy(row, timezone=timezone, is_zone=is_zone, managed_by="journal")
    if record is None:
        raise _no_budget("; ".join(fault.message for fault in faults))
    return set_policy(order.core.state, record, [], by=order.actor)


def _no_budget(why: str) -> Refused:
    return Refused(Refusal(code="invalid_request", message=f"This is no budget for a key: {why}.", param="budget"))


async def change_key(order: Order, params: ChangeParams) -> KeyView:
    """Change name, limits and expiry of a key, or take scopes away."""
    state, now_us = order.core.state, order.core.clock.now_us()
    found = _find(state, params.key, now_us)
    limits = {name: value for name in KeyLimits.__struct_fields__ if (value := getattr(params, name)) is not None}
    wanted = KeyChange(
        name=params.name,
        scopes=params.scopes,
        limits=msgspec.structs.replace(found.limits, **limits) if limits else None,
        expires_us=params.expires_us,
    )
    await _record(order, change(state, found.key_id, wanted, order.scopes, now_us))
    return _seen(order, found.key_id)


async def rotate_key(order: Order, params: RotateParams) -> KeyAnswer:
    """Put another key in a key's place. One that lives in a file of ours is written there first."""
    state, now_us = order.core.state, order.core.clock.now_us()
    found = _find(state, params.key, now_us)
    made = make_key("client" if found.kind == "client" else "admin")
    decision = rotate(state, found.key_id, _text(made), params.grace_ms, order.scopes, now_us)
    if decision.refusal is None:
        order.desk.keep_key(found.display_name, made.secret)
    await _record(order, decision)
    return _with_secret(order, made)


async def revoke_key(order: Order, params: RevokeParams) -> KeyView:
    """End a key: it opens nothing from now on; its open runs finish, unless they are to end too."""
    state, now_us = order.core.state, order.core.clock.now_us()
    found = _find(state, params.key, now_us)
    ended = [found.key_id, *(one.key_id for one in predecessors(state, found.key_id, now_us))]
    await _record(order, revoke(state, found.key_id, params.reason, order.scopes, now_us))
    for key_id in ended if params.now else ():
        await order.desk.cancel_runs_of(key_id, by=order.actor)
    return _seen(order, found.key_id)


def without_secret(answer: Any) -> Any:
    """Return an answer as a repeat of its change gets it."""
    return msgspec.structs.replace(answer, secret=None, already_issued=True)


def view_of(key: ClientKey, now_us: int) -> KeyView:
    """Return what may be seen of a key."""
    return KeyView(
        key_id=key.key_id,
        kind=key.kind,
        name=key.display_name,
        status=status_of(key, now_us),
        principal=key.principal_id,
        scopes=key.scopes,
        agents=key.agents,
        default_agent=key.default_agent or None,
        session=key.session or None,
        models=key.models,
        allowed_cidrs=key.allowed_cidrs,
        **msgspec.structs.asdict(key.limits),
        expires_us=key.expires_us,
        grace_until_us=key.grace_until_us,
        successor_id=key.successor_id or None,
        created_us=key.issued_us,
        last_used_us=key.last_used_us,
        issued_by=key.issued_by,
    )


def _find(state: State, name: str, now_us: int) -> ClientKey:
    """Return the key that a name means; raises `PalyraError`."""
    found = state.keys.by_id.get(name)
    if found is not None:
        return found
    for key in state.keys.by_id.values():
        if key.display_name == name and status_of(key, now_us) == "active":
            return key
    raise PalyraError(f"There is no key '{name[:64]}'.", hint="palyra keys list shows them", code="key_not_found")


def _seen(order: Order, key_id: str) -> KeyView:
    return view_of(order.core.state.keys.by_id[key_id], order.core.clock.now_us())


def _with_secret(order: Order, made: NewKey) -> KeyAnswer:
    return KeyAnswer(key=_seen(order, made.key_id), secret=made.secret.reveal(), already_issued=False)


def _text(made: NewKey) -> KeyText:
    return KeyText(made.kind, made.key_id, made.verifier)


async def _record(order: Order, decision: Decision) -> None:
    if decision.refusal is not None:
        raise Refused(decision.refusal)
    await order.record(decision.drafts)
