"""Sealing, format 1: what a vault's key is made into, and how a value is closed under it.

AES-256-GCM (NIST SP 800-38D), a random nonce of 96 bits before each sealed value. The associated data names the
vault, the place and the kind of a value, each part with its length before it, so that a value that was moved
elsewhere does not open. Each use has a key of its own, derived from the vault's. `cryptography` is imported when
something is first sealed or opened: a daemon without secrets never loads it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from palyra.redaction import Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12
_FINGERPRINT_CHARS = 8


class SealBroken(Exception):
    """A sealed value does not open: another key, another place, or other bytes."""


class SealingKey:
    """Keys derived from a vault's. It shows nothing of them."""

    __slots__ = ("_cipher", "_fingerprints", "_seal", "check")

    def __init__(self, master: Secret) -> None:
        key = bytes.fromhex(master.reveal())
        self._seal = hmac.digest(key, b"palyra.vault.seal.v1", hashlib.sha256)
        self._fingerprints = hmac.digest(key, b"palyra.vault.fingerprint.v1", hashlib.sha256)
        #: Tells this key from others and cannot be turned back into it.
        self.check = hmac.digest(key, b"palyra.vault.check.v1", hashlib.sha256).hex()
        self._cipher: AESGCM | None = None

    def seal(self, value: bytes, context: Sequence[str]) -> bytes:
        """Return nonce and sealed value."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._aead().encrypt(nonce, value, _associated(context))

    def open(self, sealed: bytes, context: Sequence[str]) -> bytes:
        """Return the value; raises `SealBroken`."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._aead().decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _associated(context))
        except (InvalidTag, ValueError) as exc:  # too short to hold a nonce is broken as well
            raise SealBroken from exc

    def fingerprint(self, value: Secret) -> str:
        """Return what tells two values apart to those who know neither: 8 hexadecimal digits of an HMAC."""
        return hmac.digest(self._fingerprints, value.reveal().encode(), hashlib.sha256).hex()[:_FINGERPRINT_CHARS]

    def _aead(self) -> AESGCM:
        if self._cipher is None:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self._cipher = AESGCM(self._seal)
        return self._cipher


def _associated(context: Sequence[str]) -> bytes:
    """Return the parts, each with its length before it in 4 bytes, big end first."""
    parts = [part.encode() for part in ("palyra.vault.v1", *context)]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
