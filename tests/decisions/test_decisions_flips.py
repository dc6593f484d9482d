"""Flips: each value that is told flips the decision when it is applied, and the step before it does not."""

from __future__ import annotations

import random
from typing import Any

import pytest
from budget_kit import put, rule
from registries import model
from routing_kit import GRADES, TOKEN_NANOUSD, prices, routed, rules, with_models
from story import World, admission, given, record

from palyra.decisions.flips import Flip, Outcome, flips_of, outcome_of, with_limit
from palyra.decisions.planning import plan_usage_routing
from palyra.decisions.ranking import Changed
from palyra.decisions.runs import AdmitRun
from palyra.events.circuits import CircuitOpened
from palyra.events.routing import Features


def outcome(world: World, command: AdmitRun, flip: Flip | None = None, value: int = 0) -> Outcome:
    """Return what is decided with one axis set to a value."""
    state, changed = world.state, Changed()
    if flip is not None:
        match flip.axis:
            case "price":
                changed = Changed(costs={flip.subject: value})
            case "budget":
                state = with_limit(state, flip.subject, value)
            case "circuit":
                changed = Changed(ready_us=value)
            case "complexity":
                changed = Changed(score_bp=value)
            case "context":
                changed = Changed(raw_tokens=value)
    return outcome_of(plan_usage_routing(state, command, world.now_us, state.config.routing, changed=changed))


def proven(world: World, **changes: Any) -> dict[str, Flip]:
    """Return the flips of a request, each applied, and the step before it applied too."""
    command = admission("r1", **changes)
    now = outcome(world, command)
    flips = flips_of(world.state, command, world.now_us, world.state.config.routing)
    for flip in flips:
        if flip.value is None:
            assert flip.why
            continue
        assert outcome(world, command, flip, flip.value) == (flip.served, flip.recommended) != now
        step = 1 if flip.value < (flip.now or 0) else -1
        before = flip.value + step
        if before != flip.now:
            assert outcome(world, command, flip, before) == now, flip
    return {flip.axis: flip for flip in flips}


def test_every_axis_of_an_ordinary_decision() -> None:
    """A simple request under a rule: what each axis would take to have another model."""
    world = routed(put(rule(hard_limit=100_000)), mode="enforced")
    flips = proven(world)
    assert list(flips) == ["price", "budget", "circuit", "complexity", "context"]
    assert (flips["price"].subject, flips["price"].now) == ("a/small", 150 * TOKEN_NANOUSD["small"])
    assert flips["price"].value == 150 * TOKEN_NANOUSD["gpt"] + 1, "equal costs go by latency"
    assert (flips["complexity"].now, flips["complexity"].value, flips["complexity"].served) == (125, 3_501, "b/gpt")
    assert (flips["context"].value, flips["context"].served) == (128_000 - 50 + 1, "context_window_exceeded")
    assert flips["circuit"].value is None
    assert (flips["budget"].subject, flips["budget"].served) == ("day", "budget_request_too_large")


def test_a_refused_request_learns_which_limit_had_let_it_in() -> None:
    """The limit that just fits, and not one less."""
    world = routed(put(rule(hard_limit=100)), enabled=False)
    flip = proven(world)["budget"]
    assert (flip.now, flip.value, flip.served) == (100, 180, "b/gpt")


def test_an_open_circuit_flips_when_its_time_is_over() -> None:
    """The only provider is left alone for a while; at that instant it is asked again, and not a moment before."""
    until_us = given().now_us + 5_000_000
    opened = record("provider-b", CircuitOpened(reason="threshold", until_us=until_us))
    world = given(with_models(model("gpt", "b")), opened)
    flip = proven(world)["circuit"]
    assert (flip.value, flip.served) == (until_us, "b/gpt")


def test_nothing_to_compare_is_said() -> None:
    """One model, no rules: neither price nor budget nor complexity can have mattered."""
    flips = proven(given(with_models(model("gpt", "a", max_context_tokens=None, max_tokens_per_event=1 << 40))))
    assert {axis: flip.why for axis, flip in flips.items()} == {
        "price": "nothing_compared",
        "budget": "nothing_compared",
        "circuit": "no_value_flips",
        "complexity": "nothing_compared",
        "context": "no_value_flips",
    }


def test_a_name_that_leads_nowhere_has_no_flips() -> None:
    """There was nothing to decide."""
    world = given()
    assert flips_of(world.state, admission("r1", "nobody"), world.now_us, world.state.config.routing) == []


@pytest.mark.parametrize("seed", range(30))
def test_flips_of_random_decisions_hold(seed: int) -> None:
    """Any mode, class, price, limit, circuit and window."""
    dice = random.Random(seed)
    at = {name: dice.choice("abc") for name in GRADES}
    entries = [
        model(
            name,
            at[name],
            **{**GRADES[name], "max_context_tokens": dice.choice([None, 500, 20_000, 128_000])},
        )
        for name in GRADES
    ]
    steps = [prices(**{name: dice.choice([None, 0, 1_000, 5_000]) for name in GRADES})]
    steps += [put(rule(f"p{n}", hard_limit=dice.choice([100, 1_000, 50_000]))) for n in range(dice.randrange(3))]
    for provider_id in "abc":
        if dice.random() < 0.3:
            until_us = given().now_us + dice.randrange(1, 90_000_000)
            steps.append(record(f"provider-{provider_id}", CircuitOpened(reason="threshold", until_us=until_us)))
    mode = dice.choice(["suggest", "dry_run", "enforced"])
    world = given(with_models(*entries), *steps, rules(mode=mode, budget_pressure_bp=dice.choice([1, 8_000])))
    proven(
        world,
        model_name=dice.choice(["gpt", "small", "palyra/auto", "palyra/best", "palyra/cheap", f"{at['gpt']}/gpt"]),
        raw_tokens=dice.choice([10, 400, 3_000, 30_000]),
        task_class=dice.choice(["", "background"]),
        features=Features(keywords=dice.randrange(6), tools=dice.randrange(4)),
        may_pin=dice.random() < 0.5,
        output_max_tokens=dice.choice([None, 50]),
    )
