"""Access tokens: when one is renewed, what the answer to that means, and when one is given back.

Source: auth specification 8; token endpoint RFC 6749 (5.2), revocation RFC 7009.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal, NamedTuple

from palyra.decisions.incidents import Stall
from palyra.errors import Refusal
from palyra.events.auth import AuthProfileFailed, AuthProfileRefreshFailed, FailureCode
from palyra.events.base import Fact
from palyra.projections.auth import AuthProfile, can_refresh, failure_of
from palyra.projections.incidents import incident_key, newest_incident
from palyra.projections.state import State
from palyra.projections.vault import presence_of
from palyra.units import US_PER_MS, US_PER_S

#: A request does not leave with a token that ends sooner than this.
JUST_IN_TIME_US = 30 * US_PER_S
_LEAD_MIN_US, _LEAD_MAX_US, _SPREAD_US = 60 * US_PER_S, 600 * US_PER_S, 30 * US_PER_S
_WAIT_FIRST_US, _WAIT_MAX_US, _ASKED_MAX_US = 15 * US_PER_S, 900 * US_PER_S, 3_600 * US_PER_S
#: A provider that did not take tokens back is asked again for this long.
GIVE_BACK_FOR_US = 24 * 3_600 * US_PER_S
#: That many refusals of an unknown kind in a row are taken for one that will not change.
_REJECTED_MAX_COUNT = 5
#: A wait lasts its length +-20 %: jitter in basis points makes this share of the whole.
_JITTER_LOW, _JITTER_WHOLE = 20_000, 25_000

#: Codes of ours for a failed renewal.
REJECTED, UNAVAILABLE, SUPERSEDED = "rejected", "unavailable", "superseded"
_CLIENT_ERRORS = ("invalid_client", "unauthorized_client", "invalid_scope", "unsupported_grant_type")
_PASSING = (408, 425, 429)


class TokenRefusal(NamedTuple):
    """A token endpoint that gave no token."""

    #: 0 where it did not answer.
    status: int = 0
    #: Its own `error`, "" for none.
    error: str = ""
    retry_after_ms: int | None = None


def refresh_due_us(profile: AuthProfile) -> int | None:
    """Return when a profile's token is renewed, None for never or not as things stand."""
    refresh = profile.refresh
    if refresh is None or refresh.state == "terminal" or profile.status != "active":
        return None
    if refresh.state == "in_flight":
        return 0  # nobody is at it: the process that was has gone, and the old token is tried once
    if profile.expires_us is None:
        return None
    life_us = max(0, profile.expires_us - profile.issued_us)
    lead_us = min(max(life_us // 10, _LEAD_MIN_US), _LEAD_MAX_US) + _spread_us(profile)
    # A token that lives for a minute or two is not renewed as soon as it is there.
    return max(profile.expires_us - min(lead_us, life_us // 2), refresh.next_allowed_us)


def _spread_us(profile: AuthProfile) -> int:
    digest = hashlib.sha256(f"{profile.profile_id}|{profile.vault_revision}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % _SPREAD_US


def due_refreshes(state: State, under_way: Iterable[str] = ()) -> list[tuple[int, str]]:
    """Return when each profile's token is renewed, soonest first, without those at which somebody is."""
    busy = tuple(under_way)
    due = [
        (at_us, one.profile_id)
        for one in state.auth.profiles.values()
        if one.profile_id not in busy
        and (at_us := refresh_due_us(one)) is not None
        and failure_of(state, one.profile_id) is None
        and presence_of(state, one.vault_ref) == "present"
    ]
    return sorted(due)


def is_needed_now(profile: AuthProfile | None, now_us: int) -> bool:
    """Return whether a request that is about to leave has to wait for a new token."""
    if profile is None or profile.expires_us is None or profile.expires_us - now_us > JUST_IN_TIME_US:
        return False
    refresh = profile.refresh
    is_possible = refresh is not None and can_refresh(profile) and refresh.next_allowed_us <= now_us
    return is_possible and profile.status == "active"


def refuse_refresh(state: State, profile: AuthProfile) -> Refusal | None:
    """Return why a profile cannot be given a new token."""
    if profile.credential_kind == "api_key":
        message = f"{profile.profile_id} holds a key, which does not end; palyra auth rotate gives it another one."
        return Refusal(code="not_refreshable", message=message, param="id")
    again = f"palyra auth login {profile.provider} --profile {profile.profile_id}"
    if profile.refresh is None:
        message = f"{profile.profile_id} has nothing to be renewed with; {again} connects it anew."
        return Refusal(code="not_refreshable", message=message, param="id")
    if profile.status != "active":
        message = f"{profile.profile_id} rests; palyra auth enable {profile.profile_id} ends that."
        return Refusal(code="not_refreshable", message=message, param="id")
    if not can_refresh(profile) or failure_of(state, profile.profile_id) is not None:
        message = f"The provider renews it no more; {again} logs in anew."
        return Refusal(code="reauth_required", message=message, param="id")
    return None


def after_refusal(profile: AuthProfile, refusal: TokenRefusal, now_us: int, jitter_bp: int) -> list[Fact]:
    """Return the facts of a renewal that brought no token."""
    refresh = profile.refresh
    assert refresh is not None
    streak_count = refresh.streak_count + 1
    failure = _terminal(refusal, refresh.rejected_count + 1)
    error_code = refusal.error if failure is not None and refusal.error in _KNOWN_ERRORS else _word_of(refusal)
    if failure is not None:
        return [
            AuthProfileRefreshFailed(error_code=error_code, streak_count=streak_count, terminal=True),
            AuthProfileFailed(code=failure, vault_revision=profile.vault_revision),
        ]
    until_us = now_us + wait_us(streak_count, refusal.retry_after_ms, jitter_bp)
    return [
        AuthProfileRefreshFailed(error_code=error_code, streak_count=streak_count, next_allowed_us=until_us),
    ]


_KNOWN_ERRORS = ("invalid_grant", *_CLIENT_ERRORS)


def _terminal(refusal: TokenRefusal, rejected_count: int) -> FailureCode | None:
    """Return what no other try would change."""
    status = refusal.status
    if status in (400, 401) and refusal.error == "invalid_grant":
        return "reauth_required"
    if 400 <= status < 500 and (refusal.error in _CLIENT_ERRORS or status == 403):
        return "client_rejected"
    if _is_rejected(refusal) and rejected_count >= _REJECTED_MAX_COUNT:
        return "client_rejected"
    return None


def _is_rejected(refusal: TokenRefusal) -> bool:
    return 400 <= refusal.status < 500 and refusal.status not in _PASSING


def _word_of(refusal: TokenRefusal) -> str:
    return REJECTED if _is_rejected(refusal) else UNAVAILABLE


def wait_us(streak_count: int, retry_after_ms: int | None, jitter_bp: int) -> int:
    """Return the wait after so many failures in a row: 15 s, doubling, up to 15 min, +-20 %; at least as asked."""
    full_us = min(_WAIT_FIRST_US << min(streak_count - 1, 20), _WAIT_MAX_US)
    asked_us = min((retry_after_ms or 0) * US_PER_MS, _ASKED_MAX_US)
    return max(full_us * (_JITTER_LOW + jitter_bp) // _JITTER_WHOLE, asked_us)


def logins_needed(state: State) -> list[Stall]:
    """Return the profiles that only a person can bring back, as incidents name them, and those that are back."""
    stalls = []
    for one in state.auth.profiles.values():
        failure = failure_of(state, one.profile_id)
        is_needed = one.status == "active" and failure is not None and failure.code in _FOR_A_PERSON
        key = incident_key("login_needed", "credential", one.profile_id)
        known = newest_incident(state, key)
        is_open = known is not None and known.status == "open"
        if is_needed is not is_open:
            stage: Literal["suspect", "recovered"] = "suspect" if is_needed else "recovered"
            stall = Stall(kind="login_needed", stage=stage, subject_kind="credential", subject_id=one.profile_id)
            stalls.append(stall)
    return stalls


_FOR_A_PERSON = ("reauth_required", "client_rejected")


def to_give_back(state: State) -> list[AuthProfile]:
    """Return the revoked profiles whose provider has not taken the tokens back yet."""
    return [one for one in state.auth.profiles.values() if one.status == "revoking"]


def is_given_up(profile: AuthProfile, now_us: int) -> bool:
    """Return whether a provider has been asked for long enough."""
    return now_us >= profile.revoked_us + GIVE_BACK_FOR_US


def was_superseded(state: State, profile_id: str, revision: int) -> bool:
    """Return whether another secret, or none, took the place of the one that was being renewed."""
    profile = state.auth.profiles.get(profile_id)
    return profile is None or profile.status not in ("active", "disabled") or profile.vault_revision != revision
