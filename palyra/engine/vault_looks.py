"""Looks at a vault, in the form in which it is compared with the journal: opened, and from outside.

A daemon opens its vault at the start and says in the journal what is wrong with it. Without one the journal tells
what was so when somebody last looked; whoever asks about now is told what the next start would find, as far as that
shows without opening anything.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from palyra.auth.glance import Glance, glance_at
from palyra.auth.sealed import SecretInfo
from palyra.auth.vault import Vault
from palyra.config.state import StatePaths
from palyra.decisions.vault import Held, VaultLook, VaultRef, unrecorded_damage
from palyra.projections.state import State


def look_at(vault: Vault) -> VaultLook:
    """Open everything and return what is there. Waits for the disk."""
    damage = vault.verify()
    broken = {each.ref for each in damage}
    if "" in broken:
        return VaultLook(vault_id=vault.vault_id, key_source=vault.key_source, damage=damage)
    held = [
        held_as(
            info,
            ""
            if info.ref in broken
            else vault.get(VaultRef(*info.ref.split("/", 1)), info.revision).key_fingerprint,
        )
        for info in vault.revisions()
    ]
    return VaultLook(vault_id=vault.vault_id, key_source=vault.key_source, held=held, damage=damage)


class Unrecorded(NamedTuple):
    """How the vault differs from what the journal says of it."""

    code: str
    message: str


def see_vault(state: State, paths: StatePaths, now_us: int) -> Unrecorded | None:
    """Make a fold's findings those that show now, and return how they differ from the recorded ones, if they do.

    The fold is the caller's own, of a journal that nobody writes. No byte is changed.
    """
    glance = glance_at(paths.vault, paths.vault_key)
    if glance is None:
        return None
    differing = unrecorded_damage(state, _look_of(glance))
    if not differing:
        return None
    damage = dict(state.vault.damage)
    for one in differing:
        name = f"{one.code}|{one.ref}"
        if one.is_mended:
            del damage[name]
        else:
            damage[name] = now_us
    state.vault = msgspec.structs.replace(state.vault, damage=damage)
    if glance.lack is not None and f"{glance.lack.code}|" in damage:
        return Unrecorded(*glance.lack)
    gone = sorted(one.ref for one in differing if one.code == "dangling_ref" and not one.is_mended)
    if gone:
        return Unrecorded("dangling_ref", f"The vault lacks {', '.join(gone)}, which the journal names.")
    if any(one.code == "vault_missing" and not one.is_mended for one in differing):
        return Unrecorded("vault_missing", f"{paths.vault} is not there.")
    return Unrecorded("vault_mended", "The vault is well again; palyra vault verify records that.")


def _look_of(glance: Glance) -> VaultLook:
    damage = () if glance.lack is None else ((glance.lack.code, ""),)
    if glance.meta is None:
        return VaultLook(vault_id="", key_source="", damage=damage)
    held = [held_as(info, "") for info in glance.revisions]
    return VaultLook(vault_id=glance.meta.vault_id, key_source=glance.meta.key_source, held=held, damage=damage)


def held_as(info: SecretInfo, key_fingerprint: str) -> Held:
    """Return a revision as it is compared with the journal; no fingerprint where it was not opened."""
    return Held(
        ref=info.ref,
        revision=info.revision,
        kind=info.kind,
        key_fingerprint=key_fingerprint,
        value_bytes=info.value_bytes,
        purpose=info.purpose,
        audience=info.audience,
        created_us=info.created_us,
    )
