"""`auth`: connect, check, change and revoke the identities that Palyra has towards providers.

Nothing is stored that its provider has not taken; nothing is asked of a provider that is not free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from palyra.decisions.profiles import Wish, find_profile, profile_id_for, refuse_key, refuse_order
from palyra.decisions.vault import VaultRef
from palyra.engine.console.auth_views import is_default
from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Params
from palyra.engine.credential_checks import Checked, Target, check_credential, find_target
from palyra.engine.questions import Answer
from palyra.engine.vault import ref_of
from palyra.errors import PalyraError, Refusal, Refused, VaultError, or_refuse
from palyra.events.auth import (
    AuthProfileConnected,
    AuthProfileCooldownCleared,
    AuthProfileDefaultSet,
    AuthProfileDisabled,
    AuthProfileEnabled,
    AuthProfileFailed,
    AuthProfileOrderSet,
    AuthProfileRebound,
    AuthProfileRevoked,
    AuthProfileRotated,
    AuthProfileValidated,
    AuthProfileValidationFailed,
    Strategy,
)
from palyra.events.base import Draft, Fact
from palyra.projections.auth import AuthProfile, cooldowns_of, failure_of, vault_ref
from palyra.redaction import Secret

#: Facts that are about no profile.
STREAM = "credentials"


class Scope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose runs may use a profile: everybody's, or one agent's."""

    kind: Literal["global", "agent"] = "global"
    agent_id: str = ""


class ConnectParams(Params, frozen=True, kw_only=True):
    """A key, and the profile that it becomes."""

    provider: str
    api_key: str
    profile_name: str = "Default"
    profile_id: str = ""
    scope: Scope = Scope()
    set_default: bool = False


class KeyParams(Params, frozen=True, kw_only=True):
    """A profile, and its new key."""

    id: str
    api_key: str


class ProfileParams(Params, frozen=True, kw_only=True):
    """A profile; of what can fail or pause, also `config:PROVIDER`."""

    id: str


class RebindParams(Params, frozen=True, kw_only=True):
    """A profile, and the entry whose origin it is for from now on."""

    id: str
    provider_id: str


class RevokeParams(Params, frozen=True, kw_only=True):
    """A profile; `local_only` asks nothing of the provider."""

    id: str
    local_only: bool = False


class OrderParams(Params, frozen=True, kw_only=True):
    """In which order profiles are tried; those that are left out are not."""

    provider: str
    profile_ids: list[str]
    scope: Scope = Scope()
    strategy: Strategy = "sticky"


class ActionResult(Answer, frozen=True, kw_only=True):
    """What has been done."""

    provider: str
    action: str
    state: str
    profile_id: str
    message: str
    models_count: int | None = None
    #: Another profile that has the very same key.
    duplicate_of: str | None = None
    warnings: list[str] = []


class OrderAnswer(Answer, frozen=True, kw_only=True):
    """An order as it is in force."""

    provider: str
    scope: Scope
    strategy: str
    profile_ids: list[str]


async def connect(order: Order, params: ConnectParams) -> ActionResult:
    """Check a key at its provider and keep it as a profile."""
    core, agent_id = order.core, agent_of(params.scope)
    target = find_target(core.state.catalog.registry, params.provider)
    wish = Wish(
        provider=target.provider,
        profile_name=params.profile_name.strip(),
        profile_id=params.profile_id,
        agent_id=agent_id,
        suffix=core.ids.ulid(core.clock.now_us())[-6:].lower(),
    )
    profile_id = or_refuse(profile_id_for(core.state, wish))
    secret = _key(params.api_key)
    _need_open_vault(order)
    checked = await _check(order, target, secret)
    ref = ref_of(vault_ref(profile_id, agent_id))

    def facts(revision: int, key_fingerprint: str) -> list[Draft]:
        or_refuse(profile_id_for(core.state, msgspec.structs.replace(wish, profile_id=profile_id)))
        connected = AuthProfileConnected(
            provider=target.provider,
            profile_name=wish.profile_name,
            agent_id=agent_id,
            audience=target.audience,
            vault_revision=revision,
            key_fingerprint=key_fingerprint,
            models_count=checked.models_count,
        )
        return _of(profile_id, connected, *([AuthProfileDefaultSet()] if params.set_default else []))

    await _seal(order, ref, {"api_key": secret}, "connect", target, profile_id, facts)
    return ActionResult(
        provider=target.provider,
        action="api_key",
        state="connected",
        profile_id=profile_id,
        message=f"The key works at {target.audience} and is kept as {profile_id}.",
        models_count=checked.models_count,
        duplicate_of=_duplicate_of(order, profile_id),
        warnings=_warnings(target),
    )


