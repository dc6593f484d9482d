"""Health transitions are written when they happen, and only then."""

from __future__ import annotations

from registries import model, provider, registry
from story import T0_US, Outcome, Step, World, admit, adopt, break_down, fail, given, record, serve, start, wait

from palyra.decisions.health import health_with_credentials, transition
from palyra.events.auth import AuthProfileConnected, AuthProfileCooledDown, AuthProfileFailed
from palyra.events.base import Draft
from palyra.events.health import HealthChanged, ProbeCompleted
from palyra.events.vault import VaultSecretStored
from palyra.projections.auth import vault_ref
from palyra.units import US_PER_S

CONFIG = registry(
    provider("a", circuit_breaker_failure_threshold=2, max_retries=5),
    provider("fixed", kind="deterministic"),
    provider("off", enabled=False),
    model("gpt", "a"),
)


def look(provider_id: str = "a", reason: str = "success") -> Step:
    """Write down the provider's health if it is another than before."""

    def step(world: World) -> Outcome:
        drafts = transition(world.state, provider_id, reason=reason, now_us=world.now_us, correlation="run-r1")
        return Outcome(recorded=world.record(drafts))

    return step


def test_a_first_answer_makes_a_provider_healthy() -> None:
    """unknown -> healthy, once; the run that showed it is named."""
    world = given(CONFIG, serve("r1"))
    told = world.when(look())
    told.then(HealthChanged(before="unknown", after="healthy", reason="success"))
    assert told.outcome.recorded[0].correlation == "run-r1"
    world.do(serve("r2"))
    world.when(look()).then()


def test_failures_degrade_until_the_circuit_opens() -> None:
    """healthy -> degraded -> unavailable, each with the class of its failure."""
    world = given(CONFIG, serve("r0"), look(), admit("r1"), start("r1"), fail("r1"))
    world.when(look(reason="overloaded")).then(
        HealthChanged(before="healthy", after="degraded", reason="overloaded")
    )
    world.do(start("r1", retry=1), fail("r1", "timeout_idle"))
    world.when(look(reason="timeout_idle")).then(
        HealthChanged(before="degraded", after="unavailable", reason="timeout_idle")
    )


def test_a_blocked_address_makes_a_provider_unavailable_until_it_answers() -> None:
    """netguard_blocked -> unavailable; an answer -> healthy."""
    world = given(CONFIG, break_down("r1", "netguard_blocked"))
    world.when(look(reason="netguard_blocked")).then(
        HealthChanged(before="unknown", after="unavailable", reason="netguard_blocked")
    )
    world.do(serve("r2"))
    world.when(look()).then(HealthChanged(before="unavailable", after="healthy", reason="success"))


def test_old_evidence_is_none() -> None:
    """Half an hour after the last answer nothing is known any more."""
    world = given(CONFIG, serve("r1"), look(), wait(ms=30 * 60_000))
    world.when(look()).then()
    world.do(wait(ms=1))
    world.when(look()).then(HealthChanged(before="healthy", after="unknown", reason="success"))


def test_what_configuration_says_is_no_transition() -> None:
    """Deterministic, disabled and removed providers have no health of their own to change."""
    world = given(CONFIG)
    for provider_id in ("fixed", "off", "gone"):
        world.when(look(provider_id)).then()


def test_the_fact_goes_to_the_providers_stream() -> None:
    """One stream a provider holds its circuit, its health and its models' exclusions."""
    world = given(CONFIG, serve("r1"))
    drafts = transition(world.state, "a", reason="success", now_us=T0_US)
    assert drafts == [Draft("provider-a", HealthChanged(before="unknown", after="healthy", reason="success"))]
    assert world.do(adopt(CONFIG)).when(look()).outcome.facts


KEYED = registry(
    provider("a", auth_scheme="bearer", auth_provider_kind="a", max_retries=0),
    model("gpt", "a"),
    model("mini", "a"),
)
OWN = registry(provider("a", auth_scheme="bearer", credential_ref="env:KEY"), model("gpt", "a"))


