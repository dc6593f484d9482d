"""The registry of auth profiles: what facts make of it, and how healthy a credential is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from facts import structs_of
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from story import T0_US, World, adopt, given, model, provider, record, registry

from palyra.decisions.credentials import USABLE, rank
from palyra.events import auth
from palyra.events.auth import (
    AuthProfileConnected,
    AuthProfileCooldownCleared,
    AuthProfileCooledDown,
    AuthProfileDefaultSet,
    AuthProfileDisabled,
    AuthProfileEnabled,
    AuthProfileFailed,
    AuthProfileRebound,
    AuthProfileRefreshed,
    AuthProfileRefreshFailed,
    AuthProfileRefreshStarted,
    AuthProfileRemoteRevocationFinished,
    AuthProfileRevoked,
    AuthProfileRotated,
    AuthProfileValidated,
    AuthProfileValidationFailed,
    OAuthGrant,
)
from palyra.events.base import Draft, Fact
from palyra.events.daemon import DaemonClockStepped
from palyra.projections.auth import AuthProfile, Presence, Refresh, cooldowns_of, failure_of, health_of, standing_of
from palyra.projections.state import encode_state
from palyra.units import US_PER_S

GRANT = OAuthGrant(token_url="https://a.example/token", client_id="c", can_refresh=True)
WINDOW_US = 900 * US_PER_S


def connected(**changes: Any) -> AuthProfileConnected:
    fields = {"provider": "a", "profile_name": "p", "audience": "https://a.example:443", "vault_revision": 1}
    return AuthProfileConnected(**{**fields, **changes})


def world_of(*facts: Fact, **changes: Any) -> World:
    """Return a world with one profile, and what befell it."""
    return given(None, record("credential-p", connected(**changes), *facts))


def profile_of(world: World) -> AuthProfile:
    return world.state.auth.profiles["p"]


def health(world: World, presence: Presence = "present", after_us: int = 0) -> str:
    return health_of(world.state, profile_of(world), presence, world.now_us + after_us, WINDOW_US)


def test_a_connected_profile() -> None:
    """What is known of it, and where its secret is."""
    world = world_of(agent_id="me", key_fingerprint="ab", models_count=7)
    profile = profile_of(world)
    assert (profile.profile_id, profile.status, profile.vault_revision) == ("p", "active", 1)
    assert profile.vault_ref == "agent:me/auth.p"
    assert (profile.created_us, profile.validated_us, profile.models_count) == (T0_US, T0_US, 7)
    assert profile.refresh is None
    assert profile_of(world_of()).vault_ref == "global/auth.p"


def test_health_of_a_key() -> None:
    """Static while it is there and active."""
    assert health(world_of()) == "static"
    for presence in ("missing", "locked", "damaged"):
        assert health(world_of(), presence) == "missing"
    assert health(world_of(AuthProfileDisabled())) == "failed"
    assert health(world_of(AuthProfileDisabled(), AuthProfileEnabled())) == "static"
    assert health(world_of(AuthProfileFailed(code="key_rejected", vault_revision=1)), "missing") == "failed"
    assert health(world_of(AuthProfileFailed(code="key_rejected"))) == "static", "of another revision"
    assert health(world_of(AuthProfileEnabled())) == "static"


@pytest.mark.parametrize(
    ("left_us", "expected"),
    [
        (None, "ok"),
        (WINDOW_US + 1, "ok"),
        (WINDOW_US, "expiring"),
        (1, "expiring"),
        (0, "expired"),
        (-1, "expired"),
    ],
)
def test_health_of_a_token(left_us: int | None, expected: str) -> None:
    """By the time that is left of it; a token of unknown end is fine."""
    expires_us = None if left_us is None else T0_US + left_us
    assert health(world_of(credential_kind="oauth2", oauth=GRANT, expires_us=expires_us)) == expected


def test_a_refresh_from_start_to_end() -> None:
    """In flight, then failed with a time for the next try, then done: another revision and another end."""
    world = world_of(credential_kind="oauth2", oauth=GRANT, expires_us=T0_US + 1)
    assert profile_of(world).refresh == Refresh()
    world.do(record("credential-p", AuthProfileRefreshStarted(vault_revision=1)))
    assert profile_of(world).refresh == Refresh(state="in_flight", last_attempt_us=T0_US)
    failed = AuthProfileRefreshFailed(error_code="provider_unavailable", streak_count=2, next_allowed_us=T0_US + 9)
    world.do(record("credential-p", failed))
    assert profile_of(world).refresh == Refresh(
        state="backing_off",
        streak_count=2,
        last_error_code="provider_unavailable",
        last_attempt_us=T0_US,
        next_allowed_us=T0_US + 9,
    )
    world.do(record("credential-p", AuthProfileFailed(code="reauth_required", vault_revision=1)))
    world.do(record("credential-p", AuthProfileRefreshed(vault_revision=2, expires_us=T0_US + 5 * WINDOW_US)))
    assert profile_of(world).refresh == Refresh(last_attempt_us=T0_US, last_success_us=T0_US)
    assert (profile_of(world).vault_revision, health(world)) == (2, "ok")


def test_a_refresh_ends_the_pause_of_a_401_alone() -> None:
    """A quota is not refilled by it."""
    until_us = T0_US + 9
    world = world_of(
        AuthProfileCooledDown(kind="quota", until_us=until_us, streak_count=1),
        AuthProfileCooledDown(kind="auth", until_us=until_us, streak_count=1),
        credential_kind="oauth2",
        oauth=GRANT,
    )
    world.do(record("credential-p", AuthProfileRefreshed(vault_revision=2)))
    assert [one.kind for one in cooldowns_of(world.state, "p", T0_US)] == ["quota"]
    nobody = world_of(credential_kind="oauth2", oauth=GRANT)
    nobody.do(record("credential-p", AuthProfileRefreshed(vault_revision=2)))
    assert "p" not in nobody.state.auth.standings


def test_another_configuration_may_name_another_key() -> None:
    """What is known of those that it names is void; of profiles it is not."""
    world = world_of(AuthProfileFailed(code="key_rejected", vault_revision=1))
    world.do(record("credential-config:a", AuthProfileFailed(code="key_rejected")))
    world.do(adopt(registry(ENTRY, model("gpt", "a"))))
    assert failure_of(world.state, "config:a") is None
    assert failure_of(world.state, "p") is not None


def test_a_key_has_nothing_to_refresh() -> None:
    """Such facts about it change nothing but the time it was touched."""
    world = world_of(AuthProfileRefreshStarted(vault_revision=1), AuthProfileRefreshFailed(error_code="x"))
    assert profile_of(world).refresh is None


def test_a_rotation_begins_anew() -> None:
    """Another secret, of perhaps another kind of grant; a rebinding changes the origin alone."""
    world = world_of(AuthProfileFailed(code="key_rejected", vault_revision=1))
    world.do(record("credential-p", AuthProfileRotated(vault_revision=2, key_fingerprint="cd", oauth=GRANT)))
    profile = profile_of(world)
    assert (profile.vault_revision, profile.key_fingerprint, profile.refresh) == (2, "cd", Refresh())
    assert standing_of(world.state, "p").failure is None
    world.do(
        record(
            "credential-p",
            AuthProfileRotated(vault_revision=3),
            AuthProfileRebound(audience="https://b:1", vault_revision=4),
        )
    )
    assert (profile.audience, profile.refresh) == ("https://b:1", None)


def test_revocation() -> None:
    """Gone at once; what is asked of the provider goes on for a while."""
    world = world_of(AuthProfileFailed(code="key_rejected", vault_revision=1), AuthProfileRevoked(remote="pending"))
    assert (profile_of(world).status, "p" in world.state.auth.standings) == ("revoking", False)
    world.do(record("credential-p", AuthProfileRemoteRevocationFinished(outcome="confirmed")))
    assert (profile_of(world).status, health(world)) == ("revoked", "failed")
    world.do(record("credential-p", AuthProfileEnabled(), AuthProfileDisabled()))
    assert profile_of(world).status == "revoked"
    assert profile_of(world_of(AuthProfileRevoked(remote="not_supported"))).status == "revoked"


def test_looks_at_a_failed_credential_are_counted() -> None:
    """So that the next one comes later; a good one makes the failure forgotten."""
    world = world_of(AuthProfileFailed(code="key_rejected", vault_revision=1))
    unsure = AuthProfileValidationFailed(provider="a", failure_code="provider_unavailable", vault_revision=1)
    world.do(record("credential-p", unsure, unsure))
    failure = failure_of(world.state, "p")
    assert failure is not None
    assert (failure.checks_count, failure.checked_us) == (2, T0_US)
    world.do(record("credential-p", AuthProfileValidated(vault_revision=1), unsure))
    assert failure_of(world.state, "p") is None


def test_a_clock_that_was_set_changes_no_length() -> None:
    """Pauses, failures, tokens and waits move with it; a suspended machine's time has passed."""
    world = world_of(credential_kind="oauth2", oauth=GRANT, expires_us=T0_US + 100)
    world.do(
        record(
            "credential-p",
            AuthProfileCooledDown(kind="quota", until_us=T0_US + 50, streak_count=1),
            AuthProfileFailed(code="client_rejected", vault_revision=1),
            AuthProfileRefreshFailed(error_code="x", streak_count=1, next_allowed_us=T0_US + 70),
        ),
        record("credential-q", connected(profile_name="q")),
        record("credential-q", AuthProfileCooledDown(kind="quota", until_us=T0_US + 30, streak_count=1)),
        record("credential-r", connected(profile_name="r", credential_kind="oauth2", oauth=GRANT)),
    )

    def ends() -> list[Any]:
        profile, standing = profile_of(world), standing_of(world.state, "p")
        assert standing.failure is not None
        assert profile.refresh is not None
        (cooldown,) = standing.cooldowns.values()
        checked_us, since_us = standing.failure.checked_us, standing.failure.since_us
        return [
            cooldown.since_us,
            cooldown.until_us,
            since_us,
            checked_us,
            profile.expires_us,
            profile.refresh.next_allowed_us,
        ]

    stepped = DaemonClockStepped(cause="step", wall_before_us=0, wall_after_us=1_000, monotonic_elapsed_us=0)
    world.do(record("daemon", stepped))
    assert [one.until_us for one in standing_of(world.state, "q").cooldowns.values()] == [T0_US + 1_030]
    expected = [T0_US + 1_000, T0_US + 1_050, T0_US + 1_000, 0, T0_US + 1_100, T0_US + 1_070]
    assert ends() == expected
    world.do(record("credential-p", AuthProfileValidationFailed(provider="a", failure_code="x", vault_revision=1)))
    world.do(record("daemon", stepped))
    expected = [one + 1_000 for one in expected]
    expected[3] = T0_US + 1_000
    assert ends() == expected
    world.do(record("daemon", msgspec.structs.replace(stepped, cause="suspend")))
    assert ends() == expected


