"""Which credentials a candidate is tried with, in which order, and why others are not.

All of it is about references and revisions; no secret is ever seen here. Source: auth specification 5.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from palyra.errors import Refusal
from palyra.events.registry import ProviderEntry
from palyra.events.routing import CredentialVerdict, PlannedCredential, PlanStep
from palyra.projections.alerts import is_told_missing
from palyra.projections.auth import (
    IMPLICIT,
    AuthProfile,
    can_refresh,
    cooldowns_of,
    cooling_until_us,
    failure_of,
    live_revision,
    order_in_force,
    standing_of,
)
from palyra.projections.catalog import provider_entry
from palyra.projections.state import State
from palyra.projections.vault import VAULT_FORM, Presence, presence_of
from palyra.units import ceil_div, us_to_ms

VerdictName = Literal[
    "wrong_provider",
    "wrong_agent",
    "audience_mismatch",
    "disabled",
    "failed",
    "missing",
    "expired_no_refresh",
    "cooling_down",
    "eligible",
    "refresh_first",
]
#: Verdicts of a credential that may be used; the second one is renewed before.
USABLE = ("eligible", "refresh_first")

#: After these the next credential of the same candidate is tried, before anything else is.
OF_THE_CREDENTIAL = ("auth_invalid", "quota_exceeded", "rate_limited", "missing_credential")


class Verdict(NamedTuple):
    """What the first rule that fits says about a credential."""

    name: VerdictName
    until_us: int | None = None


class Chosen(NamedTuple):
    """The credentials of a candidate in order, and why others may not be used."""

    credentials: list[PlannedCredential]
    verdicts: list[CredentialVerdict]
    #: When the first of them may be used, where time alone is missing.
    until_us: int | None = None


class Ranked(NamedTuple):
    """One credential in the order of selection, with its verdict."""

    credential_ref: str
    verdict: Verdict


def needs_credential(provider: ProviderEntry) -> bool:
    """Return whether a provider is asked with a credential."""
    return provider.auth_scheme != "none"


def rank(
    state: State,
    provider: ProviderEntry,
    model_id: str,
    *,
    agent_id: str = "",
    absent: Sequence[str] = (),
    now_us: int,
) -> list[Ranked]:
    """Return every credential that a run of this agent could use with a provider, best first, with its verdict.

    `absent` names those whose secret cannot be read right now. A credential that the entry names is alone.
    """
    if provider.auth_profile_id:
        refs = [provider.auth_profile_id]
    elif provider.credential_ref:
        refs = [f"{IMPLICIT}{provider.provider_id}"]
    else:
        order = order_in_force(state, provider.auth_provider_kind, agent_id)
        refs = list(order.profile_ids)
        if order.strategy == "least_recently_used":
            refs.sort(key=lambda ref: standing_of(state, ref).used_position)
    return [
        Ranked(ref, verdict_of(state, provider, ref, model_id, agent_id=agent_id, absent=absent, now_us=now_us))
        for ref in refs
    ]


def verdict_of(
    state: State,
    provider: ProviderEntry,
    credential_ref: str,
    model_id: str,
    *,
    agent_id: str,
    absent: Sequence[str] = (),
    now_us: int,
) -> Verdict:
    """Return the first rule that keeps a credential from being used here, or that it may be used."""
    profile = state.auth.profiles.get(credential_ref)
    needs_refresh = False
    if not credential_ref.startswith(IMPLICIT):
        if profile is None:
            return Verdict("missing")
        mismatch = _mismatch(profile, provider, agent_id)
        if mismatch is not None:
            return mismatch
        needs_refresh = profile.expires_us is not None and now_us >= profile.expires_us
    if failure_of(state, credential_ref) is not None:
        return Verdict("failed")
    if credential_ref in absent:
        return Verdict("missing")
    if needs_refresh and profile is not None:
        if not can_refresh(profile):
            return Verdict("expired_no_refresh")
        if profile.refresh is not None and profile.refresh.next_allowed_us > now_us:
            return Verdict("expired_no_refresh", profile.refresh.next_allowed_us)
    until_us = cooling_until_us(state, credential_ref, model_id, now_us)
    if until_us:
        return Verdict("cooling_down", until_us)
    return Verdict("refresh_first" if needs_refresh else "eligible")


def _mismatch(profile: AuthProfile, provider: ProviderEntry, agent_id: str) -> Verdict | None:
    """Return why a profile is not for this provider or agent, or rests."""
    if profile.provider != provider.auth_provider_kind:
        return Verdict("wrong_provider")
    if profile.agent_id not in ("", agent_id):
        return Verdict("wrong_agent")
    if profile.audience != provider.audience:
        return Verdict("audience_mismatch")
    if profile.status == "disabled":
        return Verdict("disabled")
    return Verdict("failed") if profile.status != "active" else None


_NONE_NEEDED = Chosen([], [])


def choose(
    state: State,
    provider: ProviderEntry,
    model_id: str,
    *,
    agent_id: str = "",
    absent: Sequence[str] = (),
    now_us: int,
) -> Chosen:
    """Choose the credentials that a candidate is tried with, and pin their revisions."""
    if not needs_credential(provider):
        return _NONE_NEEDED
    ranked = rank(state, provider, model_id, agent_id=agent_id, absent=absent, now_us=now_us)
    usable = [one.credential_ref for one in ranked if one.verdict.name in USABLE]
    credentials = [
        PlannedCredential(credential_ref=ref, revision=live_revision(state, ref))
        for ref in usable[: state.catalog.registry.max_profiles_per_candidate]
    ]
    verdicts = [
        CredentialVerdict(
            provider_id=provider.provider_id,
            model_id=model_id,
            credential_ref=one.credential_ref,
            verdict=one.verdict.name,
            until_us=one.verdict.until_us,
        )
        for one in ranked
        if one.verdict.name not in USABLE
    ]
    ends = [one.verdict.until_us for one in ranked if one.verdict.until_us is not None]
    return Chosen(credentials, verdicts, min(ends) if ends and not credentials else None)


def common_verdict(
    state: State, provider: ProviderEntry, now_us: int
) -> Literal["usable", "cooling_down", "unavailable"]:
    """Return what a provider's credentials say together, whosever they are.

    Usable: one may be used for one of its models. Cooling down: each that is good for anything rests. Unavailable:
    each has failed, or its secret is missing, or there is none.
    """
    if not needs_credential(provider):
        return "usable"
    agents = {"", *(one.agent_id for one in state.auth.profiles.values())}
    absent = absent_credentials(state)
    ranked = [
        one
        for agent in sorted(agents)
        for one in rank(state, provider, "", agent_id=agent, absent=absent, now_us=now_us)
    ]
    usable = [one.credential_ref for one in ranked if one.verdict.name in USABLE]
    if any(_is_free(state, provider.provider_id, ref, now_us) for ref in usable):
        return "usable"
    is_resting = usable or any(one.verdict.until_us is not None for one in ranked)
    return "cooling_down" if is_resting else "unavailable"


def _is_free(state: State, provider_id: str, credential_ref: str, now_us: int) -> bool:
    """Return whether a credential does not rest for at least one of a provider's models."""
    if not cooldowns_of(state, credential_ref, now_us):
        return True
    names = [one.model_id for one in state.catalog.registry.models if one.provider_id == provider_id]
    return not names or any(not cooling_until_us(state, credential_ref, name, now_us) for name in names)


