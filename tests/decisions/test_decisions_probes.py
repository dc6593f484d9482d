"""Probes: when one is due, what is recorded of it, and what becomes of a provider's health."""

from __future__ import annotations

from typing import Any

import pytest
from story import Outcome, Step, World, adopt, fail, given, model, provider, registry, serve, wait
from story import admit as admit_step
from story import start as start_step

from palyra.decisions.health import transition
from palyra.decisions.probes import Probed, due_us, record_probe
from palyra.events.health import HealthChanged, ProbeCompleted
from palyra.events.registry import Registry
from palyra.projections.health import evidence_of, health_of
from palyra.units import US_PER_MS

TTL_MS = 60_000
MINUTE_MS = 60_000


def offer(*, health_ttl_ms: int = TTL_MS, **changes: Any) -> Registry:
    return registry(provider("a", **changes), model("gpt", "a"), health_ttl_ms=health_ttl_ms)


def probe(result: Any = "failed", failure_class: str = "timeout_connect", failures: int = 1) -> Step:
    """Probe `a`: record what is worth it, and the transition."""

    def step(world: World) -> Outcome:
        klass, count = (failure_class, failures) if result == "failed" else ("", 0)
        fact = ProbeCompleted(result=result, failure_class=klass, failures_in_row=count, latency_ms=3)
        recorded = world.record(record_probe(world.state, "a", fact, world.now_us))
        recorded += world.record(transition(world.state, "a", reason=klass or "success", now_us=world.now_us))
        return Outcome(recorded=recorded)

    return step


def health(world: World) -> str:
    (entry,) = world.state.catalog.registry.providers
    return health_of(world.state, entry, world.now_us)


def due_ms(world: World, last: Probed | None) -> int | None:
    """Return in how many milliseconds `a` is due, None for never."""
    (entry,) = world.state.catalog.registry.providers
    at_us = due_us(world.state, entry, last, world.now_us)
    return None if at_us is None else (at_us - world.now_us) // US_PER_MS


def test_a_provider_that_nobody_told_about_is_due() -> None:
    """At once at the start, then once in the time that health holds."""
    world = given(offer())
    assert due_ms(world, None) == 0
    assert due_ms(world, Probed(at_us=world.now_us)) == TTL_MS


@pytest.mark.parametrize(("jitter_bp", "share"), [(0, 0.8), (5_000, 1.0), (10_000, 1.2)])
def test_probes_are_kept_apart(jitter_bp: int, share: float) -> None:
    """By a fifth of the time, earlier or later."""
    world = given(offer())
    assert due_ms(world, Probed(at_us=world.now_us, jitter_bp=jitter_bp)) == TTL_MS * share


def test_a_request_that_told_makes_a_probe_needless() -> None:
    """It is due again when what the request told is old."""
    world = given(offer(), serve("r1"))
    last = Probed(at_us=world.now_us - 10 * TTL_MS * US_PER_MS)
    assert due_ms(world, last) == due_ms(world, None) == TTL_MS
    failed = given(offer(), admit_step("r1"), start_step("r1"), fail("r1", "rate_limited", may_retry=False))
    assert due_ms(failed, last) == TTL_MS


@pytest.mark.parametrize(
    "config",
    [
        offer(health_ttl_ms=0),
        offer(health_probe=False),
        offer(enabled=False),
        offer(kind="deterministic"),
    ],
    ids=["off for all", "off for it", "disabled", "deterministic"],
)
def test_who_is_never_probed(config: Registry) -> None:
    """Neither at the start nor later."""
    world = given(config)
    assert due_ms(world, None) is due_ms(world, Probed(at_us=0)) is None


def test_an_unavailable_provider_is_asked_more_and_more_rarely() -> None:
    """Twice as long each time, up to ten minutes; a longer time of its own stays."""
    world = given(offer(), probe(failures=1), probe(failures=2), probe(failures=3))
    assert health(world) == "unavailable"
    waits = [due_ms(world, Probed(at_us=world.now_us, failures_in_row=count)) for count in (3, 4, 5, 6, 7, 99)]
    assert waits == [minutes * MINUTE_MS for minutes in (1, 2, 4, 8, 10, 10)]
    slow = given(offer(health_ttl_ms=3_600_000), *(probe(failures=count) for count in (1, 2, 3)))
    assert due_ms(slow, Probed(at_us=slow.now_us, failures_in_row=9)) == 3_600_000


def test_an_outcome_is_told_when_it_is_another() -> None:
    """More than three failures are three; another class is another outcome."""
    world = given(offer())
    for step in (probe("ok"), probe("ok"), *(probe(failures=n) for n in (1, 2, 3, 4, 5)), probe("ok")):
        world.do(wait(ms=MINUTE_MS), step)
    told = [(fact.result, fact.failures_in_row) for fact in world.facts(ProbeCompleted)]
    assert told == [("ok", 0), ("failed", 1), ("failed", 2), ("failed", 3), ("ok", 0)]
    world.do(probe(failures=1), probe(failures=1, failure_class="dns_failed"))
    assert [fact.failure_class for fact in world.facts(ProbeCompleted)][-2:] == ["timeout_connect", "dns_failed"]


def test_the_same_outcome_is_told_again_after_a_quarter_of_an_hour() -> None:
    """A day of one outcome is 96 facts at most."""
    world = given(offer())
    for _ in range(24 * 60):
        world.do(probe("ok"), wait(ms=MINUTE_MS))
    assert len(world.facts(ProbeCompleted)) == 96
    assert len(world.facts(HealthChanged)) == 1


def test_health_follows_the_probes() -> None:
    """Unknown, healthy, degraded, unavailable after the third, healthy at once when one succeeds."""
    world = given(offer())
    seen = [health(world)]
    for step in (probe("ok"), probe(failures=1), probe(failures=2), probe(failures=3), probe("ok")):
        world.do(step)
        seen.append(health(world))
    assert seen == ["unknown", "healthy", "degraded", "degraded", "unavailable", "healthy"]
    changes = [(fact.before, fact.after) for fact in world.facts(HealthChanged)]
    assert changes == [
        ("unknown", "healthy"), ("healthy", "degraded"), ("degraded", "unavailable"), ("unavailable", "healthy"),
    ]  # fmt: skip


def test_a_refused_address_is_unavailable_at_once() -> None:
    """Until a success, or another configuration."""
    world = given(offer(), probe(failure_class="netguard_blocked"))
    assert health(world) == "unavailable"
    world.do(adopt(offer()))
    assert health(world) == "degraded"
    world.do(probe(failure_class="netguard_blocked", failures=2), probe("ok"))
    assert health(world) == "healthy"


def test_a_provider_without_a_list_is_judged_by_its_requests() -> None:
    """Neither well nor badly."""
    world = given(offer(), probe("unsupported"))
    assert health(world) == "unknown"
    world.do(serve("r1"), probe("unsupported"))
    assert health(world) == "healthy"
    assert evidence_of(world.state, "a").probe_result == "unsupported"


def test_a_request_that_succeeds_outdoes_failed_probes() -> None:
    """Money talks."""
    world = given(offer(), probe(failures=1), probe(failures=2), probe(failures=3), serve("r1"))
    assert health(world) == "healthy"


def test_evidence_grows_old() -> None:
    """Without news for half an hour nothing is known."""
    world = given(offer(), probe("ok"), wait(ms=30 * MINUTE_MS))
    assert health(world) == "healthy"
    world.do(wait(ms=1))
    assert health(world) == "unknown"
