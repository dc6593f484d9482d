"""The AuthProfileRegistry: every credential of a provider, how it stands and in which order it is tried.

There is no registry file; this fold is the registry. Whether a secret can be read right now is not known here; that
is joined where the vault is (`Presence`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from palyra.events import attempts, auth, config, daemon
from palyra.events.base import Recorded
from palyra.projections.base import Chapter
from palyra.projections.catalog import provider_entry
from palyra.projections.runs import Run
from palyra.projections.vault import Presence, revision_in_use

if TYPE_CHECKING:
    from palyra.projections.state import State

Status = Literal["active", "disabled", "revoking", "revoked"]
CredentialHealth = Literal["failed", "missing", "static", "expired", "expiring", "ok"]
RefreshState = Literal["idle", "in_flight", "backing_off", "terminal"]

#: Ids of the credentials that entries of the configuration name themselves.
IMPLICIT = "config:"


class Cooldown(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One kind of pause of a credential, in force or not: what is over still tells the length of the next one."""

    kind: auth.CooldownKind
    #: "" for every model.
    model_id: str = ""
    since_us: int
    until_us: int
    streak_count: int = 1


class Failure(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Why a credential is good for nothing, for the revision that it was seen with."""

    code: auth.FailureCode
    since_us: int
    vault_revision: int = 0
    #: Looks since then whether the provider takes it again, and the newest of them.
    checks_count: int = 0
    checked_us: int = 0


class Standing(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How one credential does, whether it is a profile or the configuration's own."""

    #: By `kind|model_id`.
    cooldowns: dict[str, Cooldown] = {}
    failure: Failure | None = None
    #: Journal position and time of the newest attempt that it was used for.
    used_position: int = 0
    used_us: int = 0


class Refresh(msgspec.Struct, kw_only=True):
    """How the renewal of an access token does."""

    state: RefreshState = "idle"
    streak_count: int = 0
    last_error_code: str = ""
    last_attempt_us: int = 0
    last_success_us: int = 0
    next_allowed_us: int = 0
    #: Refusals of an unknown kind in a row.
    rejected_count: int = 0


class AuthProfile(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One identity towards a provider. What befell it stands in its `Standing`."""

    profile_id: str
    provider: str
    profile_name: str
    #: "" for a profile of all.
    agent_id: str = ""
    credential_kind: auth.CredentialKind
    audience: str
    vault_revision: int
    key_fingerprint: str = ""
    issued_us: int
    expires_us: int | None = None
    oauth: auth.OAuthGrant | None = None
    #: None where there is nothing to refresh.
    refresh: Refresh | None = None
    status: Status
    #: When it was revoked; 0 while it is not.
    revoked_us: int = 0
    models_count: int = 0
    validated_us: int = 0
    created_us: int
    #: Where it was connected: what is older is told by positions, as everywhere.
    since_position: int
    updated_us: int
    position: int

    @property
    def vault_ref(self) -> str:
        """Where its secret is."""
        return vault_ref(self.profile_id, self.agent_id)


class ProfileOrder(msgspec.Struct, kw_only=True):
    """In which order the profiles of one scope and provider are tried; those that are not in it are not."""

    strategy: auth.Strategy = "sticky"
    profile_ids: list[str] = []


class AuthState(msgspec.Struct, kw_only=True):
    """Profiles and standings by credential id; orders by `agent_id|provider`, with no agent for all."""

    profiles: dict[str, AuthProfile] = {}
    standings: dict[str, Standing] = {}
    orders: dict[str, ProfileOrder] = {}


CHAPTER = Chapter()
_UNTOUCHED = Standing()


def vault_ref(profile_id: str, agent_id: str = "") -> str:
    """Return the reference of a profile's sealed secret."""
    scope = f"agent:{agent_id}" if agent_id else "global"
    return f"{scope}/auth.{profile_id}"


def standing_of(state: State, credential_ref: str) -> Standing:
    """Return how a credential stands; not to be changed by the caller."""
    return state.auth.standings.get(credential_ref, _UNTOUCHED)


def live_revision(state: State, credential_ref: str) -> int:
    """Return the revision that is in use; 0 for a credential that has none."""
    if credential_ref.startswith(IMPLICIT):
        provider = provider_entry(state, credential_ref[len(IMPLICIT) :])
        return 0 if provider is None else revision_in_use(state, provider.credential_ref)
    profile = state.auth.profiles.get(credential_ref)
    return 0 if profile is None else profile.vault_revision


def failure_of(state: State, credential_ref: str) -> Failure | None:
    """Return why a credential is good for nothing, if it is so for the revision in use."""
    failure = standing_of(state, credential_ref).failure
    if failure is None or failure.vault_revision != live_revision(state, credential_ref):
        return None
    return failure


def cooling_until_us(state: State, credential_ref: str, model_id: str, now_us: int) -> int:
    """Return when a credential may be used for a model again, 0 for now."""
    ends = [
        cooldown.until_us
        for cooldown in standing_of(state, credential_ref).cooldowns.values()
        if cooldown.model_id in ("", model_id) and cooldown.until_us > now_us
    ]
    return max(ends, default=0)


def cooldowns_of(state: State, credential_ref: str, now_us: int) -> list[Cooldown]:
    """Return the cooldowns in force."""
    return [one for one in standing_of(state, credential_ref).cooldowns.values() if one.until_us > now_us]


def can_refresh(profile: AuthProfile) -> bool:
    """Return whether a new access token can be had without a person."""
    return profile.refresh is not None and profile.refresh.state != "terminal"


def health_of(
    state: State, profile: AuthProfile, presence: Presence, now_us: int, expiring_window_us: int
) -> CredentialHealth:
    """Return a profile's health; the first rule that fits holds (auth specification, 5.1)."""
    if profile.status != "active" or failure_of(state, profile.profile_id) is not None:
        return "failed"
    if presence != "present":
        return "missing"
    if profile.credential_kind == "api_key":
        return "static"
    if profile.expires_us is None:
        return "ok"
    if now_us >= profile.expires_us:
        return "expired"
    return "expiring" if profile.expires_us - now_us <= expiring_window_us else "ok"


def visible_profiles(state: State, provider: str, agent_id: str) -> list[AuthProfile]:
    """Return what a run of an agent ("" for none) may see of a provider: its own, then those of all.

    A profile of the agent hides one of all that has its name. Each kind is in the order in which it was connected.
    """
    living = [
        one for one in state.auth.profiles.values() if one.provider == provider and one.status not in _GONE_STATUS
    ]
    own = [one for one in living if one.agent_id == agent_id] if agent_id else []
    names = {one.profile_name.casefold() for one in own}
    of_all = [one for one in living if not one.agent_id and one.profile_name.casefold() not in names]
    return [*sorted(own, key=_age), *sorted(of_all, key=_age)]


_GONE_STATUS = ("revoking", "revoked")


def _age(profile: AuthProfile) -> int:
    return profile.since_position


def order_in_force(state: State, provider: str, agent_id: str) -> ProfileOrder:
    """Return the order for a run of an agent ("" for none): the agent's, else that of all, else by age."""
    visible = [one.profile_id for one in visible_profiles(state, provider, agent_id)]
    for scope in dict.fromkeys((agent_id, "")):
        stored = state.auth.orders.get(f"{scope}|{provider}")
        if stored is not None:
            kept = [profile_id for profile_id in dict.fromkeys(stored.profile_ids) if profile_id in visible]
            return ProfileOrder(strategy=stored.strategy, profile_ids=kept)
    return ProfileOrder(profile_ids=visible)


def _credential(recorded: Recorded) -> str:
    """Return the id of a stream name `credential-<id>`."""
    return recorded.stream[11:]


def _profile(state: State, recorded: Recorded) -> AuthProfile | None:
    """Return the profile that a fact is about, noting when it was touched."""
    profile: AuthProfile | None = state.auth.profiles.get(_credential(recorded))
    if profile is not None:
        profile.updated_us, profile.position = recorded.recorded_at_us, recorded.position
    return profile


def _own(state: State, credential_ref: str) -> Standing:
    return state.auth.standings.setdefault(credential_ref, Standing())


def _void(state: State, credential_ref: str) -> None:
    """Forget what befell an older secret."""
    standing = state.auth.standings.get(credential_ref)
    if standing is not None:
        standing.failure, standing.cooldowns = None, {}


@CHAPTER.on(auth.AuthProfileConnected)
def _connected(state: State, recorded: Recorded, body: auth.AuthProfileConnected) -> None:
    profile_id = _credential(recorded)
    if profile_id.startswith(IMPLICIT):
        return  # no profile has such a name
    state.auth.profiles[profile_id] = AuthProfile(
        profile_id=profile_id,
        provider=body.provider,
        profile_name=body.profile_name,
        agent_id=body.agent_id,
        credential_kind=body.credential_kind,
        audience=body.audience,
        vault_revision=body.vault_revision,
        key_fingerprint=body.key_fingerprint,
        issued_us=recorded.recorded_at_us,
        expires_us=body.expires_us,
        oauth=body.oauth,
        refresh=Refresh() if body.oauth is not None and body.oauth.can_refresh else None,
        status="active",
        models_count=body.models_count,
        validated_us=recorded.recorded_at_us,
        created_us=recorded.recorded_at_us,
        since_position=recorded.position,
        updated_us=recorded.recorded_at_us,
        position=recorded.position,
    )
    state.auth.standings.pop(profile_id, None)
    for key, order in state.auth.orders.items():
        agent_id, _, provider = key.partition("|")
        sees = body.agent_id in ("", agent_id)
        if provider == body.provider and sees and profile_id not in order.profile_ids:
            order.profile_ids = [*order.profile_ids, profile_id]


@CHAPTER.on(auth.AuthProfileRotated)
def _rotated(state: State, recorded: Recorded, body: auth.AuthProfileRotated) -> None:
    profile = _profile(state, recorded)
    if profile is None:
        return
    profile.vault_revision, profile.key_fingerprint = body.vault_revision, body.key_fingerprint
    profile.issued_us = profile.validated_us = recorded.recorded_at_us
    profile.expires_us, profile.models_count, profile.oauth = body.expires_us, body.models_count, body.oauth
    profile.refresh = Refresh() if body.oauth is not None and body.oauth.can_refresh else None
    _void(state, profile.profile_id)


@CHAPTER.on(auth.AuthProfileValidated)
def _validated(state: State, recorded: Recorded, body: auth.AuthProfileValidated) -> None:
    """A credential that its provider takes has not failed, and needs no pause for a 401."""
    profile = _profile(state, recorded)
    if profile is not None:
        profile.validated_us, profile.models_count = recorded.recorded_at_us, body.models_count
    standing = state.auth.standings.get(_credential(recorded))
    if standing is not None and body.vault_revision == live_revision(state, _credential(recorded)):
        standing.failure = None
        standing.cooldowns.pop("auth|", None)


@CHAPTER.on(auth.AuthProfileValidationFailed)
def _validation_failed(state: State, recorded: Recorded, body: auth.AuthProfileValidationFailed) -> None:
    failure = failure_of(state, _credential(recorded))
    if failure is not None and body.vault_revision == failure.vault_revision:
        failure.checks_count += 1
        failure.checked_us = recorded.recorded_at_us


@CHAPTER.on(auth.AuthProfileRebound)
def _rebound(state: State, recorded: Recorded, body: auth.AuthProfileRebound) -> None:
    profile = _profile(state, recorded)
    if profile is not None:
        profile.audience, profile.models_count = body.audience, body.models_count
        profile.vault_revision, profile.validated_us = body.vault_revision, recorded.recorded_at_us


@CHAPTER.on(auth.AuthProfileRevoked)
def _revoked(state: State, recorded: Recorded, body: auth.AuthProfileRevoked) -> None:
    profile = _profile(state, recorded)
    if profile is None:
        return
    profile.status = "revoking" if body.remote == "pending" else "revoked"
    profile.revoked_us = recorded.recorded_at_us
    state.auth.standings.pop(profile.profile_id, None)
    for order in state.auth.orders.values():
        order.profile_ids = [one for one in order.profile_ids if one != profile.profile_id]


@CHAPTER.on(auth.AuthProfileRemoteRevocationFinished)
def _given_back(state: State, recorded: Recorded, body: auth.AuthProfileRemoteRevocationFinished) -> None:
    profile = _profile(state, recorded)
    if profile is not None:
        profile.status = "revoked"


@CHAPTER.on(auth.AuthProfileDisabled)
def _disabled(state: State, recorded: Recorded, body: auth.AuthProfileDisabled) -> None:
    profile = _profile(state, recorded)
    if profile is not None and profile.status == "active":
        profile.status = "disabled"


@CHAPTER.on(auth.AuthProfileEnabled)
def _enabled(state: State, recorded: Recorded, body: auth.AuthProfileEnabled) -> None:
    profile = _profile(state, recorded)
    if profile is not None and profile.status == "disabled":
        profile.status = "active"


@CHAPTER.on(auth.AuthProfileDefaultSet)
def _default_set(state: State, recorded: Recorded, body: auth.AuthProfileDefaultSet) -> None:
    profile = _profile(state, recorded)
    if profile is None:
        return
    order = order_in_force(state, profile.provider, profile.agent_id)
    others = [one for one in order.profile_ids if one != profile.profile_id]
    order.profile_ids = [profile.profile_id, *others]
    state.auth.orders[f"{profile.agent_id}|{profile.provider}"] = order


@CHAPTER.on(auth.AuthProfileOrderSet)
def _order_set(state: State, recorded: Recorded, body: auth.AuthProfileOrderSet) -> None:
    order = ProfileOrder(strategy=body.strategy, profile_ids=list(body.profile_ids))
    state.auth.orders[f"{body.agent_id}|{body.provider}"] = order


@CHAPTER.on(auth.AuthProfileCooledDown)
def _cooled_down(state: State, recorded: Recorded, body: auth.AuthProfileCooledDown) -> None:
    _own(state, _credential(recorded)).cooldowns[f"{body.kind}|{body.model_id}"] = Cooldown(
        kind=body.kind,
        model_id=body.model_id,
        since_us=recorded.recorded_at_us,
        until_us=body.until_us,
        streak_count=body.streak_count,
    )


@CHAPTER.on(auth.AuthProfileCooldownCleared)
def _cooldown_cleared(state: State, recorded: Recorded, body: auth.AuthProfileCooldownCleared) -> None:
    standing = state.auth.standings.get(_credential(recorded))
    if standing is not None:
        standing.cooldowns = {}


@CHAPTER.on(auth.AuthProfileFailed)
def _failed(state: State, recorded: Recorded, body: auth.AuthProfileFailed) -> None:
    standing = _own(state, _credential(recorded))
    standing.failure = Failure(code=body.code, since_us=recorded.recorded_at_us, vault_revision=body.vault_revision)


@CHAPTER.on(config.ConfigAdopted)
def _configured(state: State, recorded: Recorded, body: config.ConfigAdopted) -> None:
    """What the configuration names may be another key now, so that nothing is known of it."""
    for credential_ref in state.auth.standings:
        if credential_ref.startswith(IMPLICIT):
            _void(state, credential_ref)


@CHAPTER.on(auth.AuthProfileRefreshStarted)
def _refresh_started(state: State, recorded: Recorded, body: auth.AuthProfileRefreshStarted) -> None:
    profile = _profile(state, recorded)
    if profile is not None and profile.refresh is not None:
        profile.refresh.state, profile.refresh.last_attempt_us = "in_flight", recorded.recorded_at_us


@CHAPTER.on(auth.AuthProfileRefreshed)
def _refreshed(state: State, recorded: Recorded, body: auth.AuthProfileRefreshed) -> None:
    profile = _profile(state, recorded)
    if profile is None:
        return
    profile.vault_revision, profile.key_fingerprint = body.vault_revision, body.key_fingerprint
    profile.issued_us, profile.expires_us = recorded.recorded_at_us, body.expires_us
    profile.refresh = Refresh(last_attempt_us=recorded.recorded_at_us, last_success_us=recorded.recorded_at_us)
    standing = state.auth.standings.get(profile.profile_id)
    if standing is not None:
        # A 401 that the new token gets as well tells something: since when there was one is kept, its pause is not.
        standing.failure = None
        for cooldown in standing.cooldowns.values():
            if cooldown.kind == "auth":
                cooldown.until_us = min(cooldown.until_us, recorded.recorded_at_us)


@CHAPTER.on(auth.AuthProfileRefreshFailed)
def _refresh_failed(state: State, recorded: Recorded, body: auth.AuthProfileRefreshFailed) -> None:
    profile = _profile(state, recorded)
    if profile is None or profile.refresh is None:
        return
    refresh = profile.refresh
    if body.error_code == "superseded":
        refresh.state = "idle" if refresh.state == "in_flight" else refresh.state
        return
    refresh.state = "terminal" if body.terminal else "backing_off"
    refresh.rejected_count = refresh.rejected_count + 1 if body.error_code == "rejected" else 0
    refresh.streak_count, refresh.last_error_code = body.streak_count, body.error_code
    refresh.last_attempt_us = recorded.recorded_at_us
    refresh.next_allowed_us = body.next_allowed_us or 0


@CHAPTER.on(attempts.AttemptStarted)
def _used(state: State, recorded: Recorded, body: attempts.AttemptStarted) -> None:
    if body.credential_ref:
        standing = _own(state, body.credential_ref)
        standing.used_position, standing.used_us = recorded.position, recorded.recorded_at_us


@CHAPTER.of_run(attempts.AttemptSucceeded)
def _succeeded(state: State, recorded: Recorded, body: attempts.AttemptSucceeded, run: Run) -> None:
    """A credential that is served begins anew: its pauses for this model, and those for all, are over."""
    if run.attempt is None:
        return
    attempt = run.attempt
    standing = state.auth.standings.get(attempt.credential_ref)
    if standing is None or not standing.cooldowns:
        return
    if attempt.credential_revision == live_revision(state, attempt.credential_ref):
        standing.cooldowns = {
            key: cooldown
            for key, cooldown in standing.cooldowns.items()
            if cooldown.model_id not in ("", attempt.model_id)
        }


@CHAPTER.on(daemon.DaemonClockStepped)
def _clock_stepped(state: State, recorded: Recorded, body: daemon.DaemonClockStepped) -> None:
    """What lasts a while lasts as long, whatever the clock says now."""
    if body.cause != "step":
        return
    for standing in state.auth.standings.values():
        for cooldown in standing.cooldowns.values():
            cooldown.since_us += body.step_us
            cooldown.until_us += body.step_us
        if standing.failure is not None:
            standing.failure.since_us += body.step_us
            standing.failure.checked_us += body.step_us if standing.failure.checked_us else 0
    for profile in state.auth.profiles.values():
        if profile.expires_us is not None:
            profile.expires_us += body.step_us
            profile.issued_us += body.step_us
        if profile.revoked_us:
            profile.revoked_us += body.step_us
        if profile.refresh is not None and profile.refresh.next_allowed_us:
            profile.refresh.next_allowed_us += body.step_us