def absent_credentials(state: State) -> list[str]:
    """Return the credentials whose secret cannot be read, as far as it is recorded."""
    named = [f"{IMPLICIT}{one.provider_id}" for one in state.catalog.registry.providers if one.credential_ref]
    return [name for name in (*named, *state.auth.profiles) if presence_of_credential(state, name) != "present"]


def presence_of_credential(state: State, credential_ref: str) -> Presence:
    """Return whether a credential's secret can be read: of the vault by its facts, else by an open alert."""
    profile = state.auth.profiles.get(credential_ref)
    if profile is not None:
        return presence_of(state, profile.vault_ref)
    entry = provider_entry(state, credential_ref.removeprefix(IMPLICIT))
    if entry is None or not entry.credential_ref:
        return "missing"
    if entry.credential_ref.startswith(VAULT_FORM):
        return presence_of(state, entry.credential_ref.removeprefix(VAULT_FORM))
    return "missing" if is_told_missing(state, entry.provider_id) else "present"


class Waiting(NamedTuple):
    """No credential of a candidate may be used now; when one may, where time alone is missing."""

    until_us: int = 0


_NO_CREDENTIAL = PlannedCredential(credential_ref="")


def pick(
    state: State, step: PlanStep, *, wanted: str = "", agent_id: str = "", has_waited: bool = False, now_us: int
) -> PlannedCredential | Waiting:
    """Return the credential of an attempt that is about to start, with the revision in use now.

    It is looked for from `wanted` on along the plan's order, which nothing reorders. Whoever has waited for what
    its own failure brought about is not stopped by the pause that this put on its credential.
    """
    if not step.credentials:
        return _NO_CREDENTIAL
    provider = provider_entry(state, step.provider_id)
    assert provider is not None, "a plan holds only what is configured"
    ends = []
    for planned in _from(step.credentials, wanted):
        ref = planned.credential_ref
        verdict = verdict_of(state, provider, ref, step.model_id, agent_id=agent_id, now_us=now_us)
        if verdict.name in USABLE or (has_waited and ref == wanted and verdict.name == "cooling_down"):
            return PlannedCredential(credential_ref=ref, revision=live_revision(state, ref))
        if verdict.until_us is not None:
            ends.append(verdict.until_us)
    return Waiting(min(ends, default=0))


