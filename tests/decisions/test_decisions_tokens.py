"""Tokens, decided: when one is renewed, and what an endpoint's answer means."""

from __future__ import annotations

from typing import Any

import pytest
from story import World, given, record

from palyra.decisions.incidents import report, resolve
from palyra.decisions.tokens import (
    TokenRefusal,
    after_refusal,
    due_refreshes,
    is_given_up,
    is_needed_now,
    logins_needed,
    refresh_due_us,
    refuse_refresh,
    to_give_back,
    wait_us,
    was_superseded,
)
from palyra.events.auth import (
    AuthProfileConnected,
    AuthProfileDisabled,
    AuthProfileFailed,
    AuthProfileRefreshFailed,
    AuthProfileRefreshStarted,
    AuthProfileRevoked,
    CredentialKind,
    OAuthGrant,
)
from palyra.events.base import Fact
from palyra.events.daemon import DaemonClockStepped
from palyra.events.vault import VaultSecretStored
from palyra.projections.auth import AuthProfile
from palyra.units import US_PER_S

GRANT = OAuthGrant(token_url="https://a.example/token", client_id="c", can_refresh=True)


def stepped(step_us: int, cause: Any = "step") -> DaemonClockStepped:
    return DaemonClockStepped(cause=cause, wall_before_us=0, wall_after_us=step_us, monotonic_elapsed_us=0)


def world_of(
    *facts: Fact, life_s: int | None = 3_600, oauth: OAuthGrant | None = GRANT, kind: CredentialKind = "oauth2"
) -> World:
    now_us = given(None).now_us
    connected = AuthProfileConnected(
        provider="openai", profile_name="p", credential_kind=kind, audience="https://a.example:443",
        vault_revision=1, expires_us=None if life_s is None else now_us + life_s * US_PER_S, oauth=oauth,
    )  # fmt: skip
    stored = VaultSecretStored(
        ref="global/auth.p", revision=1, kind="credential_set", key_fingerprint="", value_bytes=1, reason="connect"
    )
    return given(None, record("vault", stored), record("credential-p", connected, *facts))


def profile_of(world: World) -> AuthProfile:
    profile: AuthProfile = world.state.auth.profiles["p"]
    return profile


def due_s(world: World) -> float | None:
    due_us = refresh_due_us(profile_of(world))
    return None if due_us is None else (due_us - world.now_us) / US_PER_S


@pytest.mark.parametrize(("life_s", "lead_s"), [(3_600, 360), (600, 60), (100_000, 600)])
def test_when_a_token_is_renewed(life_s: int, lead_s: int) -> None:
    """A tenth of its life before its end, 1 to 10 minutes, and up to half a minute before that."""
    due = due_s(world_of(life_s=life_s))
    assert due is not None
    assert life_s - lead_s - 30 <= due <= life_s - lead_s


def test_a_short_token_is_not_renewed_as_soon_as_it_is_there() -> None:
    """It lives for half of its time at least."""
    assert due_s(world_of(life_s=60)) == 30


def test_what_is_not_renewed() -> None:
    """Without a refresh token, without an end, at rest, or given up."""
    assert due_s(world_of(oauth=None)) is None
    assert due_s(world_of(life_s=None)) is None
    assert due_s(world_of(AuthProfileDisabled())) is None
    assert due_s(world_of(AuthProfileRefreshFailed(error_code="invalid_grant", terminal=True))) is None


def test_who_is_due() -> None:
    """Not where somebody is at it, where the secret is not there, or where it has failed."""
    world = world_of()
    assert [name for _, name in due_refreshes(world.state)] == ["p"]
    assert due_refreshes(world.state, ["p"]) == []
    assert due_refreshes(world_of(AuthProfileFailed(code="reauth_required", vault_revision=1)).state) == []
    del world.state.vault.secrets["global/auth.p"]
    assert due_refreshes(world.state) == []
    assert due_s(world_of(AuthProfileRefreshStarted(vault_revision=1))) == -given(None).now_us / US_PER_S


def test_when_a_request_waits() -> None:
    """Half a minute before the end, where a new token can be had."""
    world = world_of(life_s=100)
    late_us = world.now_us + 70 * US_PER_S
    assert is_needed_now(profile_of(world), late_us)
    assert not is_needed_now(profile_of(world), late_us - 1)
    assert not is_needed_now(None, late_us)
    assert not is_needed_now(profile_of(world_of(life_s=None)), late_us)
    assert not is_needed_now(profile_of(world_of(oauth=None, life_s=10)), late_us)
    for next_allowed_us, is_needed in ((late_us, True), (late_us + 1, False)):
        failed = AuthProfileRefreshFailed(error_code="unavailable", streak_count=1, next_allowed_us=next_allowed_us)
        assert is_needed_now(profile_of(world_of(failed, life_s=100)), late_us) is is_needed


def test_what_a_person_is_told() -> None:
    """The command that helps is named."""
    assert refuse_refresh(world_of().state, profile_of(world_of())) is None
    for world, code in (
        (world_of(oauth=None), "not_refreshable"),
        (world_of(oauth=None, kind="api_key"), "not_refreshable"),
        (world_of(AuthProfileDisabled()), "not_refreshable"),
        (world_of(AuthProfileFailed(code="reauth_required", vault_revision=1)), "reauth_required"),
    ):
        refusal = refuse_refresh(world.state, profile_of(world))
        assert refusal is not None
        assert refusal.code == code
        is_key = profile_of(world).credential_kind == "api_key"
        assert ("holds a key" in refusal.message) == is_key


