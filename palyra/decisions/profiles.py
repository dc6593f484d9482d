"""Auth profiles: what may be connected, changed and put in an order, and what an answer to a check means.

Secrets are judged by their form alone. Source: auth specification 4.2 and 6.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from palyra.decisions.key_text import refuse_own_key
from palyra.errors import CODES, Refusal
from palyra.projections.auth import AuthProfile, failure_of, visible_profiles
from palyra.projections.state import State
from palyra.redaction import REDACTED

PROFILES_MAX_COUNT, PROFILES_OF_A_PROVIDER_MAX_COUNT = 1_024, 64
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_AGENT = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_KEY = re.compile(r"[!-~]{8,512}")
_GONE = ("revoking", "revoked")


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A profile that somebody wants to have."""

    provider: str
    profile_name: str
    #: "" for one that is made of the name.
    profile_id: str = ""
    #: "" for a profile of all.
    agent_id: str = ""
    #: Of the id, where one is made; six characters that nobody can foretell.
    suffix: str


def profile_id_for(state: State, wish: Wish) -> str | Refusal:
    """Return the id of a new profile, or the first reason why there cannot be one."""
    name = wish.profile_name
    if not 1 <= len(name) <= 128 or name != name.strip() or not name.isprintable():
        return _invalid("A name has 1 to 128 printable characters, none of them blank at its ends.", "profile_name")
    if wish.profile_id and not _ID.fullmatch(wish.profile_id):
        message = "An id has 1 to 64 of a-z 0-9 . _ - and starts with a letter or digit."
        return _invalid(message, "profile_id")
    if wish.agent_id and (not _AGENT.fullmatch(wish.agent_id) or ".." in wish.agent_id):
        return _invalid("An agent's id has 1 to 128 of A-Z a-z 0-9 . _ : @ - and no two dots.", "scope")
    profile_id = wish.profile_id or _slug(name, wish.suffix)
    held = state.auth.profiles.get(profile_id)
    if held is not None and held.provider != wish.provider:
        message = f"{profile_id} is or was a profile of {held.provider}; choose another id."
        return Refusal(code="profile_provider_mismatch", message=message, param="profile_id")
    if held is not None and held.status not in _GONE:
        message = f"There is a profile {profile_id}; palyra auth rotate {profile_id} gives it another key."
        return Refusal(code="profile_exists", message=message, param="profile_id")
    for one in state.auth.profiles.values():
        is_same = (one.provider, one.agent_id) == (wish.provider, wish.agent_id)
        if is_same and one.status not in _GONE and one.profile_name.casefold() == name.casefold():
            message = f"{one.profile_id} has this name; palyra auth rotate {one.profile_id} gives it another key."
            return Refusal(code="profile_exists", message=message, param="profile_name")
    living = [one for one in state.auth.profiles.values() if one.status not in _GONE]
    of_provider = sum(one.provider == wish.provider for one in living)
    if len(living) >= PROFILES_MAX_COUNT or of_provider >= PROFILES_OF_A_PROVIDER_MAX_COUNT:
        message = (
            f"There are {len(living)} profiles, {of_provider} of {wish.provider}; at most {PROFILES_MAX_COUNT} and"
            f" {PROFILES_OF_A_PROVIDER_MAX_COUNT} fit. Revoke some first."
        )
        return Refusal(code="too_many_profiles", message=message)
    return profile_id


