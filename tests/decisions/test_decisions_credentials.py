"""Credentials: which are chosen, in which order, and what a failed call does to the one it was made with."""

from __future__ import annotations

from typing import Any

import pytest
from story import (
    T0_US,
    Step,
    World,
    admit,
    complete,
    fail,
    given,
    go_on,
    like,
    model,
    provider,
    record,
    registry,
    start,
    succeed,
    wait,
)

from palyra.decisions.credentials import USABLE, rank
from palyra.decisions.routing import ready_at
from palyra.events.attempts import AttemptFailed, AttemptStarted
from palyra.events.auth import (
    AuthProfileConnected,
    AuthProfileCooldownCleared,
    AuthProfileCooledDown,
    AuthProfileDefaultSet,
    AuthProfileDisabled,
    AuthProfileEnabled,
    AuthProfileFailed,
    AuthProfileOrderSet,
    AuthProfileRefreshed,
    AuthProfileRefreshFailed,
    AuthProfileRevoked,
    AuthProfileRotated,
    AuthProfileValidated,
    OAuthGrant,
)
from palyra.events.routing import CredentialVerdict, Exclusion, PlannedCredential, RoutingDecided, RoutingFailedOver
from palyra.events.runs import RunFailed, RunRefused
from palyra.projections.auth import cooldowns_of, standing_of
from palyra.units import US_PER_S

GRANT = OAuthGrant(token_url="https://a.example/token", client_id="c", can_refresh=True)


def keyed(name: str = "a", **changes: Any) -> Any:
    """Return a provider that is asked with a key of its profiles."""
    return provider(name, **{"auth_scheme": "bearer", "auth_provider_kind": name, **changes})


def connect(profile_id: str, at: str = "a", **changes: Any) -> Step:
    """Connect a profile; each a second after the one before."""
    fields = {"provider": at, "profile_name": profile_id, "audience": f"https://{at}.example:443"}
    connected = AuthProfileConnected(**{**fields, "vault_revision": 1, **changes})

    def step(world: World) -> Any:
        world.now_us += US_PER_S
        return record(f"credential-{profile_id}", connected)(world)

    return step


ONE = registry(keyed(), model("gpt", "a"), model("mini", "a"))
OWN = registry(
    keyed(credential_ref="env:KEY"), provider("b"), model("gpt", "a"), model("gpt", "b"), model("mini", "a")
)


def order(world: World, **changes: Any) -> list[str]:
    """Return what a run could use, best first."""
    entry = world.state.catalog.registry.providers[0]
    ranked = rank(world.state, entry, "gpt", **{"now_us": world.now_us, **changes})
    return [one.credential_ref for one in ranked if one.verdict.name in USABLE]


def verdicts(world: World, **changes: Any) -> dict[str, str]:
    """Return the verdict of every credential in the order."""
    entry = world.state.catalog.registry.providers[0]
    ranked = rank(world.state, entry, "gpt", **{"now_us": world.now_us, **changes})
    return {one.credential_ref: one.verdict.name for one in ranked}


# -- selection


def test_profiles_go_by_age() -> None:
    """Without an order the oldest is first; those of other providers are not looked at."""
    world = given(ONE, connect("z"), connect("y"), connect("x", "other"))
    assert order(world) == ["z", "y"]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_candidate_is_tried_with_so_many_credentials(most: int) -> None:
    """The best of them, in their order."""
    config = registry(keyed(), model("gpt", "a"), max_profiles_per_candidate=most)
    world = given(config, *(connect(name) for name in "pqrs"), admit("r1"))
    (decided,) = world.facts(RoutingDecided)
    assert [one.credential_ref for one in decided.plan[0].credentials] == list("pqrs")[:most]


def test_a_run_without_agent_sees_those_of_all_only() -> None:
    """And no agent sees another's."""
    world = given(ONE, connect("all"), connect("mine", agent_id="me"), connect("yours", agent_id="you"))
    assert order(world) == ["all"]
    assert order(world, agent_id="me") == ["mine", "all"]


