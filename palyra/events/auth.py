"""Credentials of providers: auth profiles, and what befalls them. Streams `credential-<id>` and `credentials`.

A credential's id is a profile's, or `config:<provider_id>` for the one that a provider's entry names itself; both
are ruled alike. No fact holds a secret: a reference, a revision and a keyed fingerprint say which one it was.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from palyra.events.base import Fact

CredentialKind = Literal["api_key", "oauth2"]
CooldownKind = Literal["rate_limit", "quota", "auth"]
FailureCode = Literal["key_rejected", "reauth_required", "client_rejected", "account_disabled"]
Strategy = Literal["sticky", "least_recently_used"]


class OAuthGrant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where an access token came from, and where it is renewed and given back."""

    token_url: str
    #: "" where the provider takes nothing back.
    revoke_url: str = ""
    client_id: str
    scopes: list[str] = []
    #: Keyed digest of the account's `sub`, to tell a change of account.
    account_fingerprint: str = ""
    #: Whether there is a refresh token.
    can_refresh: bool = False


class AuthProfileConnected(Fact, tag="auth_profile.connected", frozen=True, kw_only=True):
    """A credential was validated at its provider and stored."""

    #: The label that entries of this provider have.
    provider: str
    profile_name: str
    #: "" for a profile of all.
    agent_id: str = ""
    credential_kind: CredentialKind = "api_key"
    #: The one origin that it is sent to: `scheme://host:port`.
    audience: str
    vault_revision: int
    key_fingerprint: str = ""
    #: What the provider listed when it was validated.
    models_count: int = 0
    #: End of an access token; None: unknown, or it has none.
    expires_us: int | None = None
    oauth: OAuthGrant | None = None


class AuthProfileValidated(Fact, tag="auth_profile.validated", frozen=True, kw_only=True):
    """The provider took the credential."""

    vault_revision: int = 0
    models_count: int = 0


class AuthProfileValidationFailed(Fact, tag="auth_profile.validation_failed", frozen=True, kw_only=True):
    """The provider did not take a credential, or did not answer; one that is not stored yet stays so."""

    provider: str
    failure_code: str
    http_status: int = 0
    vault_revision: int = 0


class AuthProfileRotated(Fact, tag="auth_profile.rotated", frozen=True, kw_only=True):
    """A new secret took the place of the one before; failure and cooldowns of that one are void."""

    vault_revision: int
    key_fingerprint: str = ""
    models_count: int = 0
    expires_us: int | None = None
    oauth: OAuthGrant | None = None
    #: The new secret belongs to another account.
    account_changed: bool = False


class AuthProfileRebound(Fact, tag="auth_profile.rebound", frozen=True, kw_only=True):
    """The credential was validated at another origin, and is sent there from now on."""

    audience: str
    #: The secret is sealed anew, for its origin is sealed with it.
    vault_revision: int
    models_count: int = 0


class AuthProfileRevoked(Fact, tag="auth_profile.revoked", frozen=True, kw_only=True):
    """The profile is used no more; `remote` says what the provider is asked to do about it."""

    remote: Literal["pending", "not_supported", "skipped"]


class AuthProfileRemoteRevocationFinished(
    Fact, tag="auth_profile.remote_revocation_finished", frozen=True, kw_only=True
):
    """The provider took the tokens back, or will not be asked any more."""

    outcome: Literal["confirmed", "gave_up", "not_supported"]


class AuthProfileDisabled(Fact, tag="auth_profile.disabled", frozen=True, kw_only=True):
    """The profile rests until it is enabled."""


class AuthProfileEnabled(Fact, tag="auth_profile.enabled", frozen=True, kw_only=True):
    """The profile may be used again."""


class AuthProfileDefaultSet(Fact, tag="auth_profile.default_set", frozen=True, kw_only=True):
    """The profile goes first in the order of its scope and provider."""


class AuthProfileOrderSet(Fact, tag="auth_profile.order_set", frozen=True, kw_only=True):
    """Order and strategy of one scope and provider were replaced."""

    provider: str
    #: "" for the order of all.
    agent_id: str = ""
    strategy: Strategy = "sticky"
    profile_ids: list[str]


class AuthProfileCooledDown(Fact, tag="auth_profile.cooled_down", frozen=True, kw_only=True):
    """The credential is left alone for a while, by one model or by all."""

    kind: CooldownKind
    #: "" for every model.
    model_id: str = ""
    until_us: int
    #: Cooldowns of this kind in a row, this one included.
    streak_count: int


class AuthProfileCooldownCleared(Fact, tag="auth_profile.cooldown_cleared", frozen=True, kw_only=True):
    """Somebody ended all cooldowns of the credential; its failure stays."""


class AuthProfileFailed(Fact, tag="auth_profile.failed", frozen=True, kw_only=True):
    """The credential is good for nothing until it is replaced or validated."""

    code: FailureCode
    vault_revision: int = 0


class AuthProfileRefreshStarted(Fact, tag="auth_profile.refresh_started", frozen=True, kw_only=True):
    """A refresh token is about to be spent; recorded durably before it leaves."""

    vault_revision: int


class AuthProfileRefreshed(Fact, tag="auth_profile.refreshed", frozen=True, kw_only=True):
    """A new access token took the place of the one before."""

    vault_revision: int
    key_fingerprint: str = ""
    expires_us: int | None = None
    #: The refresh token is another one, too.
    rotated_refresh: bool = False
    #: Found in the vault at a start: the process died before it could say so.
    recovered: bool = False


class AuthProfileRefreshFailed(Fact, tag="auth_profile.refresh_failed", frozen=True, kw_only=True):
    """There is no new access token; the one in use serves until it expires."""

    error_code: str
    #: Failures in a row; with `terminal` there is no next try.
    streak_count: int = 0
    terminal: bool = False
    next_allowed_us: int | None = None