def connect(profile_id: str, *, agent_id: str = "", is_kept: bool = True) -> Step:
    """Connect a profile of the provider; where it is not kept, its secret is not in the vault."""
    ref = vault_ref(profile_id, agent_id)
    kept = VaultSecretStored(
        ref=ref, revision=1, kind="text", key_fingerprint="f1nger", value_bytes=9, reason="put"
    )
    connected = AuthProfileConnected(
        provider="a",
        profile_name=profile_id,
        agent_id=agent_id,
        audience="https://a.example:443",
        vault_revision=1,
    )

    def step(world: World) -> Outcome:
        if is_kept:
            world.do(record("vault", kept))
        return record(f"credential-{profile_id}", connected)(world)

    return step


def rest(profile_id: str, model_id: str = "") -> Step:
    """Have a credential rest for ten seconds, for one model or for all."""
    return lambda world: record(
        f"credential-{profile_id}",
        AuthProfileCooledDown(
            kind="rate_limit" if model_id else "quota",
            model_id=model_id,
            until_us=world.now_us + 10 * US_PER_S,
            streak_count=1,
        ),
    )(world)


def refuse(profile_id: str) -> Step:
    """Have a credential be good for nothing."""
    return record(f"credential-{profile_id}", AuthProfileFailed(code="key_rejected", vault_revision=1))


def health(world: World) -> str:
    return health_with_credentials(world.state, world.state.catalog.registry.providers[0], world.now_us)


def test_a_provider_without_a_credential_is_unavailable() -> None:
    """None is connected, its secret is missing, or its provider has refused it."""
    assert health(given(KEYED)) == "unavailable"
    assert health(given(KEYED, connect("one", is_kept=False))) == "unavailable"
    world = given(KEYED, connect("one"))
    assert health(world) == "unknown"
    world.do(refuse("one"))
    assert health(world) == "unavailable"
    world.do(connect("two"))
    assert health(world) == "unknown"


def test_a_provider_whose_credentials_all_rest_cools_down() -> None:
    """Those that have failed do not count; when the first may be used again it is over."""
    world = given(KEYED, connect("one"), connect("two"), refuse("two"))
    world.do(rest("one"))
    assert health(world) == "cooling_down"
    world.do(wait(ms=10_000))
    assert health(world) == "unknown"


def test_a_credential_that_rests_for_one_model_may_be_used_for_another() -> None:
    """Only where it rests for every model of the provider does the provider cool down."""
    world = given(KEYED, connect("one"), rest("one", "gpt"))
    assert health(world) == "unknown"
    world.do(rest("one", "mini"))
    assert health(world) == "cooling_down"


def test_an_agents_own_credential_keeps_its_provider_available() -> None:
    """Somebody can use it."""
    world = given(KEYED, connect("one"), refuse("one"), connect("mine", agent_id="scout"))
    assert health(world) == "unknown"


def test_what_the_configuration_names_is_judged_alone() -> None:
    """By what befell it; where it comes from is not known to the journal."""
    world = given(OWN)
    assert health(world) == "unknown"
    world.do(record("credential-config:a", AuthProfileFailed(code="key_rejected", vault_revision=0)))
    assert health(world) == "unavailable"


def test_a_transition_tells_of_credentials() -> None:
    """A failed look at a provider whose key was refused says so; an answer needs no second look at its key."""
    world = given(KEYED, connect("one"), refuse("one"))
    world.when(look(reason="auth_invalid")).then(
        HealthChanged(before="unknown", after="unavailable", reason="auth_invalid")
    )
    world.do(connect("two"), record("provider-a", ProbeCompleted(result="ok")))
    world.when(look()).then(HealthChanged(before="unavailable", after="healthy", reason="success"))


def test_worse_evidence_wins_over_cooling() -> None:
    """Without a credential to be asked with, three silent probes make a provider unavailable all the same."""
    world = given(KEYED, connect("one"), rest("one"))
    world.do(record("provider-a", ProbeCompleted(result="failed", failure_class="timeout", failures_in_row=3)))
    assert health(world) == "unavailable"