@pytest.mark.parametrize(
    "fact",
    [
        AuthProfileValidated(vault_revision=1),
        AuthProfileRotated(vault_revision=2),
        AuthProfileRebound(audience="x", vault_revision=2),
        AuthProfileRevoked(remote="pending"),
        AuthProfileRemoteRevocationFinished(outcome="gave_up"),
        AuthProfileDisabled(),
        AuthProfileEnabled(),
        AuthProfileDefaultSet(),
        AuthProfileCooldownCleared(),
        AuthProfileRefreshStarted(vault_revision=1),
        AuthProfileRefreshed(vault_revision=2),
        AuthProfileRefreshFailed(error_code="x"),
    ],
    ids=lambda fact: type(fact).__name__,
)
def test_what_is_said_of_an_unknown_profile_changes_nothing(fact: Fact) -> None:
    """The fold is total."""
    world = given(None)
    before = encode_state(world.state)
    world.do(record("credential-nobody", fact))
    assert world.state.auth == given(None).state.auth
    assert encode_state(world.state) != before


ENTRY = provider("a", auth_scheme="bearer", auth_provider_kind="a")
KINDS = [
    value
    for value in vars(auth).values()
    if isinstance(value, type) and issubclass(value, Fact) and value is not Fact
]
IDS = ["p", "q", "r", "config:a"]
FACTS = st.lists(
    st.tuples(st.sampled_from(IDS), st.one_of([structs_of(kind) for kind in KINDS]), st.integers(0, 10**9)),
    max_size=25,
)


