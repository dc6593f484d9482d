"""A look at a vault from outside, for whoever only reads: is its file there, and does the key beside it fit.

It takes no lock, finishes nothing that a crash left, asks no keychain, which may ask a person, and changes no byte.
Whether every secret opens is for `Vault.verify`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from palyra.auth.keysource import FileSource
from palyra.auth.sealing import SealingKey
from palyra.auth.vaultdb import VaultDb, VaultUnreadable
from palyra.decisions.vault import DamageCode


class Lack(NamedTuple):
    """What keeps a vault from being opened: the specification's code, and a sentence."""

    code: DamageCode
    reason: str


def lack_of(database: Path, key: Path) -> Lack | None:
    """Return what is missing of a vault that once was there, None where nothing shows from outside.

    Raises `StateError` for a key file that may not be used.
    """
    if not database.exists():
        return Lack("vault_missing", f"{database} is not there.")
    if database.with_name(f"{database.name}-journal").exists():
        return None  # Somebody writes, or a crash left a write to be undone: what is there does not hold.
    try:
        meta = VaultDb.glance(database)
    except VaultUnreadable as exc:
        return Lack("vault_unreadable", f"{database} cannot be read: {exc}.")
    if meta is None or meta.key_source != "key_file":
        return None
    source = FileSource(key)
    held = [one for one in (source.current(), source.next()) if one is not None]
    if not held:
        return Lack("vault_locked", f"The key of vault {meta.vault_id} is not in {key}.")
    if all(SealingKey(one).check != meta.key_check for one in held):
        return Lack("vault_key_mismatch", f"The key in {key} is not that of vault {meta.vault_id}.")
    return None
