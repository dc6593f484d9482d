"""Health transitions are written when they happen, and only then."""

from __future__ import annotations

from registries import model, provider, registry
from story import T0_US, Outcome, Step, World, admit, adopt, break_down, fail, given, serve, start, wait

from palyra.decisions.health import transition
from palyra.events.base import Draft
from palyra.events.health import HealthChanged

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
