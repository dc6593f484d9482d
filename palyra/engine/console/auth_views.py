"""`auth`: which credentials there are, how they do, and which of them a request would be made with."""

from __future__ import annotations

from typing import Literal

import msgspec

from palyra.decisions import oauth
from palyra.decisions.credentials import (
    USABLE,
    absent_credentials,
    needs_credential,
    presence_of_credential,
    rank,
)
from palyra.engine.console.frame import Items, ListParams, Params, Sight
from palyra.engine.console.pages import page_of
from palyra.engine.console.vault import VaultCondition, condition_of
from palyra.engine.questions import Answer
from palyra.errors import Refusal, Refused
from palyra.events.registry import ProviderEntry
from palyra.projections.auth import (
    IMPLICIT,
    AuthProfile,
    cooldowns_of,
    failure_of,
    health_of,
    live_revision,
    order_in_force,
    standing_of,
)
from palyra.projections.catalog import provider_entry
from palyra.projections.state import State
from palyra.projections.vault import presence_of
from palyra.redaction import REDACTED
from palyra.units import ms_to_us

HEALTHS = ("static", "ok", "expiring", "expired", "missing", "failed")
BUCKETS = ("expired", "under_5m", "under_15m", "under_1h", "under_1d", "over_1d", "unknown", "static", "missing")
_ENDS_US = {"under_5m": 300, "under_15m": 900, "under_1h": 3_600, "under_1d": 86_400}
_DEFAULT_WINDOW_MS = 900_000


class ScopeView(msgspec.Struct, frozen=True, kw_only=True):
    """Whose runs may use it."""

    kind: Literal["global", "agent"]
    agent_id: str | None


class RefreshView(msgspec.Struct, frozen=True, kw_only=True):
    """How the renewal of its token does."""

    state: str
    streak_count: int
    last_error_code: str | None
    last_success_us: int | None
    next_allowed_us: int | None


class CooldownView(msgspec.Struct, frozen=True, kw_only=True):
    """A pause that is in force; `model_id` is null for all models."""

    model_id: str | None
    kind: str
    until_us: int


class ProfileView(Answer, frozen=True, kw_only=True):
    """A credential: a profile, or the one that an entry of the configuration names itself."""

    profile_id: str
    provider: str
    profile_name: str
    scope: ScopeView
    credential_kind: str
    source: Literal["profile", "config_env", "config_file", "config_vault"]
    audience: str
    vault_ref: str | None
    vault_revision: int
    key_fingerprint: str | None
    status: str
    health: str
    health_reason: str | None
    expires_us: int | None
    scopes: list[str]
    is_default: bool
    refresh: RefreshView | None
    cooldowns: list[CooldownView]
    last_used_us: int | None
    created_us: int | None
    updated_us: int | None
    position: int | None


class ProfilesParams(ListParams, frozen=True, kw_only=True):
    """Which credentials."""

    provider: str = ""
    #: Only what a run of this agent sees.
    agent_id: str = ""
    #: Also those that were revoked.
    all: bool = False


class ProfileParams(Params, frozen=True, kw_only=True):
    """Which credential: a profile's id, or `config:PROVIDER`."""

    id: str


class HealthParams(Params, frozen=True, kw_only=True):
    """Nothing is chosen."""


class VaultBrief(msgspec.Struct, frozen=True, kw_only=True):
    """Whether secrets can be read at all."""

    state: VaultCondition
    key_source: str


class HealthAnswer(Answer, frozen=True, kw_only=True):
    """All credentials that are in use, counted by how they do and how long they last."""

    summary: dict[str, int]
    expiry: dict[str, int]
    profiles: list[ProfileView]
    vault: VaultBrief


class OrderParams(Params, frozen=True, kw_only=True):
    """Whose order; no agent stands for the order of all."""

    provider: str
    agent_id: str = ""


class OrderView(Answer, frozen=True, kw_only=True):
    """An order as it is in force."""

    provider: str
    scope: ScopeView
    strategy: str
    profile_ids: list[str]


class ExplainParams(Params, frozen=True, kw_only=True):
    """A request that is not made."""

    provider_id: str
    model_id: str = ""
    agent_id: str = ""


class RankedView(msgspec.Struct, frozen=True, kw_only=True):
    """A credential in the order in which they are tried."""

    profile_id: str
    rank: int
    verdict: str
    until_us: int | None


class ExplainAnswer(Answer, frozen=True, kw_only=True):
    """The credential that would be used, and why none of the others."""

    selected: str | None
    reason: str
    candidates: list[RankedView]


class ProviderParams(Params, frozen=True, kw_only=True):
    """Whose credentials: a label, or a provider of the configuration."""

    provider: str