def after(world: World, refusal: TokenRefusal) -> list[Any]:
    return after_refusal(profile_of(world), refusal, world.now_us, 5_000)


@pytest.mark.parametrize(
    ("refusal", "error_code", "failure"),
    [
        (TokenRefusal(400, "invalid_grant"), "invalid_grant", "reauth_required"),
        (TokenRefusal(401, "invalid_grant"), "invalid_grant", "reauth_required"),
        (TokenRefusal(401, "invalid_client"), "invalid_client", "client_rejected"),
        (TokenRefusal(400, "invalid_scope"), "invalid_scope", "client_rejected"),
        (TokenRefusal(403), "rejected", "client_rejected"),
        (TokenRefusal(400, "invalid_request"), "rejected", None),
        (TokenRefusal(429), "unavailable", None),
        (TokenRefusal(408), "unavailable", None),
        (TokenRefusal(500, "invalid_grant"), "unavailable", None),
        (TokenRefusal(200), "unavailable", None),
        (TokenRefusal(), "unavailable", None),
    ],
)
def test_what_an_answer_means(refusal: TokenRefusal, error_code: str, failure: str | None) -> None:
    """A grant or a client that is over ends it; anything else is waited for."""
    world = world_of()
    told = after(world, refusal)
    assert told[0].error_code == error_code
    assert told[0].terminal is (failure is not None)
    assert [one.code for one in told[1:]] == ([] if failure is None else [failure])
    if failure is None:
        assert told[0].next_allowed_us == world.now_us + 15 * US_PER_S


def test_the_fifth_refusal_of_an_unknown_kind_in_a_row() -> None:
    """It is believed."""
    rejected = AuthProfileRefreshFailed(error_code="rejected", streak_count=1)
    told = after(world_of(*[rejected] * 4), TokenRefusal(418))
    assert [type(one) for one in told] == [AuthProfileRefreshFailed, AuthProfileFailed]
    passing = AuthProfileRefreshFailed(error_code="unavailable", streak_count=1)
    assert len(after(world_of(rejected, rejected, passing, rejected, rejected), TokenRefusal(418))) == 1


def test_how_long_is_waited() -> None:
    """15 s doubling to 15 min, a fifth more or less, at least what was asked for and at most an hour of that."""
    assert [wait_us(number, None, 5_000) // US_PER_S for number in (1, 2, 3, 7, 50)] == [15, 30, 60, 900, 900]
    assert wait_us(1, None, 0) == 12 * US_PER_S
    assert wait_us(1, None, 10_000) == 18 * US_PER_S
    assert wait_us(1, 60_000, 5_000) == 60 * US_PER_S
    assert wait_us(1, 9_000_000, 5_000) == 3_600 * US_PER_S


def test_who_has_to_log_in() -> None:
    """A profile whose grant is over, until a person has been there; one that rests or was revoked needs nobody."""
    failed = AuthProfileFailed(code="reauth_required", vault_revision=1)
    world = world_of(failed)
    (stall,) = logins_needed(world.state)
    assert (stall.kind, stall.stage, stall.subject_id) == ("login_needed", "suspect", "p")
    world.record(report(world.state, stall, incident_id="1", now_us=world.now_us))
    assert logins_needed(world.state) == []
    world.do(record("credential-p", AuthProfileRevoked(remote="skipped")))
    (stall,) = logins_needed(world.state)
    assert stall.stage == "recovered"
    world.record(resolve(world.state, stall, now_us=world.now_us))
    assert logins_needed(world.state) == []
    assert logins_needed(world_of().state) == []
    assert logins_needed(world_of(AuthProfileFailed(code="account_disabled", vault_revision=1)).state) == []


def test_giving_back() -> None:
    """A revoked profile's tokens are owed for a day, whatever the clock is set to."""
    world = world_of(AuthProfileRevoked(remote="pending"))
    (profile,) = to_give_back(world.state)
    day_us = 24 * 3_600 * US_PER_S
    assert not is_given_up(profile, world.now_us + day_us - 1)
    assert is_given_up(profile, world.now_us + day_us)
    world.do(record("daemon", stepped(10)))
    assert not is_given_up(profile, profile.revoked_us + day_us - 1)
    assert to_give_back(world_of().state) == []


def test_what_takes_the_place_of_a_renewal() -> None:
    """Another revision, or no profile any more; its late end is no failure of what is there."""
    world = world_of(AuthProfileRefreshStarted(vault_revision=1))
    assert not was_superseded(world.state, "p", 1)
    assert was_superseded(world.state, "p", 2)
    assert was_superseded(world.state, "x", 1)
    world.do(record("credential-p", AuthProfileRefreshFailed(error_code="superseded")))
    refresh = profile_of(world).refresh
    assert refresh is not None
    assert (refresh.state, refresh.streak_count) == ("idle", 0)
    world.do(record("credential-p", AuthProfileRefreshFailed(error_code="superseded")))
    assert refresh.state == "idle"
    assert was_superseded(world_of(AuthProfileRevoked(remote="pending")).state, "p", 1)