@settings(max_examples=150)
@generated(FACTS, st.sampled_from(["", "a", "b"]), st.integers(0, 24))
def test_any_history_gives_one_registry_and_one_selection(
    history: list[tuple[str, Fact, int]], agent_id: str, snapshot_at: int
) -> None:
    """Live, replayed and out of a snapshot it is the same; whoever may be used is named once and may be seen."""
    world = given(registry(ENTRY, model("gpt", "a")))
    for credential_ref, fact, passed_us in history:
        world.now_us += passed_us
        fact = msgspec.structs.replace(fact, provider="a") if hasattr(fact, "provider") else fact
        world.record([Draft(f"credential-{credential_ref}", fact)])
    again = world.replayed(snapshot_at)
    assert encode_state(again) == encode_state(world.state)
    entry = msgspec.structs.replace(ENTRY, base_url="https://a/v1")
    ranked = rank(world.state, entry, "gpt", agent_id=agent_id, now_us=world.now_us)
    assert ranked == rank(again, entry, "gpt", agent_id=agent_id, now_us=world.now_us)
    refs = [one.credential_ref for one in ranked]
    assert len(dict.fromkeys(refs)) == len(refs)
    for one in ranked:
        profile = world.state.auth.profiles[one.credential_ref]
        assert profile.agent_id in ("", agent_id)
        assert one.verdict.name not in USABLE or profile.status == "active"
        for presence in ("present", "missing"):
            health_of(world.state, profile, presence, world.now_us, WINDOW_US)
