"""`vault`: which secrets there are and what is wrong with them; put, delete, seal anew. A value only ever comes in.

What is asked is answered from the journal, so it can be asked about the past and of a vault that does not open.
"""

from __future__ import annotations

from typing import Literal

from palyra.auth.keysource import KeySourceName
from palyra.decisions.key_text import refuse_own_key
from palyra.decisions.vault import SYSTEM_SCOPE, VaultRef, read_vault_ref, refuse_by_hand
from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Items, ListParams, Params, Sight
from palyra.engine.console.pages import page_of
from palyra.engine.questions import Answer
from palyra.engine.vault import ref_of
from palyra.errors import PalyraError, Refused, VaultError
from palyra.projections.state import State
from palyra.projections.vault import VAULT_FORM, Presence, presence_of
from palyra.redaction import Secret
from palyra.wire.netguard import BaseUrl, validate_base_url_network_policy

VaultCondition = Literal["empty", "open", "locked", "unreadable", "missing"]


class VaultStatusParams(Params, frozen=True, kw_only=True):
    """Nothing is chosen."""


class FindingAnswer(Answer, frozen=True, kw_only=True):
    """Something that is wrong; `ref` is null for the vault as a whole."""

    code: str
    ref: str | None
    found_us: int


class VaultStatusAnswer(Answer, frozen=True, kw_only=True):
    """The vault as a whole."""

    state: VaultCondition
    #: Where its key is kept; "" before there is one.
    key_source: str
    secrets_count: int
    findings: list[FindingAnswer]


class SecretsParams(ListParams, frozen=True, kw_only=True):
    """Which secrets."""

    #: Only those of one scope: `global`, `agent:coder`.
    scope: str = ""


class SecretAnswer(Answer, frozen=True, kw_only=True):
    """What may be shown of a secret."""

    ref: str
    revision: int
    kind: str
    value_bytes: int
    created_us: int
    #: It belongs to a profile and is not set by hand.
    managed: bool
    #: The one origin that it may be sent to; null for whichever names it.
    audience: str | None
    key_fingerprint: str
    presence: Presence


class PutSecretParams(Params, frozen=True, kw_only=True):
    """A secret and its value."""

    ref: str
    value: str
    #: Binds it to an origin: `https://api.openai.com`.
    audience: str | None = None
    #: The revision that must be live; 0 for none.
    if_revision: int | None = None


class DeleteSecretParams(Params, frozen=True, kw_only=True):
    """Which secret."""

    ref: str
    #: Also one that the configuration names.
    force: bool = False


class DeletedAnswer(Answer, frozen=True, kw_only=True):
    """What is gone; `was_there` is false where nothing was."""

    ref: str
    was_there: bool


class RekeyParams(Params, frozen=True, kw_only=True):
    """Where the new key is kept; null for the same place."""

    key_source: KeySourceName | None = None


class VerifyParams(Params, frozen=True, kw_only=True):
    """Nothing is chosen."""


def status(sight: Sight, params: VaultStatusParams) -> VaultStatusAnswer:
    """Return what is known of the vault."""
    return _status(sight.state)


def secrets(sight: Sight, params: SecretsParams) -> Items[SecretAnswer]:
    """Return the secrets, by reference; those that the daemon keeps for itself are left out."""
    state = sight.state
    found = [
        _secret(state, ref)
        for ref in state.vault.secrets
        if (scope := ref.partition("/")[0]) != SYSTEM_SCOPE and params.scope in ("", scope)
    ]
    return page_of(sorted(found, key=lambda one: one.ref), params, lambda one: (one.ref,))


async def put(order: Order, params: PutSecretParams) -> SecretAnswer:
    """Store a new revision of a secret; the next attempt that names it uses it."""
    ref = _by_hand(params.ref)
    own = refuse_own_key(params.value.strip(), "value")
    if own is not None:
        raise Refused(own)
    await order.desk.vault.put(
        ref,
        Secret(params.value),
        reason="put",
        record=order.record,
        audience=origin_of_url(params.audience) if params.audience else "",
        if_revision=params.if_revision,
    )
    return _secret(order.core.state, str(ref))


async def delete(order: Order, params: DeleteSecretParams) -> DeletedAnswer:
    """Delete a secret, unless the configuration names it."""
    ref = _by_hand(params.ref)
    registry = order.core.state.catalog.registry
    users = [one.provider_id for one in registry.providers if one.credential_ref == f"{VAULT_FORM}{ref}"]
    if users and not params.force:
        message = f"{ref} is the key of provider {', '.join(users)}."
        hint = "take api_key_vault_ref out of the configuration first, or delete it with --force"
        raise PalyraError(message, hint=hint, code="conflict")
    was_there = await order.desk.vault.delete(ref, reason="operator", record=order.record)
    return DeletedAnswer(ref=str(ref), was_there=was_there)


async def rekey(order: Order, params: RekeyParams) -> VaultStatusAnswer:
    """Seal everything under a new key; values and revisions stay."""
    await order.desk.vault.rekey(params.key_source, record=order.record)
    return _status(order.core.state)


async def verify(order: Order, params: VerifyParams) -> VaultStatusAnswer:
    """Open every secret, record what is new about it, and return what is known then."""
    await order.desk.vault.verify()
    return _status(order.core.state)


def origin_of_url(url: str) -> str:
    """Return the origin of a URL as secrets are bound to it; raises `VaultError`."""
    base = validate_base_url_network_policy(url, allow_private=True)
    if not isinstance(base, BaseUrl):
        raise VaultError(f"The origin is none: {base.message}.", code="invalid_request")
    return base.origin


def _by_hand(text: str) -> VaultRef:
    ref = ref_of(text)
    refusal = refuse_by_hand(ref)
    if refusal is not None:
        raise Refused(refusal)
    return ref


def _status(state: State) -> VaultStatusAnswer:
    known = state.vault
    return VaultStatusAnswer(
        state=condition_of(state),
        key_source=known.key_source,
        secrets_count=len(known.secrets),
        findings=[_finding(name, found_us) for name, found_us in sorted(known.damage.items())],
    )


def condition_of(state: State) -> VaultCondition:
    """Return how the vault as a whole does; single secrets that do not open are no matter of it."""
    codes = [code for code, _, ref in (name.partition("|") for name in state.vault.damage) if not ref]
    if "vault_missing" in codes:
        return "missing"
    if "vault_unreadable" in codes:
        return "unreadable"
    if codes:
        return "locked"
    return "open" if state.vault.vault_id else "empty"


def _finding(name: str, found_us: int) -> FindingAnswer:
    code, _, ref = name.partition("|")
    return FindingAnswer(code=code, ref=ref or None, found_us=found_us)


def _secret(state: State, name: str) -> SecretAnswer:
    secret, ref = state.vault.secrets[name], read_vault_ref(name)
    return SecretAnswer(
        ref=name,
        revision=secret.revision,
        kind=secret.kind,
        value_bytes=secret.value_bytes,
        created_us=secret.stored_us,
        managed=isinstance(ref, VaultRef) and ref.is_managed,
        audience=secret.audience or None,
        key_fingerprint=secret.key_fingerprint,
        presence=presence_of(state, name),
    )