def test_a_profile_of_the_agent_hides_one_of_all_with_its_name() -> None:
    """Equal by name, whatever the case; others stay."""
    world = given(ONE, connect("all", profile_name="Work"), connect("more", profile_name="Home"))
    world.do(connect("mine", profile_name="WORK", agent_id="me"))
    assert order(world, agent_id="me") == ["mine", "more"]
    assert order(world) == ["all", "more"]


def test_the_stored_order_of_an_agent_goes_before_that_of_all() -> None:
    """What stands in neither is not used; what is gone is left out."""
    world = given(ONE, connect("a1"), connect("a2"), connect("m1", agent_id="me"))
    world.do(record("credentials", AuthProfileOrderSet(provider="a", profile_ids=["a2"])))
    assert (order(world), order(world, agent_id="me")) == (["a2"], ["a2"])
    world.do(record("credentials", AuthProfileOrderSet(provider="a", agent_id="me", profile_ids=["a1", "m1", "?"])))
    assert (order(world), order(world, agent_id="me")) == (["a2"], ["a1", "m1"])
    world.do(record("credential-a1", AuthProfileRevoked(remote="not_supported")))
    assert order(world, agent_id="me") == ["m1"]


def test_a_default_goes_first_and_what_is_connected_later_goes_last() -> None:
    """A default makes the order a stored one, to which new profiles are added where they are seen."""
    world = given(ONE, connect("p"), connect("q"), record("credential-q", AuthProfileDefaultSet()), connect("r"))
    assert order(world) == ["q", "p", "r"]
    world.do(connect("m", agent_id="me"))
    assert order(world) == ["q", "p", "r"]
    world.do(record("credential-m", AuthProfileDefaultSet()), connect("s"))
    assert order(world, agent_id="me") == ["m", "q", "p", "r", "s"]


def test_least_recently_used_goes_by_the_last_start() -> None:
    """One that was never used goes first, then in order."""
    lru = AuthProfileOrderSet(provider="a", strategy="least_recently_used", profile_ids=["p", "q", "r"])
    world = given(ONE, connect("p"), connect("q"), connect("r"), record("credentials", lru))
    assert order(world) == ["p", "q", "r"]
    world.do(admit("r1"), start("r1"))
    assert order(world) == ["q", "r", "p"]
    world.do(admit("r2"), start("r2"))
    assert order(world) == ["r", "p", "q"]


def test_what_an_entry_names_is_alone() -> None:
    """A key of its own, or one profile, which is judged like any other."""
    assert order(given(OWN, connect("p"))) == ["config:a"]
    named = registry(keyed(auth_profile_id="q"), model("gpt", "a"))
    world = given(named, connect("p"), connect("q"))
    assert order(world) == ["q"]
    assert verdicts(given(named, connect("p"))) == {"q": "missing"}
    assert verdicts(given(named, connect("q", agent_id="me"))) == {"q": "wrong_agent"}
    assert verdicts(given(named, connect("q", "b"))) == {"q": "wrong_provider"}


def test_a_secret_goes_to_its_own_origin_alone() -> None:
    """An entry that was moved to another address gets no profile that was validated at the first."""
    moved = registry(keyed(base_url="https://evil.example/v1"), model("gpt", "a"))
    world = given(moved, connect("p"))
    assert verdicts(world) == {"p": "audience_mismatch"}
    refusal = world.when(admit("r1")).refused("no_usable_credential")
    assert "p (audience_mismatch)" in refusal.message
    assert world.facts(AttemptStarted) == []


