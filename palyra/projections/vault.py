"""The vault as the journal knows it: which secret has which revision, and what was found wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from palyra.events import daemon, journal, vault
from palyra.events.base import Recorded
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State

#: How a credential reference names a secret of the vault: `vault:global/openai`.
VAULT_FORM = "vault:"
Presence = Literal["present", "missing", "locked", "damaged"]


class VaultSecret(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The revision of a secret that is in use."""

    ref: str
    revision: int
    kind: str
    key_fingerprint: str
    value_bytes: int
    stored_us: int
    audience: str = ""


class VaultState(msgspec.Struct, kw_only=True):
    """Secrets by reference; findings by `code|ref` with the time they were recorded."""

    vault_id: str = ""
    key_source: str = ""
    secrets: dict[str, VaultSecret] = {}
    #: The highest revision that each reference ever had: none is used twice.
    last_revisions: dict[str, int] = {}
    damage: dict[str, int] = {}
    #: The journal was put back or cut, so that the vault may rightly hold more than it knows.
    is_behind: bool = False


CHAPTER = Chapter()


def secret_of(state: State, ref: str) -> VaultSecret | None:
    """Return what is known of a secret by its reference, `global/openai`."""
    return state.vault.secrets.get(ref)


def revision_in_use(state: State, credential_ref: str) -> int:
    """Return the revision that a credential reference means now; 0 where it means none of the vault's."""
    if not credential_ref.startswith(VAULT_FORM):
        return 0
    secret = state.vault.secrets.get(credential_ref[len(VAULT_FORM) :])
    return 0 if secret is None else secret.revision


def presence_of(state: State, ref: str) -> Presence:
    """Return whether a secret can be had, as far as it is recorded."""
    findings = state.vault.damage
    if ref not in state.vault.secrets or f"dangling_ref|{ref}" in findings:
        return "missing"
    if any(f"{code}|" in findings for code in ("vault_locked", "vault_key_mismatch")):
        return "locked"
    if any(f"{code}|" in findings for code in ("vault_missing", "vault_unreadable")):
        return "missing"
    return "damaged" if f"secret_damaged|{ref}" in findings else "present"


@CHAPTER.on(vault.VaultCreated)
def _created(state: State, recorded: Recorded, body: vault.VaultCreated) -> None:
    state.vault.vault_id, state.vault.key_source = body.vault_id, body.key_source


@CHAPTER.on(vault.VaultRekeyed)
def _rekeyed(state: State, recorded: Recorded, body: vault.VaultRekeyed) -> None:
    state.vault.key_source = body.key_source
    for ref, fingerprint in body.key_fingerprints.items():
        secret = state.vault.secrets.get(ref)
        if secret is not None:
            secret.key_fingerprint = fingerprint


@CHAPTER.on(vault.VaultDamageFound)
def _damage_found(state: State, recorded: Recorded, body: vault.VaultDamageFound) -> None:
    name = f"{body.code}|{body.ref}"
    if body.is_mended:
        state.vault.damage.pop(name, None)
    else:
        state.vault.damage[name] = recorded.recorded_at_us


@CHAPTER.on(vault.VaultSecretStored)
def _stored(state: State, recorded: Recorded, body: vault.VaultSecretStored) -> None:
    held = state.vault
    held.secrets[body.ref] = VaultSecret(
        ref=body.ref,
        revision=body.revision,
        kind=body.kind,
        key_fingerprint=body.key_fingerprint,
        value_bytes=body.value_bytes,
        stored_us=recorded.recorded_at_us,
        audience=body.audience,
    )
    held.last_revisions[body.ref] = max(body.revision, held.last_revisions.get(body.ref, 0))
    _forget_findings(held, body.ref)


@CHAPTER.on(vault.VaultSecretDeleted)
def _deleted(state: State, recorded: Recorded, body: vault.VaultSecretDeleted) -> None:
    held = state.vault
    held.last_revisions[body.ref] = max(body.revision, held.last_revisions.get(body.ref, 0))
    if body.reason != "orphan":
        held.secrets.pop(body.ref, None)
        _forget_findings(held, body.ref)


@CHAPTER.on(journal.BackupRestored, journal.JournalHistoryForked)
def _put_back(state: State, recorded: Recorded, body: object) -> None:
    state.vault.is_behind = True


@CHAPTER.on(daemon.DaemonReady)
def _caught_up(state: State, recorded: Recorded, body: daemon.DaemonReady) -> None:
    state.vault.is_behind = False


def _forget_findings(held: VaultState, ref: str) -> None:
    for code in ("secret_damaged", "dangling_ref"):
        held.damage.pop(f"{code}|{ref}", None)
