"""Who shows a key, and what its holder may do.

The order of the answers is fixed: form, then known, live and in time, then kind, then where it comes from, then
what it asks for. An unknown id costs what a wrong secret costs.
"""

from __future__ import annotations

import fnmatch
import functools
import hmac
import ipaddress
from collections.abc import Mapping, Sequence

import msgspec

from palyra.decisions.key_text import KeyKind, KeyText, is_mistyped, read_key
from palyra.errors import Refusal
from palyra.projections.keys import NO_LIMITS, ClientKey, KeyLimits, is_live
from palyra.projections.state import State

#: What a program may ask for; `v1:*` stands for all of its family.
PROGRAM_SCOPES = (
    *("v1:*", "v1:models", "v1:chat", "v1:responses", "v1:messages", "v1:embeddings", "v1:audio"),
    *("routing:mode", "routing:pin"),
)
#: What keys of both kinds may read.
READING_SCOPES = ("usage:read", "observe")
#: What only the operator's keys may do.
OPERATOR_SCOPES = ("usage:write", "approvals:decide", "operate", "secrets:write", "keys:manage")

#: What a key may do unless said otherwise, by kind.
DEFAULT_SCOPES: dict[KeyKind, tuple[str, ...]] = {
    "client": ("v1:*",),
    "admin": (
        "usage:read",
        "usage:write",
        "observe",
        "approvals:decide",
        "operate",
        "secrets:write",
        "keys:manage",
    ),
}
#: Everything; whoever may read the state directory may do it.
ALL_SCOPES = ("v1:*", "routing:*", *READING_SCOPES, *OPERATOR_SCOPES)

#: What a key of an unknown id is compared with.
_NO_VERIFIER = "0" * 64
ANY = ("*",)


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever sent a request."""

    #: Who pays and owns sessions.
    principal_id: str
    #: "" for a caller without a key.
    key_id: str = ""
    kind: KeyKind = "client"
    scopes: Sequence[str] = ()
    #: Agent ids that it may act as; `*` stands for any.
    agents: Sequence[str] = ()
    #: The agent of a request that names none.
    default_agent: str = ""
    #: The session that every run of it is in; "" for any.
    session: str = ""
    #: Globs of the models that it may use.
    models: Sequence[str] = ANY
    #: Networks that it may come from; none stands for all.
    allowed_cidrs: Sequence[str] = ()
    limits: KeyLimits = NO_LIMITS


#: A program on this machine that showed no key, where configuration lets it in.
LOCAL_CALLER = Caller(principal_id="local", scopes=DEFAULT_SCOPES["client"])


def presented_key(headers: Mapping[str, str]) -> str | Refusal | None:
    """Return the key that a request shows: `Authorization: Bearer`, or `x-api-key`. Names in lower case."""
    authorization = headers.get("authorization", "").strip()
    scheme, _, token = authorization.partition(" ")
    # Another scheme is a credential too, one that no key can match.
    bearer = token.strip() if scheme.lower() == "bearer" else authorization
    api_key = headers.get("x-api-key", "").strip()
    if bearer and api_key and bearer != api_key:
        message = "Authorization and x-api-key hold different keys; send only one of them."
        return Refusal(code="conflicting_credentials", message=message)
    return bearer or api_key or None


def authenticate(
    state: State, presented: str | None, now_us: int, *, may_be_anonymous: bool = False
) -> Caller | Refusal:
    """Return who shows this key."""
    if presented is None:
        if may_be_anonymous:
            return LOCAL_CALLER
        message = "No client key. Send one as Authorization: Bearer <key>; `palyra env` prints yours."
        return Refusal(code="missing_client_key", message=message)
    text = read_key(presented)
    if text is None:
        return Refusal(code="invalid_client_key", message=f"{_misspelled(presented)}; `palyra env` prints yours.")
    key = known_key(state, text)
    if key is not None and is_live(key, now_us):
        return _caller_of(key, text.kind)
    if key is not None and key.revoked_us is None and key.expires_us is not None and key.expires_us <= now_us:
        message = "This client key has expired; `palyra keys issue` makes another one."
        return Refusal(code="expired_client_key", message=message)
    message = "This client key is not known here, or was revoked; `palyra env` prints yours."
    return Refusal(code="invalid_client_key", message=message)


def _misspelled(presented: str) -> str:
    if is_mistyped(presented):
        return "This client key was mistyped: its checksum does not fit"
    return "This is no client key of Palyra"


def known_key(state: State, text: KeyText) -> ClientKey | None:
    """Return the key that this is, live or not. An unknown id costs the same as a wrong secret."""
    key = state.keys.by_id.get(text.key_id)
    is_ours = hmac.compare_digest(text.verifier, _NO_VERIFIER if key is None else key.verifier)
    return key if is_ours else None


def _caller_of(key: ClientKey, kind: KeyKind) -> Caller:
    return Caller(
        principal_id=key.principal_id,
        key_id=key.key_id,
        kind=kind,
        scopes=key.scopes,
        agents=key.agents,
        default_agent=key.default_agent,
        session=key.session,
        models=key.models,
        allowed_cidrs=key.allowed_cidrs,
        limits=key.limits,
    )


def is_within(address: str, networks: Sequence[str]) -> bool:
    """Return whether an address lies in one of these networks; what is no address lies in none."""
    return _lies_in(address, tuple(networks))


@functools.lru_cache(maxsize=1_024)  # parsing costs more than all the rest of a look-up
def _lies_in(address: str, networks: tuple[str, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in ipaddress.ip_network(network, strict=False) for network in networks)


def authorize(caller: Caller, scope: str, peer_address: str) -> Refusal | None:
    """Return why this caller may not use an endpoint of `/v1` that wants this scope, or None if it may."""
    if caller.kind != "client":
        message = "This is the operator's key; programs use a client key (`palyra env` prints yours)."
        return Refusal(code="wrong_key_kind", message=message)
    return peer_refusal(caller, peer_address) or scope_refusal(caller.scopes, scope)


def peer_refusal(caller: Caller, peer_address: str) -> Refusal | None:
    """Return why a key may not be used from an address, or None."""
    if not caller.allowed_cidrs or is_within(peer_address, caller.allowed_cidrs):
        return None
    return Refusal(code="peer_not_allowed", message="This key may not be used from your address.")


def scope_refusal(scopes: Sequence[str], scope: str) -> Refusal | None:
    """Return why these scopes do not open what wants this one, or None if they do."""
    if has_scope(scopes, scope):
        return None
    return Refusal(code="missing_scope", message=f"This key lacks the scope {scope}.")


def has_scope(scopes: Sequence[str], scope: str) -> bool:
    """Return whether these scopes hold one, by name or as `<family>:*`."""
    return scope in scopes or f"{scope.partition(':')[0]}:*" in scopes


def is_permitted(models: Sequence[str], provider_id: str, model_id: str) -> bool:
    """Return whether globs allow a model, by its name or as `provider/name`; no glob allows every one."""
    if not models or "*" in models:
        return True
    names = (model_id, f"{provider_id}/{model_id}")
    return any(fnmatch.fnmatchcase(name, glob) for glob in models for name in names)