def test_verdicts_in_their_order() -> None:
    """The first rule that fits is the verdict."""
    world = given(ONE, connect("p", credential_kind="oauth2", oauth=GRANT, expires_us=T0_US + 60 * US_PER_S))
    cooled = AuthProfileCooledDown(kind="quota", until_us=world.now_us + 100 * US_PER_S, streak_count=1)
    assert verdicts(world) == {"p": "eligible"}
    world.do(wait(ms=60_000))
    assert verdicts(world) == {"p": "refresh_first"}
    world.do(record("credential-p", cooled))
    assert verdicts(world) == {"p": "cooling_down"}
    terminal = AuthProfileRefreshFailed(error_code="invalid_grant", streak_count=1, terminal=True)
    world.do(record("credential-p", terminal))
    assert verdicts(world) == {"p": "expired_no_refresh"}
    assert verdicts(world, absent=["p"]) == {"p": "missing"}
    world.do(record("credential-p", AuthProfileFailed(code="reauth_required", vault_revision=1)))
    assert verdicts(world, absent=["p"]) == {"p": "failed"}
    world.do(record("credential-p", AuthProfileDisabled()))
    assert verdicts(world) == {"p": "disabled"}
    world.do(record("credential-p", AuthProfileEnabled()))
    assert verdicts(world) == {"p": "failed"}
    world.do(record("credential-p", AuthProfileRevoked(remote="pending")))
    assert verdicts(world) == {}
    named = registry(keyed(auth_profile_id="p"), model("gpt", "a"))
    world = given(named, connect("p"), record("credential-p", AuthProfileRevoked(remote="pending")))
    assert verdicts(world) == {"p": "failed"}


def test_a_token_of_unknown_end_is_used() -> None:
    """Nobody says when it ends, so nobody waits for it."""
    world = given(ONE, connect("p", credential_kind="oauth2", oauth=GRANT), wait(ms=10**9))
    assert verdicts(world) == {"p": "eligible"}


# -- the plan


def test_the_plan_pins_what_may_be_used_and_tells_why_the_others_may_not() -> None:
    """Three credentials at most, with their revisions."""
    rested = [connect("p1"), record("credential-p1", AuthProfileDisabled())]
    world = given(ONE, *rested, connect("p2"), connect("p3"), connect("p4"), connect("p5"))
    world.do(record("credential-p2", AuthProfileRotated(vault_revision=2)))
    (decided,) = [fact for fact in world.when(admit("r1")).outcome.facts if isinstance(fact, RoutingDecided)]
    assert decided.plan[0].credentials == [
        PlannedCredential(credential_ref="p2", revision=2),
        PlannedCredential(credential_ref="p3", revision=1),
        PlannedCredential(credential_ref="p4", revision=1),
    ]
    assert decided.verdicts == [
        CredentialVerdict(provider_id="a", model_id="gpt", credential_ref="p1", verdict="disabled")
    ]


def test_a_provider_without_key_needs_none() -> None:
    """Its steps name no credential."""
    world = given(registry(provider("a"), model("gpt", "a")), admit("r1"))
    assert world.run("r1").plan[0].credentials == []


def test_a_candidate_without_credential_is_left_out() -> None:
    """Another provider serves the run; the verdict says why the first may not."""
    world = given(OWN)
    decided = world.when(admit("r1", absent=["config:a"])).outcome.facts[1]
    assert isinstance(decided, RoutingDecided)
    assert [step.provider_id for step in decided.plan] == ["b"]
    assert decided.excluded == [Exclusion(provider_id="a", model_id="gpt", excluded_by="no_credential")]
    assert [one.verdict for one in decided.verdicts] == ["missing"]


def test_nobody_can_be_asked() -> None:
    """None is connected: 503, and the way out is in the message."""
    refusal = given(ONE).when(admit("r1")).refused("no_usable_credential")
    assert "none is connected" in refusal.message
    assert "palyra auth connect" in refusal.message
    assert refusal.retry_after_ms is None


def test_all_credentials_cool() -> None:
    """429 with the time until the first of them may be used, where time alone is missing."""
    world = given(ONE, connect("p"), connect("q"), connect("r"))
    for name, seconds in (("p", 90), ("q", 30), ("r", 60)):
        until_us = world.now_us + seconds * US_PER_S
        world.do(
            record(f"credential-{name}", AuthProfileCooledDown(kind="quota", until_us=until_us, streak_count=1))
        )
    then = world.when(admit("r1"))
    assert then.refused("all_credentials_cooling").retry_after_ms == 30_000
    then.then(
        like(RoutingDecided, plan=[]), like(RunRefused, code="all_credentials_cooling", retry_after_ms=30_000)
    )
    world.do(wait(ms=30_000))
    assert order(world) == ["q"]


