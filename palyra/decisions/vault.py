"""References into the vault, and what is done where vault and journal differ at a start.

`<scope>/<key>`: `global/openai`, `agent:coder/openai`. What leads nowhere is said of the part that is at fault, so
that nobody has to guess; nothing is folded or corrected, because two spellings of one secret are one too many.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, cast

import msgspec

from palyra.errors import Refusal
from palyra.events.auth import AuthProfileRefreshed
from palyra.events.base import Draft, Fact
from palyra.events.vault import VaultCreated, VaultDamageFound, VaultRekeyed, VaultSecretDeleted, VaultSecretStored
from palyra.projections.state import State

DamageCode = Literal[
    "vault_missing", "vault_unreadable", "vault_locked", "vault_key_mismatch", "secret_damaged", "dangling_ref"
]

REF_MAX_BYTES = 400
#: Keys of profiles; they are set by connecting, never by hand.
MANAGED_PREFIX = "auth."
#: The scope of what the daemon itself keeps.
SYSTEM_SCOPE = "system"

_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_KINDS = ("agent", "principal", "skill")


class VaultRef(NamedTuple):
    """Where a secret is in the vault."""

    scope: str
    key: str

    def __str__(self) -> str:
        return f"{self.scope}/{self.key}"

    @property
    def is_managed(self) -> bool:
        """Whether it belongs to a profile or to the daemon, so that nobody sets it by hand."""
        return self.scope == SYSTEM_SCOPE or self.key.startswith(MANAGED_PREFIX)


def read_vault_ref(text: str) -> VaultRef | Refusal:
    """Return the reference that a text spells, or `invalid_vault_ref` naming the wrong part."""
    trimmed = text.strip()
    if len(trimmed.encode("utf-8", "replace")) > REF_MAX_BYTES:
        return _wrong(f"a reference has at most {REF_MAX_BYTES} bytes")
    scope, slash, key = trimmed.partition("/")
    if not slash:
        return _wrong("a reference is <scope>/<key>, such as global/openai; the / is missing")
    fault = _scope_fault(scope)
    if fault:
        return _wrong(f"scope: {fault}")
    if not _KEY.fullmatch(key):
        return _wrong("key: must be 1 to 128 of a-z 0-9 . _ - and start with a letter or digit")
    return VaultRef(scope, key)


def _scope_fault(scope: str) -> str:
    if scope in ("global", SYSTEM_SCOPE):
        return ""
    kind, colon, name = scope.partition(":")
    if not colon or kind not in _KINDS:
        return "must be global, agent:<id>, principal:<id> or skill:<id>"
    if not _ID.fullmatch(name) or ".." in name:
        return f"the id of {kind} must be 1 to 128 of A-Z a-z 0-9 . _ : @ - and hold no .."
    return ""


def refuse_by_hand(ref: VaultRef) -> Refusal | None:
    """Return why nobody may set or delete this secret by hand, or None."""
    if not ref.is_managed:
        return None
    message = f"{ref} belongs to a profile or to the daemon itself; use palyra auth for it."
    return Refusal(code="managed_secret", message=message)


def _wrong(why: str) -> Refusal:
    # The text itself is not repeated: whoever pastes a key into the wrong field must not read it in a log.
    return Refusal(code="invalid_vault_ref", message=f"No vault reference: {why}.", param="ref")


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A revision that the vault holds and that opens."""

    ref: str
    revision: int
    kind: Literal["text", "credential_set"]
    #: "" where it does not open.
    key_fingerprint: str
    value_bytes: int
    purpose: str
    audience: str = ""
    #: When it was sealed.
    created_us: int = 0


class VaultLook(msgspec.Struct, frozen=True, kw_only=True):
    """What was found where the vault is."""

    #: "" where there is none.
    vault_id: str
    key_source: str
    held: Sequence[Held] = ()
    #: Codes and references of what is wrong; a reference is "" for the whole vault.
    damage: Sequence[tuple[DamageCode, str]] = ()


class Reconciliation(NamedTuple):
    """What to record, and which revisions to delete once that is durable."""

    drafts: list[Draft]
    leftovers: list[tuple[str, int]]


def reconcile(state: State, look: VaultLook) -> Reconciliation:
    """Compare the vault with the journal. A vault that cannot be read loses nothing by it.

    A revision that the journal does not name was put there before a crash: nobody was told that it is stored, so it
    goes; but a refreshed token stays, because the old one may be spent. All stay where the journal itself is new,
    or was put back or cut, because then somebody was told.
    """
    known = state.vault
    damage = list(look.damage)
    is_whole = not any(ref == "" for _, ref in damage)
    if not look.vault_id and known.secrets and is_whole:
        damage.append(("vault_missing", ""))
        is_whole = False
    if not is_whole:
        # What a vault that cannot be opened holds is not known; findings about its parts stay as they are.
        parts = [(code, ref) for code, ref in _recorded_damage(state) if ref]
        return Reconciliation(_damage_drafts(state, [*damage, *parts]), [])
    is_new = look.vault_id != known.vault_id
    drafts = []
    if look.vault_id and is_new:
        drafts.append(_of_vault(VaultCreated(vault_id=look.vault_id, key_source=look.key_source)))
    elif look.vault_id:
        drafts += _missed_rekey(state, look)
    adopted, leftovers = _sort_out(state, look.held, keeps_all=is_new or known.is_behind)
    drafts += [_of_vault(stored_fact(held, "adopted")) for held in adopted.values()]
    drafts += _renewed(state, adopted)
    in_use = {name: secret.revision for name, secret in known.secrets.items()}
    in_use.update({name: held.revision for name, held in adopted.items()})
    drafts += [
        _of_vault(VaultSecretDeleted(ref=name, revision=revision, reason="orphan"))
        for name, revision in leftovers
        if revision > in_use.get(name, 0)
    ]
    found = {(held.ref, held.revision) for held in look.held}
    broken = {ref for _, ref in damage}
    dangling: list[tuple[DamageCode, str]] = [
        ("dangling_ref", name) for name, rev in in_use.items() if (name, rev) not in found and name not in broken
    ]
    return Reconciliation(drafts + _damage_drafts(state, [*damage, *dangling]), leftovers)