class ProviderAnswer(Answer, frozen=True, kw_only=True):
    """What a provider is asked with, and whether people can log in there."""

    provider: str
    oauth_supported: bool
    #: Whether this program has an identity there; without one nobody can log in.
    oauth_configured: bool
    default_profile_id: str | None
    profile_ids: list[str]
    state: Literal["profile", "config", "none"]


def profiles(sight: Sight, params: ProfilesParams) -> Items[ProfileView]:
    """Return credentials: those of the configuration first, then profiles, oldest first."""
    state = sight.state
    found = [
        one
        for one in _all_views(state, sight.now_us, is_all=params.all)
        if params.provider in ("", one.provider) and _is_seen(one, params.agent_id)
    ]
    return page_of(found, params, lambda one: (one.position or 0, one.profile_id))


def _is_seen(one: ProfileView, agent_id: str) -> bool:
    return not agent_id or one.scope.agent_id in (None, agent_id)


def profile(sight: Sight, params: ProfileParams) -> ProfileView:
    """Return one credential."""
    for one in _all_views(sight.state, sight.now_us, is_all=True):
        if one.profile_id == params.id:
            return one
    message = f"There is no credential {params.id}; palyra auth list shows them."
    raise Refused(Refusal(code="profile_not_found", message=message, param="id"))


def health(sight: Sight, params: HealthParams) -> HealthAnswer:
    """Return how all credentials do; nobody is asked."""
    views = _all_views(sight.state, sight.now_us)
    summary = dict.fromkeys((*HEALTHS, "total"), 0)
    expiry = dict.fromkeys(BUCKETS, 0)
    for one in views:
        summary[one.health] += 1
        summary["total"] += 1
        expiry[_bucket(one, sight.now_us)] += 1
    vault = VaultBrief(state=condition_of(sight.state), key_source=sight.state.vault.key_source)
    return HealthAnswer(summary=summary, expiry=expiry, profiles=views, vault=vault)


def order(sight: Sight, params: OrderParams) -> OrderView:
    """Return in which order the profiles of a provider are tried."""
    found = order_in_force(sight.state, params.provider, params.agent_id)
    return OrderView(
        provider=params.provider,
        scope=_scope(params.agent_id),
        strategy=found.strategy,
        profile_ids=found.profile_ids,
    )


def explain(sight: Sight, params: ExplainParams) -> ExplainAnswer:
    """Return which credential a request would be made with, as far as it is recorded what can be read."""
    state = sight.state
    entry = provider_entry(state, params.provider_id)
    if entry is None:
        message = f"The configuration has no provider {params.provider_id}."
        raise Refused(Refusal(code="provider_not_found", message=message, param="provider_id"))
    if not needs_credential(entry):
        return ExplainAnswer(selected=None, reason="no_credential_needed", candidates=[])
    absent = absent_credentials(state)
    ranked = rank(state, entry, params.model_id, agent_id=params.agent_id, absent=absent, now_us=sight.now_us)
    selected = next((one.credential_ref for one in ranked if one.verdict.name in USABLE), None)
    if selected is None:
        reason = "none_usable" if ranked else "none_connected"
    elif entry.credential_ref or entry.auth_profile_id:
        reason = "named_by_entry"
    else:
        reason = order_in_force(state, entry.auth_provider_kind, params.agent_id).strategy
    candidates = [
        RankedView(
            profile_id=one.credential_ref, rank=number, verdict=one.verdict.name, until_us=one.verdict.until_us
        )
        for number, one in enumerate(ranked, 1)
    ]
    return ExplainAnswer(selected=selected, reason=reason, candidates=candidates)


def provider(sight: Sight, params: ProviderParams) -> ProviderAnswer:
    """Return whether a provider has credentials, and which go first."""
    state = sight.state
    entry = provider_entry(state, params.provider)
    label = params.provider if entry is None else entry.auth_provider_kind
    ids = order_in_force(state, label, "").profile_ids
    if entry is not None and entry.auth_profile_id:
        ids = [entry.auth_profile_id]
    named = entry is not None and bool(entry.credential_ref)
    logins = state.config.effective.get("auth", {}).get("oauth", {}).get(label)
    return ProviderAnswer(
        provider=label,
        oauth_supported=label == oauth.PROVIDER,
        oauth_configured=bool(logins and logins["client_id"]),
        default_profile_id=ids[0] if ids else None,
        profile_ids=ids,
        state="config" if named else "profile" if ids else "none",
    )