def test_one_that_cools_and_one_that_is_missing_wait_for_the_first() -> None:
    """The one that will be back decides; a candidate that has none at all is no matter of time."""
    world = given(ONE, connect("p"), connect("q"), record("credential-q", AuthProfileDisabled()))
    until_us = world.now_us + 30 * US_PER_S
    world.do(record("credential-p", AuthProfileCooledDown(kind="quota", until_us=until_us, streak_count=1)))
    world.when(admit("r1")).refused("all_credentials_cooling")
    both = registry(keyed(), keyed("b"), model("gpt", "a"), model("gpt", "b"))
    world = given(both, connect("p"))
    until_us = world.now_us + 30 * US_PER_S
    world.do(record("credential-p", AuthProfileCooledDown(kind="quota", until_us=until_us, streak_count=1)))
    world.when(admit("r1")).refused("no_usable_credential")


# -- what a failure does


def test_a_second_profile_is_tried_before_the_next_candidate() -> None:
    """429 on the first: the second of the same provider and model, and only then the next candidate."""
    both = registry(keyed(), provider("b"), model("gpt", "a"), model("gpt", "b"), model("mini", "a"))
    world = given(both, connect("p"), connect("q"), admit("r1"), start("r1"))
    outcome = world.when(fail("r1", "rate_limited", status=429, retry_after_ms=7_000)).then(
        like(AttemptFailed, failure_class="rate_limited", next_credential_ref="q", wait_ms=None),
        AuthProfileCooledDown(
            kind="rate_limit", model_id="gpt", until_us=world.now_us + 7 * US_PER_S, streak_count=1
        ),
    )
    assert outcome.outcome.credential_ref == "q"
    assert world.run("r1").failed == []
    world.do(start("r1", credential="q"))
    assert world.facts(AttemptStarted)[-1].credential_ref == "q"
    world.do(fail("r1", "rate_limited", retry_after_ms=7_000))
    assert world.run("r1").failed == ["a/gpt"]
    world.when(go_on("r1", "rate_limited")).then(like(RoutingFailedOver, provider_id="b"))
    # Each of the two is left alone by that model, and by no other.
    assert order(world) == []
    assert given_plan(world, "mini") == ["p", "q"]


def given_plan(world: World, model_name: str) -> list[str]:
    """Return the credentials of a new run for a model."""
    world.do(admit(f"of-{model_name}", model_name))
    return [one.credential_ref for one in world.run(f"of-{model_name}").plan[0].credentials]


def test_the_last_credential_is_tried_again_after_its_wait() -> None:
    """A run that has waited is not stopped by the pause that it caused; another run is."""
    world = given(OWN, admit("r1", failover=False), start("r1"))
    outcome = world.when(fail("r1", "rate_limited")).outcome
    assert outcome.wait_ms is not None
    step = world.run("r1").plan[0]
    world.do(wait(ms=outcome.wait_ms))
    asked: dict[str, Any] = {"wanted": "config:a", "now_us": world.now_us}
    assert ready_at(world.state, step, has_waited=True, **asked) == PlannedCredential(credential_ref="config:a")
    refused = ready_at(world.state, step, **asked)
    assert isinstance(refused, Exclusion)
    assert refused.excluded_by == "no_credential"
    assert refused.figures["until_us"] > world.now_us


