"""A look at a vault from outside, for whoever only reads: is it there, what is in it, does the key beside it fit.

It takes no lock, finishes nothing that a crash left, asks no keychain, which may ask a person, and changes no byte.
Whether every secret opens is for `Vault.verify`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from palyra.auth.keysource import FileSource
from palyra.auth.sealed import SecretInfo, shown
from palyra.auth.sealing import SealingKey
from palyra.auth.vaultdb import Meta, VaultDb, VaultUnreadable
from palyra.decisions.vault import DamageCode
from palyra.errors import StateError


class Lack(NamedTuple):
    """What keeps a vault from being opened: the specification's code, and a sentence."""

    code: DamageCode
    reason: str


class Glance(NamedTuple):
    """What shows of a vault from outside."""

    #: None where there is no file, or none that holds anything.
    meta: Meta | None = None
    #: What it says that it holds; nothing of it was opened.
    revisions: Sequence[SecretInfo] = ()
    lack: Lack | None = None


def glance_at(database: Path, key: Path) -> Glance | None:
    """Look at a vault; None where what is there does not hold: somebody writes, or a crash left half a write."""
    if not database.exists():
        return Glance()
    if database.with_name(f"{database.name}-journal").exists():
        return None
    try:
        with contextlib.closing(VaultDb.open_to_read(database)) as db:
            meta = db.meta()
            revisions = [] if meta is None else [shown(row) for row in db.index()]
    except (VaultUnreadable, sqlite3.Error) as exc:
        return Glance(lack=Lack("vault_unreadable", f"{database} cannot be read: {exc}."))
    return Glance() if meta is None else Glance(meta, revisions, _lack_of_key(meta, key))


def _lack_of_key(meta: Meta, key: Path) -> Lack | None:
    if meta.key_source != "key_file":
        return None
    source = FileSource(key)
    try:
        held = [one for one in (source.current(), source.next()) if one is not None]
    except StateError as exc:
        return Lack("vault_locked", f"The key of vault {meta.vault_id} may not be used: {exc}.")
    if not held:
        return Lack("vault_locked", f"The key of vault {meta.vault_id} is not in {key}.")
    if all(SealingKey(one).check != meta.key_check for one in held):
        return Lack("vault_key_mismatch", f"The key in {key} is not that of vault {meta.vault_id}.")
    return None
