"""What may be done to keys, and by whom: issue, change, rotate, revoke.

Nobody hands out what he does not hold. What programs may do (`v1:*`, `routing:*`) is no power of an operator, so
whoever may manage keys hands it out; a key's rights are only ever taken away, and more rights are another key.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

import msgspec

from palyra.decisions.base import Decision
from palyra.decisions.key_text import KeyKind, KeyText
from palyra.decisions.keys import (
    ANY,
    DEFAULT_SCOPES,
    OPERATOR_SCOPES,
    PROGRAM_SCOPES,
    READING_SCOPES,
    has_scope,
)
from palyra.errors import Refusal
from palyra.events.base import Draft
from palyra.events.keys import ClientKeyChanged, ClientKeyIssued, ClientKeyRevoked, ClientKeyRotated
from palyra.projections.keys import NO_LIMITS, ClientKey, KeyLimits, is_live, live_keys, predecessors
from palyra.projections.state import State
from palyra.units import US_PER_MS, US_PER_S

#: Name of the key that local programs share; it has no limits.
SHARED_KEY_NAME = "client.key"
NAME_MAX_CHARS, COMMENT_MAX_CHARS, LIST_MAX_COUNT = 64, 200, 64
LIFE_MIN_US = 60 * US_PER_S
GRACE_MAX_MS = 24 * 3_600_000
LIMIT_MAX = 1_000_000_000

_MANAGE = "keys:manage"
_ALLOWED_SCOPES: dict[str, tuple[str, ...]] = {
    "client": (*PROGRAM_SCOPES, *READING_SCOPES),
    "admin": (*READING_SCOPES, *OPERATOR_SCOPES),
}
_AGENT = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_USER = re.compile(r"user:[A-Za-z0-9._@-]{1,128}")
_RESERVED = ("system:", "operator:", "key:", "local")
_GLOB = re.compile(r"[!-~]{1,256}")


class KeyWish(msgspec.Struct, frozen=True, kw_only=True):
    """A key that somebody wants."""

    name: str
    kind: KeyKind = "client"
    #: None: those of its kind.
    scopes: Sequence[str] | None = None
    #: "": the key's own, `key:<id>`.
    principal: str = ""
    agents: Sequence[str] = ()
    default_agent: str = ""
    session: str = ""
    models: Sequence[str] = ANY
    allowed_cidrs: Sequence[str] = ()
    limits: KeyLimits = NO_LIMITS
    expires_us: int | None = None


class KeyChange(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be different; None, or UNSET where None means something, leaves a field as it is."""

    name: str | None = None
    scopes: Sequence[str] | None = None
    limits: KeyLimits | None = None
    expires_us: int | msgspec.UnsetType | None = msgspec.UNSET


def issue(
    state: State, wish: KeyWish, text: KeyText, held: Sequence[str], now_us: int, *, command_key: str = ""
) -> Decision:
    """Make a key; `text` is what the journal may know of it, `held` are the scopes of whoever asks."""
    scopes = list(DEFAULT_SCOPES[wish.kind] if wish.scopes is None else dict.fromkeys(wish.scopes))
    refusal = (
        _power(held, scopes)
        or _name(state, wish.name, now_us)
        or _scopes(wish.kind, scopes)
        or _principal(wish.principal)
        or _bindings(wish)
        or _limits(wish.kind, wish.name, wish.limits)
        or _expiry(wish.expires_us, now_us)
    )
    if refusal is not None:
        return Decision([], refusal)
    issued = ClientKeyIssued(
        kind=wish.kind,
        display_name=wish.name.strip(),
        verifier=text.verifier,
        principal_id=wish.principal or f"key:{text.key_id}",
        scopes=scopes,
        agents=list(wish.agents),
        default_agent=wish.default_agent,
        session=wish.session,
        models=list(wish.models),
        allowed_cidrs=list(wish.allowed_cidrs),
        **msgspec.structs.asdict(wish.limits),
        expires_us=wish.expires_us,
    )
    return Decision([Draft(f"key-{text.key_id}", issued, command_key=command_key)])


