"""What a failed call does to the credential that it was made with: a pause, an end, or nothing.

A success and a good check end it again, in the projection. Source: auth specification 5.2.
"""

from __future__ import annotations

from palyra.decisions.failures import Failure
from palyra.events.attempts import AttemptStarted
from palyra.events.auth import AuthProfileCooledDown, AuthProfileFailed, CooldownKind, FailureCode
from palyra.projections.auth import Cooldown, can_refresh, failure_of, live_revision, standing_of
from palyra.projections.runs import Run
from palyra.projections.state import State
from palyra.units import US_PER_MS, US_PER_S, ceil_div

#: Words of providers for a key that will not be taken later either.
_BAD_KEY_CODES = ("invalid_api_key", "invalid_key", "api_key_invalid", "expired_api_key", "revoked_api_key")
_BAD_ACCOUNT_CODES = ("account_deactivated", "account_disabled")
_AUTH_COOLDOWN_US = 60 * US_PER_S
#: A second 401 within this time is no accident.
_AUTH_AGAIN_US = 600 * US_PER_S
_QUOTA_FIRST_US, _QUOTA_MAX_US = 1_800 * US_PER_S, 6 * 3_600 * US_PER_S
_RATE_FIRST_US, _RATE_MAX_US = 5 * US_PER_S, 300 * US_PER_S
_RATE_ASKED_MAX_MS = 3_600_000
#: A pause of our own lasts its length +-10 %: jitter in basis points makes this share of the whole, exactly.
_JITTER_LOW, _JITTER_WHOLE = 45_000, 50_000


def is_renewed_for(state: State, run: Run, attempt: AttemptStarted, failure: Failure, now_us: int) -> bool:
    """Return whether the same credential is tried once more after a 401, with a new token.

    Once: a 401 that the new token gets as well is a failure of the credential.
    """
    ref = attempt.credential_ref
    profile = state.auth.profiles.get(ref)
    if failure.failure_class != "auth_invalid" or profile is None or profile.credential_kind != "oauth2":
        return False
    if profile.status != "active" or not can_refresh(profile) or failure_of(state, ref) is not None:
        return False
    befell = at_failure(state, run, attempt, failure, now_us=now_us, jitter_bp=0)
    return not isinstance(befell, AuthProfileFailed)


def at_failure(
    state: State, run: Run, attempt: AttemptStarted, failure: Failure, *, now_us: int, jitter_bp: int
) -> AuthProfileCooledDown | AuthProfileFailed | None:
    """Return what a failed call does to its credential; nothing where that has a newer secret by now."""
    ref = attempt.credential_ref
    if not ref or attempt.credential_revision != live_revision(state, ref) or failure_of(state, ref) is not None:
        return None
    if failure.failure_class == "auth_invalid":
        return _at_401(state, run, attempt, failure, now_us)
    if failure.failure_class == "quota_exceeded":
        return _cool_down(state, run, attempt, "quota", now_us, _QUOTA_FIRST_US, _QUOTA_MAX_US)
    if failure.failure_class != "rate_limited":
        return None
    if failure.retry_after_ms is not None:
        asked_us = min(failure.retry_after_ms, _RATE_ASKED_MAX_MS) * US_PER_MS
        return _cool_down(state, run, attempt, "rate_limit", now_us, asked_us, asked_us)
    return _cool_down(
        state, run, attempt, "rate_limit", now_us, _RATE_FIRST_US, _RATE_MAX_US, _JITTER_LOW + jitter_bp
    )


def _at_401(
    state: State, run: Run, attempt: AttemptStarted, failure: Failure, now_us: int
) -> AuthProfileCooledDown | AuthProfileFailed | None:
    ref = attempt.credential_ref
    profile = state.auth.profiles.get(ref)
    is_key = profile is None or profile.credential_kind == "api_key"
    code: FailureCode | None = None
    before = standing_of(state, ref).cooldowns.get("auth|")
    if failure.code in _BAD_ACCOUNT_CODES:
        code = "account_disabled"
    elif (is_key and failure.code in _BAD_KEY_CODES) or _is_again(before, run, now_us):
        code = "key_rejected" if is_key else "reauth_required"
    if code is not None:
        return AuthProfileFailed(code=code, vault_revision=attempt.credential_revision)
    return _cool_down(state, run, attempt, "auth", now_us, _AUTH_COOLDOWN_US, _AUTH_COOLDOWN_US)


def _is_again(before: Cooldown | None, run: Run, now_us: int) -> bool:
    """Return whether a 401 is the second one; calls that were under way when the first came count as one."""
    if before is None or run.started_us < before.since_us:
        return False
    return now_us - before.since_us < _AUTH_AGAIN_US


def _cool_down(
    state: State,
    run: Run,
    attempt: AttemptStarted,
    kind: CooldownKind,
    now_us: int,
    first_us: int,
    max_us: int,
    share: int = _JITTER_WHOLE,
) -> AuthProfileCooledDown | None:
    """Return the pause, twice as long each time in a row; quiet for twice the last one starts anew.

    A call that left before the last pause began tells nothing new about the time after it.
    """
    model_id = attempt.model_id if kind == "rate_limit" else ""
    before = standing_of(state, attempt.credential_ref).cooldowns.get(f"{kind}|{model_id}")
    streak_count = 1
    if before is not None:
        lasted_us = before.until_us - before.since_us
        if run.started_us < before.since_us:
            streak_count = before.streak_count
        elif now_us - before.since_us < 2 * lasted_us:
            streak_count = before.streak_count + 1
    until_us = now_us + min(first_us << min(streak_count - 1, 20), max_us) * share // _JITTER_WHOLE
    is_in_force = before is not None and streak_count == before.streak_count and until_us <= before.until_us
    if until_us == now_us or is_in_force:
        return None
    return AuthProfileCooledDown(kind=kind, model_id=model_id, until_us=until_us, streak_count=streak_count)


def jitter_behind(cooled: AuthProfileCooledDown, at_us: int) -> int:
    """Return the jitter that gave a recorded pause after a 429 without Retry-After its length."""
    full_us = min(_RATE_FIRST_US << min(cooled.streak_count - 1, 20), _RATE_MAX_US)
    return ceil_div((cooled.until_us - at_us) * _JITTER_WHOLE, full_us) - _JITTER_LOW