def _from(credentials: Sequence[PlannedCredential], wanted: str) -> Sequence[PlannedCredential]:
    refs = [one.credential_ref for one in credentials]
    return credentials[refs.index(wanted) :] if wanted in refs else credentials


def next_after(state: State, step: PlanStep, credential_ref: str, *, agent_id: str, now_us: int) -> str:
    """Return the credential that is tried after this one with the same candidate, "" for none."""
    refs = [one.credential_ref for one in step.credentials]
    if credential_ref not in refs:
        return ""
    rest = step.credentials[refs.index(credential_ref) + 1 :]
    if not rest:
        return ""
    picked = pick(state, step, wanted=rest[0].credential_ref, agent_id=agent_id, now_us=now_us)
    return picked.credential_ref if isinstance(picked, PlannedCredential) else ""


def refusal_without_credentials(
    verdicts: Iterable[CredentialVerdict], until_us: Sequence[int | None], details: dict[str, Any], now_us: int
) -> Refusal:
    """Return why nobody can be asked: all credentials have to wait, or there is none that is good."""
    ends = [one for one in until_us if one]
    if ends and len(ends) == len(until_us):
        wait_ms = max(1_000, us_to_ms(min(ends) - now_us))
        message = (
            "Every credential that could be used is left alone for now, as its provider asked; try again in"
            f" {ceil_div(wait_ms, 1_000)} s."
        )
        return Refusal(code="all_credentials_cooling", message=message, retry_after_ms=wait_ms, details=details)
    rows = dict.fromkeys(f"{one.credential_ref} ({one.verdict})" for one in verdicts)
    has = f": {', '.join(rows)}" if rows else ", none is connected"
    message = (
        f"No credential can be used{has}. `palyra auth health` says why; `palyra auth connect PROVIDER` stores one."
    )
    return Refusal(code="no_usable_credential", message=message, details=details)
