"""Logins at providers: who may start one, what becomes of an answer that comes back, and how that is told.

Everything here is about digests and times; no code and no token is ever seen. Source: auth specification 7.
"""

from __future__ import annotations

import hmac
from typing import NamedTuple

from palyra.errors import Refusal
from palyra.events.base import Draft, Fact
from palyra.events.oauth import (
    OauthAttemptCallbackReceived,
    OauthAttemptCancelled,
    OauthAttemptExpired,
    OauthAttemptFailed,
)
from palyra.projections.oauth import OPEN_STATES, OAuthAttempt, attempt_of, open_attempts
from palyra.projections.state import State

#: The provider that people can log in at.
PROVIDER = "openai"
#: Parameters of the page that people are sent to which are ours to set.
OWN_PARAMETERS = frozenset(
    "response_type client_id redirect_uri scope state nonce code_challenge code_challenge_method".split()
)
PENDING_MAX_COUNT, PENDING_OF_ONE_MAX_COUNT = 32, 4
#: Where sealed attempts are: `system/oauth.<attempt_id>`.
SEALED_PREFIX = "system/oauth."


def sealed_ref(attempt_id: str) -> str:
    """Return the reference of what an attempt keeps secret."""
    return f"{SEALED_PREFIX}{attempt_id}"


