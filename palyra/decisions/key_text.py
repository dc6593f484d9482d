"""How a client key is spelled, and what the journal may know of it.

`palyra_client_<id>_<secret>` or `palyra_admin_<id>_<secret>`: the id is 12 characters of Crockford's base 32, the
secret 43 of base 62 (256 random bits) and 6 more, the CRC-32 of everything before them, so that a mistyped key is
told from a wrong one. The journal holds a verifier, which recognises a key and cannot be turned back into one.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Literal, NamedTuple

from palyra.errors import Refusal

KeyKind = Literal["client", "admin"]

ID_BITS, SECRET_BITS = 60, 256
_ID_CHARS, _SECRET_CHARS, _CHECKSUM_CHARS = 12, 43, 6
_TAIL_CHARS = _SECRET_CHARS + _CHECKSUM_CHARS
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_OWN_PREFIXES = ("palyra_client_", "palyra_admin_")
#: Prefix of the digest, so that a verifier is a digest of nothing else.
_VERIFIER_DOMAIN = b"palyra.key.v1\0"


class KeyText(NamedTuple):
    """A key that is spelled rightly, which says nothing about its being known."""

    kind: KeyKind
    key_id: str
    verifier: str


def spell_key(kind: KeyKind, id_number: int, secret_number: int) -> str:
    """Return the key of these random numbers (below 2**60 and 2**256)."""
    key_id = _digits(id_number, _BASE32, _ID_CHARS)
    stem = f"palyra_{kind}_{key_id}_{_digits(secret_number, _BASE62, _SECRET_CHARS)}"
    return stem + _checksum(stem)


def read_key(text: str) -> KeyText | None:
    """Return what a key says, or None if it is not spelled like one of ours. A leading `sk-` is ignored."""
    key = text.removeprefix("sk-")
    kind, key_id = _parts(key)
    if not kind or _checksum(key[:-_CHECKSUM_CHARS]) != key[-_CHECKSUM_CHARS:]:
        return None
    verifier = hashlib.sha256(_VERIFIER_DOMAIN + key.encode()).hexdigest()
    return KeyText("client" if kind == "client" else "admin", key_id, verifier)


def is_mistyped(text: str) -> bool:
    """Return whether a text has the shape of a key and a checksum that does not fit it."""
    return _parts(text.removeprefix("sk-"))[0] != "" and read_key(text) is None


def refuse_own_key(text: str, param: str) -> Refusal | None:
    """Return why a text is no key of a provider: it begins like one of ours, mistyped or not; else None."""
    if not text.removeprefix("sk-").startswith(_OWN_PREFIXES):
        return None
    message = "This is a key of Palyra itself; a provider's key belongs here."
    return Refusal(code="own_key_as_upstream_credential", message=message, param=param)


def _parts(key: str) -> tuple[str, str]:
    """Return kind and id of what has the shape of a key; two empty texts for anything else."""
    parts = key.split("_")
    if len(parts) != 4 or not key.isascii():
        return "", ""
    brand, kind, key_id, tail = parts
    is_ours = brand == "palyra" and kind in ("client", "admin")
    return (kind, key_id) if is_ours and len(key_id) == _ID_CHARS and len(tail) == _TAIL_CHARS else ("", "")


def _checksum(stem: str) -> str:
    return _digits(zlib.crc32(stem.encode()), _BASE62, _CHECKSUM_CHARS)


def _digits(number: int, alphabet: str, count: int) -> str:
    """Return a number in another base, with leading zeros."""
    base, found = len(alphabet), ""
    for _ in range(count):
        number, digit = divmod(number, base)
        found = alphabet[digit] + found
    return found