async def rotate(order: Order, params: KeyParams) -> ActionResult:
    """Check another key and put it in the place of the one before; failure and pauses are void."""
    profile = _profile(order, params.id)
    if profile.credential_kind != "api_key":
        raise PalyraError(f"{profile.profile_id} holds tokens and no key.", code="conflict")
    target = _target_of(order, profile)
    secret = _key(params.api_key)
    _need_open_vault(order)
    checked = await _check(order, target, secret, profile.profile_id)

    def facts(revision: int, key_fingerprint: str) -> list[Draft]:
        _profile(order, params.id)
        rotated = AuthProfileRotated(
            vault_revision=revision, key_fingerprint=key_fingerprint, models_count=checked.models_count
        )
        return _of(params.id, rotated)

    await _seal(order, ref_of(profile.vault_ref), {"api_key": secret}, "rotate", target, params.id, facts)
    return _done(
        profile,
        "rotate",
        "rotated",
        "The new key works and is used by the next request.",
        models_count=checked.models_count,
        duplicate_of=_duplicate_of(order, params.id),
    )


async def validate(order: Order, params: ProfileParams) -> ActionResult:
    """Ask the provider whether it takes a profile's key; a good answer ends its failure."""
    profile = _profile(order, params.id)
    secret = _secret_of(order, profile)
    checked = await check_credential(_target_of(order, profile), secret, order.core.clock.now_us())
    await order.record(checked_facts(order, profile, checked))
    if not checked.is_good:
        raise Refused(checked.refusal(profile.provider))
    message = "The provider takes it."
    return _done(profile, "validate", "valid", message, models_count=checked.models_count)


def checked_facts(order: Order, profile: AuthProfile, checked: Checked) -> list[Draft]:
    """Return the facts of a check of the secret in use."""
    if checked.is_good:
        fact = AuthProfileValidated(vault_revision=profile.vault_revision, models_count=checked.models_count)
        return _of(profile.profile_id, fact)
    drafts = _of(profile.profile_id, _failed_check(profile.provider, checked, profile.vault_revision))
    is_new = failure_of(order.core.state, profile.profile_id) is None
    if checked.code == "invalid_credential" and profile.credential_kind == "api_key" and is_new:
        failed = AuthProfileFailed(code="key_rejected", vault_revision=profile.vault_revision)
        drafts = [*_of(profile.profile_id, failed), *drafts]
    return drafts


async def rebind(order: Order, params: RebindParams) -> ActionResult:
    """Check a profile's key at the address that an entry has now, and bind it to that."""
    profile = _profile(order, params.id)
    target = find_target(order.core.state.catalog.registry, params.provider_id)
    if target.provider != profile.provider:
        message = f"{params.provider_id} takes profiles of {target.provider}; this one is of {profile.provider}."
        raise Refused(Refusal(code="profile_provider_mismatch", message=message, param="provider_id"))
    secret = _secret_of(order, profile)
    checked = await _check(order, target, secret, profile.profile_id)

    def facts(revision: int, key_fingerprint: str) -> list[Draft]:
        _profile(order, params.id)
        rebound = AuthProfileRebound(
            audience=target.audience, vault_revision=revision, models_count=checked.models_count
        )
        return _of(params.id, rebound)

    # Whole, as it is: tokens stay renewable.
    parts = order.desk.vault.opened(ref_of(profile.vault_ref), profile.vault_revision).parts
    await _seal(order, ref_of(profile.vault_ref), parts, "rebind", target, params.id, facts)
    message = f"It is sent to {target.audience} from now on, and nowhere else."
    return _done(profile, "rebind", "valid", message, models_count=checked.models_count)