def is_default(state: State, profile: AuthProfile) -> bool:
    """Return whether a profile stands first in a stored order of its scope."""
    stored = state.auth.orders.get(f"{profile.agent_id}|{profile.provider}")
    return stored is not None and stored.profile_ids[:1] == [profile.profile_id]


def _all_views(state: State, now_us: int, *, is_all: bool = False) -> list[ProfileView]:
    entries = [one for one in state.catalog.registry.providers if one.credential_ref and needs_credential(one)]
    gone = () if is_all else ("revoked", "revoking")
    return [
        *(_view_of_entry(state, entry, now_us) for entry in entries),
        *(_view_of(state, one, now_us) for one in state.auth.profiles.values() if one.status not in gone),
    ]


def _window_us(state: State) -> int:
    """Return how soon before its end a token counts as expiring, as configured then."""
    configured: int = state.config.effective.get("auth", {}).get("expiring_window_ms", _DEFAULT_WINDOW_MS)
    return ms_to_us(configured)


def _view_of(state: State, profile: AuthProfile, now_us: int) -> ProfileView:
    """Return what may be shown of a profile."""
    presence = presence_of(state, profile.vault_ref)
    found = health_of(state, profile, presence, now_us, _window_us(state))
    failure = failure_of(state, profile.profile_id)
    reason: str | None = None
    if found == "failed":
        reason = failure.code if failure is not None else profile.status
    elif found == "missing":
        reason = presence
    refresh = profile.refresh
    return ProfileView(
        profile_id=profile.profile_id,
        provider=profile.provider,
        profile_name=profile.profile_name,
        scope=_scope(profile.agent_id),
        credential_kind=profile.credential_kind,
        source="profile",
        audience=profile.audience,
        vault_ref=REDACTED,
        vault_revision=profile.vault_revision,
        key_fingerprint=profile.key_fingerprint or None,
        status=profile.status,
        health=found,
        health_reason=reason,
        expires_us=profile.expires_us,
        scopes=[] if profile.oauth is None else profile.oauth.scopes,
        is_default=is_default(state, profile),
        refresh=None
        if refresh is None
        else RefreshView(
            state=refresh.state,
            streak_count=refresh.streak_count,
            last_error_code=refresh.last_error_code or None,
            last_success_us=refresh.last_success_us or None,
            next_allowed_us=refresh.next_allowed_us or None,
        ),
        cooldowns=_cooldowns(state, profile.profile_id, now_us),
        last_used_us=standing_of(state, profile.profile_id).used_us or None,
        created_us=profile.created_us,
        updated_us=profile.updated_us,
        position=profile.position,
    )


def _view_of_entry(state: State, entry: ProviderEntry, now_us: int) -> ProfileView:
    name, form = f"{IMPLICIT}{entry.provider_id}", entry.credential_ref.partition(":")[0]
    sources: dict[str, Literal["config_env", "config_file", "config_vault"]] = {
        "env": "config_env",
        "file": "config_file",
    }
    presence, failure = presence_of_credential(state, name), failure_of(state, name)
    found = "failed" if failure is not None else "static" if presence == "present" else "missing"
    return ProfileView(
        profile_id=name,
        provider=entry.auth_provider_kind,
        profile_name=entry.display_name,
        scope=_scope(""),
        credential_kind="api_key",
        source=sources.get(form, "config_vault"),
        audience=entry.audience,
        vault_ref=REDACTED if form == "vault" else None,
        vault_revision=live_revision(state, name),
        key_fingerprint=None,
        status="active",
        health=found,
        health_reason=failure.code if failure is not None else presence if found == "missing" else None,
        expires_us=None,
        scopes=[],
        is_default=False,
        refresh=None,
        cooldowns=_cooldowns(state, name, now_us),
        last_used_us=standing_of(state, name).used_us or None,
        created_us=None,
        updated_us=None,
        position=None,
    )


def _scope(agent_id: str) -> ScopeView:
    return ScopeView(kind="agent" if agent_id else "global", agent_id=agent_id or None)


def _cooldowns(state: State, credential_ref: str, now_us: int) -> list[CooldownView]:
    return [
        CooldownView(model_id=one.model_id or None, kind=one.kind, until_us=one.until_us)
        for one in cooldowns_of(state, credential_ref, now_us)
    ]


def _bucket(one: ProfileView, now_us: int) -> str:
    if one.health in ("missing", "static"):
        return one.health
    if one.credential_kind == "api_key":
        return "static"
    if one.expires_us is None:
        return "unknown"
    left_us = one.expires_us - now_us
    if left_us <= 0:
        return "expired"
    return next((name for name, seconds in _ENDS_US.items() if left_us < seconds * 1_000_000), "over_1d")