@pytest.mark.parametrize(
    ("failure_class", "code", "expected"),
    [
        ("rate_limited", "", AuthProfileCooledDown(kind="rate_limit", model_id="gpt", until_us=5, streak_count=1)),
        ("quota_exceeded", "", AuthProfileCooledDown(kind="quota", until_us=1_800, streak_count=1)),
        ("auth_invalid", "", AuthProfileCooledDown(kind="auth", until_us=60, streak_count=1)),
        ("auth_invalid", "invalid_api_key", AuthProfileFailed(code="key_rejected", vault_revision=1)),
        ("auth_invalid", "account_deactivated", AuthProfileFailed(code="account_disabled", vault_revision=1)),
        ("permission_denied", "", None),
        ("overloaded", "", None),
        ("timeout_connect", "", None),
    ],
)
def test_what_an_answer_does_to_its_credential(failure_class: str, code: str, expected: Any) -> None:
    """Rows of the table; 403 and what is the provider's fault do nothing."""
    world = given(ONE, connect("p"), admit("r1"), start("r1"))
    facts = world.when(fail("r1", failure_class, code=code, jitter_bp=5_000)).outcome.facts
    found = [fact for fact in facts if isinstance(fact, AuthProfileCooledDown | AuthProfileFailed)]
    if isinstance(expected, AuthProfileCooledDown):
        (cooled,) = found
        assert isinstance(cooled, AuthProfileCooledDown)
        assert (cooled.kind, cooled.model_id, cooled.streak_count) == (expected.kind, expected.model_id, 1)
        assert cooled.until_us == world.now_us + expected.until_us * US_PER_S
    else:
        assert found == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("failure_class", "seconds"),
    [
        ("rate_limited", [5, 10, 20, 40, 80, 160, 300, 300]),
        ("quota_exceeded", [1_800, 3_600, 7_200, 14_400, 21_600, 21_600]),
    ],
)
def test_pauses_double_up_to_their_cap(failure_class: str, seconds: list[int]) -> None:
    """Each failure right after a pause makes the next one twice as long."""
    world = given(ONE, connect("p"))
    for number, length_s in enumerate(seconds):
        run_id = f"r{number}"
        world.do(admit(run_id), start(run_id), fail(run_id, failure_class, jitter_bp=5_000, may_retry=False))
        (cooldown,) = cooldowns_of(world.state, "p", world.now_us)
        assert cooldown.until_us - world.now_us == length_s * US_PER_S
        assert cooldown.streak_count == number + 1
        world.do(wait(ms=length_s * 1_000))


def test_quiet_for_twice_the_last_pause_starts_anew() -> None:
    """As does a success with the credential."""
    world = given(ONE, connect("p"))
    world.do(admit("r1"), start("r1"), fail("r1", "quota_exceeded", may_retry=False), wait(ms=3_600_000))
    world.do(admit("r2"), start("r2"), fail("r2", "quota_exceeded", may_retry=False))
    assert cooldowns_of(world.state, "p", world.now_us)[0].streak_count == 1
    world.do(wait(ms=1_800_000), admit("r3"), start("r3"), succeed("r3"), complete("r3"))
    assert standing_of(world.state, "p").cooldowns == {}
    world.do(admit("r4"), start("r4"), fail("r4", "quota_exceeded", may_retry=False))
    assert cooldowns_of(world.state, "p", world.now_us)[0].streak_count == 1


def test_calls_that_were_under_way_together_count_as_one() -> None:
    """Ten refusals at once are one pause; only a longer Retry-After makes it longer."""
    world = given(ONE, connect("p"))
    for number in range(4):
        world.do(admit(f"r{number}"), start(f"r{number}"))
    world.do(wait(ms=10))
    for number in range(2):
        world.do(fail(f"r{number}", "rate_limited", may_retry=False))
    assert len(world.facts(AuthProfileCooledDown)) == 1
    world.do(fail("r2", "rate_limited", retry_after_ms=60_000, may_retry=False))
    assert world.facts(AuthProfileCooledDown)[-1] == AuthProfileCooledDown(
        kind="rate_limit", model_id="gpt", until_us=world.now_us + 60 * US_PER_S, streak_count=1
    )
    world.do(fail("r3", "auth_invalid", may_retry=False))
    assert world.facts(AuthProfileFailed) == []


def test_retry_after_is_kept_up_to_an_hour_and_zero_is_no_pause() -> None:
    """What the provider says goes before our own figures."""
    world = given(ONE, connect("p"), admit("r1"), start("r1"))
    world.do(fail("r1", "rate_limited", retry_after_ms=0, may_retry=False))
    assert world.facts(AuthProfileCooledDown) == []
    world.do(admit("r2"), start("r2"), fail("r2", "rate_limited", retry_after_ms=10**9, may_retry=False))
    assert world.facts(AuthProfileCooledDown)[0].until_us == world.now_us + 3_600 * US_PER_S


