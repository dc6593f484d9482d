"""Logins at providers: which are open, and how the latest ones ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from palyra.events import daemon, oauth
from palyra.events.auth import OAuthGrant
from palyra.events.base import Recorded
from palyra.projections.base import Chapter
from palyra.units import US_PER_S

if TYPE_CHECKING:
    from palyra.projections.state import State

AttemptState = Literal["pending", "exchanging", "completed", "failed", "expired", "cancelled"]
OPEN_STATES = ("pending", "exchanging")
#: How long an attempt that is over is shown; then it is as if there had been none.
SHOWN_US = 600 * US_PER_S


class OAuthAttempt(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One attempt."""

    attempt_id: str
    #: Who started it.
    actor: str
    provider: str
    mode: oauth.OAuthMode
    issuer: str
    redirect_uri: str
    grant: OAuthGrant
    state_digest: str
    cookie_digest: str = ""
    for_profile_id: str = ""
    #: The one that it is for, or becomes.
    profile_id: str = ""
    profile_name: str = ""
    agent_id: str = ""
    set_default: bool = False
    state: AttemptState = "pending"
    failure_code: str = ""
    created_us: int
    expires_us: int
    ended_us: int = 0


class OAuthState(msgspec.Struct, kw_only=True):
    """Attempts by id, oldest first; those that were over long ago are forgotten when another one starts."""

    attempts: dict[str, OAuthAttempt] = {}


CHAPTER = Chapter()


def attempt_of(state: State, attempt_id: str, now_us: int) -> OAuthAttempt | None:
    """Return an attempt as long as it is shown."""
    attempt = state.oauth.attempts.get(attempt_id)
    return None if attempt is None or _is_gone(attempt, now_us) else attempt


def open_attempts(state: State) -> list[OAuthAttempt]:
    """Return the attempts that are not over, oldest first."""
    return [one for one in state.oauth.attempts.values() if one.state in OPEN_STATES]


def _is_gone(attempt: OAuthAttempt, now_us: int) -> bool:
    return attempt.ended_us != 0 and now_us >= attempt.ended_us + SHOWN_US


@CHAPTER.on(oauth.OauthAttemptStarted)
def _started(state: State, recorded: Recorded, body: oauth.OauthAttemptStarted) -> None:
    attempts = state.oauth.attempts
    for gone in [one.attempt_id for one in attempts.values() if _is_gone(one, recorded.recorded_at_us)]:
        del attempts[gone]
    attempt_id = recorded.stream[6:]
    attempts[attempt_id] = OAuthAttempt(
        attempt_id=attempt_id,
        actor=recorded.actor,
        provider=body.provider,
        mode=body.mode,
        issuer=body.issuer,
        redirect_uri=body.redirect_uri,
        grant=body.grant,
        state_digest=body.state_digest,
        cookie_digest=body.cookie_digest,
        for_profile_id=body.for_profile_id,
        profile_id=body.profile_id,
        profile_name=body.profile_name,
        agent_id=body.agent_id,
        set_default=body.set_default,
        created_us=recorded.recorded_at_us,
        expires_us=body.expires_us,
    )


@CHAPTER.on(oauth.OauthAttemptCallbackReceived)
def _claimed(state: State, recorded: Recorded, body: oauth.OauthAttemptCallbackReceived) -> None:
    attempt = state.oauth.attempts.get(recorded.stream[6:])
    if attempt is not None:
        attempt.state = "exchanging"


@CHAPTER.on(oauth.OauthAttemptCompleted)
def _completed(state: State, recorded: Recorded, body: oauth.OauthAttemptCompleted) -> None:
    attempt = _end(state, recorded, "completed")
    if attempt is not None:
        attempt.profile_id = body.profile_id


@CHAPTER.on(oauth.OauthAttemptFailed)
def _failed(state: State, recorded: Recorded, body: oauth.OauthAttemptFailed) -> None:
    attempt = _end(state, recorded, "failed")
    if attempt is not None:
        attempt.failure_code = body.failure_code


@CHAPTER.on(oauth.OauthAttemptExpired)
def _expired(state: State, recorded: Recorded, body: oauth.OauthAttemptExpired) -> None:
    _end(state, recorded, "expired")


@CHAPTER.on(oauth.OauthAttemptCancelled)
def _cancelled(state: State, recorded: Recorded, body: oauth.OauthAttemptCancelled) -> None:
    _end(state, recorded, "cancelled")


def _end(state: State, recorded: Recorded, how: AttemptState) -> OAuthAttempt | None:
    state.streams.pop(recorded.stream, None)
    attempt: OAuthAttempt | None = state.oauth.attempts.get(recorded.stream[6:])
    if attempt is not None:
        attempt.state, attempt.ended_us = how, recorded.recorded_at_us
    return attempt


@CHAPTER.on(daemon.DaemonClockStepped)
def _clock_stepped(state: State, recorded: Recorded, body: daemon.DaemonClockStepped) -> None:
    """What lasts a while lasts as long, whatever the clock says now."""
    if body.cause != "step":
        return
    for attempt in state.oauth.attempts.values():
        attempt.expires_us += body.step_us
        if attempt.ended_us:
            attempt.ended_us += body.step_us
