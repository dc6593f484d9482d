"""Flips: each value that is told flips the decision when it is applied, and the step before it does not."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from budget_kit import put, rule
from registries import model
from routing_kit import GRADES, TOKEN_NANOUSD, prices, routed, rules, with_models
from story import Outcome as Done
from story import Step, World, admission, admit, complete, given, record, start, succeed

from palyra.decisions.flips import Flip, Outcome, flips_of, outcome_of, with_limit
from palyra.decisions.planning import plan_usage_routing
from palyra.decisions.ranking import UNKNOWN_COST, Changed
from palyra.decisions.runs import AdmitRun
from palyra.decisions.usage import Metered
from palyra.events.circuits import CircuitOpened
from palyra.events.routing import Features
from palyra.usage import TokenUsage


def outcome(world: World, command: AdmitRun, flip: Flip | None = None, value: int = 0) -> Outcome:
    """Return what is decided with one axis set to a value."""
    state, changed = world.state, Changed()
    if flip is not None:
        match flip.axis:
            case "price":
                changed = Changed(costs={flip.subject: value})
            case "budget" if flip.subject == "request.max_cost":
                command = msgspec.structs.replace(command, max_cost_nanousd=value)
            case "budget":
                state = with_limit(state, flip.subject, value)
            case "circuit":
                changed = Changed(ready_us=value)
            case "complexity":
                changed = Changed(score_bp=value)
            case "context":
                changed = Changed(raw_tokens=value)
    return outcome_of(plan_usage_routing(state, command, world.now_us, state.config.routing, changed=changed))


def _as_far(axis: str, value: int | None) -> int:
    """Return a value as distances are measured from it: a price that is not known is dearer than any."""
    if value is None:
        return UNKNOWN_COST if axis == "price" else 0
    return value


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
        step = 1 if flip.value < _as_far(flip.axis, flip.now) else -1
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
    """The limit that just fits, and not one less, in what the rule counts."""
    world = routed(put(rule(hard_limit=100)), enabled=False)
    flip = proven(world)["budget"]
    assert (flip.unit, flip.now, flip.value, flip.served) == ("tokens", 100, 180, "b/gpt")


def test_a_price_that_is_not_known_flips_where_it_beats_the_others() -> None:
    """The dearest that it may be; what would make a known price flip is nearer and told before it."""
    world = routed(prices(small=None, large=None), mode="enforced")
    flip = proven(world)["price"]
    assert (flip.subject, flip.now, flip.served) == ("a/small", None, "a/small")
    assert flip.value == 150 * TOKEN_NANOUSD["gpt"], "equal costs go by latency"
    assert proven(routed(prices(large=None), mode="enforced"))["price"].now is not None


def test_where_no_price_can_be_told_it_says_so() -> None:
    """None is known at all, or a rule lets nobody in whose price is not known."""
    nothing = proven(routed(prices(small=None, gpt=None, large=None), mode="enforced"))["price"]
    assert (nothing.subject, nothing.why) == ("b/gpt", "price_unknown"), "which would be cheaper than a/small"
    denied = put(rule(metric_kind="usd_cost", hard_limit=10**12))
    world = routed(prices(small=None, gpt=None, large=None), denied, mode="enforced")
    flip = proven(world)["price"]
    assert (flip.subject, flip.value, flip.why) == ("a/small", None, "price_unknown")
    balanced = routed(prices(small=None), denied, mode="enforced", simple_at_bp=0)
    assert proven(balanced)["price"].why == "no_value_flips", "the default model is taken whatever others cost"


def test_a_request_learns_what_it_may_cost_at_least() -> None:
    """Its own maximum is a limit like a rule's: what just fits lets it in, and one less does not."""
    flip = proven(routed(enabled=False), max_cost_nanousd=100)["budget"]
    assert (flip.unit, flip.subject, flip.now, flip.value, flip.served) == (
        "nanousd",
        "request.max_cost",
        100,
        180 * TOKEN_NANOUSD["gpt"],
        "b/gpt",
    )


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


#: Brute force tries every value up to here; the worlds below are small enough for anything to happen within it.
SMALL = 700