@pytest.mark.parametrize(("kind", "code"), [("api_key", "key_rejected"), ("oauth2", "reauth_required")])
@pytest.mark.parametrize(("after_ms", "fails"), [(60_000, True), (599_999, True), (600_000, False)])
def test_a_second_401_is_no_accident(kind: str, code: str, after_ms: int, fails: bool) -> None:
    """Within ten minutes of the first the credential has failed; later it is a first one again."""
    world = given(ONE, connect("p", credential_kind=kind, oauth=GRANT if kind == "oauth2" else None))
    world.do(admit("r1"), start("r1"), fail("r1", "auth_invalid", code="invalid_api_key" if fails else ""))
    if kind == "api_key" and fails:
        assert world.facts(AuthProfileFailed)[0].code == "key_rejected"
        return
    world.do(wait(ms=after_ms), admit("r2"), start("r2"), fail("r2", "auth_invalid"))
    assert [fact.code for fact in world.facts(AuthProfileFailed)] == ([code] if fails else [])


def test_a_401_on_a_token_that_can_be_renewed_stays_with_it() -> None:
    """Once: the next attempt is for the same credential with a new token. A key has no such way."""
    world = given(ONE, connect("p", credential_kind="oauth2", oauth=GRANT), admit("r1"), start("r1"))
    world.do(fail("r1", "auth_invalid"))
    assert [fact.next_credential_ref for fact in world.facts(AttemptFailed)] == ["p"]
    world.do(record("credential-p", AuthProfileRefreshed(vault_revision=2)), start("r1"))
    world.do(fail("r1", "auth_invalid", may_retry=False))
    world.do(admit("r2"))
    over = given(ONE, connect("p", credential_kind="oauth2", oauth=GRANT), admit("r1"), start("r1"))
    over.do(record("credential-p", AuthProfileDisabled()), fail("r1", "auth_invalid"))
    keyed = given(ONE, connect("p"), admit("r1"), start("r1"), fail("r1", "auth_invalid"))
    for other in (over, keyed):
        assert other.facts(AttemptFailed)[-1].next_credential_ref == ""


def test_an_expired_token_whose_renewal_waits_is_not_used() -> None:
    """Until it may be asked for again."""
    world = given(ONE, connect("p", credential_kind="oauth2", oauth=GRANT, expires_us=T0_US + 60 * US_PER_S))
    until_us = world.now_us + 90 * US_PER_S
    failed = AuthProfileRefreshFailed(error_code="unavailable", streak_count=1, next_allowed_us=until_us)
    world.do(record("credential-p", failed), wait(ms=50_000))
    assert verdicts(world) == {"p": "eligible"}
    world.do(wait(ms=10_000))
    assert verdicts(world) == {"p": "expired_no_refresh"}
    world.do(wait(ms=30_000))
    assert verdicts(world) == {"p": "refresh_first"}


def test_a_new_token_that_gets_a_401_too_has_failed() -> None:
    """A refresh ends the pause of the first 401 and does not make it forgotten."""
    world = given(ONE, connect("p", credential_kind="oauth2", oauth=GRANT))
    world.do(admit("r1"), start("r1"), fail("r1", "auth_invalid"), wait(ms=100))
    world.do(record("credential-p", AuthProfileRefreshed(vault_revision=2)))
    assert order(world) == ["p"]
    world.do(admit("r2"), start("r2"), fail("r2", "auth_invalid"))
    assert world.facts(AuthProfileFailed) == [AuthProfileFailed(code="reauth_required", vault_revision=2)]


def test_a_failure_of_an_older_revision_changes_nothing() -> None:
    """The attempt was under way when the key was rotated; neither does its success end a pause of the new one."""
    world = given(ONE, connect("p"), admit("r1"), start("r1"), admit("r2"), start("r2"))
    world.do(record("credential-p", AuthProfileRotated(vault_revision=2)))
    world.do(fail("r1", "auth_invalid", code="invalid_api_key", may_retry=False))
    assert world.facts(AuthProfileFailed) == []
    world.do(admit("r3"), start("r3"), fail("r3", "quota_exceeded", may_retry=False))
    world.do(succeed("r2"))
    assert len(cooldowns_of(world.state, "p", world.now_us)) == 1


