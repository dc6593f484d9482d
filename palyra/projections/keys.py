"""The access registry: client keys by id, and requests that were turned away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from palyra.events import keys, runs
from palyra.events.base import Recorded
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State

KeyStatus = Literal["active", "rotating", "expired", "revoked"]


class KeyLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How fast a key may be used; 0 is no limit."""

    requests_per_minute: int = 0
    #: Requests that may come at once; 0: as many as a minute has.
    burst: int = 0
    tokens_per_minute: int = 0
    concurrent_runs: int = 0


NO_LIMITS = KeyLimits()


class ClientKey(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One key; its secret is not here and cannot be derived from what is."""

    key_id: str
    kind: str
    display_name: str
    verifier: str
    principal_id: str
    scopes: list[str]
    agents: list[str]
    default_agent: str = ""
    session: str = ""
    models: list[str]
    allowed_cidrs: list[str] = []
    limits: KeyLimits
    expires_us: int | None = None
    issued_us: int
    #: Actor of the fact.
    issued_by: str
    #: Set when another key took its place: it opens what it opened until then.
    grace_until_us: int | None = None
    successor_id: str = ""
    revoked_us: int | None = None
    #: Of a run, admitted or refused.
    last_used_us: int | None = None


class KeysState(msgspec.Struct, kw_only=True):
    """Keys by id; denials by `surface|reason|peer_class`."""

    by_id: dict[str, ClientKey] = {}
    denied: dict[str, int] = {}


CHAPTER = Chapter()


def status_of(key: ClientKey, now_us: int) -> KeyStatus:
    """Return how a key stands; only `active` and `rotating` ones open anything."""
    if key.revoked_us is not None or (key.grace_until_us is not None and key.grace_until_us <= now_us):
        return "revoked"
    if key.expires_us is not None and key.expires_us <= now_us:
        return "expired"
    return "active" if key.grace_until_us is None else "rotating"


def is_live(key: ClientKey, now_us: int) -> bool:
    """Return whether a key opens anything; asked at every request."""
    return (
        key.revoked_us is None
        and (key.expires_us is None or now_us < key.expires_us)
        and (key.grace_until_us is None or now_us < key.grace_until_us)
    )


def live_keys(state: State, kind: str, now_us: int) -> list[ClientKey]:
    """Return the keys of a kind that open something and are nobody's predecessor, oldest first."""
    return [
        key
        for key in state.keys.by_id.values()
        if key.kind == kind and key.grace_until_us is None and is_live(key, now_us)
    ]


def predecessors(state: State, key_id: str, now_us: int) -> list[ClientKey]:
    """Return the keys that open something still, in whose place this one was put, the newest first."""
    before = {one.successor_id: one for one in state.keys.by_id.values()}
    found: list[ClientKey] = []
    while (one := before.get(key_id)) is not None:
        found += [one] if is_live(one, now_us) else []
        key_id = one.key_id
    return found


@CHAPTER.on(keys.ClientKeyIssued)
def _issued(state: State, recorded: Recorded, body: keys.ClientKeyIssued) -> None:
    key_id = recorded.stream[4:]
    state.keys.by_id[key_id] = ClientKey(
        key_id=key_id,
        kind=body.kind,
        display_name=body.display_name,
        verifier=body.verifier,
        principal_id=body.principal_id,
        scopes=body.scopes,
        agents=body.agents,
        default_agent=body.default_agent,
        session=body.session,
        models=body.models,
        allowed_cidrs=body.allowed_cidrs,
        limits=_limits(body),
        expires_us=body.expires_us,
        issued_us=recorded.recorded_at_us,
        issued_by=recorded.actor,
    )


@CHAPTER.on(keys.ClientKeyChanged)
def _changed(state: State, recorded: Recorded, body: keys.ClientKeyChanged) -> None:
    key = state.keys.by_id.get(recorded.stream[4:])
    if key is not None:
        key.display_name = body.display_name
        key.scopes = body.scopes
        key.limits = _limits(body)
        key.expires_us = body.expires_us


@CHAPTER.on(keys.ClientKeyRotated)
def _rotated(state: State, recorded: Recorded, body: keys.ClientKeyRotated) -> None:
    key = state.keys.by_id.get(recorded.stream[4:])
    if key is not None:
        key.grace_until_us = body.grace_until_us
        key.successor_id = body.successor_id


@CHAPTER.on(keys.ClientKeyRevoked)
def _revoked(state: State, recorded: Recorded, body: keys.ClientKeyRevoked) -> None:
    key = state.keys.by_id.get(recorded.stream[4:])
    if key is not None and key.revoked_us is None:
        key.revoked_us = recorded.recorded_at_us


@CHAPTER.on(runs.RunAdmitted, runs.RunRefused)
def _used(state: State, recorded: Recorded, body: runs.RunAdmitted | runs.RunRefused) -> None:
    key = state.keys.by_id.get(body.key_id)
    if key is not None:
        key.last_used_us = recorded.recorded_at_us


@CHAPTER.on(keys.AccessDenied)
def _denied(state: State, recorded: Recorded, body: keys.AccessDenied) -> None:
    kind = f"{body.surface}|{body.reason}|{body.peer_class}"
    state.keys.denied[kind] = state.keys.denied.get(kind, 0) + body.count


def _limits(body: keys.ClientKeyIssued | keys.ClientKeyChanged) -> KeyLimits:
    return KeyLimits(
        requests_per_minute=body.requests_per_minute,
        burst=body.burst,
        tokens_per_minute=body.tokens_per_minute,
        concurrent_runs=body.concurrent_runs,
    )