def small_world(dice: random.Random) -> World:
    """Return a world in which every figure that matters is below `SMALL`."""
    at = {name: dice.choice("abc") for name in GRADES}
    entries = [
        model(
            name,
            at[name],
            **GRADES[name],
            max_context_tokens=dice.choice([None, 520, 570]),
            max_output_tokens=300,
            max_tokens_per_event=640,
        )
        for name in GRADES
    ]
    steps = [prices(**{name: dice.choice([None, 0, 1, 2]) for name in GRADES})]
    steps += [
        put(
            rule(
                f"p{number}",
                scope_kind=dice.choice(["global", "model", "provider", "principal"]),
                metric_kind=dice.choice(["tokens", "usd_cost"]),
                on_unpriced=dice.choice(["allow", "deny"]),
                hard_limit=dice.choice([0, 50, 90, 260, 400, 600]),
                on_hard=dice.choice(["block", "downgrade", "approval_required"]),
                downgrade_to=["small", "free"],
                ceiling_limit=dice.choice([None, 620]),
                shrink_output=dice.random() < 0.5,
            )
        )
        for number in range(dice.randrange(3))
    ]
    for provider_id in "abc":
        if dice.random() < 0.4:
            until_us = given().now_us + dice.randrange(1, 60)
            steps.append(record(f"provider-{provider_id}", CircuitOpened(reason="threshold", until_us=until_us)))
    used = Metered(reported=TokenUsage(input_tokens=dice.randrange(40), output_tokens=dice.randrange(20)))
    steps += [serve_if_let("r0", metered=used), start_if_let("r00")]
    mode = dice.choice(["suggest", "dry_run", "enforced"])
    limits = {"simple_at_bp": 20, "premium_at_bp": 60, "min_quality": dice.choice([{}, {"background": 60}])}
    return given(
        with_models(*entries), *steps, rules(mode=mode, budget_pressure_bp=dice.choice([500, 8_000]), **limits)
    )


def serve_if_let(run_id: str, metered: Metered) -> Step:
    """Have a request served, if nothing stops it."""

    def step(world: World) -> Done:
        start_if_let(run_id, raw_tokens=20, output_max_tokens=20)(world)
        if run_id in world.state.runs.open:
            world.do(succeed(run_id, metered), complete(run_id))
        return Done()

    return step


def start_if_let(run_id: str, **changes: Any) -> Step:
    """Have a request admitted and started, if nothing stops it; it holds what it may use."""

    def step(world: World) -> Done:
        world.do(admit(run_id, **{"raw_tokens": 10, "output_max_tokens": 10, **changes}))
        if run_id in world.state.runs.open:
            world.do(start(run_id))
        return Done()

    return step


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(14))
def test_no_smaller_change_flips(seed: int) -> None:
    """Along each axis every value was tried, for every model and rule: nothing nearer than what is told flips."""
    dice = random.Random(seed)
    world = small_world(dice)
    command = admission(
        "r1",
        dice.choice(["gpt", "small", "palyra/auto", "palyra/best", "palyra/cheap"]),
        raw_tokens=dice.choice([10, 30, 60]),
        task_class=dice.choice(["", "background"]),
        output_max_tokens=dice.choice([None, 20]),
        max_cost_nanousd=dice.choice([None, None, 100]),
    )
    now = outcome(world, command)
    config = world.state.config.routing
    flips = {flip.axis: flip for flip in flips_of(world.state, command, world.now_us, config)}
    plan = plan_usage_routing(world.state, command, world.now_us, config)
    rows = [] if plan.board is None else [*plan.board.ranked, *plan.board.excluded]
    policies = [one.record for one in world.state.budgets.policies.values()]
    subjects: dict[str, list[tuple[str, int | None]]] = {
        "price": [(one.name, one.expected_nanousd) for one in rows],
        "budget": [(one.policy_id, one.hard_limit) for one in policies]
        + [("request.max_cost", command.max_cost_nanousd)],
        "circuit": [("", world.now_us)],
        "complexity": [("", None if plan.decided is None else plan.decided.complexity_bp)],
        "context": [("", command.raw_tokens)],
    }
    for axis, flip in flips.items():
        begin = world.now_us if axis == "circuit" else 0
        nearest: int | None = None
        if flip.why == "price_unknown":
            continue
        for subject, known in subjects[axis]:
            if known is None and axis != "price":
                continue
            current = _as_far(axis, known)
            trial = msgspec.structs.replace(flip, subject=subject)
            values = (value for value in range(begin, begin + SMALL) if value != current)
            for value in sorted(values, key=lambda value: abs(value - current)):
                distance = abs(value - current)
                if nearest is not None and distance >= nearest:
                    break
                if outcome(world, command, trial, value) != now:
                    nearest = distance
                    break
        told = None if flip.value is None else abs(flip.value - _as_far(axis, flip.now))
        assert told == nearest, (axis, flip)