def change(state: State, key_id: str, wanted: KeyChange, held: Sequence[str], now_us: int) -> Decision:
    """Set what may change of a key; nothing is recorded where nothing differs."""
    key = _live(state, key_id, held, now_us)
    if isinstance(key, Refusal):
        return Decision([], key)
    changed = ClientKeyChanged(
        display_name=key.display_name if wanted.name is None else wanted.name.strip(),
        scopes=key.scopes if wanted.scopes is None else list(dict.fromkeys(wanted.scopes)),
        **msgspec.structs.asdict(wanted.limits or key.limits),
        expires_us=key.expires_us if wanted.expires_us is msgspec.UNSET else wanted.expires_us,
    )
    refusal = None
    if changed.display_name != key.display_name:
        refusal = _name(state, changed.display_name, now_us)
    refusal = refusal or _fewer(key, changed.scopes)
    if refusal is None and wanted.limits is not None:
        refusal = _limits(key.kind, key.display_name, wanted.limits)
    if refusal is None and changed.expires_us != key.expires_us:
        refusal = _expiry(changed.expires_us, now_us)
    if refusal is not None:
        return Decision([], refusal)
    return Decision([] if changed == _as_it_is(key) else [Draft(f"key-{key_id}", changed)])


def rotate(state: State, key_id: str, text: KeyText, grace_ms: int, held: Sequence[str], now_us: int) -> Decision:
    """Put another key in a key's place: new id and secret, everything else as it was."""
    key = _live(state, key_id, held, now_us)
    if isinstance(key, Refusal):
        return Decision([], key)
    if key.grace_until_us is not None:
        message = f"This key was rotated already; {key.successor_id} has taken its place."
        return Decision([], Refusal(code="conflict", message=message))
    if not 0 <= grace_ms <= GRACE_MAX_MS:
        return Decision([], _wrong("grace_ms", f"The grace is 0 to {GRACE_MAX_MS:,} ms."))
    successor = ClientKeyIssued(
        kind="client" if key.kind == "client" else "admin",
        display_name=key.display_name,
        verifier=text.verifier,
        principal_id=key.principal_id,
        scopes=key.scopes,
        agents=key.agents,
        default_agent=key.default_agent,
        session=key.session,
        models=key.models,
        allowed_cidrs=key.allowed_cidrs,
        **msgspec.structs.asdict(key.limits),
        expires_us=key.expires_us,
    )
    rotated = ClientKeyRotated(successor_id=text.key_id, grace_until_us=now_us + grace_ms * US_PER_MS)
    return Decision([Draft(f"key-{text.key_id}", successor), Draft(f"key-{key_id}", rotated)])


def revoke(state: State, key_id: str, comment: str, held: Sequence[str], now_us: int) -> Decision:
    """End a key, and those that still work beside it because it took their place. Twice is once.

    The last one that an operator can come in with stays.
    """
    key = _found(state, key_id, held)
    if isinstance(key, Refusal):
        return Decision([], key)
    if key.revoked_us is not None:
        return Decision([])
    if [one.key_id for one in live_keys(state, "admin", now_us)] == [key_id]:
        message = "This is the last operator's key; issue another one first (palyra keys issue NAME --admin)."
        return Decision([], Refusal(code="last_admin_key", message=message))
    if len(comment) > COMMENT_MAX_CHARS or not comment.isprintable():
        return Decision([], _wrong("reason", f"A reason has at most {COMMENT_MAX_CHARS} printable characters."))
    revoked = ClientKeyRevoked(reason="operator", comment=comment)
    ended = [key_id, *(one.key_id for one in predecessors(state, key_id, now_us))]
    return Decision([Draft(f"key-{one}", revoked) for one in ended])


def _found(state: State, key_id: str, held: Sequence[str]) -> ClientKey | Refusal:
    key = state.keys.by_id.get(key_id)
    if key is None:
        return Refusal(code="key_not_found", message="There is no such key; `palyra keys list` shows them.")
    return _power(held, key.scopes) or key


def _live(state: State, key_id: str, held: Sequence[str], now_us: int) -> ClientKey | Refusal:
    key = _found(state, key_id, held)
    if isinstance(key, Refusal) or is_live(key, now_us):
        return key
    return Refusal(code="conflict", message="This key opens nothing any more.")


def _power(held: Sequence[str], scopes: Sequence[str]) -> Refusal | None:
    """Refuse who may not manage keys at all, or not those with these scopes."""
    if not has_scope(held, _MANAGE):
        return Refusal(code="missing_scope", message=f"This key lacks the scope {_MANAGE}.")
    beyond = [scope for scope in scopes if scope not in PROGRAM_SCOPES and not has_scope(held, scope)]
    if not beyond:
        return None
    message = f"You do not hold {' and '.join(beyond)} yourself."[:240]
    return Refusal(code="scope_escalation", message=message, param="scopes")


