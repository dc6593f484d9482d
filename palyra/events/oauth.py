"""Logins at a provider: an attempt to connect or renew a profile by OAuth. Stream `oauth-<attempt_id>`.

No fact holds the verifier, the state, the nonce, the cookie or the code: two digests of random values stand for
what has to be recognised, the rest is sealed in the vault for as long as the attempt is open.
"""

from __future__ import annotations

from typing import Literal

from palyra.events.auth import OAuthGrant
from palyra.events.base import Fact

OAuthMode = Literal["browser", "paste"]


class OauthAttemptStarted(Fact, tag="oauth_attempt.started", frozen=True, kw_only=True):
    """Somebody was sent to a provider, and may come back with a code once."""

    provider: str
    mode: OAuthMode
    #: Scheme, host and port of the page that people are sent to; who answers must say that it is this one.
    issuer: str
    redirect_uri: str
    #: Of whom tokens are asked, and what for; pinned, so that no reload mixes two servers up.
    grant: OAuthGrant
    state_digest: str
    challenge_digest: str
    #: "" for an attempt that no browser finishes.
    cookie_digest: str = ""
    expires_us: int
    #: The profile that gets new tokens; "" for a new one.
    for_profile_id: str = ""
    #: The id of a new profile.
    profile_id: str = ""
    profile_name: str = ""
    #: "" for a profile of all.
    agent_id: str = ""
    set_default: bool = False


class OauthAttemptCallbackReceived(Fact, tag="oauth_attempt.callback_received", frozen=True, kw_only=True):
    """The provider's answer has come back and was claimed: nobody else exchanges it."""


class OauthAttemptCompleted(Fact, tag="oauth_attempt.completed", frozen=True, kw_only=True):
    """The tokens work and are kept."""

    profile_id: str


class OauthAttemptFailed(Fact, tag="oauth_attempt.failed", frozen=True, kw_only=True):
    """The attempt is over without a profile; nothing is kept of it."""

    failure_code: str
    http_status: int = 0


class OauthAttemptExpired(Fact, tag="oauth_attempt.expired", frozen=True, kw_only=True):
    """Nobody came back in time."""


class OauthAttemptCancelled(Fact, tag="oauth_attempt.cancelled", frozen=True, kw_only=True):
    """Somebody ended the attempt."""