async def revoke(order: Order, params: RevokeParams) -> ActionResult:
    """Use a profile no more and delete its secret."""
    profile = order.core.state.auth.profiles.get(params.id)
    if profile is not None and profile.status in ("revoking", "revoked"):
        return _done(profile, "revoke", "already_revoked", "It was revoked before.")
    profile = _profile(order, params.id)
    if profile.oauth is not None and profile.oauth.revoke_url and not params.local_only:
        # Out of use at once; the tokens are kept until the provider has taken them back.
        await order.record(_of(params.id, AuthProfileRevoked(remote="pending")))
        message = f"It is used no more; {profile.provider} is asked to take its tokens back."
        return _done(profile, "revoke", "revoking", message)
    remote: Literal["skipped", "not_supported"] = "skipped" if params.local_only else "not_supported"
    drafts = _of(params.id, AuthProfileRevoked(remote=remote))
    if profile.vault_ref in order.core.state.vault.secrets:
        ref = ref_of(profile.vault_ref)
        await order.desk.vault.delete(ref, reason="revoked", record=order.record, then=drafts)
    else:
        await order.record(drafts)
    message = "It is used no more and its secret is deleted here."
    if not params.local_only:
        message += f" {profile.provider} does not take it back: delete it there, too."
    return _done(profile, "revoke", "revoked", message)


async def disable(order: Order, params: ProfileParams) -> ActionResult:
    """Let a profile rest."""
    profile = _profile(order, params.id)
    if profile.status == "active":
        await order.record(_of(params.id, AuthProfileDisabled()))
    return _done(profile, "disable", "disabled", "It rests until it is enabled.")


async def enable(order: Order, params: ProfileParams) -> ActionResult:
    """Use a profile again."""
    profile = _profile(order, params.id)
    if profile.status == "disabled":
        await order.record(_of(params.id, AuthProfileEnabled()))
    return _done(profile, "enable", "enabled", "It may be used again.")


async def set_default(order: Order, params: ProfileParams) -> ActionResult:
    """Try a profile before the others of its scope and provider."""
    profile = _profile(order, params.id)
    if not is_default(order.core.state, profile):
        await order.record(_of(params.id, AuthProfileDefaultSet()))
    return _done(profile, "default", "selected", "It is tried first.")


async def set_order(order: Order, params: OrderParams) -> OrderAnswer:
    """Replace order and strategy of a scope and provider."""
    agent_id = agent_of(params.scope)
    refusal = refuse_order(order.core.state, params.provider, agent_id, params.profile_ids)
    if refusal is not None:
        raise Refused(refusal)
    fact = AuthProfileOrderSet(
        provider=params.provider, agent_id=agent_id, strategy=params.strategy, profile_ids=params.profile_ids
    )
    await order.record([Draft(STREAM, fact)])
    return OrderAnswer(
        provider=params.provider, scope=params.scope, strategy=params.strategy, profile_ids=params.profile_ids
    )


async def clear_cooldown(order: Order, params: ProfileParams) -> ActionResult:
    """End every pause of a credential; why it has failed, if it has, stays."""
    state = order.core.state
    provider = params.id.partition(":")[2]
    if params.id not in state.auth.standings or not provider:
        provider = _profile(order, params.id).provider
    if cooldowns_of(state, params.id, order.core.clock.now_us()):
        await order.record(_of(params.id, AuthProfileCooldownCleared()))
    return ActionResult(
        provider=provider, action="cooldown", state="cleared", profile_id=params.id, message="It may be used now."
    )


# -- what they share


def _done(profile: AuthProfile, action: str, state: str, message: str, **more: Any) -> ActionResult:
    return ActionResult(
        provider=profile.provider,
        action=action,
        state=state,
        profile_id=profile.profile_id,
        message=message,
        **more,
    )