def _name(state: State, name: str, now_us: int) -> Refusal | None:
    trimmed = name.strip()
    if not 1 <= len(trimmed) <= NAME_MAX_CHARS or not trimmed.isprintable():
        return _wrong("name", f"A name has 1 to {NAME_MAX_CHARS} printable characters.")
    for key in (*live_keys(state, "client", now_us), *live_keys(state, "admin", now_us)):
        if key.display_name == trimmed:
            message = f"The live key {key.key_id} has this name already."
            return Refusal(code="conflict", message=message, param="name")
    return None


def _scopes(kind: str, scopes: Sequence[str]) -> Refusal | None:
    allowed = _ALLOWED_SCOPES[kind]
    if all(scope in allowed for scope in scopes):
        return None
    article = "An admin" if kind == "admin" else "A client"
    return _wrong("scopes", f"{article} key may have these scopes: {', '.join(allowed)}.")


def _fewer(key: ClientKey, scopes: Sequence[str]) -> Refusal | None:
    if all(has_scope(key.scopes, scope) for scope in scopes):
        return None
    message = "A key's scopes can only become fewer; more of them are another key."
    return Refusal(code="scope_escalation", message=message, param="scopes")


def _principal(principal: str) -> Refusal | None:
    if not principal or _USER.fullmatch(principal):
        return None
    if principal.startswith(_RESERVED):
        message = f"{principal[:NAME_MAX_CHARS]} stands for Palyra's own; a shared principal is user:NAME."
        return Refusal(code="principal_reserved", message=message, param="principal")
    return _wrong("principal", "A principal is user:NAME, of letters, digits and . _ @ -.")


def _bindings(wish: KeyWish) -> Refusal | None:
    for name, values in (("agents", wish.agents), ("models", wish.models), ("allowed_cidrs", wish.allowed_cidrs)):
        if len(values) > LIST_MAX_COUNT:
            return _wrong(name, f"At most {LIST_MAX_COUNT} of them.")
    if not all(agent == "*" or _AGENT.fullmatch(agent) for agent in wish.agents):
        return _wrong("agents", "An agent has 1 to 128 letters, digits and . _ : @ -, or is * for any.")
    default = wish.default_agent
    if default and (not _AGENT.fullmatch(default) or not {"*", default} & set(wish.agents)):
        return _wrong("default_agent", "The default agent is one of those that the key may act as.")
    if not (len(wish.session) <= 128 and wish.session.isascii() and wish.session.isprintable()):
        return _wrong("session", "A session has 1 to 128 printable ASCII characters.")
    if not wish.models or not all(_GLOB.fullmatch(glob) for glob in wish.models):
        return _wrong("models", "Models are names or globs, one at least; * stands for all.")
    if not all(_is_network(text) for text in wish.allowed_cidrs):
        return _wrong("allowed_cidrs", "A network is written as 10.0.0.0/8 or fd00::/8.")
    return None


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _limits(kind: str, name: str, limits: KeyLimits) -> Refusal | None:
    if limits == NO_LIMITS:
        return None
    if kind == "admin":
        return _wrong("limits", "An admin key sends no requests to models and has no limits.")
    if name == SHARED_KEY_NAME:
        return _wrong("limits", f"{SHARED_KEY_NAME} is shared by local programs and has no limits.")
    for limit_name, value in msgspec.structs.asdict(limits).items():
        if not 0 <= value <= LIMIT_MAX:
            return _wrong(limit_name, f"A limit is 0 (none) to {LIMIT_MAX:,}.")
    if limits.burst and not limits.requests_per_minute:
        return _wrong("burst", "A burst bounds requests a minute; set requests_per_minute too.")
    return None


def _expiry(expires_us: int | None, now_us: int) -> Refusal | None:
    if expires_us is None or expires_us >= now_us + LIFE_MIN_US:
        return None
    return _wrong("expires_us", "A key lives for a minute at least.")


def _as_it_is(key: ClientKey) -> ClientKeyChanged:
    return ClientKeyChanged(
        display_name=key.display_name,
        scopes=key.scopes,
        **msgspec.structs.asdict(key.limits),
        expires_us=key.expires_us,
    )


def _wrong(param: str, message: str) -> Refusal:
    return Refusal(code="invalid_request", message=message, param=param)