def unrecorded_damage(state: State, look: VaultLook) -> list[VaultDamageFound]:
    """Return how a look from outside differs from what is recorded: what the next start would find, and find gone.

    Nothing was opened, so what is known of secrets that do not open is taken as it is.
    """
    unopened = [(code, ref) for code, ref in _recorded_damage(state) if code == "secret_damaged"]
    look = msgspec.structs.replace(look, damage=[*look.damage, *unopened])
    return [draft.body for draft in reconcile(state, look).drafts if isinstance(draft.body, VaultDamageFound)]


def _renewed(state: State, adopted: Mapping[str, Held]) -> list[Draft]:
    """Return the facts of tokens that were renewed right before a crash. Each lives as long as the one before."""
    drafts = []
    for profile in state.auth.profiles.values():
        held = adopted.get(profile.vault_ref)
        if held is None or held.purpose != "refresh" or held.revision <= profile.vault_revision:
            continue
        life_us = None if profile.expires_us is None else profile.expires_us - profile.issued_us
        refreshed = AuthProfileRefreshed(
            vault_revision=held.revision,
            key_fingerprint=held.key_fingerprint,
            expires_us=None if life_us is None else held.created_us + life_us,
            recovered=True,
        )
        drafts.append(Draft(f"credential-{profile.profile_id}", refreshed))
    return drafts


def _missed_rekey(state: State, look: VaultLook) -> list[Draft]:
    """Return the fact that everything was sealed anew, if a crash came before it was recorded."""
    known = state.vault
    fresh = {
        held.ref: held.key_fingerprint
        for held in look.held
        if (secret := known.secrets.get(held.ref)) is not None
        and held.revision == secret.revision
        and held.key_fingerprint not in ("", secret.key_fingerprint)
    }
    if not fresh and look.key_source == known.key_source:
        return []
    rekeyed = VaultRekeyed(vault_id=look.vault_id, key_source=look.key_source, key_fingerprints=fresh)
    return [_of_vault(rekeyed)]


def stored_fact(held: Held, reason: str) -> VaultSecretStored:
    """Return the fact that a revision is in use."""
    return VaultSecretStored(
        ref=held.ref,
        revision=held.revision,
        kind=held.kind,
        key_fingerprint=held.key_fingerprint,
        value_bytes=held.value_bytes,
        reason=reason,
        audience=held.audience,
    )


def is_managed(ref: str) -> bool:
    """Return whether a reference that was read already belongs to a profile or to the daemon."""
    return VaultRef(*ref.split("/", 1)).is_managed


def kept_below(ref: str, revision: int) -> int:
    """Return the lowest revision that is kept when one is in use: a profile keeps one more."""
    return revision - 1 if is_managed(ref) else revision


def _sort_out(
    state: State, held: Sequence[Held], *, keeps_all: bool
) -> tuple[dict[str, Held], list[tuple[str, int]]]:
    """Return the newer revisions that become the ones in use, and those that go."""
    adopted: dict[str, Held] = {}
    leftovers: list[tuple[str, int]] = []
    for one in sorted(held, key=lambda one: (one.ref, one.revision)):
        secret = state.vault.secrets.get(one.ref)
        live = 0 if secret is None else secret.revision
        if one.revision > live and (keeps_all or (live and one.purpose == "refresh")):
            adopted[one.ref] = one
        elif one.revision > live or one.revision < kept_below(one.ref, live):
            leftovers.append((one.ref, one.revision))
    return adopted, leftovers


def _recorded_damage(state: State) -> list[tuple[DamageCode, str]]:
    parts = (name.partition("|") for name in state.vault.damage)
    return [(cast(DamageCode, code), ref) for code, _, ref in parts]


def _damage_drafts(state: State, damage: Sequence[tuple[DamageCode, str]]) -> list[Draft]:
    """Return the findings that are new, and those that are gone."""
    recorded = _recorded_damage(state)
    new = [_of_vault(VaultDamageFound(code=code, ref=ref)) for code, ref in damage if (code, ref) not in recorded]
    gone = [
        _of_vault(VaultDamageFound(code=code, ref=ref, is_mended=True))
        for code, ref in recorded
        if (code, ref) not in damage
    ]
    return new + gone


def _of_vault(body: Fact) -> Draft:
    return Draft("vault", body)