def test_rotation_voids_failure_and_pauses_and_so_does_a_good_validation() -> None:
    """A validation says nothing about quotas."""
    world = given(ONE, connect("p"), admit("r1"), start("r1"))
    world.do(fail("r1", "auth_invalid", code="invalid_api_key"))
    assert order(world) == []
    world.do(record("credential-p", AuthProfileValidated(vault_revision=0)))
    assert order(world) == []
    world.do(record("credential-p", AuthProfileValidated(vault_revision=1)))
    assert order(world) == ["p"]
    world.do(admit("r2"), start("r2"), fail("r2", "quota_exceeded", may_retry=False))
    world.do(record("credential-p", AuthProfileValidated(vault_revision=1)))
    assert order(world) == []
    world.do(record("credential-p", AuthProfileRotated(vault_revision=2)))
    assert order(world) == ["p"]


def test_clearing_ends_pauses_and_no_failure() -> None:
    """Whoever knows better than the clock may say so."""
    world = given(ONE, connect("p"), admit("r1"), start("r1"), fail("r1", "quota_exceeded", may_retry=False))
    world.do(record("credential-p", AuthProfileCooldownCleared()))
    assert order(world) == ["p"]
    world.do(record("credential-p", AuthProfileFailed(code="key_rejected", vault_revision=1)))
    world.do(record("credential-p", AuthProfileCooldownCleared()))
    assert verdicts(world) == {"p": "failed"}


def test_a_failed_credential_fails_once() -> None:
    """What comes in after it writes nothing more."""
    world = given(ONE, connect("p"), admit("r1"), start("r1"), admit("r2"), start("r2"))
    world.do(fail("r1", "auth_invalid", code="invalid_api_key"), fail("r2", "auth_invalid", code="invalid_api_key"))
    assert len(world.facts(AuthProfileFailed)) == 1


# -- the next credential


def test_no_other_credential_after_content_or_for_faults_of_the_provider() -> None:
    """Content cannot be taken back; and another key does not mend a server."""
    world = given(ONE, connect("p"), connect("q"), admit("r1"), start("r1"))
    assert world.when(fail("r1", "rate_limited", phase="content")).outcome.credential_ref == ""
    world.do(wait(ms=10_000), admit("r2"), start("r2"))
    assert world.when(fail("r2", "overloaded")).outcome.credential_ref == ""
    world.do(admit("r3"), start("r3"), wait(ms=10**9))
    assert world.when(fail("r3", "quota_exceeded")).outcome.credential_ref == "", "its time is over"


def test_credentials_that_went_bad_meanwhile_are_passed_over() -> None:
    """The plan's order stays; what may not be used any more is skipped, and nothing comes after the last."""
    world = given(ONE, connect("p"), connect("q"), connect("r"), admit("r1"), start("r1"))
    world.do(record("credential-q", AuthProfileDisabled()))
    assert world.when(fail("r1", "quota_exceeded")).outcome.credential_ref == "r"
    world.do(start("r1", credential="r"), record("credential-q", AuthProfileEnabled()))
    assert world.when(fail("r1", "quota_exceeded")).outcome.credential_ref == ""
    world.when(go_on("r1", "quota_exceeded")).then(like(RunFailed, code="upstream_quota"))


def test_an_unknown_credential_has_no_next_one() -> None:
    """An attempt without one ends where it is."""
    world = given(registry(provider("a"), model("gpt", "a")), admit("r1"), start("r1"))
    outcome = world.when(fail("r1", "missing_credential")).outcome
    assert (outcome.credential_ref, outcome.wait_ms) == ("", None)


def test_a_failover_needs_a_credential_of_the_next_candidate() -> None:
    """One whose credentials all rest by then is skipped, and the reason is recorded."""
    both = registry(provider("a"), keyed("b"), model("gpt", "a"), model("gpt", "b"))
    world = given(both, connect("p", "b"), admit("r1"), start("r1"))
    world.do(record("credential-p", AuthProfileDisabled()), fail("r1", "tls_failed"))
    world.when(go_on("r1", "tls_failed")).then(like(RunFailed, code="tls_failed"))
    world = given(both, connect("p", "b"), admit("r1"), start("r1"), fail("r1", "tls_failed"))
    world.when(go_on("r1", "tls_failed")).then(like(RoutingFailedOver, provider_id="b"))
