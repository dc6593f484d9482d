"""Exclusion of models: one that fails alone is left out; a provider that fails whole is the circuit's matter."""

from __future__ import annotations

import pytest
from registries import model, provider, registry
from story import World, admit, cancel, fail, given, serve, start, wait

from palyra.events.circuits import CircuitOpened
from palyra.events.models import ModelExcluded, ModelReadmitted
from palyra.events.routing import RoutingDecided
from palyra.projections.catalog import excluded_until_us, standing_of
from palyra.units import US_PER_MS

#: Two models at provider a; three failures are the threshold.
CONFIG = registry(
    provider("a", circuit_breaker_failure_threshold=3, max_retries=0),
    model("gpt", "a", fallbacks=[]),
    model("bad", "a", fallbacks=[]),
)


def break_once(world: World, run_id: str, failure_class: str = "overloaded", model_name: str = "bad") -> None:
    world.do(admit(run_id, model_name), start(run_id), fail(run_id, failure_class), cancel(run_id))


def test_one_bad_model_is_excluded_alone() -> None:
    """Its failures reach the threshold while another model of the provider answers: it goes, the circuit stays."""
    world = given(CONFIG)
    for number in range(3):
        break_once(world, f"bad-{number}")
        world.do(serve(f"good-{number}"))
    assert world.facts(CircuitOpened) == []
    assert world.facts(ModelExcluded) == [
        ModelExcluded(model_id="bad", until_us=world.now_us + 60_000 * US_PER_MS, reason="overloaded")
    ]
    world.when(admit("r-bad", "bad")).refused("no_candidate")
    world.do(serve("r-good"))


def test_a_provider_that_fails_as_a_whole_excludes_no_model() -> None:
    """Without an answer in between it is the circuit that opens."""
    world = given(CONFIG)
    for number in range(3):
        break_once(world, f"bad-{number}")
    assert len(world.facts(CircuitOpened)) == 1
    assert world.facts(ModelExcluded) == []


def test_a_model_that_its_provider_does_not_know_is_out_at_once() -> None:
    """One 404 on a known path is enough; the breaker does not count it."""
    world = given(CONFIG)
    break_once(world, "r1", "model_unavailable")
    assert world.facts(ModelExcluded) == [
        ModelExcluded(model_id="bad", until_us=world.now_us + 60_000 * US_PER_MS, reason="model_unavailable")
    ]


@pytest.mark.parametrize("failure_class", ["rate_limited", "invalid_request", "cancelled"])
def test_uncounted_failures_exclude_nothing(failure_class: str) -> None:
    """However many there are, between however many answers."""
    world = given(CONFIG)
    for number in range(6):
        break_once(world, f"bad-{number}", failure_class)
        world.do(serve(f"good-{number}"))
    assert world.facts(ModelExcluded) == []


def test_an_exclusion_ends_with_its_time() -> None:
    """A minute later the model is a candidate again, with nothing recorded about it."""
    world = given(CONFIG)
    break_once(world, "r1", "model_unavailable")
    world.do(wait(ms=60_000), admit("r2", "bad"))
    assert len(world.facts(RoutingDecided)[-1].plan) == 1


def test_an_answer_readmits_a_model_and_forgets_its_failures() -> None:
    """The first answer after an exclusion is on record, and the next one is nothing new."""
    world = given(CONFIG)
    break_once(world, "r1", "model_unavailable")
    world.do(wait(ms=60_000), serve("r2", model="bad"))
    assert world.facts(ModelReadmitted) == [ModelReadmitted(model_id="bad")]
    assert standing_of(world.state, "a", "bad") is None
    assert excluded_until_us(world.state, "a", "bad") == 0
    world.do(serve("r3", model="bad"))
    assert len(world.facts(ModelReadmitted)) == 1


def test_an_answer_starts_a_models_row_of_failures_anew() -> None:
    """Two failures, an answer, two failures: below the threshold both times."""
    world = given(CONFIG)
    for number in range(4):
        break_once(world, f"bad-{number}")
        world.do(serve(f"good-{number}"))
        if number == 1:
            world.do(serve("well", model="bad"))
    assert world.facts(ModelExcluded) == []
    assert excluded_until_us(world.state, "a", "bad") == 0