def _of(profile_id: str, *facts: Fact) -> list[Draft]:
    return [Draft(f"credential-{profile_id}", fact) for fact in facts]


def agent_of(scope: Scope) -> str:
    if (scope.kind == "agent") != bool(scope.agent_id):
        message = 'A scope is {"kind": "global"} or {"kind": "agent", "agent_id": "..."}.'
        raise Refused(Refusal(code="invalid_request", message=message, param="scope"))
    return scope.agent_id


def _profile(order: Order, profile_id: str) -> AuthProfile:
    return or_refuse(find_profile(order.core.state, profile_id))


def _key(text: str) -> Secret:
    trimmed = text.strip()
    refusal = refuse_key(trimmed)
    if refusal is not None:
        raise Refused(refusal)
    return Secret(trimmed)


def _need_open_vault(order: Order) -> None:
    """Raise what keeps a secret from being stored, before anybody is asked about it."""
    vault = order.desk.vault.vault
    if vault.status in ("locked", "unreadable"):
        code = "vault_locked" if vault.status == "locked" else "vault_unreadable"
        raise VaultError(vault.reason, hint="run: palyra vault status", code=code)


def _target_of(order: Order, profile: AuthProfile) -> Target:
    """Return where a profile's key is checked: at the origin that it is bound to."""
    registry = order.core.state.catalog.registry
    label, audience = profile.provider, profile.audience
    there = (one for one in registry.providers if (one.auth_provider_kind, one.audience) == (label, audience))
    target = find_target(registry, next((one.provider_id for one in there), label))
    if target.audience != audience:
        message = f"{profile.profile_id} is bound to {audience}, and {label} is at {target.audience}."
        hint = f"palyra auth rebind {profile.profile_id} checks it there and binds it to that"
        raise PalyraError(message, hint=hint, code="conflict")
    return target


def _secret_of(order: Order, profile: AuthProfile) -> Secret:
    opened = order.desk.vault.opened(ref_of(profile.vault_ref), profile.vault_revision)
    secret = opened.parts.get("api_key") or opened.parts.get("access_token")
    if secret is None:
        raise VaultError(f"The secret of {profile.profile_id} is not there.", code="secret_not_found")
    return secret


async def _check(order: Order, target: Target, secret: Secret, profile_id: str = "") -> Checked:
    """Ask the provider; record that it said no, and raise what is told then."""
    checked = await check_credential(target, secret, order.core.clock.now_us())
    if not checked.is_good:
        stream = f"credential-{profile_id}" if profile_id else STREAM
        await order.record([Draft(stream, _failed_check(target.provider, checked))])
        raise Refused(checked.refusal(target.provider))
    return checked


def _failed_check(provider: str, checked: Checked, revision: int = 0) -> AuthProfileValidationFailed:
    """Return the fact of a check; with the revision where it was of the secret in use."""
    return AuthProfileValidationFailed(
        provider=provider, failure_code=checked.code, http_status=checked.http_status, vault_revision=revision
    )


async def _seal(
    order: Order,
    ref: VaultRef,
    parts: Mapping[str, Secret],
    reason: str,
    target: Target,
    profile_id: str,
    facts: Any,
) -> None:
    """Put a credential into the vault, and record what becomes of it in the same commit."""
    await order.desk.vault.put(
        ref,
        parts,
        reason=reason,
        record=order.record,
        audience=target.audience,
        profile_id=profile_id,
        then=lambda stored: facts(stored.info.revision, stored.key_fingerprint),
    )


def _duplicate_of(order: Order, profile_id: str) -> str | None:
    profiles = order.core.state.auth.profiles
    mine = profiles[profile_id]
    for one in profiles.values():
        is_same = one.key_fingerprint == mine.key_fingerprint and one.provider == mine.provider
        if one is not mine and is_same and one.status in ("active", "disabled"):
            return one.profile_id
    return None


def _warnings(target: Target) -> list[str]:
    if not target.provider_ids:
        return [f"No provider of the configuration uses it yet; add one that is at {target.audience}."]
    return [f"{name} has a key of its own in the configuration, which goes first." for name in target.with_own_key]