def refuse_start(state: State, actor: str, now_us: int) -> Refusal | None:
    """Return why another attempt may not be started now."""
    pending = [one for one in open_attempts(state) if one.expires_us > now_us]
    of_one = sum(one.actor == actor for one in pending)
    if len(pending) < PENDING_MAX_COUNT and of_one < PENDING_OF_ONE_MAX_COUNT:
        return None
    message = (
        f"{of_one} logins are open already (palyra auth attempts shows them); finish one, end it with palyra auth"
        " cancel, or wait until they expire."
    )
    wait_ms = max(1_000, (min(one.expires_us for one in pending) - now_us) // 1_000)
    return Refusal(code="too_many_attempts", message=message, retry_after_ms=wait_ms)


class Claim(NamedTuple):
    """What becomes of an answer that has come back: it is exchanged now, or it was decided before."""

    attempt: OAuthAttempt | None
    drafts: list[Draft]
    refusal: Refusal | None = None
    #: Whoever has this goes on to exchange; of any number that come at once it is one.
    is_won: bool = False


def claim_browser(state: State, state_digest: str, cookie_digest: str, now_us: int) -> Claim:
    """Judge a browser that came back, in the order of the specification (7.3, checks 2 to 6)."""
    attempt = _by_state(state, state_digest, now_us)
    if attempt is None:
        message = "This login is not known here, or not any more. Start another one."
        return Claim(None, [], Refusal(code="attempt_not_found", message=message))
    is_theirs = attempt.cookie_digest != "" and hmac.compare_digest(attempt.cookie_digest, cookie_digest)
    if attempt.mode != "browser" or not is_theirs:
        message = "This login was started in another browser, or is finished in the terminal."
        return Claim(attempt, [], Refusal(code="oauth_session_mismatch", message=message))
    return _claim(attempt, now_us)


def claim_paste(state: State, attempt_id: str, state_digest: str, actor: str, now_us: int) -> Claim:
    """Judge a pasted address. One that belongs to another attempt changes nothing."""
    attempt = attempt_of(state, attempt_id, now_us)
    if attempt is None:
        message = f"There is no login {attempt_id}, or not any more; palyra auth attempts shows them."
        return Claim(None, [], Refusal(code="attempt_not_found", message=message, param="attempt_id"))
    if attempt.mode != "paste" or attempt.actor != actor:
        message = "This login is finished in its browser, or by whoever started it."
        return Claim(attempt, [], Refusal(code="oauth_session_mismatch", message=message))
    if attempt.state in OPEN_STATES and not hmac.compare_digest(attempt.state_digest, state_digest):
        message = "This address is of another login; paste the one that this login ended at."
        return Claim(attempt, [], Refusal(code="oauth_state_mismatch", message=message, param="redirect_url"))
    return _claim(attempt, now_us)


def _by_state(state: State, state_digest: str, now_us: int) -> OAuthAttempt | None:
    for one in state.oauth.attempts.values():
        if hmac.compare_digest(one.state_digest, state_digest):
            return attempt_of(state, one.attempt_id, now_us)
    return None


def _claim(attempt: OAuthAttempt, now_us: int) -> Claim:
    if attempt.state == "exchanging":
        message = "This login is being finished; look again in a moment."
        return Claim(attempt, [], Refusal(code="oauth_in_progress", message=message, retry_after_ms=1_000))
    if attempt.state != "pending":
        return Claim(attempt, [])
    if now_us >= attempt.expires_us:
        return Claim(attempt, expire(attempt))
    return Claim(attempt, of_attempt(attempt.attempt_id, OauthAttemptCallbackReceived()), is_won=True)


def cancel(attempt: OAuthAttempt) -> list[Draft]:
    """End an attempt that waits; one that is over, or whose code is under way, is left as it is."""
    return of_attempt(attempt.attempt_id, OauthAttemptCancelled()) if attempt.state == "pending" else []


def expire(attempt: OAuthAttempt) -> list[Draft]:
    """End an attempt that nobody came back for."""
    return of_attempt(attempt.attempt_id, OauthAttemptExpired())


def interrupt(state: State) -> list[Draft]:
    """End what a crash left half-way: the code may be spent, and is not sent again."""
    return [
        draft
        for one in open_attempts(state)
        if one.state == "exchanging"
        for draft in of_attempt(one.attempt_id, OauthAttemptFailed(failure_code="interrupted"))
    ]


def leftovers(state: State) -> list[str]:
    """Return the references of sealed attempts that are over: what they hold is good for nothing."""
    kept = {sealed_ref(one.attempt_id) for one in open_attempts(state)}
    return [ref for ref in state.vault.secrets if ref.startswith(SEALED_PREFIX) and ref not in kept]


def next_expiry_us(state: State) -> int | None:
    """Return when the next attempt expires that nobody has come back for."""
    return min((one.expires_us for one in open_attempts(state) if one.state == "pending"), default=None)


def of_attempt(attempt_id: str, *facts: Fact) -> list[Draft]:
    """Return facts about an attempt."""
    return [Draft(f"oauth-{attempt_id}", fact) for fact in facts]


#: How a finished login is told, by its failure's code or state.
SENTENCES: dict[str, str] = {
    "pending": "Waiting for somebody to log in.",
    "exchanging": "The login is being finished.",
    "completed": "You are logged in; the profile is connected.",
    "expired": "Nobody came back in time. Start another login.",
    "cancelled": "The login was cancelled.",
    "provider_denied": "The provider did not grant the login.",
    "issuer_mismatch": "The answer came from another server than the one that was asked.",
    "missing_code": "The answer held no code.",
    "exchange_rejected": "The provider did not take the code. Start another login.",
    "exchange_unreachable": "The provider could not be reached for the tokens. Start another login.",
    "invalid_token_response": "The provider's answer held no tokens that can be used.",
    "id_token_mismatch": "The provider's answer was made for another login.",
    "token_rejected": (
        "The provider's model list does not take the token, so it was not kept. The account may lack access to it."
    ),
    "provider_unavailable": "The provider could not be asked whether the token works, so it was not kept.",
    "not_stored": "The tokens could not be kept; they were given back.",
    "interrupted": "The daemon stopped while the login was being finished. Start another one.",
}


def sentence_of(attempt: OAuthAttempt) -> str:
    """Return how an attempt stands, in words of our own."""
    return SENTENCES.get(attempt.failure_code or attempt.state, "The login failed.")
