"""New client keys and tokens. Randomness is made here; how a key is spelled stands in `decisions/key_text.py`."""

from __future__ import annotations

import hashlib
import secrets

import msgspec

from palyra.decisions.key_text import ID_BITS, SECRET_BITS, KeyKind, read_key, spell_key
from palyra.redaction import Secret

_TOKEN_BYTES = 32
_TOKEN_DOMAIN = b"palyra.token.v1\0"


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was just made; its text is in `secret` and nowhere else."""

    kind: KeyKind
    key_id: str
    secret: Secret
    #: What the journal may know of it.
    verifier: str


def make_key(kind: KeyKind, random_number: int | None = None) -> NewKey:
    """Return a new key, from the system's randomness unless a number of 316 bits is given."""
    number = secrets.randbits(ID_BITS + SECRET_BITS) if random_number is None else random_number
    text = spell_key(kind, number >> SECRET_BITS, number & ((1 << SECRET_BITS) - 1))
    read = read_key(text)
    assert read is not None
    return NewKey(kind=kind, key_id=read.key_id, secret=Secret(text), verifier=read.verifier)


def random_token() -> Secret:
    """Return 256 random bits as text that a cookie, a header and the fragment of a URL can hold."""
    return Secret(secrets.token_urlsafe(_TOKEN_BYTES))


def digest_of(token: str) -> str:
    """Return what may be kept of a token that somebody else holds."""
    return hashlib.sha256(_TOKEN_DOMAIN + token.encode()).hexdigest()
