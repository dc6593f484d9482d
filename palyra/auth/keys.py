"""New client keys. Randomness is made here; how a key is spelled and judged stands in `decisions/key_text.py`."""

from __future__ import annotations

import secrets

import msgspec

from palyra.decisions.key_text import ID_BITS, SECRET_BITS, KeyKind, read_key, spell_key
from palyra.redaction import Secret


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
