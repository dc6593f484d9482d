"""Secrets that cannot be read: somebody has to set a variable, mend a file, store a secret, open the vault.

Of what the vault holds the state knows; of variables and files only the daemon does, which says what it missed at
its last look. Once it is told it is a fact, so that every answer, also about the past, shows the credential as
missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from palyra.decisions.credentials import needs_credential
from palyra.decisions.findings import Finding
from palyra.events.registry import ProviderEntry
from palyra.projections.alerts import MISSING_CREDENTIAL
from palyra.projections.auth import IMPLICIT
from palyra.projections.state import State
from palyra.projections.vault import VAULT_FORM, presence_of


class _Missing(NamedTuple):
    #: What the entry names: variable, file, secret, profile.
    form: str
    #: missing, locked, damaged; or unknown or revoked, of a profile.
    reason: str


def missing_credentials(state: State, absent: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding for each provider that names a credential which is not there; `absent` is what was missed."""
    registry = state.catalog.registry
    missing = {
        one.provider_id: found
        for one in registry.providers
        if one.enabled and needs_credential(one) and (found := _missing(state, one, absent)) is not None
    }
    able = {one.provider_id for one in registry.providers if one.enabled} - missing.keys()
    for provider_id, found in missing.items():
        roles = {one.role for one in registry.models if one.provider_id == provider_id and one.enabled}
        others = {one.role for one in registry.models if one.provider_id in able and one.enabled}
        yield Finding(
            kind=MISSING_CREDENTIAL,
            key=provider_id,
            severity="warning" if roles <= others else "danger",
            subject_kind="provider",
            subject_id=provider_id,
            facts=found._asdict(),
            action="give_credential",
        )


def closed_vault(state: State) -> Iterator[Finding]:
    """Yield a finding for a vault that does not open, where it holds something: nobody gets any of that."""
    codes = [code for code, _, ref in (name.partition("|") for name in state.vault.damage) if not ref]
    if codes and state.vault.secrets:
        yield Finding(
            kind="vault_closed",
            key=state.vault.vault_id,
            severity="danger",
            subject_kind="vault",
            subject_id=state.vault.vault_id,
            facts={"code": codes[0], "secrets": len(state.vault.secrets)},
            action="open_vault",
        )


def _missing(state: State, entry: ProviderEntry, absent: Sequence[str]) -> _Missing | None:
    """Return why the credential that an entry names is not there; None where it is, or none is named."""
    if entry.auth_profile_id:
        profile = state.auth.profiles.get(entry.auth_profile_id)
        if profile is None:
            return _Missing("profile", "unknown")
        if profile.status in ("revoking", "revoked"):
            return _Missing("profile", "revoked")
        return _lost(state, "profile", profile.vault_ref)
    form, _, ref = entry.credential_ref.partition(":")
    if f"{form}:" == VAULT_FORM:
        return _lost(state, "secret", ref)
    if f"{IMPLICIT}{entry.provider_id}" not in absent:
        return None
    return _Missing("variable" if form == "env" else "file", "missing")


def _lost(state: State, form: str, ref: str) -> _Missing | None:
    presence = presence_of(state, ref)
    return None if presence == "present" else _Missing(form, presence)