def _slug(name: str, suffix: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "profile"
    return f"{words}-{suffix}"


def _invalid(message: str, param: str) -> Refusal:
    return Refusal(code="invalid_request", message=message, param=param)


def refuse_key(text: str) -> Refusal | None:
    """Return why a text, trimmed already, is no key of a provider; nothing of it is in the message."""
    own = refuse_own_key(text, "api_key")
    if own is not None:
        return own
    if text == REDACTED or not _KEY.fullmatch(text):
        message = "A key has 8 to 512 visible ASCII characters and no blanks."
        return Refusal(code="invalid_api_key_format", message=message, param="api_key")
    return None


def find_profile(state: State, profile_id: str) -> AuthProfile | Refusal:
    """Return a profile that can still be used."""
    profile = state.auth.profiles.get(profile_id)
    if profile is None:
        message = f"There is no profile {profile_id}; palyra auth list shows them."
        return Refusal(code="profile_not_found", message=message, param="profile_id")
    if profile.status in _GONE:
        message = f"{profile_id} was revoked; palyra auth connect {profile.provider} makes another one."
        return Refusal(code="profile_revoked", message=message, param="profile_id")
    return profile


def refuse_order(state: State, provider: str, agent_id: str, profile_ids: Sequence[str]) -> Refusal | None:
    """Return why an order cannot be: an id in it is unknown, foreign to its scope, or there twice."""
    visible = [one.profile_id for one in visible_profiles(state, provider, agent_id)]
    for index, profile_id in enumerate(profile_ids):
        if profile_id in profile_ids[:index]:
            return _invalid(f"{profile_id} is there twice.", "profile_ids")
        if profile_id not in visible:
            known = ", ".join(visible) or "none"
            return _invalid(f"{profile_id} is no profile of {provider} here; there are: {known}.", "profile_ids")
    return None


CheckCode = Literal[
    "connected",
    "invalid_credential",
    "validation_not_permitted",
    "unverifiable",
    "rate_limited",
    "redirect_refused",
    "unexpected_response",
    "provider_unavailable",
    "address_refused",
]


def check_code(status: int, *, has_list: bool) -> CheckCode:
    """Return what the answer to a model listing says about the key that it was asked with."""
    if 200 <= status < 300 and has_list:
        return "connected"
    if status in _CHECKS:
        return _CHECKS[status]
    return "provider_unavailable" if status >= 500 else "unexpected_response"


_CHECKS: dict[int, CheckCode] = {
    401: "invalid_credential",
    403: "validation_not_permitted",
    404: "unverifiable",
    405: "unverifiable",
    501: "unverifiable",
    429: "rate_limited",
}
_SENTENCES: dict[str, str] = {
    "invalid_credential": "The provider does not take this key.",
    "validation_not_permitted": (
        "The provider lets this key list no models, so it cannot be checked. Allow it to read the model list."
    ),
    "unverifiable": "There is no model list at this address, so the key cannot be checked. Look at base_url.",
    "rate_limited": "The provider asks to be left alone for now; the key was not checked.",
    "redirect_refused": "The provider answered with a redirect, which is not followed; the key went nowhere else.",
    "unexpected_response": "The answer is no model list; the key was not checked. Look at base_url.",
    "provider_unavailable": "The provider cannot be reached or fails; the key was not checked. Try again later.",
    "address_refused": "The provider's address may not be dialled.",
}


def refusal_of_check(
    code: str, *, provider: str, http_status: int = 0, retry_after_ms: int | None = None, said: str = ""
) -> Refusal:
    """Return what whoever wants a key checked is told; nothing is stored. `said` is the provider's, cleaned."""
    answered = f" ({provider} answered {http_status}{f': {said}' if said else ''})" if http_status else ""
    return Refusal(
        code=code,
        message=f"{_SENTENCES[code]}{answered or (f' ({said})' if said else '')}",
        param="api_key" if CODES[code].http_status == 400 and code == "invalid_credential" else None,
        retry_after_ms=retry_after_ms,
    )


#: When a key that was rejected is looked at again, after its failure; then every `RECHECK_LAST_US`.
_RECHECKS_US = (300 * 1_000_000, 1_800 * 1_000_000)
RECHECK_LAST_US = 6 * 3_600 * 1_000_000


def next_recheck(state: State) -> tuple[str, int] | None:
    """Return the rejected credential that is looked at next, and when: its provider may take it again."""
    due = []
    for ref in state.auth.standings:
        failure = failure_of(state, ref)
        profile = state.auth.profiles.get(ref)
        is_wanted = profile is None or (profile.status == "active" and profile.credential_kind == "api_key")
        if failure is None or failure.code != "key_rejected" or not is_wanted:
            continue
        if failure.checks_count < len(_RECHECKS_US):
            due.append((failure.since_us + _RECHECKS_US[failure.checks_count], ref))
        else:
            due.append((failure.checked_us + RECHECK_LAST_US, ref))
    if not due:
        return None
    at_us, ref = min(due)
    return ref, at_us
