"""Client keys: how one is spelled, whose it is, and what its holder may do.

`palyra_client_<id>_<secret>` or `palyra_admin_<id>_<secret>`: the id is 12 characters of Crockford's base 32, the
secret 43 of base 62 (256 random bits) and 6 more, the CRC-32 of everything before them, so that a mistyped key is
told from a wrong one. The journal holds a verifier, which recognises a key and cannot be turned back into one.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from palyra.errors import Refusal
from palyra.projections.state import State

KeyKind = Literal["client", "admin"]

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

ID_BITS, SECRET_BITS = 60, 256
_ID_CHARS, _SECRET_CHARS, _CHECKSUM_CHARS = 12, 43, 6
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#: Prefix of the digest, so that a verifier is a digest of nothing else.
_VERIFIER_DOMAIN = b"palyra.key.v1\0"
#: What a key of an unknown id is compared with.
_NO_VERIFIER = "0" * 64


class KeyText(NamedTuple):
    """A key that is spelled rightly, which says nothing about its being known."""

    kind: KeyKind
    key_id: str
    verifier: str


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


#: A program on this machine that showed no key, where configuration lets it in.
LOCAL_CALLER = Caller(principal_id="local", scopes=DEFAULT_SCOPES["client"])


def spell_key(kind: KeyKind, id_number: int, secret_number: int) -> str:
    """Return the key of these random numbers (below 2**60 and 2**256)."""
    key_id = _digits(id_number, _BASE32, _ID_CHARS)
    stem = f"palyra_{kind}_{key_id}_{_digits(secret_number, _BASE62, _SECRET_CHARS)}"
    return stem + _checksum(stem)


def read_key(text: str) -> KeyText | None:
    """Return what a key says, or None if it is not spelled like one of ours. A leading `sk-` is ignored."""
    key = text.removeprefix("sk-")
    parts = key.split("_")
    if len(parts) != 4 or not key.isascii():
        return None
    brand, kind, key_id, tail = parts
    if brand != "palyra" or len(key_id) != _ID_CHARS or len(tail) != _SECRET_CHARS + _CHECKSUM_CHARS:
        return None
    if _checksum(key[:-_CHECKSUM_CHARS]) != key[-_CHECKSUM_CHARS:]:
        return None
    if kind == "client":
        return KeyText("client", key_id, _verifier(key))
    return KeyText("admin", key_id, _verifier(key)) if kind == "admin" else None


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


def authenticate(state: State, presented: str | None, *, may_be_anonymous: bool = False) -> Caller | Refusal:
    """Return who shows this key."""
    if presented is None:
        if may_be_anonymous:
            return LOCAL_CALLER
        message = "No client key. Send one as Authorization: Bearer <key>; `palyra env` prints yours."
        return Refusal(code="missing_client_key", message=message)
    text = read_key(presented)
    if text is None:
        message = "This is no client key of Palyra, or it was mistyped; `palyra env` prints yours."
        return Refusal(code="invalid_client_key", message=message)
    caller = recognize(state, text)
    if caller is None:
        message = "This client key is not known here, or was revoked; `palyra env` prints yours."
        return Refusal(code="invalid_client_key", message=message)
    return caller


def recognize(state: State, text: KeyText) -> Caller | None:
    """Return whose live key this is. An unknown id costs the same as a wrong secret."""
    key = state.keys.by_id.get(text.key_id)
    is_ours = hmac.compare_digest(text.verifier, _NO_VERIFIER if key is None else key.verifier)
    if key is None or not is_ours or key.revoked_us is not None:
        return None
    return Caller(
        principal_id=key.principal_id, key_id=key.key_id, kind=text.kind, scopes=key.scopes, agents=("*",)
    )


def authorize(caller: Caller, scope: str) -> Refusal | None:
    """Return why this caller may not use an endpoint of `/v1` that wants this scope, or None if it may."""
    if caller.kind != "client":
        message = "This is the operator's key; programs use a client key (`palyra env` prints yours)."
        return Refusal(code="wrong_key_kind", message=message)
    if not has_scope(caller.scopes, scope):
        return Refusal(code="missing_scope", message=f"This key lacks the scope {scope}.")
    return None


def has_scope(scopes: Sequence[str], scope: str) -> bool:
    """Return whether these scopes hold one, by name or as `<family>:*`."""
    return scope in scopes or f"{scope.partition(':')[0]}:*" in scopes


def _verifier(key: str) -> str:
    return hashlib.sha256(_VERIFIER_DOMAIN + key.encode()).hexdigest()


def _checksum(stem: str) -> str:
    return _digits(zlib.crc32(stem.encode()), _BASE62, _CHECKSUM_CHARS)


def _digits(number: int, alphabet: str, count: int) -> str:
    """Return a number in another base, with leading zeros."""
    base, found = len(alphabet), ""
    for _ in range(count):
        number, digit = divmod(number, base)
        found = alphabet[digit] + found
    return found
